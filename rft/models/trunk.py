"""The lowest layers of a decoder, which no adapter touches: what they give is the same for every role and step.

Dimensions: ``B`` sequences, ``T`` tokens, ``H`` hidden.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from rft.errors import UserError
from rft.models.pretrained import LoraConfig


def trunk_depth(layers: int, lora: LoraConfig) -> int:
    """How many of the lowest layers no adapter touches.

    Raises:
        UserError: if there are fewer layers than are to be adapted, or adapters of no rank.
    """
    if lora.rank < 1:
        raise UserError(f"model.lora.rank={lora.rank}: must be at least 1")
    if not 0 <= lora.top_layers <= layers:
        raise UserError(f"model.lora.top_layers={lora.top_layers}: the model has {layers} layers; give 0 (all) to that")
    return layers - lora.top_layers if lora.enabled and lora.top_layers else 0


class Trunk:
    """The lowest layers, to be passed alone or to be spared.

    The decoder's own forward still runs, so that masks, positions and caches are each architecture's business.

    Args:
        layers: all of the decoder's, lowest first.
        depth: how many are the trunk.
    """

    def __init__(self, layers: Sequence[nn.Module], depth: int) -> None:
        self.below = layers[:depth]
        """The layers of the trunk."""
        self._above, self.depth = layers[depth:], depth
        self._in_tuples = False  # what a layer gives, in some architectures

    def _as_given(self, hidden: Tensor) -> Any:
        return (hidden,) if self._in_tuples else hidden

    @contextmanager
    def seen(self) -> Iterator[None]:
        """While open, the model passes something, and it is seen what its layers give: states, or tuples with them."""

        def note(_: nn.Module, __: Any, made: Any) -> None:
            self._in_tuples = isinstance(made, tuple)

        watches = [layer.register_forward_hook(note) for layer in (*self.below, *self._above)[:1]]
        try:
            yield
        finally:
            for watch in watches:
                watch.remove()

    @contextmanager
    def alone(self) -> Iterator[list[Tensor]]:
        """While open, only the trunk computes; what it gives, [B, T, H], is added to the list for each pass."""
        found: list[Tensor] = []

        def note(_: nn.Module, __: Any, made: Any) -> None:
            found.append(made[0] if self._in_tuples else made)

        watch = self.below[-1].register_forward_hook(note)
        for layer in self._above:
            layer.forward = lambda hidden_states, *_, **__: self._as_given(hidden_states)
        try:
            yield found
        finally:
            watch.remove()
            for layer in self._above:
                del layer.forward

    @contextmanager
    def given(self, hidden: Tensor | None) -> Iterator[None]:
        """While open, the trunk gives what it gave before instead of computing it; None: it computes."""
        known = self.below if hidden is not None else []
        for layer in known:
            layer.forward = lambda *_, **__: self._as_given(hidden)  # type: ignore[arg-type]
        try:
            yield
        finally:
            for layer in known:
                del layer.forward
