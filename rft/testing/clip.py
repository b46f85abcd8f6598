"""The check of the clip: it stops what has gone far enough, and never what has gone the wrong way.

The clipped surrogate min(ρ A, clip(ρ) A) has no gradient where a good token (A > 0) has become more likely than the
clip allows, or a bad one (A < 0) less likely; where they have moved against their advantage it pulls them back. With
the minimum turned into a maximum, or left out, both are the other way round, or neither pulls, and on data of the
present policy, where ρ = 1, nothing shows it. A dual clip lets go of bad tokens too, but only above the clip.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rft.testing.ratio import EXACT, has_ratio, pull
from rft.testing.subject import Found, NotApplicableError, Subject, trains
from rft.types import OnPolicyBatch

# Ratios halfway between hundredths, so that an edge at a hundredth lies between two; then coarser.
ABOVE = torch.cat([torch.arange(1.005, 4, 0.01, dtype=torch.float64), torch.logspace(0.7, 2, 20, dtype=torch.float64)])
BELOW = torch.arange(0.995, 0, -0.01, dtype=torch.float64)
WAYS = {"more": ABOVE, "less": BELOW}  # likely than when it was sampled


def clip_direction(subject: Subject) -> Found:
    """Where the ratio is beyond the clip, what went with its advantage has no gradient; what went against it has."""
    trains(subject)
    world = subject.world()
    batch = world.batch()
    if not isinstance(batch, OnPolicyBatch):
        raise NotApplicableError("its batch has no advantages")
    batch = batch[batch.sequences.lengths == 1]
    if not len(batch) or not has_ratio(world, batch):
        raise NotApplicableError("its loss knows no ratio")

    def weights(advantage: float, ratios_B: Tensor) -> Tensor:
        """How much of ρ A ∇log π each ratio leaves, in the loss's own unit. Shape [B]."""
        rows = batch[torch.zeros(len(ratios_B), dtype=torch.long)]
        old_BR = rows.logprobs - ratios_B.log()[:, None] * rows.sequences.response_mask
        rows = replace(rows, logprobs=old_BR)
        return (pull(world, rows, advantage) - pull(world, rows, 0.0)).abs() * len(rows) / ratios_B

    found = {(sign, way): weights(sign, ratios) for sign in (1.0, -1.0) for way, ratios in WAYS.items()}
    stops = {case: _first_without(weight_B, WAYS[case[1]]) for case, weight_B in found.items()}
    upper, lower = stops[1.0, "more"], stops[-1.0, "less"]
    wrong = [("a good token that became less likely (A > 0", stops[1.0, "less"])]
    dual = stops[-1.0, "more"]
    if upper is None or (dual is not None and dual <= upper):
        wrong.append(("a bad token that became more likely (A < 0", dual))
    told = [f"{what}, ratio {ratio:.2f}) has no gradient" for what, ratio in wrong if ratio is not None]
    if told:
        mend = "wanted min(ρ A, clip(ρ) A), which is max(−ρ A, −clip(ρ) A) as a loss"
        return Found(False, f"{', '.join(told)}; {mend}", subject.loses)
    ends = (("A > 0 above", upper), ("A < 0 below", lower), ("A < 0 above", dual))
    edges = [f"{case} {ratio:.2f}" for case, ratio in ends if ratio is not None]
    if edges:
        return Found(True, f"no gradient for {', '.join(edges)}")
    if any(float(w.max() - w.min()) > EXACT * float(w.max()) for w in found.values()):
        raise NotApplicableError("it bounds the weight of a token, and stops none")
    if setting := _clip_setting(subject.config):
        return Found(
            False, f"{setting}, but the loss has its full gradient at every ratio: nothing clips", subject.loses
        )
    raise NotApplicableError("it does not clip")


def _first_without(weights_B: Tensor, ratios_B: Tensor) -> float | None:
    """The first ratio without a gradient; None if there always is one."""
    gone = (weights_B <= EXACT * weights_B.max()).nonzero()
    return float(ratios_B[gone[0, 0]]) if len(gone) else None


def _clip_setting(config: Any) -> str | None:
    """A setting that asks for a clip within the ratios looked at."""
    asked = [(n, v) for n, v in vars(config).items() if n.startswith("clip_range") and isinstance(v, int | float)]
    return next((f"{name}={value:g}" for name, value in asked if value < float(ABOVE[-1]) - 1), None)
