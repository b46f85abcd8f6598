"""KL estimators against sums over all outcomes. Dimensions: ``B`` sequences, ``R`` tokens, ``V`` outcomes."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from rft.ops.kl import best_of_n_kl, kl_k1, kl_k2, kl_k3, sequence_kl
from tests.numerics.ragged import assert_padding_is_nothing, ragged

ESTIMATORS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"k1": kl_k1, "k2": kl_k2, "k3": kl_k3}


def two_distributions() -> tuple[Tensor, Tensor]:
    """Logits of a policy and log-probabilities of a reference over six outcomes."""
    generator = torch.Generator().manual_seed(2)
    logits, ref = (torch.randn(6, generator=generator, dtype=torch.float64) for _ in range(2))
    return logits, ref.log_softmax(0)


# p = 1/2 and p_ref = 1/4: log r = -log 2, r = 1/2.
@pytest.mark.parametrize(
    ("name", "wanted"), [("k1", math.log(2)), ("k2", math.log(2) ** 2 / 2), ("k3", 1 / 2 - 1 + math.log(2))]
)
def test_estimators_by_hand(name: str, wanted: float) -> None:
    got = ESTIMATORS[name](torch.tensor([[math.log(1 / 2)]]), torch.tensor([[math.log(1 / 4)]]))
    assert got.shape == (1, 1)
    assert got.item() == pytest.approx(wanted)


def test_k1_and_k3_agree_with_the_divergence_in_expectation_and_k2_does_not() -> None:
    logits, q = two_distributions()
    p = logits.log_softmax(0)
    exact = (p.exp() * (p - q)).sum().item()
    mean = {name: (p.exp() * estimator(p[None], q[None])[0]).sum().item() for name, estimator in ESTIMATORS.items()}
    assert mean["k1"] == pytest.approx(exact)
    assert mean["k3"] == pytest.approx(exact)
    assert mean["k2"] != pytest.approx(exact, rel=0.01)


@pytest.mark.parametrize("name", ["k2", "k3"])
def test_k2_and_k3_are_never_negative_and_zero_at_the_reference(name: str) -> None:
    logits, q = two_distributions()
    assert ESTIMATORS[name](logits.log_softmax(0)[None], q[None]).min() > 0
    assert ESTIMATORS[name](q[None], q[None]).eq(0).all()


def test_as_loss_terms_the_estimators_have_the_gradients_of_different_divergences() -> None:
    logits, q = two_distributions()
    logits.requires_grad_()
    p = logits.log_softmax(0)
    forward, reverse = (p.exp() * (p - q)).sum(), (q.exp() * (q - p)).sum()
    wanted = {"k1": torch.zeros(6, dtype=torch.float64)}
    wanted["k2"], wanted["k3"] = (torch.autograd.grad(x, logits, retain_graph=True)[0] for x in (forward, reverse))
    for name, estimator in ESTIMATORS.items():
        # Samples of p, held fixed: the weights of the outcomes have no gradient.
        mean = (p.detach().exp() * estimator(p[None], q[None])[0]).sum()
        torch.testing.assert_close(torch.autograd.grad(mean, logits, retain_graph=True)[0], wanted[name])


@pytest.mark.parametrize("name", ESTIMATORS)
def test_gradients_of_estimators_are_those_of_finite_differences(name: str) -> None:
    (logprobs, ref), _ = ragged(2)
    assert torch.autograd.gradcheck(ESTIMATORS[name], (logprobs.requires_grad_(), ref.requires_grad_()))


def test_the_reported_kl_is_the_sum_over_counted_tokens() -> None:
    logprobs = torch.tensor([[-1.0, -2.0, -3.0], [-1.0, math.nan, 9.0]])
    ref = torch.tensor([[-1.5, -1.0, -7.0], [-4.0, 9.0, -math.inf]])
    mask = torch.tensor([[True, True, True], [True, False, False]])
    # 0.5 - 1 + 4, and 3.
    assert sequence_kl(logprobs, ref, mask).tolist() == [3.5, 3.0]


def test_the_reported_kl_counts_no_padding() -> None:
    (logprobs, ref), mask = ragged(2)
    assert_padding_is_nothing(lambda *x: sequence_kl(*x).square().sum(), logprobs, ref, mask)


def test_best_of_one_is_the_reference_and_of_two_by_hand() -> None:
    assert best_of_n_kl(1) == 0.0
    assert best_of_n_kl(2) == pytest.approx(math.log(2) - 0.5)


@pytest.mark.parametrize("n", [2, 5, 64])
def test_best_of_n_is_exact_where_no_two_rewards_are_equal(n: int) -> None:
    # The best of n uniform quantiles u has the density n u^(n-1): the mean of its logarithm over itself, by midpoints.
    u = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    density = n * u ** (n - 1)
    assert torch.xlogy(density, density).mean().item() == pytest.approx(best_of_n_kl(n), abs=1e-6)


def best_of_n_among(probabilities: Tensor, n: int) -> float:
    """KL(best of n ‖ reference) over outcomes in order of reward, all different: P(best = j) = F_j^n − F_{j−1}^n."""
    below = torch.cat([torch.zeros(1, dtype=torch.float64), probabilities.cumsum(0)])
    best = (below**n).diff()
    return (best * (best / probabilities).log()).sum().item()


@pytest.mark.parametrize("n", [2, 4, 16])
def test_best_of_n_is_a_bound_where_samples_coincide_and_tight_where_they_hardly_do(n: int) -> None:
    few = two_distributions()[0].softmax(0)
    many = torch.full((5000,), 1 / 5000, dtype=torch.float64)
    assert best_of_n_among(few, n) < best_of_n_kl(n) - 0.01
    assert best_of_n_among(many, n) == pytest.approx(best_of_n_kl(n), abs=1e-3)
    assert best_of_n_among(many, n) <= best_of_n_kl(n)


def test_best_of_none_is_refused() -> None:
    with pytest.raises(ValueError, match="n=0: must be at least 1"):
        best_of_n_kl(0)
