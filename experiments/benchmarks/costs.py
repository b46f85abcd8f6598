"""Names the largest costs of a profiled step."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

COSTS = 5
# The operators of torch that a cost is made of, by the beginning of their names; the first kind that fits is taken.
KINDS: dict[str, tuple[str, ...]] = {
    "matrix products": ("mm", "addmm", "bmm", "baddbmm", "linear", "matmul", "mkldnn_linear", "_linear", "_addmm"),
    "attention": ("_scaled_dot_product", "scaled_dot_product"),
    "optimiser": ("_fused_adamw", "_foreach", "addcdiv", "addcmul", "lerp", "sqrt"),
    "copies and casts": ("copy_", "clone", "_to_copy", "to", "contiguous", "cat", "stack", "repeat", "index"),
    "softmax and logarithms": ("_softmax", "_log_softmax", "logsumexp", "exp", "log", "softmax"),
    "look-up and scatter": ("embedding", "gather", "scatter", "nll_loss"),
    "filling with zeros": ("zero_", "fill_", "zeros", "full"),
    "sums and means": ("sum", "mean", "cumsum", "amax", "max", "linalg_vector_norm", "norm", "var", "pow"),
    "element by element": (
        "mul",
        "add",
        "sub",
        "div",
        "silu",
        "neg",
        "rsqrt",
        "where",
        "clamp",
        "sigmoid",
        "threshold",
    ),
}


def kind_of(operator: str) -> str:
    """The kind of cost of an operator; its own name if it is of none."""
    prefix, _, name = operator.rpartition("::")
    if prefix not in ("aten", "mkldnn"):
        return operator
    return next((k for k, starts in KINDS.items() if any(name.startswith(s) for s in starts if s)), operator)


def largest_costs(profile: Any) -> list[dict[str, Any]]:
    """The five kinds of work that took most of a step's time, each with the operators that it is made of.

    Args:
        profile: a finished ``torch.profiler.profile``. Times are of the operators themselves, on all threads' behalf.
    """
    by_kind: dict[str, dict[str, float]] = defaultdict(dict)
    for event in profile.key_averages():
        by_kind[kind_of(event.key)][event.key] = event.self_cpu_time_total / 1e6
    total = sum(sum(operators.values()) for operators in by_kind.values())
    largest = sorted(by_kind.items(), key=lambda kind: -sum(kind[1].values()))[:COSTS]
    return [
        {
            "cost": kind,
            "seconds": round(sum(operators.values()), 4),
            "share": round(sum(operators.values()) / total, 4),
            "operators": sorted(operators, key=lambda name: -operators[name])[:3],
        }
        for kind, operators in largest
    ]
