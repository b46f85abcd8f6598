"""Floating-point operations of a language model in this process that judges.

Each question counts as if it were read whole and by itself, as `rft.models.flops` counts prompts: what questions begin
with is read once for a batch, but a count that saw this would depend on what else is asked, and on what was kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Operations:
    """Counts by `rft.models.flops.DecoderFlops`; a model that is no stack of decoder layers counts nothing.

    Args:
        model: a causal language model.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        from rft.errors import UserError
        from rft.models.decoder import decoder_layers
        from rft.models.flops import DecoderFlops

        try:
            self._flops: DecoderFlops | None = DecoderFlops.of(model, decoder_layers(model))
        except UserError:  # such a model can judge, though not be trained here
            self._flops = None

    def rating(self, lengths: Sequence[int]) -> float:
        """Log-probabilities of what comes next after texts of so many tokens."""
        if self._flops is None:
            return 0.0
        read = self._flops.passing(sum(lengths), sum(n * n for n in lengths), role="")
        return read + self._flops.head(len(lengths))

    def writing(self, read: int, written: int) -> float:
        """A text of so many tokens after one that was read."""
        if self._flops is None or not written:
            return 0.0
        import torch

        return self._flops.decoding(torch.tensor([read]), torch.tensor([written]))
