"""What is timed: the cases, their shape, and what a worker process is told. Standard library only: every side reads it.

Dimensions: ``B`` sequences, ``P`` prompt tokens, ``R`` response tokens.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
ADAPTER_RANK, ADAPTER_ALPHA = 16, 32
LR = 1e-6  # of every side; times do not depend on it, and nothing diverges


@dataclass(frozen=True, slots=True)
class Shape:
    """How much a step holds."""

    sequences: int = 32  # B
    prompt: int = 32  # P
    response: int = 64  # R

    @property
    def tokens(self) -> int:
        """Prompt and response tokens of a step."""
        return self.sequences * (self.prompt + self.response)

    def scaled(self, batch: int = 1, tokens: int = 1) -> Shape:
        """More sequences, or longer ones."""
        return Shape(self.sequences * batch, self.prompt * tokens, self.response * tokens)


@dataclass(frozen=True, slots=True)
class Figures:
    """What is to be reached on SmolLM2-135M; None: nothing is asked."""

    trl_over_ours: float | None = None  # at least
    ours_over_floor: float | None = None  # at most
    memory_ours_over_trl: float | None = None  # at most


@dataclass(frozen=True, slots=True)
class Case:
    """One thing that all sides do. `samples` responses are drawn to a prompt."""

    name: str
    algorithm: str
    figures: Figures
    samples: int = 1

    def prompts(self, shape: Shape) -> int:
        """Different prompts of a step."""
        return shape.sequences // self.samples


CASES = (
    Case("decode", "decode", Figures(2.5), samples=4),
    Case("decode_ending", "decode", Figures(3.0), samples=4),
    Case("dpo", "dpo", Figures(2.5, 1.2, 0.6)),
    Case("dpo_kept", "dpo", Figures(2.5, 1.2, 0.6)),
    Case("reward", "reward", Figures(1.05, 1.1, 0.8)),
    Case("grpo", "grpo", Figures(2.2, 1.25, 0.6), samples=4),
    Case("rloo", "rloo", Figures(), samples=4),
    Case("ppo", "ppo", Figures(2.0, 1.25, 0.5)),
    Case("ppo_head", "ppo", Figures(2.0, 1.25, 0.5)),
)
BY_NAME = {case.name: case for case in CASES}


@dataclass(frozen=True, slots=True)
class Prepared:
    """A model on disk, and a token by which responses end early."""

    folder: str
    ending_token: int  # makes up about 1 in 20 tokens of the model's own responses
    lengths: tuple[int, ...]  # of some of its responses when that token ends them, at most R


@dataclass(frozen=True, slots=True)
class Job:
    """What a worker is told, as JSON."""

    case: str
    model: str
    lora: bool
    shape: Shape
    threads: int
    steps: int
    scratch: str  # a folder of the worker's own
    prepared: Prepared | None = None  # None: the worker is to prepare the model and say where it is

    def told(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def heard(cls, told: dict[str, Any]) -> Job:
        """What `told` gave."""
        prepared = told.pop("prepared")
        if prepared is not None:
            prepared = Prepared(prepared["folder"], prepared["ending_token"], tuple(prepared["lengths"]))
        return cls(**told | {"shape": Shape(**told["shape"]), "prepared": prepared})

    @property
    def known(self) -> Prepared:
        """The model, which must be prepared."""
        assert self.prepared is not None
        return self.prepared


def adapted_layers(layers: int, model: str, lora: bool) -> int:
    """How many of the lowest layers no adapter touches: by rft's own option of the model, read without rft.

    Args:
        layers: of the model.
        model: the option's name, a file of ``conf/model``.
        lora: whether there are adapters.
    """
    import yaml

    options = yaml.safe_load((ROOT / "conf" / "model" / f"{model}.yaml").read_text(encoding="utf-8"))
    top = int(options.get("lora", {}).get("top_layers", 0))
    return layers - top if lora and top else 0
