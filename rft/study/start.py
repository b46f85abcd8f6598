"""Where training begins: at the SFT policy, or at another policy that is made of it first."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from omegaconf import DictConfig

from rft.config import build
from rft.errors import UserError
from rft.study.parts import part_class, plain, settings_of, version_of

if TYPE_CHECKING:
    from rft.feedback.judges.base import Judge
    from rft.models.pretrained import LoraConfig
    from rft.store import Entry
    from rft.strategy import Strategy
    from rft.study.pipeline import Pipeline

STAGE = "revisions"
"""The stage that makes another start than the SFT policy."""


@dataclass
class Config:
    """Nothing to set."""


@dataclass(frozen=True, slots=True)
class Common:
    """What all arms have in common, to make a start of."""

    sft: Path  # folder of the SFT policy
    candidates: Path  # folder of its answers to the training questions
    lora: LoraConfig
    strategy: Strategy
    response_tokens: int  # longest response, EOS included
    judge: Callable[[], Judge]  # makes the judge, for a start that needs it
    judge_settings: Mapping[str, Any]


class Start(ABC):
    """The policy that training begins from.

    The reference that KL is measured from, the candidates and their labels stay those of the SFT policy whatever the
    start is, so that arms with different starts are compared by one rule. The constructor takes the module's
    ``Config``. Raise `version` when the code changes what comes out.
    """

    needs: ClassVar[frozenset[Literal["judge"]]] = frozenset()
    version: ClassVar[int] = 1
    makes: ClassVar[bool] = True
    """False: it is the SFT policy, and there is no stage for it."""

    def __init__(self, config: Any) -> None:
        self.config = config

    @classmethod
    def refuse(cls, cfg: DictConfig) -> None:
        """Refuse, before anything is computed, a configuration that this start cannot be made under.

        Raises:
            UserError: naming the key and the mend.
        """
        del cfg  # most starts can be made under any

    @abstractmethod
    def make(self, common: Common, out: Path) -> Mapping[str, Any]:
        """Make the policy and write ``policy.safetensors``, its role's parameters, into `out`; returns the metrics."""


class SFTStart(Start):
    """The SFT policy, where the reference is."""

    makes = False

    def make(self, common: Common, out: Path) -> Mapping[str, Any]:
        """There is nothing to make."""
        raise TypeError("the SFT policy has a stage of its own")


def refuse_start(cfg: DictConfig, until: str) -> None:
    """Refuse a start that cannot be made.

    Raises:
        UserError: naming the key and the mend.
    """
    start = part_class("start", cfg.start)
    start.refuse(cfg)
    if until == STAGE and not start.makes:
        raise UserError(f"until={STAGE}: this start makes none; choose one that does, such as start=revised")


def start_stage(
    pipeline: Pipeline,
) -> tuple[dict[str, Any], dict[str, Entry], Callable[[Path], Mapping[str, Any]]] | None:
    """Address, inputs and maker of the stage that a pipeline's start needs; None if that is the SFT policy."""
    cfg, found = pipeline.cfg, part_class("start", pipeline.cfg.start)
    if not found.makes:
        return None
    address: dict[str, Any] = {
        "start": settings_of(cfg.start) | version_of(found),
        "lora": asdict(pipeline.lora),
        "response_tokens": pipeline.response_tokens,
        "strategy": pipeline.strategy.identity(distributed=False),
    }
    inputs = {"sft": pipeline.sft, "candidates": pipeline.candidates}
    if "judge" in found.needs:
        address |= pipeline.judge.address()
        inputs |= pipeline.judge.inputs()

    def judge() -> Judge:
        return pipeline.judge.make(inputs)

    def make(out: Path) -> Mapping[str, Any]:
        common = Common(
            inputs["sft"].path,
            inputs["candidates"].path,
            pipeline.lora,
            pipeline.strategy,
            pipeline.response_tokens,
            judge,
            plain(cfg.judge),
        )
        start: Start = build(cfg.start)
        return start.make(common, out)

    return address, inputs, make
