"""Whether weights have changed since they were last looked at."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

_steps = 0


def _count(*_: object) -> None:
    global _steps
    _steps += 1


register_optimizer_step_post_hook(_count)


def state_of(parameters: Iterable[nn.Parameter]) -> tuple[int, int]:
    """Two numbers that are others after any change of the parameters.

    In-place operations count up a tensor's version, but fused optimisers write to it unseen: so steps are counted too.
    """
    return _steps, sum(parameter._version for parameter in parameters)
