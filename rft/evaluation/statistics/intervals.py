"""What an interval is, and how intervals are drawn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

SEEDS_AND_PROMPTS = "seeds and prompts"
PROMPTS_ONLY = "prompts only"
SEEDS_ONLY = "seeds only"


@dataclass(frozen=True, slots=True)
class Resampling:
    """How intervals are drawn: `resamples` draws, coverage `level` in (0, 1), the generator's `seed`."""

    resamples: int = 10_000
    level: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if self.resamples < 1 or not 0.0 < self.level < 1.0:
            raise ValueError(f"{self}: want resamples >= 1 and a level strictly between 0 and 1")

    @property
    def error_rate(self) -> float:
        """1 − level: how often a true null may be rejected."""
        # 1 − 0.95 is 0.05000000000000004, and a p-value of exactly 0.05 must not pass for less.
        return round(1.0 - self.level, 12)


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with its interval; `covers` names the sources of variation inside the interval."""

    mean: float
    low: float
    high: float
    covers: str = SEEDS_AND_PROMPTS

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 lies outside the interval."""
        return self.low > 0.0 or self.high < 0.0
