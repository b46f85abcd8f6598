"""What the algorithms train on, against the papers' formulas written out in plain numbers, one row at a time.

The optimum that the conformance suite compares with comes, for most losses on pairs, from the function that trains;
these numbers do not.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from rft.algorithms import grpo
from rft.algorithms.dpo import DPO, LossEnum
from rft.algorithms.dpo import Config as DPOConfig
from rft.algorithms.orpo import ORPO
from rft.algorithms.orpo import Config as ORPOConfig
from rft.algorithms.simpo import Config as SimPOConfig
from rft.algorithms.simpo import SimPO
from rft.models.backbone import Role
from rft.ops.enumerable import Enumerable
from rft.testing.tabular import EOS, Arena
from rft.types import PreferenceBatch, Rollouts, Sequences

BETA, EPSILON = 0.3, 0.2
# Responses of Arena(): 0 is EOS alone, 1 and 2 end after a token, 3 to 6 after two, 7 to 14 are cut off at three.
CHOSEN, REJECTED, PROMPTS = [0, 3, 9, 12], [4, 7, 1, 0], [0, 1, 0, 1]


@pytest.fixture(scope="module")
def arena() -> Arena:
    """A policy that has left its reference: log-ratios of about a nat, of both signs."""
    made = Arena()
    with torch.no_grad():
        made.table.policy += 0.8 * torch.randn(made.table.policy.shape, generator=torch.Generator().manual_seed(2))
    return made


def tokens(arena: Arena, role: Role, x: int, y: int) -> list[float]:
    """log p of each token of a response, read off the table."""
    table: Any = arena.table.reference if role is Role.reference else arena.table.policy
    found, prefix = [], 0
    for t, token in enumerate(arena.tokens[y][arena.mask[y]].tolist()):
        row = table[x, prefix + sum(3**i for i in range(t))].tolist()
        found.append(row[token] - math.log(sum(math.exp(v) for v in row)))
        prefix = 3 * prefix + token
    return found


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def pairs(arena: Arena) -> PreferenceBatch:
    """The pairs, and a tie that must not count."""
    x = torch.tensor([*PROMPTS, 0])
    good, bad = (arena.sequences(x, torch.tensor(side)) for side in ([*CHOSEN, 5], [*REJECTED, 6]))
    preference = torch.tensor([1.0, 0.9, 0.6, 1.0, 0.5], dtype=torch.float64)
    ref = [arena.table.logprobs(Role.reference, seq).sum(-1) for seq in (good, bad)]
    return PreferenceBatch(good, bad, preference, *ref)


def own(algorithm: type[Any], config: Any, arena: Arena) -> Any:
    return algorithm(config, arena.table)


FORMULAS: dict[LossEnum, Callable[[float, float], float]] = {
    LossEnum.sigmoid: lambda w, v: -math.log(sigmoid(BETA * (w - v))),
    LossEnum.ipo: lambda w, v: (w - v - 1 / (2 * BETA)) ** 2,
    LossEnum.hinge: lambda w, v: max(0.0, 1 - BETA * (w - v)),
    LossEnum.robust: lambda w, v: (
        (-(1 - EPSILON) * math.log(sigmoid(BETA * (w - v))) + EPSILON * math.log(sigmoid(BETA * (v - w))))
        / (1 - 2 * EPSILON)
    ),
    LossEnum.cdpo: lambda w, v: (
        -(1 - EPSILON) * math.log(sigmoid(BETA * (w - v))) - EPSILON * math.log(sigmoid(BETA * (v - w)))
    ),
    LossEnum.sppo: lambda w, v: (w - 1 / (2 * BETA)) ** 2 + (v + 1 / (2 * BETA)) ** 2,
    LossEnum.apo_zero: lambda w, v: 1 - sigmoid(BETA * w) + sigmoid(BETA * v),
}


@pytest.mark.parametrize("loss", LossEnum)
def test_every_loss_of_dpo(loss: LossEnum, arena: Arena) -> None:
    smoothing = EPSILON if loss in (LossEnum.robust, LossEnum.cdpo) else None
    config = DPOConfig(name="dpo", loss=loss, beta=BETA, label_smoothing=smoothing)
    ratios = [
        [sum(tokens(arena, Role.policy, x, y)) - sum(tokens(arena, Role.reference, x, y)) for y in pair]
        for x, *pair in zip(PROMPTS, CHOSEN, REJECTED, strict=True)
    ]
    assert {w > v for w, v in ratios} == {True, False}
    wanted = sum(FORMULAS[loss](w, v) for w, v in ratios) / len(ratios)
    assert float(own(DPO, config, arena).loss(pairs(arena)).loss.detach()) == pytest.approx(wanted, rel=1e-9)


def test_simpo_and_orpo(arena: Arena) -> None:
    means = [
        [sum(logp := tokens(arena, Role.policy, x, y)) / len(logp) for y in pair]
        for x, *pair in zip(PROMPTS, CHOSEN, REJECTED, strict=True)
    ]
    simpo = SimPOConfig(name="simpo", beta=2.5, margin=0.7)
    wanted = sum(-math.log(sigmoid(2.5 * (w - v) - 0.7)) for w, v in means) / len(means)
    assert float(own(SimPO, simpo, arena).loss(pairs(arena)).loss.detach()) == pytest.approx(wanted, rel=1e-9)

    def odds(mean: float) -> float:
        return math.exp(mean) / (1 - math.exp(mean))

    orpo = ORPOConfig(name="orpo", odds_coef=0.4)
    wanted = sum(-w - 0.4 * math.log(sigmoid(math.log(odds(w) / odds(v)))) for w, v in means) / len(means)
    assert float(own(ORPO, orpo, arena).loss(pairs(arena)).loss.detach()) == pytest.approx(wanted, rel=1e-9)


# Two groups of four, lengths 1, 2, 3 and 3; old log-probs differ from the policy's, so that both ends of the clip act.
GROUPS, ROWS = [0, 0, 0, 0, 1, 1, 1, 1], [0, 1, 4, 9, 2, 5, 14, 7]
REWARDS = [1.0, -0.5, 0.25, 2.0, 0.0, 3.0, -1.0, 0.5]
KL, LOW, HIGH, LIMIT, BUFFER = 0.05, 0.2, 0.28, 3, 2
CASES = [
    {"length_normaliser": normaliser, "scale_by_std": std, "overlong": overlong}
    for normaliser in grpo.NormaliserEnum
    for std in (True, False)
    for overlong in grpo.OverlongEnum
]


def rollouts(arena: Arena) -> Rollouts:
    seq: Sequences = arena.sequences(torch.tensor(GROUPS), torch.tensor(ROWS))
    moved = 0.4 * torch.randn(seq.response_mask.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    with torch.no_grad():
        now, ref = (arena.table.logprobs(role, seq) for role in (Role.policy, Role.reference))
    return Rollouts(
        seq,
        now + moved * seq.response_mask,
        torch.tensor(REWARDS, dtype=torch.float64),
        seq.truncated(EOS),
        torch.tensor(GROUPS),
        ref,
    )


def advantages(*, std: bool, penalised: bool) -> list[float]:
    """Rewards less the group's mean, over its sample standard deviation."""
    lengths = [1, 2, 3, 3, 2, 3, 3, 3]
    rewards = [
        r + (min(0.0, max(-1.0, (LIMIT - BUFFER - n) / BUFFER)) if penalised else 0.0)
        for r, n in zip(REWARDS, lengths, strict=True)
    ]
    found = []
    for group in (rewards[:4], rewards[4:]):
        mean = sum(group) / 4
        deviation = math.sqrt(sum((r - mean) ** 2 for r in group) / 3) + 1e-6
        found += [(r - mean) / (deviation if std else 1.0) for r in group]
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda c: "-".join(str(getattr(v, "value", v)) for v in c.values()))
def test_grpo_under_every_normaliser_and_overlong_mode(case: dict[str, Any], arena: Arena) -> None:
    config = grpo.Config(
        name="grpo",
        kl_coef=KL,
        clip_range=LOW,
        clip_range_high=HIGH,
        max_tokens=LIMIT,
        overlong_buffer=BUFFER,
        **case,
    )
    given = rollouts(arena)
    algorithm = own(grpo.GRPO, config, arena)
    loss = float(algorithm.loss(algorithm.prepare(given)).loss.detach())

    penalised = case["overlong"] is grpo.OverlongEnum.penalty
    credit = advantages(std=case["scale_by_std"], penalised=penalised)
    rows: list[list[float]] = []
    clipped = 0
    for i, (x, y) in enumerate(zip(GROUPS, ROWS, strict=True)):
        if case["overlong"] is grpo.OverlongEnum.mask and bool(given.truncated[i]):
            rows.append([])
            continue
        losses = []
        now, ref = tokens(arena, Role.policy, x, y), tokens(arena, Role.reference, x, y)
        for logp, old, logr in zip(now, given.logprobs[i].tolist(), ref, strict=False):
            ratio = math.exp(logp - old)
            near = min(max(ratio, 1 - LOW), 1 + HIGH)
            clipped += near * credit[i] < ratio * credit[i]
            k3 = math.exp(logr - logp) - 1 - (logr - logp)
            losses.append(-min(ratio * credit[i], near * credit[i]) + KL * k3)
        rows.append(losses)
    assert clipped
    if case["length_normaliser"] is grpo.NormaliserEnum.token:
        wanted = sum(map(sum, rows)) / sum(map(len, rows))
    elif case["length_normaliser"] is grpo.NormaliserEnum.sequence:
        wanted = sum(sum(row) / len(row) for row in rows if row) / len(rows)
    else:
        wanted = sum(map(sum, rows)) / (len(rows) * LIMIT)
    # The penalty is taken in float32.
    assert loss == pytest.approx(wanted, rel=1e-6 if penalised else 1e-9)


def test_a_group_of_k_shrinks_the_reward_against_beta() -> None:
    """E over all groups of three of Σ A ∇log π is (k−1)/k of ∇E[r]: by summing over every group."""
    arena = Arena(limit=1)
    problem: Enumerable = arena.problem(1.0)
    law, r = arena.policy()[0], problem.rewards[0]
    found = torch.zeros_like(law)
    for group in torch.cartesian_prod(*[torch.arange(len(law))] * 3):
        share = law[group].prod()
        found.index_add_(0, group, share * (r[group] - r[group].mean()) / 3)
    wanted: Tensor = law * (r - law @ r)
    torch.testing.assert_close(found, wanted * 2 / 3)
    for k in (2, 4):
        config = grpo.Config(name="grpo", scale_by_std=False, samples_per_prompt=k)
        smaller = dataclasses.replace(problem, rewards=problem.rewards * (k - 1) / k)
        many = grpo.Config(name="grpo", scale_by_std=False, samples_per_prompt=10**12)
        torch.testing.assert_close(
            own(grpo.GRPO, config, arena).optimum(problem), own(grpo.GRPO, many, arena).optimum(smaller)
        )
