"""What a causal language model is made of, as its modules and its configuration say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from rft.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TRIED = 4  # tokens that a model is tried on
ROUNDING = 0.05  # of 16-bit logits; what is left out makes them others altogether


def decoder_layers(model: PreTrainedModel) -> list[nn.Module]:
    """The blocks of a decoder, lowest first.

    Raises:
        UserError: if the model is not a stack of blocks.
    """
    stacks = [m for m in model.get_decoder().children() if isinstance(m, nn.ModuleList) and len(m)]
    if len(stacks) != 1:
        raise UserError(f"model: {type(model).__name__} is no stack of decoder layers; choose another causal LM")
    return list(stacks[0])


def windows(model: PreTrainedModel) -> list[int | None] | None:
    """How many tokens back each layer looks, None for all, as transformers' cache of it says.

    None if a layer's state is more than keys and values.
    """
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    layers = DynamicCache(config=model.config).layers
    if any(type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers):
        return None
    return [layer.sliding_window if isinstance(layer, DynamicSlidingWindowLayer) else None for layer in layers]


@dataclass(frozen=True, slots=True)
class Logits:
    """What makes logits of the product of the last hidden states with a matrix: scale · c tanh(W h / c)."""

    scale: float = 1.0
    softcap: float | None = None
    """c; None: without bound."""

    def at(self, temperature: float) -> tuple[float, float | None]:
        """Temperature and bound for ``rft.ops.logprobs``, which knows no scale."""
        return temperature / self.scale, self.softcap

    def of(self, product: Tensor) -> Tensor:
        """The logits of a product."""
        bounded = product if self.softcap is None else torch.tanh(product / self.softcap) * self.softcap
        return bounded * self.scale


@torch.no_grad()
def logits_of(model: PreTrainedModel) -> Logits:
    """How a model makes its logits, as its configuration says, tried on a few tokens.

    Raises:
        UserError: if the model's logits are others.
    """
    name, head = type(model).__name__, model.get_output_embeddings()
    if getattr(head, "bias", None) is not None:
        raise UserError(f"model: {name} adds a bias to its logits, which log-probs leave out; choose another one")
    config = model.config.get_text_config().to_dict()
    # Cohere's models multiply by the one, Granite's divide by the other.
    scale = (config.get("logit_scale") or 1.0) / (config.get("logits_scaling") or 1.0)
    found = Logits(float(scale), config.get("final_logit_softcapping"))
    states: list[Tensor] = []
    watch = model.get_decoder().register_forward_hook(lambda _, __, made: states.append(made[0]))
    try:
        ids = torch.arange(min(TRIED, int(config["vocab_size"])), device=head.weight.device)[None]
        logits = model(input_ids=ids, use_cache=False).logits
    finally:
        watch.remove()
    guessed = found.of(nn.functional.linear(states[-1], head.weight))
    if found.scale <= 0 or (guessed - logits).norm() > ROUNDING * logits.norm():
        raise UserError(
            f"model: {name} makes more of its logits than a product with a matrix, which log-probs leave out; choose "
            "another one"
        )
    return found
