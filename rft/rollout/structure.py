"""What a decoder is made of, read off its modules: the parts that the decode loop calls itself.

Two shapes are known: blocks with rotary positions and a gated perceptron (Llama, Mistral, Qwen2 and 3, Gemma 1 to 3 and
whatever else is built like them), and those of GPT-2. A module is known by its parts, not by its name, and every
parameter must have its place: what is left over makes the model unknown.

Dimensions: ``N`` tokens, ``H`` hidden, ``D`` head width, ``V`` vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rft.models.decoder import decoder_layers, windows
from rft.ops.products import packed_linear, packed_weight, packs

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Map = Callable[[Tensor], Tensor]
Rotation = tuple[Tensor, Tensor]
"""Cosines and sines of positions, each [positions, D]."""


class UnknownStructureError(Exception):
    """The model is built in a way that is not known here."""


@dataclass(frozen=True, slots=True)
class Block:
    """One layer: x += after(out(attention(project(before(x))))), then the same with the perceptron."""

    before_attention: Map
    project: Map
    """[N, H] to queries, keys and values side by side [N, (heads + 2 · KV heads) · D]."""
    head_norms: tuple[Map, Map] | None
    """Of queries and of keys, each over D."""
    out: Map
    after_attention: Map | None
    before_mlp: Map
    mlp: Map
    after_mlp: Map | None
    scaling: float
    """What the products of queries and keys are multiplied by."""
    softcap: float | None
    """Bound c of the products: c · tanh(product / c)."""
    rotation: str | None
    """Which of the rotations; None: positions are added to the embeddings."""
    window: int | None
    """How many tokens back a token looks, itself counted; None: all."""


@dataclass(frozen=True, slots=True)
class Structure:
    """A decoder with its vocabulary projection."""

    embed: Callable[[Tensor, Tensor], Tensor]
    """Token ids and positions, both [N], to [N, H]."""
    rotations: Callable[[int], dict[str, Rotation]]
    """Number of positions to the rotations, by name."""
    blocks: Sequence[Block]
    logits: Map
    """[N, H] after the last block to [N, V]."""
    heads: int
    kv_heads: int
    width: int
    """D."""
    fused_kernel: bool
    """Whether the model's attention may go through torch's fused kernels."""
    products: Sequence[Product]

    @property
    def current(self) -> bool:
        """Whether all matrices are those of the model's weights; not after a move to another device."""
        return all(product.current for product in self.products)

    def take_at(self, places: Collection[int]) -> None:
        """Take up those weights, laid out for products of few rows, whose memory begins at one of some addresses."""
        with torch.inference_mode(mode=False), torch.no_grad():
            for product in self.products:
                if product.is_of(places):
                    product.take()

    def take_moved(self) -> None:
        """Take up those weights that are in other memory than when they were last taken."""
        with torch.inference_mode(mode=False), torch.no_grad():
            for product in self.products:
                if not product.current:
                    product.take()

    def drop_moved(self) -> None:
        """Let go of what was made of weights that the model no longer has there, until they are taken again."""
        for product in self.products:
            if not product.current:
                product.drop()


class Product:
    """Linear layers of the same input as one matrix product, of their weights when they were last taken."""

    def __init__(self, *layers: nn.Linear) -> None:
        self.layers = layers
        biased = [any(name == "bias" for name, _ in layer.named_parameters()) for layer in layers]
        if len(set(biased)) > 1:
            raise UnknownStructureError("some of the joined layers have a bias, others none")
        self._biased = biased[0]
        self._packed: Tensor | None = None
        self._joined: Tensor | None = None
        self._bias: Tensor | None = None
        self._taken: tuple[Any, ...] = ()
        self.take()

    def _place(self) -> tuple[Any, ...]:
        """Where the layers' weights are."""
        weights = [layer.weight for layer in self.layers]
        return (weights[0].device, weights[0].dtype, *(weight.data_ptr() for weight in weights))

    @property
    def current(self) -> bool:
        """Whether the layers' weights are where they were when they were taken."""
        return self._taken == self._place()

    def is_of(self, places: Collection[int]) -> bool:
        """Whether a layer's weight begins at one of some addresses in memory."""
        return any(layer.weight.data_ptr() in places for layer in self.layers)

    def take(self) -> None:
        """Take up the layers' weights as they are.

        Where ``rft.ops.products`` can, they are copied in the order in which products read them.
        Elsewhere several layers' weights become views of one joined matrix: whoever writes to them writes to it.
        """
        weights = [layer.weight.data for layer in self.layers]
        if packs(weights[0]):
            self._packed = packed_weight(weights[0] if len(weights) == 1 else torch.cat(weights))
        elif len(weights) > 1 and not (self._joined is not None and self.current):
            self._packed, self._joined = None, torch.cat(weights)
            for layer, part in zip(self.layers, self._joined.split([len(w) for w in weights]), strict=True):
                layer.weight.data = part
        else:
            self._packed = None
        if self._biased:
            biases = [layer.bias.data for layer in self.layers]
            self._bias = biases[0] if len(biases) == 1 else torch.cat(biases)
        self._taken = self._place()

    def drop(self) -> None:
        """Let go of what was made of the weights."""
        self._packed = self._joined = self._bias = None
        self._taken = ()

    def __call__(self, x: Tensor) -> Tensor:
        """[N, in] to the outputs of all layers side by side [N, out].

        Raises:
            RuntimeError: if the weights were dropped.
        """
        if not self._taken:
            raise RuntimeError("the weights of a product were dropped; take them first")
        if self._packed is None:
            weight = self.layers[0].weight if self._joined is None else self._joined
            return nn.functional.linear(x, weight, self._bias)
        return packed_linear(x, self._packed, self._bias)


class _Parts:
    """The children of a module by name, each to be taken once."""

    def __init__(self, module: nn.Module) -> None:
        self._kind = type(module).__name__
        self.rest = dict(module.named_children())
        own = [name for name, _ in module.named_parameters(recurse=False)]
        if own:
            raise UnknownStructureError(f"{self._kind} has {', '.join(own)}")

    def take(self, name: str) -> nn.Module:
        if name not in self.rest:
            raise UnknownStructureError(f"{self._kind} has no {name}")
        return self.rest.pop(name)

    def linear(self, name: str) -> nn.Linear:
        layer = self.take(name)
        if type(layer) is not nn.Linear:
            raise UnknownStructureError(f"{self._kind}.{name} is {type(layer).__name__}")
        return layer

    def end(self, ignored: Sequence[str] = ()) -> None:
        left = sorted(set(self.rest) - set(ignored))
        if left:
            raise UnknownStructureError(f"{self._kind} has {', '.join(left)}")


def read_structure(model: PreTrainedModel) -> Structure:
    """The structure of a causal language model, whose projections of the same input are joined.

    Raises:
        UnknownStructureError: if it is not one of those known here.
    """
    decoder = model.get_decoder()
    with torch.inference_mode(mode=False), torch.no_grad():  # weights that are written to later, outside inference
        return _gpt2(model) if hasattr(decoder, "wpe") else _gated(model)


def _windows(model: PreTrainedModel) -> list[int | None]:
    found = windows(model)
    if found is None or len(found) != len(decoder_layers(model)):
        raise UnknownStructureError("its cache holds more than the keys and values of its layers")
    return found


def _gated(model: PreTrainedModel) -> Structure:
    decoder = model.get_decoder()
    parts = _Parts(decoder)
    embedding, norm, rotary = parts.take("embed_tokens"), parts.take("norm"), parts.take("rotary_emb")
    parts.take("layers")
    parts.end()
    products: list[Product] = []
    layers = decoder_layers(model)
    kinds = "layer_types" in vars(rotary)
    blocks = [_gated_block(*pair, kinds, products) for pair in zip(layers, _windows(model), strict=True)]
    first: Any = layers[0].get_submodule("self_attn")
    width = int(first.head_dim)
    return Structure(
        embed=lambda ids, _: embedding(ids),
        rotations=_rotations(rotary, embedding, width),
        blocks=blocks,
        logits=_projection(model, norm, products),
        heads=first.q_proj.out_features // width,
        kv_heads=first.k_proj.out_features // width,
        width=width,
        fused_kernel=_fused_kernel(model) and all(block.softcap is None for block in blocks),
        products=products,
    )


def _gated_block(layer: nn.Module, window: int | None, kinds: bool, products: list[Product]) -> Block:
    parts = _Parts(layer)
    attention: Any = parts.take("self_attn")
    before, after = parts.take("input_layernorm"), parts.take("post_attention_layernorm")
    before_mlp, after_attention, after_mlp = after, None, None
    if "pre_feedforward_layernorm" in parts.rest:
        before_mlp, after_attention = parts.take("pre_feedforward_layernorm"), after
        after_mlp = parts.take("post_feedforward_layernorm")
    mlp = _gated_mlp(parts.take("mlp"), products)
    parts.end()
    parts = _Parts(attention)
    project = Product(*(parts.linear(name) for name in ("q_proj", "k_proj", "v_proj")))
    out = Product(parts.linear("o_proj"))
    norms = (parts.take("q_norm"), parts.take("k_norm")) if "q_norm" in parts.rest else None
    if norms and any(p.shape != (attention.head_dim,) for norm in norms for p in norm.parameters()):
        raise UnknownStructureError("its queries are normalised over more than a head")
    parts.end()
    products += [project, out]
    state = vars(attention)
    return Block(
        before_attention=before,
        project=project,
        head_norms=norms,
        out=out,
        after_attention=after_attention,
        before_mlp=before_mlp,
        mlp=mlp,
        after_mlp=after_mlp,
        scaling=float(state["scaling"]),
        softcap=state.get("attn_logit_softcapping"),
        rotation=state["layer_type"] if kinds else "",
        window=window,
    )


def _gated_mlp(module: nn.Module, products: list[Product]) -> Map:
    parts = _Parts(module)
    both, down = Product(parts.linear("gate_proj"), parts.linear("up_proj")), Product(parts.linear("down_proj"))
    activation = parts.take("act_fn")
    parts.end()
    products += [both, down]

    def mlp(x: Tensor) -> Tensor:
        gate, up = both(x).chunk(2, -1)
        return down(activation(gate) * up)

    return mlp


def _rotations(rotary: Any, embedding: nn.Module, width: int) -> Callable[[int], dict[str, Rotation]]:
    """By kind of layer, if it makes a difference; else under the empty name."""
    state = vars(rotary)
    kinds = state["rope_type"].values() if isinstance(state["rope_type"], dict) else [state["rope_type"]]
    if any("dynamic" in kind or kind == "longrope" for kind in kinds):
        raise UnknownStructureError("its rotations depend on how long the sequence is")
    like = next(embedding.parameters())
    names: list[str] = list(state.get("layer_types", ()))

    def rotations(positions: int) -> dict[str, Rotation]:
        places = torch.arange(positions, device=like.device)[None]
        x = like.new_empty(0)
        found = {name: rotary(x, places, name) for name in names} or {"": rotary(x, places)}
        if any(cosines.shape[-1] != width for cosines, _ in found.values()):
            raise UnknownStructureError("it rotates a part of a head only")
        return {name: (cosines[0], sines[0]) for name, (cosines, sines) in found.items()}

    return rotations


def _gpt2(model: PreTrainedModel) -> Structure:
    parts = _Parts(model.get_decoder())
    tokens, places, norm = parts.take("wte"), parts.take("wpe"), parts.take("ln_f")
    parts.take("h")
    parts.end(["drop"])
    layers = decoder_layers(model)
    products: list[Product] = []
    first: Any = layers[0].get_submodule("attn")
    return Structure(
        embed=lambda ids, positions: tokens(ids) + places(positions),
        rotations=lambda _: {},
        blocks=[_gpt2_block(*pair) for pair in zip(layers, _windows(model), strict=True)],
        logits=_projection(model, norm, products),
        heads=int(first.num_heads),
        kv_heads=int(first.num_heads),
        width=int(first.head_dim),
        fused_kernel=_fused_kernel(model),
        products=products,
    )


def _gpt2_block(layer: nn.Module, window: int | None) -> Block:
    parts = _Parts(layer)
    attention, mlp = parts.take("attn"), _Parts(parts.take("mlp"))
    before, before_mlp = parts.take("ln_1"), parts.take("ln_2")
    parts.end()
    parts = _Parts(attention)
    project, out = parts.take("c_attn"), parts.take("c_proj")
    parts.end(["attn_dropout", "resid_dropout"])
    widen, activation, narrow = mlp.take("c_fc"), mlp.take("act"), mlp.take("c_proj")
    mlp.end(["dropout"])
    return Block(
        before_attention=before,
        project=project,
        head_norms=None,
        out=out,
        after_attention=None,
        before_mlp=before_mlp,
        mlp=lambda x: narrow(activation(widen(x))),
        after_mlp=None,
        scaling=float(vars(attention)["scaling"]),
        softcap=None,
        rotation=None,
        window=window,
    )


def _fused_kernel(model: PreTrainedModel) -> bool:
    return str(model.config._attn_implementation) != "eager"


def _projection(model: PreTrainedModel, norm: nn.Module, products: list[Product]) -> Map:
    """The last norm, the vocabulary projection and the bound of the logits."""
    head = model.get_output_embeddings()
    if type(head) is not nn.Linear:
        raise UnknownStructureError(f"its projection onto the vocabulary is {type(head).__name__}")
    cap = model.config.get_text_config().to_dict().get("final_logit_softcapping")
    onto_vocabulary = Product(head)
    products.append(onto_vocabulary)

    def logits(x: Tensor) -> Tensor:
        found = onto_vocabulary(norm(x))
        return found if cap is None else torch.tanh(found / cap) * cap

    return logits
