"""A rule as reward: the mean sentiment of a response's words by a published lexicon. Nothing is learned.

score(y) = Σ_w v(w) / max(words of y, `least_words`), v the lexicon's mean rating in [−4, 4], 0 for a word it does not
know, times −0.74 if a negation stands shortly before. Source: the lexicon, and the factor, of Hutto & Gilbert 2014
(VADER, ICWSM); of their rules only that of negation is taken. Dimensions: ``B`` sequences.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rft.config.ranges import number
from rft.errors import UserError
from rft.models.backbone import Backbone
from rft.rewards.base import Fitting, Reward
from rft.types import Sequences

ASSET, TABLE, OWN = "sentiment-lexicon", "vader_lexicon.txt", "lexicon.json"
NEGATED = -0.74
NEGATIONS = frozenset(
    "not no never none nobody nothing nowhere neither nor without cannot hardly barely rarely seldom".split()  # noqa: SIM905
)
_WORD = re.compile(r"[a-z]+(?:'[a-z]+)?")


@dataclass
class Config:
    """Settings of `LexiconReward`."""

    negation_window: int = number(3, at_least=0)
    """Words before a word among which a negation turns its sentiment round; 0 turns none (VADER looks back 3)."""
    least_words: int = number(8, at_least=1)
    """The sum is divided by at least so many words: else one word of praise would be the best response."""


class LexiconReward(Reward):
    """See the module's docstring."""

    assets = (ASSET,)
    config: Config

    def __init__(self, config: Config, backbone: Backbone) -> None:
        super().__init__(config, backbone)
        self.valences: dict[str, float] = {}

    def fit(self, fitting: Fitting) -> None:
        """Read the lexicon."""
        self.valences = read_lexicon(fitting.assets[ASSET] / TABLE)

    def save(self, folder: Path) -> None:
        """``lexicon.json``: the words and their ratings."""
        (folder / OWN).write_text(json.dumps(self.valences, indent=0), encoding="utf-8")

    def load(self, folder: Path) -> None:
        """See the base class."""
        self.valences = json.loads((folder / OWN).read_text(encoding="utf-8"))

    def score(self, sequences: Sequences) -> Tensor:
        """Mean sentiment of each response. Shape [B], float32."""
        scores = [self.sentiment(text) for text in self.responses(sequences)]
        return torch.tensor(scores, dtype=torch.float32, device=sequences.response_ids.device)

    def sentiment(self, text: str) -> float:
        """The score of a text."""
        words = _WORD.findall(text.lower().replace("’", "'"))
        turned = [word in NEGATIONS or word.endswith("n't") for word in words]
        total = 0.0
        for i, word in enumerate(words):
            negated = any(turned[max(0, i - self.config.negation_window) : i])
            total += self.valences.get(word, 0.0) * (NEGATED if negated else 1.0)
        return total / max(len(words), self.config.least_words)


def read_lexicon(path: Path) -> dict[str, float]:
    """The plain words of a tab-separated file (word, mean rating, …), sorted; emoticons and phrases are left out.

    Raises:
        UserError: naming file and line, for a word without a number.
    """
    found: dict[str, Any] = {}
    for line, text in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        word, _, rest = text.partition("\t")
        if not _WORD.fullmatch(word):
            continue
        try:
            found[word] = float(rest.partition("\t")[0])
        except ValueError as error:
            raise UserError(f"{path}:{line}: no number after the word {word!r}; fetch the asset again") from error
    return dict(sorted(found.items()))
