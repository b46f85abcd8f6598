"""Low-rank adapters in the type of the weights that they adapt.

y = W x + b + s B A x (Hu et al. 2021, arXiv 2106.09685, equation 3). peft casts x up to the adapter's float32 and the
sum down again, for every layer and once more in the backward; here A and B are cast, which are small.
Dimensions: ``N`` tokens, ``I`` inputs, ``O`` outputs, ``R`` rank.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from rft.errors import UserError
from rft.ops.products import frozen_back, frozen_linear

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from rft.models.pretrained import LoraConfig


class _Adapted(torch.autograd.Function):
    """W x + b + s B A x, with gradients for x, A and B."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight_OI: Tensor, bias_O: Tensor | None, a_RI: Tensor, b_OR: Tensor, scaling: float
    ) -> Tensor:
        x_NI, a, b = x.reshape(-1, x.shape[-1]), a_RI.to(x.dtype), (b_OR * scaling).to(x.dtype)
        low_NR = x_NI @ a.T
        y_NO = frozen_linear(x_NI, weight_OI, bias_O).addmm_(low_NR, b.T)
        ctx.save_for_backward(x_NI, weight_OI, a, b, low_NR)
        ctx.shape, ctx.scaling, ctx.adapter = x.shape, scaling, a_RI.dtype
        return y_NO.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None, Tensor | None, Tensor | None, None]:
        x_NI, weight_OI, a, b, low_NR = ctx.saved_tensors
        y_NO = grads[0].reshape(-1, grads[0].shape[-1])
        low_grad_NR = y_NO @ b
        x_grad = a_grad = b_grad = None
        if ctx.needs_input_grad[0]:
            x_grad = frozen_back(y_NO, weight_OI).addmm_(low_grad_NR, a).view(ctx.shape)
        if ctx.needs_input_grad[3]:
            a_grad = (low_grad_NR.T @ x_NI).to(ctx.adapter)
        if ctx.needs_input_grad[4]:
            b_grad = (y_NO.T @ low_NR).to(ctx.adapter).mul_(ctx.scaling)
        return x_grad, None, None, a_grad, b_grad, None


def _forward(layer: Any, x: Tensor) -> Tensor:
    base = layer.get_base_layer()
    role = None if layer.disable_adapters else layer.active_adapters[0]
    if role is None:
        if x.requires_grad and torch.is_grad_enabled():
            y: Tensor = base(x)
            return y
        return frozen_linear(x, base.weight, base.bias)
    adapters = layer.lora_A[role].weight, layer.lora_B[role].weight
    adapted: Tensor = _Adapted.apply(x, base.weight, base.bias, *adapters, layer.scaling[role])  # type: ignore[no-untyped-call]
    return adapted


def adapt_in_type(layer: Any) -> None:
    """Let an adapted layer of peft, with one adapter at a time and no dropout, compute so if it adapts a linear one."""
    if type(layer.get_base_layer()) is nn.Linear:
        layer.forward = partial(_forward, layer)


def add_adapters(
    model: PreTrainedModel, lora: LoraConfig, names: Sequence[str], below: Iterable[nn.Module]
) -> list[tuple[str, Any]]:
    """Give a model adapters of some names, in float32; returns its adapted layers by their full names.

    Args:
        model: to be changed.
        lora: what the adapters are like.
        names: of the adapters.
        below: the layers that get none.

    Raises:
        UserError: if there is nothing that could get one.
    """
    from peft import LoraConfig as PeftConfig
    from peft import inject_adapter_in_model
    from peft.tuners.tuners_utils import BaseTunerLayer

    config = PeftConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]
        lora_dropout=0.0,
        target_modules=_targets(model, lora, below),
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        # peft warns of the second adapter on one model, and of GPT-2's transposed layers, which it then handles.
        warnings.simplefilter("ignore", UserWarning)
        for name in names:
            inject_adapter_in_model(config, model, adapter_name=name)
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            parameter.data = parameter.data.float()
    layers = [(n, m) for n, m in model.named_modules() if isinstance(m, BaseTunerLayer)]
    for _, layer in layers:
        adapt_in_type(layer)
    return layers


def _targets(model: PreTrainedModel, lora: LoraConfig, below: Iterable[nn.Module]) -> list[str]:
    """Full names of the modules that get an adapter.

    Names alone would do for one adapter; at the second they would also match the layers inside the first.
    """
    from transformers.pytorch_utils import Conv1D

    head, names = model.get_output_embeddings(), lora.targets.split(",")
    frozen = {id(m) for layer in below for m in layer.modules()}
    found = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not head and id(module) not in frozen
    ]
    if lora.targets != "all-linear":
        found = [name for name in found if name.rpartition(".")[2] in names]
    if not found:
        raise UserError(f"model.lora.targets={lora.targets}: the model has no such linear layers")
    return found
