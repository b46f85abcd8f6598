"""A gold reward: logistic regression on TF-IDF of words and word pairs, scored with NumPy alone."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rft.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Words with their apostrophes ("isn't" is one), single letters, and the two marks that carry feeling.
TOKEN = r"\w[\w']*|[!?]"
VOCABULARY, WEIGHTS = "vocabulary.json", "weights.safetensors"


class TfidfGold:
    """Log-odds of a text under a linear model of its TF-IDF vector.

    logit(x) = b + Σ_t c_t v_t / ‖v‖₂, with v_t = (1 + ln n_t) · idf_t for each term t that occurs n_t > 0
    times in x; terms are the lower-cased tokens and pairs of neighbouring tokens of the vocabulary.
    The same number as scikit-learn's ``LogisticRegression.decision_function`` on ``TfidfVectorizer(
    ngram_range=(1, 2), sublinear_tf=True)``, up to float64 rounding. A text without a known term scores b.
    """

    def __init__(
        self,
        vocabulary: Mapping[str, int],
        idf: NDArray[np.float64],
        coef: NDArray[np.float64],
        intercept: float,
    ) -> None:
        if not idf.shape == coef.shape == (len(vocabulary),):
            raise ValueError(
                f"{len(vocabulary)} terms with idf of shape {idf.shape} and coef of shape {coef.shape}: "
                "one number a term is wanted"
            )
        self.vocabulary, self.idf, self.coef, self.intercept = vocabulary, idf, coef, intercept
        self._token = re.compile(TOKEN)

    def logit(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Log-odds of "positive", natural logarithm. Shape [N]."""
        if isinstance(texts, str):
            raise TypeError("one string was given: a sequence of texts is wanted")
        return np.array([self._logit(text) for text in texts], dtype=np.float64)

    def probability(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """σ(logit), in (0, 1). Shape [N]."""
        return np.exp(-np.logaddexp(0.0, -self.logit(texts)))

    def _logit(self, text: str) -> float:
        words = self._token.findall(text.lower())
        pairs = [f"{a} {b}" for a, b in pairwise(words)]
        counts = Counter(i for term in (*words, *pairs) if (i := self.vocabulary.get(term)) is not None)
        if not counts:
            return self.intercept
        index = np.array(sorted(counts))
        value = (1.0 + np.log([counts[i] for i in index])) * self.idf[index]
        return self.intercept + float(value @ self.coef[index]) / float(np.sqrt(value @ value))

    def save(self, folder: Path) -> None:
        """Write the vocabulary as JSON (terms in index order) and the numbers as safetensors."""
        from safetensors.numpy import save_file

        terms = sorted(self.vocabulary, key=self.vocabulary.__getitem__)
        (folder / VOCABULARY).write_text(json.dumps(terms, ensure_ascii=False), encoding="utf-8")
        arrays = {"idf": self.idf, "coef": self.coef, "intercept": np.array([self.intercept])}
        save_file(arrays, folder / WEIGHTS)

    @classmethod
    def load(cls, folder: Path) -> TfidfGold:
        """What `save` wrote."""
        from safetensors.numpy import load_file

        terms = json.loads((folder / VOCABULARY).read_text(encoding="utf-8"))
        arrays = load_file(folder / WEIGHTS)
        vocabulary = {term: i for i, term in enumerate(terms)}
        return cls(vocabulary, arrays["idf"], arrays["coef"], float(arrays["intercept"][0]))

    @classmethod
    def fit(cls, texts: Sequence[str], labels: Sequence[int], *, min_reviews: int, inverse_penalty: float) -> TfidfGold:
        """L2-penalised maximum likelihood.

        Args:
            texts: N texts.
            labels: N times 0 (negative) or 1 (positive).
            min_reviews: a term counts if that many texts hold it.
            inverse_penalty: scikit-learn's ``C``, in 1 / weight².

        Raises:
            UserError: if no term stands in `min_reviews` of the texts.
        """
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression

        vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=min_reviews, token_pattern=TOKEN)
        try:
            features = vectorizer.fit_transform(texts)
        except ValueError as error:  # that no term is left
            raise UserError(
                f"task.gold_min_reviews is {min_reviews}: no word stands in that many of the {len(texts)} reviews that "
                "the gold reward is fitted on; give a smaller number"
            ) from error
        # liblinear runs in one thread and in a fixed order: the same bits at every fit.
        model = LogisticRegression(C=inverse_penalty, solver="liblinear", random_state=0)
        model.fit(features, labels)
        vocabulary = {str(term): int(i) for term, i in vectorizer.vocabulary_.items()}
        return cls(
            vocabulary,
            np.asarray(vectorizer.idf_, dtype=np.float64),
            np.asarray(model.coef_[0], dtype=np.float64),
            float(model.intercept_[0]),
        )
