"""The generators that belong to the process, which an algorithm or a library may draw from."""

from __future__ import annotations

import random

import numpy as np
import torch


def seed_process(*key: int) -> None:
    """Set the generators of Python, NumPy and torch (on every device) by whole numbers, 0 or above.

    What is drawn here takes its numbers from seeds alone. For what draws from these generators all the same, a stage
    sets them by its address, and training at each Lightning epoch by seed, epoch and rank: a run that goes on draws
    what it would have drawn.
    """
    words = [int(word) for word in np.random.SeedSequence(key).generate_state(3)]
    random.seed(words[0])
    np.random.seed(words[1])
    torch.manual_seed(words[2])
