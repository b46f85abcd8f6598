"""Matrix products with weights laid out for them.

oneDNN's products in bfloat16 rearrange a plain weight at every call, which for a few rows takes as long as the product
itself. The operators are those of torch's own compiler for frozen weights, and the
numbers are the same to the bit.
Dimensions: ``N`` rows, ``I`` inputs, ``O`` outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

PACKED_ROWS = 32  # for which the layout of packed weights is chosen; it suits one row as well as hundreds
MOST_PACKED = 1 << 30  # bytes of frozen weights that are kept laid out beside the plain ones


def packs(weight: Tensor) -> bool:
    """Whether this torch, on this processor, has such products for a weight, by the names that are used here."""
    kernels = torch.ops.mkldnn
    names = ("_is_mkldnn_bf16_supported", "_reorder_linear_weight", "_linear_pointwise")
    if weight.device.type != "cpu" or weight.dtype != torch.bfloat16 or not torch.backends.mkldnn.is_available():
        return False
    return all(hasattr(kernels, name) for name in names) and bool(kernels._is_mkldnn_bf16_supported())


def packed_weight(weight_OI: Tensor) -> Tensor:
    """A copy in the order in which the products read it; ask ``packs`` first."""
    made: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight_OI, PACKED_ROWS)
    return made


def packed_linear(x_NI: Tensor, packed: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """x Wᵀ + b of a packed W. Shape [N, O]. Without gradient."""
    made: Tensor = torch.ops.mkldnn._linear_pointwise(x_NI, packed, bias_O, "none", [], "")
    return made


class _Layouts:
    """Those of one weight, made when each is first wanted."""

    def __init__(self) -> None:
        self._place: tuple[Any, ...] = ()
        self._made: dict[str, Tensor | None] = {}
        self._refused_among = 0  # how many weights there were when there was no room

    @property
    def nbytes(self) -> int:
        """Of all."""
        return sum(self._place[-1] for made in self._made.values() if made is not None)

    def of(self, way: str, weight: Tensor, lay_out: Callable[[Tensor], Tensor]) -> Tensor | None:
        """Laid out for the product with W or its transpose; None where it cannot or may not be."""
        if self._place != (place := _place(weight)):  # other numbers, or moved
            self._made.clear()
            self._place = place
        if way in self._made and self._made[way] is None and len(_layouts) < self._refused_among:
            del self._made[way]  # others have gone since
        if way not in self._made:
            fits = packs(weight) and sum(one.nbytes for one in _layouts.values()) + weight.nbytes <= MOST_PACKED
            self._made[way] = packed_weight(lay_out(weight.detach())) if fits else None
            self._refused_among = 0 if fits else len(_layouts)
        return self._made[way]


_layouts: Any = WeakTensorKeyDictionary()


def _place(weight: Tensor) -> tuple[Any, ...]:
    return weight.device, weight.dtype, weight.data_ptr(), weight._version, weight.nbytes


def _laid_out(way: str, weight: Tensor, lay_out: Callable[[Tensor], Tensor]) -> Tensor | None:
    # What is trained changes at every step, and what is no parameter is made anew at every pass.
    if not isinstance(weight, nn.Parameter) or weight.is_inference():
        return None
    if weight.requires_grad:
        _layouts.pop(weight, None)
        return None
    found: _Layouts | None = _layouts.get(weight)
    if found is None:
        found = _layouts[weight] = _Layouts()
    return found.of(way, weight, lay_out)


def frozen_linear(x_NI: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """x Wᵀ + b of a weight that is not trained, which is kept laid out from the first time on. Shape [N, O], or […, O].

    Without gradient: for use where there is none, or in a function's own forward or backward. A change of the weight's
    ``.data`` in place goes unseen, and that of a fused optimiser if no pass saw the weight while it was trained.
    """
    packed = _laid_out("linear", weight_OI, lambda w: w)
    if packed is None:
        return torch.nn.functional.linear(x_NI, weight_OI, bias_O)
    return packed_linear(x_NI, packed, bias_O)


def frozen_back(y_NO: Tensor, weight_OI: Tensor) -> Tensor:
    """y W of a weight that is not trained: the gradient of `frozen_linear`'s input from that of its result. [N, I]."""
    packed = _laid_out("back", weight_OI, lambda w: w.t().contiguous())
    return y_NO @ weight_OI if packed is None else packed_linear(y_NO, packed)
