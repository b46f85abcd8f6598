"""The base class of every reward source. Dimensions: ``B`` sequences, ``N`` candidates, ``P``, ``R`` tokens."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor

from rft.errors import UserError
from rft.feedback.base import require_mostly_read
from rft.models.backbone import Backbone, Role
from rft.models.module import Module
from rft.models.text import decoded
from rft.types import ComparisonBatch, Sequences

Need = Literal["labels", "role", "judge"]
STANDARD = "standardise.json"
LEAST_STD = 1e-6


class Comparisons(Protocol):
    """Makes batches of the decided training labels, whole prompts shuffled anew for each pass."""

    def __call__(self, prompts_per_step: int, epochs: int, seed: int) -> Seq[ComparisonBatch]:
        """All batches of all passes."""
        ...


@dataclass(frozen=True, slots=True)
class Fitting:
    """What a reward source may be made from."""

    candidates: Sequences  # [N, ...] the start policy's responses to the training questions
    assets: Mapping[str, Path]  # the folder of each asset that the source names
    comparisons: Comparisons  # for a source that needs labels; another one is refused
    train: Callable[[Module, Seq[ComparisonBatch]], None]  # one pass over the batches by Lightning


class Reward(ABC):
    """Scores responses: one number a sequence, higher is better, in whatever unit.

    The runner standardises the scores on the start policy's candidates (`Standardised`), so that ``kl_coef`` means the
    same with every source. The stage ``reward_model`` calls ``fit``, measures the source against held-out labels and
    real people, and calls ``save``; policy and evaluation make the source anew and call ``load`` on that folder.

    The constructor takes ``(config, backbone)``: the module's ``Config`` and the backbone, whose tokenizer it may use.
    Declare in ``needs``: ``labels`` to learn from comparisons, ``role`` to have the backbone's role ``reward`` (an
    adapter and a head, or a copy of the weights), ``judge`` to be given a ``judge`` by name, which scores answers one
    by one. Name in ``assets`` what `rft.store.assets` must fetch for ``fit``. A source that ``may_lack`` a score gives
    NaN for a response that it cannot score: nothing learns from that one. One that never passes the backbone's
    reference may say so by ``reads_reference = False``, which who inherits from it says too: fitting a copy of all
    weights then takes less memory.
    Raise ``version`` when the code changes what the scores are: results under the old one are then not reused.
    """

    needs: ClassVar[frozenset[Need]] = frozenset()
    assets: ClassVar[tuple[str, ...]] = ()
    may_lack: ClassVar[bool] = False
    reads_reference: ClassVar[bool] = True
    version: ClassVar[int] = 1

    def __init__(self, config: Any, backbone: Backbone) -> None:
        self.config, self.backbone = config, backbone

    @abstractmethod
    def score(self, sequences: Sequences) -> Tensor:
        """Finite scores, without gradient, or NaN if it ``may_lack`` one. Shape [B], floating point.

        A row's score depends on its own counted tokens alone: not on the other rows, their order or the padding.
        """

    def fit(self, fitting: Fitting) -> None:  # noqa: B027 - a rule has nothing to learn
        """Learn from the labels, or read the assets."""

    def save(self, folder: Path) -> None:  # noqa: B027 - nor to keep
        """Write into a folder what ``load`` needs."""

    def load(self, folder: Path) -> None:  # noqa: B027 - nor to read
        """Read what ``save`` wrote: scores are then those of the fitted source, to the last bit."""

    @torch.no_grad()
    def start_critic(self, mean: float, std: float) -> None:
        """Set the backbone's critic: here to zero, the mean of the standardised score, everywhere.

        Args:
            mean: of the scores of the candidates.
            std: their standard deviation.
        """
        head = self.backbone.heads[Role.critic.value]
        head.weight.zero_()  # type: ignore[operator]
        head.bias.zero_()  # type: ignore[operator]

    def responses(self, sequences: Sequences) -> list[str]:
        """The counted tokens of each response as text, without special tokens."""
        return decoded(self.backbone.tokenizer, sequences.response_ids, sequences.response_mask)

    def prompts(self, sequences: Sequences) -> list[str]:
        """The counted tokens of each prompt as text, without special tokens."""
        return decoded(self.backbone.tokenizer, sequences.prompt_ids, sequences.prompt_mask)


class Standardised:
    """A source's scores in standard deviations of the start policy's, around their mean.

    Standardising keeps the KL coefficient's meaning across reward sources (Huang et al. 2024, arXiv 2403.17031,
    detail 3: the reward of the start policy has mean 0).
    """

    def __init__(self, source: Reward, mean: float = 0.0, std: float = 1.0) -> None:
        self.source, self.mean, self.std = source, mean, std

    @classmethod
    def on(cls, source: Reward, scores_N: Tensor) -> Standardised:
        """Standardised on the candidates' scores [N]; scores that are all equal stay in their own unit.

        Candidates without a score are left out.

        Raises:
            UserError: if more than half have none.
        """
        scores = scores_N.double()[~scores_N.isnan()]
        require_mostly_read(len(scores_N) - len(scores), len(scores_N), "the candidates")
        std = float(scores.std())
        return cls(source, float(scores.mean()), std if std >= LEAST_STD else 1.0)

    @property
    def may_lack(self) -> bool:
        """Whether a response may have no score."""
        return self.source.may_lack

    @torch.no_grad()
    def score(self, sequences: Sequences) -> Tensor:
        """Standard scores, NaN where the source has none. Shape [B].

        Raises:
            UserError: if the source's scores are not [B], floating point and finite.
        """
        scores = self.source.score(sequences)
        check_scores(self.source, scores, len(sequences))
        return (scores - self.mean) / self.std

    def start_critic(self) -> None:
        """Set the backbone's critic to what the source makes of it, in the units of the standardised score."""
        self.source.start_critic(self.mean, self.std)

    def save(self, folder: Path) -> None:
        """Write the source and the two numbers."""
        self.source.save(folder)
        (folder / STANDARD).write_text(json.dumps({"mean": self.mean, "std": self.std}), encoding="utf-8")

    @classmethod
    def load(cls, source: Reward, folder: Path) -> Standardised:
        """What ``save`` wrote, into a new source."""
        source.load(folder)
        numbers = json.loads((folder / STANDARD).read_text(encoding="utf-8"))
        return cls(source, numbers["mean"], numbers["std"])


def check_scores(source: Reward, scores: Any, rows: int) -> None:
    """Refuse what is not one finite floating-point number for each of the sequences, or NaN where that is allowed.

    Raises:
        UserError: saying what came, what was wanted, and from which class.
    """
    name = f"{type(source).__module__}.{type(source).__qualname__}.score"
    if not isinstance(scores, Tensor):
        raise UserError(f"reward: {name} gives a {type(scores).__name__}: a tensor of shape [{rows}] is wanted")
    if scores.shape != (rows,) or not scores.is_floating_point():
        raise UserError(
            f"reward: {name} gives shape {list(scores.shape)} and {scores.dtype} for {rows} sequences: shape [{rows}] "
            "and a floating-point type are wanted"
        )
    fit = torch.isfinite(scores) | (scores.isnan() & source.may_lack)
    if not fit.all():
        row = int(fit.logical_not().nonzero()[0])
        raise UserError(f"reward: {name} gives {float(scores[row])} for row {row} of {rows}: finite numbers are wanted")
