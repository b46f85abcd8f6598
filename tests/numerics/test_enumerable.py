"""Optima on problems whose responses can be listed, against brute force and closed forms."""

from __future__ import annotations

import itertools

import pytest
import torch

from rft.models.backbone import Role
from rft.ops.enumerable import Enumerable, best_of_n_law, standardised, tokenwise_forward_kl
from rft.ops.kl import best_of_n_kl
from rft.ops.preference import ipo_loss, sigmoid_loss
from rft.testing.tabular import Arena, list_responses, total_variation


@pytest.fixture(scope="module")
def problem() -> Enumerable:
    return Arena().problem(0.5)


def test_every_response_is_listed_once_and_their_probabilities_sum_to_one(problem: Enumerable) -> None:
    ids, mask, truncated = list_responses(3, 3)
    # EOS alone, 2 of two tokens, 4 of three tokens that end, 8 that are cut off.
    assert len(ids) == 1 + 2 + 4 + 8
    assert int(truncated.sum()) == 8
    assert mask.sum(-1).tolist() == [1, 2, 2, *[3] * 12]
    rows = {tuple(row[m].tolist()) for row, m in zip(ids, mask, strict=True)}
    assert len(rows) == 15
    torch.testing.assert_close(problem.reference.exp().sum(-1), torch.ones(2, dtype=torch.float64))


def test_no_policy_has_more_reward_less_kl_than_the_closed_form(problem: Enumerable) -> None:
    beta = 0.3

    def value(policy: torch.Tensor) -> torch.Tensor:
        kl = policy * (policy.log() - problem.reference)
        return (policy * problem.rewards - beta * kl).sum(-1)

    best = problem.kl_regularised(beta)
    # At the optimum the value is β log Σ π_ref exp(r/β).
    torch.testing.assert_close(value(best), beta * (problem.reference + problem.rewards / beta).logsumexp(-1))
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        other = (best.log() + 0.3 * torch.randn(best.shape, generator=generator)).softmax(-1)
        assert (value(other) < value(best)).all()


def test_without_a_pull_all_mass_is_on_the_best_response(problem: Enumerable) -> None:
    assert problem.kl_regularised(0.0).argmax(-1).tolist() == problem.rewards.argmax(-1).tolist()
    assert problem.kl_regularised(0.0).sum(-1).tolist() == [1.0, 1.0]


def test_the_sigmoid_loss_on_all_pairs_has_the_closed_forms_optimum(problem: Enumerable) -> None:
    found = problem.from_pairs(lambda chosen, rejected: sigmoid_loss(chosen, rejected, 0.4))
    assert total_variation(found, problem.kl_regularised(0.4)) < 1e-5


def test_ipo_on_all_pairs_has_its_own_closed_form(problem: Enumerable) -> None:
    found = problem.from_pairs(lambda chosen, rejected: ipo_loss(chosen, rejected, 0.4))
    assert total_variation(found, problem.from_ipo(0.4)) < 1e-5


@pytest.mark.parametrize("beta", [0.05, 0.5])
@pytest.mark.parametrize("soft", [True, False])
def test_ipo_on_the_policys_own_pairs_comes_to_rest(problem: Enumerable, beta: float, *, soft: bool) -> None:
    """The mean gradient over pairs drawn from the policy itself, by autograd over all of them, is zero there."""
    policy = problem.from_own_ipo(beta, soft=soft)
    torch.testing.assert_close(policy.sum(-1), torch.ones(2, dtype=torch.float64))
    logits = policy.log().requires_grad_()
    ratio, r = logits.log_softmax(-1) - problem.reference, problem.rewards
    loss = torch.zeros((), dtype=torch.float64)
    for a, b in itertools.product(range(15), range(15)):
        margin = r[:, a] - r[:, b]
        p = torch.sigmoid(margin) if soft else 0.5 + 0.5 * margin.sign()
        pair = p * ipo_loss(ratio[:, a], ratio[:, b], beta) + (1 - p) * ipo_loss(ratio[:, b], ratio[:, a], beta)
        loss = loss + (policy[:, a] * policy[:, b] * pair).sum()
    (gradient,) = torch.autograd.grad(loss, logits)
    assert float(gradient.abs().max()) < 1e-7
    assert total_variation(policy, problem.reference.exp()) > 0.01


def test_no_policy_near_it_has_a_lower_hinge_loss_than_the_corner() -> None:
    problem, beta = Arena(limit=2).problem(1.0), 0.5
    first, second = problem.pairs()
    p = problem.preferences()

    def loss(policy: torch.Tensor) -> torch.Tensor:
        ratio = policy.log() - problem.reference
        h = ratio[:, first] - ratio[:, second]
        return (p * (1 - beta * h).relu() + (1 - p) * (1 + beta * h).relu()).sum(-1)

    corner = problem.from_hinge(beta)
    generator = torch.Generator().manual_seed(0)
    for size in (1e-3, 1e-2, 0.1, 1.0):
        for _ in range(50):
            noise = size * torch.randn(corner.shape, generator=generator, dtype=torch.float64)
            assert (loss((corner.log() + noise).softmax(-1)) > loss(corner)).all()


def test_at_the_tokenwise_optimum_every_prefix_is_at_rest() -> None:
    """π(a) (Q(a) − V) = β (π(a) − π_ref(a)) at every prefix, Q and V by brute force over all responses."""
    arena, beta = Arena(), 0.7
    problem = arena.problem(1.0)
    policy = tokenwise_forward_kl(problem, problem.rewards, beta)
    torch.testing.assert_close(policy.sum(-1), torch.ones(2, dtype=torch.float64))
    for x, t in itertools.product(range(2), range(3)):
        heads = {
            tuple(row[:t].tolist()) for row, m in zip(problem.tokens, problem.mask, strict=True) if m[: t + 1].all()
        }
        for head in heads:
            rows = [
                y
                for y in range(len(problem.tokens))
                if tuple(problem.tokens[y, :t].tolist()) == head and bool(problem.mask[y, t])
            ]
            here = policy[x, rows]
            v = float((here * problem.rewards[x, rows]).sum() / here.sum())
            for a in {int(problem.tokens[y, t]) for y in rows}:
                after = [y for y in rows if int(problem.tokens[y, t]) == a]
                pi = float(policy[x, after].sum() / here.sum())
                q = float((policy[x, after] * problem.rewards[x, after]).sum() / policy[x, after].sum())
                ref = float(problem.ref_logprobs[x, after[0], t].exp())
                assert pi * (q - v) == pytest.approx(beta * (pi - ref), abs=1e-9)


def test_a_standardised_optimum_has_unit_variance_under_itself(problem: Enumerable) -> None:
    policy = standardised(lambda r: problem.kl_regularised(2.0, r), problem.rewards)
    mean = (policy * problem.rewards).sum(-1, keepdim=True)
    std = (policy * (problem.rewards - mean).square()).sum(-1).sqrt()
    again = problem.kl_regularised(2.0, problem.rewards / std[:, None])
    assert total_variation(policy, again) < 1e-6


def test_the_law_of_the_best_of_two_by_brute_force(problem: Enumerable) -> None:
    ref, law = problem.reference.exp(), torch.zeros_like(problem.reference)
    for x, a, b in itertools.product(range(2), range(15), range(15)):
        best = a if problem.rewards[x, a] >= problem.rewards[x, b] else b
        law[x, best] += ref[x, a] * ref[x, b]
    torch.testing.assert_close(best_of_n_law(problem, 2), law)
    for n in (1, 2, 4, 16):
        law = best_of_n_law(problem, n)
        kl = (law * (law.clamp(min=1e-300).log() - problem.reference)).sum(-1)
        assert (kl <= best_of_n_kl(n) + 1e-12).all()
    torch.testing.assert_close(best_of_n_law(problem, 1), ref)


def test_the_tables_policy_is_the_reference_at_first_and_samples_by_its_law() -> None:
    arena = Arena(critic=True)
    torch.testing.assert_close(arena.policy(), arena.problem(1.0).reference.exp())
    seq = arena.sequences(arena.x, arena.y)
    policy, ref = (arena.table.logprobs(role, seq) for role in (Role.policy, Role.reference))
    assert torch.equal(policy, ref)
    assert float(policy.detach()[~seq.response_mask].abs().sum()) == 0
