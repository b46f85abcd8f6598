"""Floating-point operations of a decoder's passes, by formula.

A multiplication and an addition are two operations. Only linear layers, attention and the vocabulary projection are
counted, as `torch.utils.flop_counter` does and as Kaplan et al. 2020 (arXiv 2001.08361, section 2.1) estimate:

    forward   2·W·Σ_i T_i + 4·n·a·Σ_i T_i² + 2·H·V·(positions whose logits are taken)
    backward  2·W·Σ_i T_i (gradients of the inputs) + 2·W'·Σ_i T_i (of trained weights) + 8·n·a·Σ_i T_i² + the head's

with T_i the counted tokens of sequence i, W the weights of the linear layers passed, W' the trained ones among them
(both with the active adapter's), n layers, a = heads × head width, H hidden width, V vocabulary. Padding, and what is
computed a second time to save memory, counts nowhere, and a prompt of several sequences in each of them, though it may
be passed once: so the numbers do not depend on how sequences are batched.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """Weights of the linear layers in one decoder layer."""

    base: int
    adapter: dict[str, int]  # by the role that it belongs to


def linear_weights(layer: nn.Module) -> LayerWeights:
    """The weights of the linear layers of a decoder layer, those of adapters by role."""
    base, adapters = 0, dict[str, int]()
    for name, parameter in layer.named_parameters():
        if parameter.ndim != 2:
            continue
        parts = name.split(".")
        if any(part.startswith("lora_") for part in parts):
            role = parts[-2]  # ….lora_A.<role>.weight
            adapters[role] = adapters.get(role, 0) + parameter.numel()
        else:
            base += parameter.numel()
    return LayerWeights(base, adapters)


def attention_width(config: Any) -> int:
    """Heads × head width of a transformers config."""
    text = config.get_text_config()
    heads = int(text.num_attention_heads)
    return heads * int(getattr(text, "head_dim", None) or text.hidden_size // heads)


@dataclass(frozen=True, slots=True)
class DecoderFlops:
    """The formula for one model."""

    layers: tuple[LayerWeights, ...]  # lowest first
    width: int  # heads × head width
    hidden: int
    vocabulary: int

    @classmethod
    def of(cls, model: Any, layers: list[nn.Module]) -> DecoderFlops:
        """For a transformers model with its decoder layers."""
        text = model.config.get_text_config()
        found = tuple(linear_weights(layer) for layer in layers)
        return cls(found, attention_width(model.config), int(text.hidden_size), int(text.vocab_size))

    def passing(self, tokens: float, squares: float, role: str, first: int = 0, last: int | None = None) -> float:
        """A forward pass through the layers from ``first`` on.

        Args:
            tokens: Σ_i T_i.
            squares: Σ_i T_i².
            role: whose adapter is active; one that has none passes the base alone.
            first: the lowest layer that is passed.
            last: the layer above the highest one; the top if None.
        """
        part = self.layers[first:last]
        weights = sum(layer.base + layer.adapter.get(role, 0) for layer in part)
        return 2 * weights * tokens + 4 * self.width * len(part) * squares

    def back(self, tokens: float, squares: float, role: str, first: int = 0, *, full: bool = False) -> float:
        """The backward pass of the same; ``full`` trains the base's weights too, else the role's adapter alone."""
        part = self.layers[first:]
        inputs = sum(layer.base + layer.adapter.get(role, 0) for layer in part)
        trained = sum(layer.base if full else layer.adapter.get(role, 0) for layer in part)
        return 2 * (inputs + trained) * tokens + 8 * self.width * len(part) * squares

    def head(self, positions: float) -> float:
        """Logits over the vocabulary at so many positions; the gradient of their inputs costs as much again."""
        return 2 * self.hidden * self.vocabulary * positions

    def decoding(self, prompts: Tensor, responses: Tensor, prefilled: Tensor | None = None) -> float:
        """Generation with a cache: the last token of a response is not passed on.

        Args:
            prompts: [B] counted prompt tokens.
            responses: [B] generated tokens, at least 1.
            prefilled: [U] counted tokens of the prompts that were passed, each once for all its responses; every row's
                if None.
        """
        p, r = prompts.double(), responses.double()
        u = p if prefilled is None else prefilled.double()
        base = sum(layer.base for layer in self.layers)
        passed = float(u.sum() + (r - 1).sum())
        # The t-th of the r − 1 tokens fed back sees p + t: Σ_t (p + t) = (r − 1)·p + (r − 1)·r/2.
        seen = float((u * u).sum() + ((r - 1) * p + (r - 1) * r / 2).sum())
        taken = len(u) + float((r - 1).sum())
        return 2 * base * passed + 4 * self.width * len(self.layers) * seen + self.head(taken)

    def at_end(self, tokens: Tensor, depth: int) -> float:
        """What ``decoding`` leaves out: the last token of each response, through so many of the lowest layers.

        Args:
            tokens: [B] counted tokens of the prompt and the response.
            depth: layers.
        """
        base = sum(layer.base for layer in self.layers[:depth])
        return 2 * base * len(tokens) + 4 * self.width * depth * float(tokens.double().sum())
