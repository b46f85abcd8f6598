"""The parts of a decoder layer between its matrix products, in fewer passes over memory and with less kept.

What transformers writes for any backend keeps, of a root mean square norm, a float32 copy of its input and the
normalised input, and of a gated perceptron four tensors of its inner width. Here a norm keeps its input and a number a
token, the perceptron two, or three where an adapter keeps its own input; the rest is made again in the backward.

Dimensions: ``N`` tokens, ``H`` width of a norm, ``I`` inner width of a perceptron.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
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


def _norm(kind: type[nn.Module], eps: float, plus: float) -> type[nn.Module]:
    """A class of norms that keep less."""

    def forward(module: Any, hidden_states: Tensor) -> Tensor:
        if hidden_states.dtype in TYPES and module.weight.dtype == hidden_states.dtype:
            return _normalised(hidden_states, module.weight, eps, plus)
        whole: Tensor = kind.forward(module, hidden_states)
        return whole

    return _derived(kind, forward)


def _derived(kind: type[nn.Module], forward: Callable[..., Tensor]) -> type[nn.Module]:
    """A class with another forward: to set that on each module instead would tie it to itself in a circle."""
    return type(kind.__name__, (kind,), {"forward": forward, "__module__": kind.__module__})


def _normalised(x: Tensor, weight: Tensor, eps: float, plus: float) -> Tensor:
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
        inner = act(gate) * up  # an activation may give its input back
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
                weight_grad = y_grad_NH.T @ (act.detach() * up).reshape(-1, up.shape[-1])
            if ctx.needs_input_grad[4]:
                bias_grad = y_grad_NH.sum(0)
        up_grad = inner_grad * act.detach()
        (gate_grad,) = torch.autograd.grad(act, leaf, inner_grad.mul_(up) if weight_HI is not None else inner_grad * up)
        return None, gate_grad, up_grad, weight_grad, bias_grad


def _plain(module: nn.Module) -> bool:
    """Whether a module is a linear layer and nobody listens to it."""
    watched = module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module)
    return type(module) is nn.Linear and not watched


def _perceptron_forward(module: Any, x: Tensor) -> Tensor:
    gate, up, down = module.gate_proj(x), module.up_proj(x), module.down_proj
    y: Tensor
    if not torch.is_grad_enabled():
        y = down(module.act_fn(gate).mul_(up))
    elif _plain(down):
        y = _Gated.apply(module.act_fn, gate, up, down.weight, down.bias)  # type: ignore[no-untyped-call]
    else:
        y = down(_Gated.apply(module.act_fn, gate, up, None, None))  # type: ignore[no-untyped-call]
    return y


def _same(module: nn.Module, kind: type[nn.Module], width: int) -> bool:
    """Whether a module, were its weights float32, would give the same as one of another class, gradients included."""
    generator = torch.Generator().manual_seed(0)
    device = next(module.parameters()).device
    x, y_grad = (torch.randn(TRIED, width, generator=generator).to(device) for _ in range(2))
    found = []
    try:
        for tried in (module.__class__, kind):
            one = copy.deepcopy(module).float().requires_grad_(True)
            one.__class__ = tried
            with torch.enable_grad():
                given = x.clone().requires_grad_(True)
                y = one(given)
            found.append([y, *torch.autograd.grad(y, [given, *one.parameters()], y_grad)])
    except Exception:  # a module of another kind may refuse in any way
        return False
    return all(torch.allclose(b, a, rtol=ROUNDING, atol=ROUNDING) for a, b in zip(*found, strict=True))


def _takes_one(module: nn.Module) -> bool:
    """Whether its forward has one argument: some norms have a gate besides."""
    return len(inspect.signature(module.forward).parameters) == 1


def _lean_norm(module: nn.Module) -> type[nn.Module] | None:
    """The class to make of a root mean square norm, if the module is one."""
    named = list(module.named_parameters())
    eps = _eps(module)
    if not isinstance(eps, float) or [(n, p.ndim) for n, p in named] != [("weight", 1)] or not _takes_one(module):
        return None
    kinds = (_norm(type(module), eps, plus) for plus in (0.0, 1.0))
    return next((kind for kind in kinds if _same(module, kind, named[0][1].numel())), None)


def _eps(module: nn.Module) -> Any:
    return getattr(module, "variance_epsilon", getattr(module, "eps", None))


def _lean_perceptron(module: nn.Module) -> type[nn.Module] | None:
    """The class to make of a gated perceptron, if the module is one."""
    children = dict(module.named_children())
    if set(children) != {"gate_proj", "up_proj", "down_proj", "act_fn"} or not _takes_one(module):
        return None
    gate, kind = children["gate_proj"], _derived(type(module), _perceptron_forward)
    if not isinstance(gate, nn.Linear) or list(children["act_fn"].parameters()):
        return None
    return kind if _same(module, kind, gate.in_features) else None


def keep_less(model: PreTrainedModel) -> None:
    """Let the norms and gated perceptrons of a model compute so.

    They are known by their parts and by what they give on a few rows, which one stands for all that are built alike.
    """
    known: dict[Any, type[nn.Module] | None] = {}
    for module in list(model.get_decoder().modules()):
        built = type(module), _eps(module), tuple((n, p.ndim) for n, p in module.named_parameters())
        if built not in known:
            known[built] = _lean_norm(module) or _lean_perceptron(module)
        kind = known[built]
        if kind is not None:
            module.__class__ = kind
