"""What a causal language model is made of, as its modules and its configuration say."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from rft.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


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


def logit_bound(model: PreTrainedModel) -> float | None:
    """The bound of a model's logits; None if it has none.

    Raises:
        UserError: if the logits are more than a product with a matrix.
    """
    if getattr(model.get_output_embeddings(), "bias", None) is not None:
        raise UserError(
            f"model: {type(model).__name__} adds a bias to its logits, which log-probs leave out; choose another one"
        )
    bound: float | None = model.config.get_text_config().to_dict().get("final_logit_softcapping")
    return bound
