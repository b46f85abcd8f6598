"""Amounts of everything that a piece of work uses up, and what they cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

COUNTED = (
    "prompts",
    "generated_tokens",
    "trained_tokens",
    "flops",
    "labels",
    "human_labels",
    "judge_tokens",
    "judge_money",
)
"""What is counted, and comes out the same at every run."""
USAGE = "usage"
"""Among a stage's metrics: what making it used."""
RESOURCES = ("prompts", "generated_tokens", "trained_tokens", "flops", "seconds", "labels", "money")
"""What can be limited, and what a report compares by."""


@dataclass(slots=True)
class Usage:
    """Counters that models, engines and data streams add to. One process's share; ranks are summed by the meter."""

    prompts: float = 0.0
    """Questions that were answered, or whose labelled answers were learned from; each time counts."""
    generated_tokens: float = 0.0
    """Sampled response tokens, EOS counted, padding not."""
    trained_tokens: float = 0.0
    """Prompt and response tokens that went through the policy with gradient; each pass counts."""
    flops: float = 0.0
    """Floating-point operations of all forward and backward passes, by formula (`rft.models.flops`)."""
    labels: float = 0.0
    """Comparisons that somebody was asked for."""
    human_labels: float = 0.0
    """Judgements of single people, simulated ones too: a comparison that three of them see counts three."""
    judge_tokens: float = 0.0
    """Tokens that a judge read and wrote, if the price list says what they cost."""
    judge_money: float = 0.0
    """What an endpoint asked for a judge's work, if it says so itself."""
    seconds: float = 0.0
    """Wall-clock time."""
    device_seconds: float = 0.0
    """Seconds of all GPUs together or, on a CPU, of all its cores."""

    def add(self, other: Usage, sign: int = 1) -> Usage:
        """The sum; with ``sign=-1`` the difference."""
        return Usage(*(getattr(self, f.name) + sign * getattr(other, f.name) for f in fields(self)))

    def count(self, other: Usage) -> None:
        """Add to these counters."""
        for f in fields(self):
            setattr(self, f.name, getattr(self, f.name) + getattr(other, f.name))

    def scaled(self, by: float) -> Usage:
        """A share of everything."""
        return Usage(*(getattr(self, f.name) * by for f in fields(self)))

    def counted(self) -> dict[str, float]:
        """The part that is the same at every run."""
        return {name: float(getattr(self, name)) for name in COUNTED}

    @classmethod
    def of(cls, amounts: Mapping[str, float]) -> Usage:
        """From a mapping of names, absent ones 0."""
        return cls(**{f.name: amounts.get(f.name, 0) for f in fields(cls)})


@dataclass(frozen=True, slots=True)
class Prices:
    """Prices in one currency."""

    device_hour: float  # of a GPU or, on a CPU, of a core
    human_label: float  # a judgement by one person
    judge_mtoken: float  # a million tokens

    def money(self, usage: Usage) -> float:
        """What it costs."""
        return (
            usage.device_seconds / 3600 * self.device_hour
            + usage.human_labels * self.human_label
            + usage.judge_tokens / 1e6 * self.judge_mtoken
            + usage.judge_money
        )

    def amounts(self, usage: Usage) -> dict[str, float]:
        """Every resource's amount."""
        return {
            "prompts": usage.prompts,
            "generated_tokens": usage.generated_tokens,
            "trained_tokens": usage.trained_tokens,
            "flops": usage.flops,
            "seconds": usage.seconds,
            "labels": usage.labels,
            "money": self.money(usage),
        }
