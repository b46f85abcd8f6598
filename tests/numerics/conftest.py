"""What several numerical tests are asked about."""

from __future__ import annotations

import pytest
import torch

from rft.types import Sequences


@pytest.fixture
def sequences() -> Sequences:
    """Ragged on both sides: prompts of 2 and 3 tokens, responses of 2 (with EOS) and 4 (truncated)."""
    prompts = torch.tensor([[0, 5, 6], [7, 8, 9]])
    responses = torch.tensor([[10, 2, 0, 0], [11, 12, 13, 14]])
    mask = torch.tensor([[True, True, False, False], [True, True, True, True]])
    return Sequences(prompts, prompts != 0, responses, mask)
