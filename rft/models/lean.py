"""The parts of a decoder layer between its matrix products, in fewer passes over memory and with less kept.

What transformers writes for any backend keeps, of a root mean square norm, a float32 copy of its input and the
normalised input, and of a gated perceptron four tensors of its inner width. Here a norm keeps its input and a number a
token, the perceptron two; the rest is made again in the backward, which costs less than reading it would.

Dimensions: ``N`` tokens, ``H`` width of a norm, ``I`` inner width of a perceptron.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TYPES = (torch.bfloat16, torch.float16, torch.float32)  # transformers' norms round float64 to float32: left to them
TRIED = 8  # rows on which a module is compared with what it is taken for
ROUNDING = 1e-4  # of a module tried in float32


def _over_rms(x: Tensor, eps: float) -> Tensor:
    """1 / √(mean x² + eps), float32. Shape […, 1]."""
    norm: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    return norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()


def _float32(x: Tensor) -> Tensor:
    """A copy that may be written to."""
    return x.to(torch.float32, copy=True)


class _RmsNorm(torch.autograd.Function):
    """x / rms(x) · (weight + plus) over the last dimension (Zhang & Sennrich 2019, arXiv 1910.07467, equation 4)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_H: Tensor, eps: float, plus: float) -> Tensor:
        over_rms = _over_rms(x, eps)
        ctx.save_for_backward(x, weight_H, over_rms)
        ctx.plus = plus
        return _scaled(_float32(x).mul_(over_rms), weight_H, plus, x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weight_H, over_rms = ctx.saved_tensors
        normal, y_grad = _float32(x).mul_(over_rms), grads[0]
        weight_grad = x_grad = None
        if ctx.needs_input_grad[1]:
            weight_grad = (y_grad * normal.to(x.dtype)).reshape(-1, x.shape[-1]).sum(0).to(weight_H.dtype)
        if ctx.needs_input_grad[0]:
            # ∂/∂x = (g − x̂ mean(g x̂)) / rms for the gradient g of the normalised x̂.
            normal_grad = y_grad.float() * (weight_H.float() + ctx.plus)
            along = torch.linalg.vecdot(normal_grad, normal)[..., None].div_(x.shape[-1])
            x_grad = normal_grad.addcmul_(normal, along, value=-1).mul_(over_rms).to(x.dtype)
        return x_grad, weight_grad, None, None


def _scaled(normal: Tensor, weight_H: Tensor, plus: float, dtype: torch.dtype) -> Tensor:
    """Llama's norms round before they scale, Gemma's, whose weights are about one, after it."""
    if plus:
        return normal.mul_(weight_H.float() + plus).to(dtype)
    return normal.to(dtype).mul_(weight_H)


def _norm_forward(eps: float, plus: float, module: Any, hidden_states: Tensor) -> Tensor:
    x, weight = hidden_states, module.weight
    if x.dtype not in TYPES or weight.dtype != x.dtype:
        whole: Tensor = type(module).forward(module, x)
        return whole
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        y: Tensor = _RmsNorm.apply(x, weight, eps, plus)  # type: ignore[no-untyped-call]
        return y
    return _scaled(_float32(x).mul_(_over_rms(x, eps)), weight, plus, x.dtype)


class _Gated(torch.autograd.Function):
    """act(gate) · up, and its product with a matrix if one is given (Shazeer 2020, arXiv 2002.05202, equation 5)."""

    @staticmethod
    def forward(
        ctx: Any,
        act: Callable[[Tensor], Tensor],
        gate: Tensor,
        up: Tensor,
        weight_HI: Tensor | None,
        bias_H: Tensor | None,
    ) -> Tensor:
        ctx.act = act
        ctx.save_for_backward(gate, up, weight_HI)
        inner = act(gate).mul_(up)
        return inner if weight_HI is None else nn.functional.linear(inner, weight_HI, bias_H)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor, Tensor, Tensor | None, Tensor | None]:
        gate, up, weight_HI = ctx.saved_tensors
        with torch.enable_grad():
            leaf = gate.detach().requires_grad_()
            act = ctx.act(leaf)
        inner_grad, weight_grad, bias_grad = grads[0], None, None
        if weight_HI is not None:
            y_grad_NH = grads[0].reshape(-1, grads[0].shape[-1])
            inner_grad = grads[0] @ weight_HI
            if ctx.needs_input_grad[3]:
                weight_grad = y_grad_NH.T @ (act.detach() * up).view(-1, up.shape[-1])
            if ctx.needs_input_grad[4]:
                bias_grad = y_grad_NH.sum(0)
        up_grad = inner_grad * act.detach()
        (gate_grad,) = torch.autograd.grad(act, leaf, inner_grad.mul_(up) if weight_HI is not None else inner_grad * up)
        return None, gate_grad, up_grad, weight_grad, bias_grad


def _perceptron_forward(module: Any, x: Tensor) -> Tensor:
    gate, up, down = module.gate_proj(x), module.up_proj(x), module.down_proj
    y: Tensor
    if not torch.is_grad_enabled():
        y = down(module.act_fn(gate).mul_(up))
    elif type(down) is nn.Linear:
        y = _Gated.apply(module.act_fn, gate, up, down.weight, down.bias)  # type: ignore[no-untyped-call]
    else:
        y = down(_Gated.apply(module.act_fn, gate, up, None, None))  # type: ignore[no-untyped-call]
    return y


def _same(module: nn.Module, forward: Callable[..., Tensor], width: int) -> bool:
    """Whether a module, were its weights float32, would give what ``forward`` of it gives."""
    import copy

    tried = copy.deepcopy(module).float()
    x = torch.randn(TRIED, width, generator=torch.Generator().manual_seed(0)).to(next(tried.parameters()).device)
    try:
        wanted, found = tried(x), forward(tried, x)
    except Exception:  # a module of another kind may refuse in any way
        return False
    return bool(torch.allclose(found, wanted, rtol=ROUNDING, atol=ROUNDING))


def _lean_norm(module: nn.Module) -> Callable[..., Tensor] | None:
    """The forward of a root mean square norm, if the module is one."""
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    named = list(module.named_parameters())
    if not isinstance(eps, float) or [name for name, _ in named] != ["weight"] or named[0][1].ndim != 1:
        return None
    width = len(named[0][1])
    for plus in (0.0, 1.0):
        forward = partial(_norm_forward, eps, plus)
        if _same(module, forward, width):
            return forward
    return None


def _lean_perceptron(module: nn.Module) -> Callable[..., Tensor] | None:
    """The forward of a gated perceptron, if the module is one."""
    children = dict(module.named_children())
    if set(children) != {"gate_proj", "up_proj", "down_proj", "act_fn"}:
        return None
    gate = children["gate_proj"]
    fits = isinstance(gate, nn.Linear) and _same(module, _perceptron_forward, gate.in_features)
    return _perceptron_forward if fits else None


@torch.no_grad()
def keep_less(model: PreTrainedModel) -> None:
    """Let the norms and gated perceptrons of a model compute so.

    They are known by their parts and by what they give on a few rows, which the first of a class stands for.
    """
    known: dict[Any, Callable[..., Tensor] | None] = {}
    for module in model.get_decoder().modules():
        for find in (_lean_norm, _lean_perceptron):
            at = find, type(module), getattr(module, "variance_epsilon", getattr(module, "eps", None))
            if at not in known:
                known[at] = find(module)
            forward = known[at]
            if forward is not None:
                module.forward = partial(forward, module)
