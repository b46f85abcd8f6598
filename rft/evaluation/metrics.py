"""Pure functions from evaluation rows to numbers: diversity, truncation, per-prompt means.

Dimensions: `M` rows (one sampled response each), `N` prompts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

_WORD = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")


def words(text: str) -> list[str]:
    """Lower-cased words of `text`; every punctuation mark is a word of its own."""
    return _WORD.findall(text.lower())


def distinct_n(texts: Iterable[str | Sequence[object]], n: int) -> float:
    """Distinct n-grams as a share of all n-grams, pooled over `texts`: 1 is no repetition at all.

    A text is a string, split by `words`, or a ready list of tokens. N-grams never span two texts. The
    measure falls as the amount of text grows, so compare only arms that answered the same prompts.

    Returns NaN if no text has `n` tokens; raises ValueError if `n` is below 1.
    Source: Li et al. 2016 (arXiv 1510.03055), section 5.2, with the n-grams (not the tokens) as normaliser.
    """
    if n < 1:
        raise ValueError(f"n is {n}; an n-gram has at least one token: give n >= 1")
    seen: set[tuple[object, ...]] = set()
    total = 0
    for text in texts:
        tokens = words(text) if isinstance(text, str) else list(text)
        seen.update(zip(*(tokens[i:] for i in range(n)), strict=False))
        total += max(0, len(tokens) - n + 1)
    return len(seen) / total if total else float("nan")


def truncation_rate(truncated: npt.NDArray[np.bool_]) -> float:
    """Share in [0, 1] of responses (`truncated`, shape [M]) that were cut off before an end-of-sequence."""
    if truncated.size == 0:
        raise ValueError("no responses: give at least one row")
    return float(np.mean(truncated.astype(np.float64)))


def known_prompt_means(values: FloatArray, prompt_index: npt.NDArray[np.int64], prompts: int) -> FloatArray:
    """As `prompt_means`, over the samples that have a value: one that is NaN counts nowhere.

    A prompt of which no sample has one is NaN.
    """
    known = np.isfinite(values)
    if known.all():
        return prompt_means(values, prompt_index, prompts)
    counts = np.bincount(prompt_index, weights=known, minlength=prompts)
    sums = np.bincount(prompt_index, weights=np.where(known, values, 0.0), minlength=prompts)
    found: FloatArray = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
    return found


def known_mean(values: FloatArray) -> float:
    """The mean of the values that are not NaN; NaN if none is."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else float("nan")


def prompt_means(values: FloatArray, prompt_index: npt.NDArray[np.int64], prompts: int) -> FloatArray:
    """Mean over the samples of each prompt: `values` [M], `prompt_index` [M] in [0, prompts) -> [N].

    Raises ValueError on different lengths and on a prompt without a row.
    """
    if values.shape != prompt_index.shape or values.ndim != 1:
        raise ValueError(f"values {values.shape} and prompt_index {prompt_index.shape}: want one [M] each")
    counts = np.bincount(prompt_index, minlength=prompts)
    if len(counts) != prompts or not counts.all():
        raise ValueError(f"every one of the {prompts} prompts needs at least one row")
    return np.bincount(prompt_index, weights=values, minlength=prompts) / counts
