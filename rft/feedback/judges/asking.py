"""Judges that ask a language model: a form (how it is asked) and a backend (who answers)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, Self

from rft.config import number
from rft.feedback.base import Answer, Work
from rft.feedback.judges.base import Comparisons, Judge, Verdicts
from rft.feedback.judges.cache import KeptVerdicts
from rft.feedback.judges.request import Backend

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class FormEnum(str, Enum):
    """How many responses a question is about."""

    pointwise = "pointwise"
    pairwise = "pairwise"
    listwise = "listwise"


class AnswersEnum(str, Enum):
    """How a verdict is read."""

    logprobs = "logprobs"
    generated = "generated"


class PrincipleEnum(str, Enum):
    """Which principles of the constitution a question holds."""

    drawn = "drawn"
    all = "all"


@dataclass
class AskingConfig:
    """Settings of `AskedJudge`, whoever answers."""

    form: FormEnum = FormEnum.pairwise
    """pointwise: a score for each response. pairwise: which of two, always in both orders. listwise: all responses to
    a prompt that are compared, ranked at once, in two orders."""
    answers: AnswersEnum = AnswersEnum.logprobs
    """logprobs: log-probabilities of the options as the next thing said. generated: a verdict read from the text."""
    setting: str = "Each response continues the opening of a film review."
    """What prompts and responses are, a sentence; may be empty."""
    criterion: str = "positive about the film"
    """What is asked: how, which is more, which is most … ."""
    options: list[str] = field(default_factory=lambda: ["1", "2", "3", "4", "5"])
    """The scale of form=pointwise, from worst to best, at least 2: numbers in rising order, or with answers=logprobs
    any words, which then count 1, 2, …. Two options and logprobs: the score is the log-odds of the last."""
    principles: list[str] = field(default_factory=list)
    """A constitution: sentences that the judge is to go by (Bai et al. 2022, arXiv 2212.08073); none if empty."""
    principle: PrincipleEnum = PrincipleEnum.drawn
    """drawn: one for each comparison (pointwise: each response), by its content and `seed`. all: all of them."""
    chain_of_thought: bool = False
    """Think in writing before the verdict (Lee et al. 2023, arXiv 2309.00267)."""
    shots: list[dict[str, Any]] = field(default_factory=list)
    """Examples, each with `verdict`, if wanted `prompt` and `thought`, and by form: pointwise `response`; pairwise
    `first` and `second`, verdict A or B; listwise `responses`, a list, verdict such as B > A > C."""
    max_tokens: int = number(256, at_least=1)
    """Tokens that may be written for a thought or a generated verdict, at least 1."""
    max_characters: int = number(2000, at_least=1)
    """Characters of a prompt, and of a response, that the judge reads, at least 1; what follows is cut."""
    temperature: float = number(0.0, at_least=0)
    """Of what is written, at least 0; 0 takes the most likely token. Log-probabilities are taken at 1."""
    seed: int = number(0, at_least=0)
    """Of the principles drawn and of the text sampled, at least 0."""


class AskedJudge(Judge):
    """A judge in one of three forms that puts its questions to a backend.

    An option extends it: its ``Config`` extends `AskingConfig`, and its constructor makes the backend and gives it on.

    Args:
        config: how it is asked.
        backend: who answers.
        verdicts: where answers are looked for first and kept as they come.
    """

    needs = frozenset({"verdicts"})

    def __init__(self, config: AskingConfig, backend: Backend, verdicts: KeptVerdicts) -> None:
        self.config, self.backend, self.verdicts = config, backend, verdicts
        self._again = 0

    def asked_again(self, times: int = 1) -> Self:
        """This judge asked anew: it finds none of what it answered before, but what it did at the same `times`."""
        raise NotImplementedError

    @property
    def one_by_one(self) -> bool:
        """Whether the form is pointwise."""
        return self.config.form == FormEnum.pointwise

    def score(self, answers: Sequence[Answer]) -> Verdicts:
        """See the base class."""
        raise NotImplementedError

    def compare(self, answers: Sequence[Answer], pairs: NDArray[np.int64]) -> Comparisons:
        """See the base class."""
        raise NotImplementedError

    def write(self, requests: Sequence[str], max_tokens: int) -> tuple[list[str], Work]:
        """See the base class."""
        raise NotImplementedError
