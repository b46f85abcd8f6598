"""The check of the first ratio: log-probs of the loss are those of sampling, and nothing shifts the ratio inside.

A loss over exp(log π − log π_old − c) has the same optimum, and a clip that is off its centre. What gives it away is
the first gradient. There the ratio is 1, so a token's gradient is −w A ∇log π, whatever the clip, w the weight that
the normaliser gives the token: the shifted one has −w exp(−c) A ∇log π. On responses of one token the mean over tokens,
the mean over responses and the ratio of a whole response are one and the same, so that w times the number of
responses is 1, or a constant that somebody chose: a coefficient, a longest length, a number of groups. Terms that
advantages have no say in (KL, entropy, a critic) are the same under all advantages and drop out of a difference.
Dimensions: ``B`` rows, ``R`` tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rft.models.backbone import Role
from rft.testing.subject import Found, Subject, trains, watched
from rft.testing.world import TEMPERATURE, World
from rft.types import OnPolicyBatch, Sequences

EXACT = 1e-9  # relative, in float64


def first_ratio(subject: Subject) -> Found:
    """At first the loss's log-probs are those of sampling: the ratio is 1, the policy is the reference."""
    trains(subject)
    world = subject.world()
    batch = world.batch()
    with watched(world) as calls:
        out = world.algorithm.checked_loss(batch)
    if not calls:
        return Found(False, "the loss never asks for backbone.logprobs(Role.policy, …)", subject.loses)
    temperature = TEMPERATURE if subject.algorithm.data_kind == "on_policy" else 1.0
    for call in calls:
        ref = world.backbone.logprobs(Role.reference, call.sequences, temperature).detach()
        gap = float((call.result - ref).abs().max())
        if gap:
            return Found(
                False,
                f"the policy still is the reference, but their log-probs differ by {gap:.2g}; take both at the "
                "temperature of sampling, with the batch's own mask",
                call.where,
            )
        if isinstance(batch, OnPolicyBatch) and call.result.shape == batch.logprobs.shape:
            gap = float((call.result - batch.logprobs).abs().max())
            if gap:
                return Found(
                    False,
                    f"the batch's old log-probs are off by {gap:.2g}; hand on those of the rollouts",
                    subject.prepares,
                )
    for name, wanted in (("ratio", 1.0), ("clip_fraction", 0.0)):
        if name in out.metrics and float(out.metrics[name]) != wanted:
            return Found(False, f"metric {name} is {float(out.metrics[name]):g}, wanted {wanted:g}", subject.loses)
    if isinstance(batch, OnPolicyBatch) and (scale := _constant_scale(world, batch)) is not None:
        if not _accounted_for(scale, subject.config):
            return Found(
                False,
                f"at a ratio of 1 the gradient of a token of advantage 1 is {scale:.6g} times that of −log π, which is "
                "no setting and no count; is there a constant in the ratio, where exp(log π − log π_old) is wanted?",
                subject.loses,
            )
        return Found(True, f"log-probs equal to the bit, gradient {scale:.3g} × −A ∇log π")
    return Found(True, "log-probs equal to the bit")


def _constant_scale(world: World, batch: OnPolicyBatch) -> float | None:
    """What a token's gradient is, at a ratio of 1, in multiples of −A ∇log π / B; of responses of one token.

    0 if tokens of one sign of advantage get none. None where there is no such number: the loss knows no ratio, is not
    linear in the advantages, or weighs tokens by something that differs between them.
    """
    batch = batch[batch.sequences.lengths == 1]
    if not len(batch) or not has_ratio(world, batch):
        return None
    none_B = pull(world, batch, 0.0)
    scales = []
    for sign in (1.0, -1.0):
        half_B, whole_B = ((none_B - pull(world, batch, sign * size)) / sign * len(batch) for size in (0.5, 1.0))
        tolerance = EXACT * max(float(whole_B.abs().max()), 1.0)
        if float((whole_B - 2 * half_B).abs().max()) > tolerance or float(whole_B.max() - whole_B.min()) > tolerance:
            return None
        scales.append(float(whole_B.mean()))
    return min(scales, key=abs)


def has_ratio(world: World, batch: OnPolicyBatch) -> bool:
    """Whether old log-probs that are a little smaller change the gradient of tokens that have an advantage."""
    older = replace(batch, logprobs=batch.logprobs - 0.01 * batch.sequences.response_mask)
    changes = [pull(world, older, advantage) - pull(world, batch, advantage) for advantage in (1.0, -1.0)]
    return max(float(change_B.abs().max()) for change_B in changes) > EXACT


def pull(world: World, batch: OnPolicyBatch, advantage: float) -> Tensor:
    """The derivative of the loss by a number that is added to the log-probs of a response. Shape [B].

    Args:
        world: where.
        batch: rows.
        advantage: of every counted token, in place of the batch's.
    """
    mask_BR = batch.sequences.response_mask
    credited = replace(batch, advantages=advantage * mask_BR.to(batch.advantages.dtype))
    added_B = torch.zeros(len(batch), dtype=batch.logprobs.dtype, requires_grad=True)
    with _added(world, added_B):
        loss = world.algorithm.checked_loss(credited).loss
    (found_B,) = torch.autograd.grad(loss, added_B, materialize_grads=True)
    return found_B


@contextmanager
def _added(world: World, added_B: Tensor) -> Iterator[None]:
    """A number a row, added to the policy's log-probs of the row's counted tokens."""
    backbone, original = world.backbone, world.backbone.logprobs

    def logprobs(role: Role, seq: Sequences, temperature: float = 1.0) -> Tensor:
        found_BR = original(role, seq, temperature)
        if role is not Role.policy or len(seq) != len(added_B):
            return found_BR
        return found_BR + added_B[:, None] * seq.response_mask

    vars(backbone)["logprobs"] = logprobs  # before the method of the class
    try:
        yield
    finally:
        del vars(backbone)["logprobs"]


def _accounted_for(scale: float, config: Any) -> bool:
    """Whether somebody chose a number: a setting, a count or one over it, or two digits written by hand."""
    if scale <= 0:
        return False
    settings = [float(v) for v in vars(config).values() if isinstance(v, int | float) and v]
    known = [
        *settings,
        *(1 / v for v in settings),
        float(f"{scale:.2g}"),
        float(round(scale)),
        1 / (round(1 / scale) or 1),
    ]
    return any(abs(scale - number) <= EXACT * scale for number in known)
