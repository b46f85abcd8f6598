"""Preference losses against hand-computed values, at no margin and at a huge one.

Dimensions: ``B`` pairs or responses, ``R`` tokens. r_w and r_l are the log-ratios of the chosen and the rejected
response, h their difference; β is 1/2 throughout, and L stands for −log σ(1) = log(1 + 1/e).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from rft.ops import preference
from rft.ops.masked import masked_sum
from tests.numerics.ragged import assert_padding_is_nothing, ragged

PairLoss = Callable[[Tensor, Tensor], Tensor]

BETA, EPS, P = 0.5, 0.1, 0.75
L = math.log1p(math.exp(-1))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def soft_sigmoid_loss(chosen: Tensor, rejected: Tensor) -> Tensor:
    return preference.soft_sigmoid_loss(chosen, rejected, torch.full_like(chosen, P), BETA)


PAIR_LOSSES: dict[str, PairLoss] = {
    "sigmoid": partial(preference.sigmoid_loss, beta=BETA),
    "conservative": partial(preference.conservative_loss, beta=BETA, label_smoothing=EPS),
    "robust": partial(preference.robust_loss, beta=BETA, label_smoothing=EPS),
    "soft_sigmoid": soft_sigmoid_loss,
    "ipo": partial(preference.ipo_loss, beta=BETA),
    "hinge": partial(preference.hinge_loss, beta=BETA),
    "sppo": partial(preference.sppo_loss, beta=BETA),
    "apo_zero": partial(preference.apo_zero_loss, beta=BETA),
    "simpo": partial(preference.simpo_loss, beta=BETA, margin=0.25),
    "odds_ratio": preference.odds_ratio_loss,
}
LOG_RATIO_LOSSES = [name for name in PAIR_LOSSES if name not in ("simpo", "odds_ratio")]

# r_w = 3, r_l = 1: h = 2, β h = 1, and ℓ(-1) = L + 1.
BY_HAND = {
    "sigmoid": L,
    "conservative": L + 0.1,  # 0.9 L + 0.1 (L + 1)
    "robust": L - 0.125,  # (0.9 L - 0.1 (L + 1)) / 0.8
    "soft_sigmoid": L + 0.25,  # 0.75 L + 0.25 (L + 1)
    "ipo": 1.0,  # (2 - 1)²
    "hinge": 0.0,  # max(0, 1 - 1)
    "sppo": 8.0,  # (3 - 1)² + (1 + 1)²
    "apo_zero": 1 - sigmoid(1.5) + sigmoid(0.5),
}


@pytest.mark.parametrize("name", LOG_RATIO_LOSSES)
def test_a_pair_by_hand(name: str) -> None:
    loss = PAIR_LOSSES[name](torch.tensor([3.0]), torch.tensor([1.0]))
    assert loss.shape == (1,)
    assert loss.item() == pytest.approx(BY_HAND[name], rel=1e-6)


def test_hinge_within_its_margin_by_hand() -> None:
    # h = 0.5: 1 - 0.25, with slopes -β and β.
    chosen, rejected = torch.tensor([1.5], requires_grad=True), torch.tensor([1.0], requires_grad=True)
    loss = preference.hinge_loss(chosen, rejected, BETA)
    assert loss.item() == pytest.approx(0.75)
    loss.backward()
    assert (chosen.grad, rejected.grad) == (torch.tensor([-0.5]), torch.tensor([0.5]))


def test_simpo_by_hand() -> None:
    # β (m_w - m_l) - γ = 2 (-1 + 2) - 0.5 = 1.5.
    loss = preference.simpo_loss(torch.tensor([-1.0]), torch.tensor([-2.0]), 2.0, 0.5)
    assert loss.item() == pytest.approx(math.log1p(math.exp(-1.5)))


def test_the_odds_ratio_by_hand() -> None:
    # p = 1/2 and 1/4 are odds of 1 and 1/3: -log σ(log 3) = log(1 + 1/3).
    loss = preference.odds_ratio_loss(torch.tensor([math.log(1 / 2)]), torch.tensor([math.log(1 / 4)]))
    assert loss.item() == pytest.approx(math.log(4 / 3))


def test_kto_by_hand() -> None:
    # r = 3, z₀ = 1: β (r - z₀) = 1; 2 (1 - σ(1)) for the desirable one, 3 (1 - σ(-1)) = 3 σ(1) for the other.
    loss = preference.kto_loss(torch.tensor([3.0, 3.0]), torch.tensor([True, False]), torch.tensor(1.0), BETA, 2.0, 3.0)
    assert loss.tolist() == pytest.approx([2 * sigmoid(-1), 3 * sigmoid(1)])


def numbers(count: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(3)
    return tuple(torch.randn(5, generator=generator, dtype=torch.float64) for _ in range(count))


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    # All below zero, as mean log-probabilities are.
    chosen, rejected = (-x.exp() for x in numbers(2))
    assert torch.autograd.gradcheck(PAIR_LOSSES[name], (chosen.requires_grad_(), rejected.requires_grad_()))


def test_the_soft_labels_gradient_is_that_of_finite_differences() -> None:
    chosen, rejected, logits = numbers(3)
    inputs = [x.requires_grad_() for x in (chosen, rejected, logits.sigmoid())]
    assert torch.autograd.gradcheck(lambda *x: preference.soft_sigmoid_loss(*x, BETA), inputs)


def test_the_kto_gradient_is_that_of_finite_differences_and_none_passes_through_the_kl() -> None:
    (logratios,), desirable = numbers(1), torch.tensor([True, False, False, True, True])
    logratios.requires_grad_()
    kl = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    loss = partial(preference.kto_loss, beta=BETA, desirable_weight=2.0, undesirable_weight=3.0)
    assert torch.autograd.gradcheck(lambda x: loss(x, desirable, kl.detach()), logratios)
    gradient, through_kl = torch.autograd.grad(loss(logratios, desirable, kl).sum(), [logratios, kl], allow_unused=True)
    assert through_kl is None
    # Descent raises what is desirable and lowers what is not.
    assert torch.equal(gradient < 0, desirable)


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_each_pair_has_its_own_loss(name: str) -> None:
    chosen, rejected = (-x.exp() for x in numbers(2))
    together = PAIR_LOSSES[name](chosen, rejected)
    assert together.shape == (5,)
    alone = [PAIR_LOSSES[name](chosen[i : i + 1], rejected[i : i + 1]) for i in range(5)]
    torch.testing.assert_close(torch.cat(alone), together)


@pytest.mark.parametrize("name", LOG_RATIO_LOSSES)
def test_log_ratios_of_ragged_rows_count_no_padding(name: str) -> None:
    (chosen, rejected), mask = ragged(2)
    assert_padding_is_nothing(
        lambda c, r, mask: PAIR_LOSSES[name](masked_sum(c, mask), masked_sum(r, mask)).sum(), chosen, rejected, mask
    )


@pytest.mark.parametrize("name", ["simpo", "odds_ratio"])
def test_mean_log_probabilities_of_ragged_rows_count_no_padding(name: str) -> None:
    (chosen, rejected), mask = ragged(2)

    def loss(c: Tensor, r: Tensor, mask: Tensor) -> Tensor:
        return PAIR_LOSSES[name](*(masked_sum(-x.exp(), mask) / mask.sum(-1) for x in (c, r))).sum()

    assert_padding_is_nothing(loss, chosen, rejected, mask)


def test_kto_of_ragged_rows_counts_no_padding() -> None:
    (logprobs, ref), mask = ragged(2)
    desirable, kl = torch.tensor([True, False, True]), torch.tensor(0.3, dtype=torch.float64)
    assert_padding_is_nothing(
        lambda x, y, mask: preference.kto_loss(masked_sum(x - y, mask), desirable, kl, BETA, 1.0, 2.0).sum(),
        logprobs,
        ref,
        mask,
    )


# r_w = r_l = 0: ℓ(0) = log 2; (1 / 2β)² = 1, once or for each response; 1 - σ(0) + σ(0); ℓ(-γ).
@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("sigmoid", math.log(2)),
        ("conservative", math.log(2)),
        ("robust", math.log(2)),
        ("soft_sigmoid", math.log(2)),
        ("ipo", 1.0),
        ("hinge", 1.0),
        ("sppo", 2.0),
        ("apo_zero", 1.0),
        ("simpo", math.log1p(math.exp(0.25))),
        ("odds_ratio", math.log(2)),
    ],
)
def test_without_a_margin_by_hand(name: str, wanted: float) -> None:
    chosen, rejected = torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)
    loss = PAIR_LOSSES[name](chosen, rejected)
    assert loss.item() == pytest.approx(wanted)
    loss.sum().backward()
    if name != "odds_ratio":  # where both are certain, p = 1: nothing moves
        assert chosen.grad.item() < 0 < rejected.grad.item()


# r_w = ±10⁴, r_l = ∓10⁴: β h = ±10⁴, where ℓ is 0 or 10⁴.
@pytest.mark.parametrize(
    ("name", "won", "lost"),
    [
        ("sigmoid", 0.0, 1e4),
        ("conservative", 1e3, 9e3),
        ("robust", -1250.0, 11250.0),  # -0.1 · 10⁴ / 0.8 and 0.9 · 10⁴ / 0.8
        ("soft_sigmoid", 2.5e3, 7.5e3),
        ("ipo", 19999.0**2, 20001.0**2),
        ("hinge", 0.0, 10001.0),
        ("sppo", 2 * 9999.0**2, 2 * 10001.0**2),
        ("apo_zero", 0.0, 2.0),
        ("simpo", 0.0, 10000.25),
    ],
)
def test_a_huge_margin_does_not_overflow(name: str, won: float, lost: float) -> None:
    chosen = torch.tensor([1e4, -1e4], requires_grad=True)
    rejected = (-chosen.detach()).requires_grad_()
    loss = PAIR_LOSSES[name](chosen, rejected)
    assert loss.tolist() == pytest.approx([won, lost], rel=1e-6)
    for gradient in torch.autograd.grad(loss.sum(), [chosen, rejected]):
        assert gradient.isfinite().all()


def test_a_huge_log_ratio_does_not_overflow_in_kto() -> None:
    logratios = torch.tensor([1e4, -1e4, 1e4, -1e4], requires_grad=True)
    desirable = torch.tensor([True, True, False, False])
    loss = preference.kto_loss(logratios, desirable, torch.tensor(1.0), BETA, 2.0, 3.0)
    assert loss.tolist() == pytest.approx([0.0, 2.0, 3.0, 0.0])
    assert torch.autograd.grad(loss.sum(), logratios)[0].isfinite().all()


def test_kto_at_its_reference_point_by_hand() -> None:
    # r = z₀: λ (1 - σ(0)), with slopes -λ_D β / 4 and λ_U β / 4.
    logratios = torch.tensor([1.0, 1.0], requires_grad=True)
    loss = preference.kto_loss(logratios, torch.tensor([True, False]), torch.tensor(1.0), BETA, 2.0, 3.0)
    assert loss.tolist() == pytest.approx([1.0, 1.5])
    assert torch.autograd.grad(loss.sum(), logratios)[0].tolist() == pytest.approx([-0.25, 0.375])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("m", [-1e-3, -1e-5, -1e-6, -1.0, -20.0, -1e4])
def test_the_odds_are_right_up_to_near_certainty(m: float, dtype: torch.dtype) -> None:
    # Against even odds, m = log(1/2), of logarithm 0: log(1 + 1/odds) = log(1 + (1 - p) / p) = -log p = -m.
    chosen, even = torch.tensor([m], dtype=dtype), torch.tensor([math.log(1 / 2)], dtype=dtype)
    assert preference.odds_ratio_loss(chosen, even).item() == pytest.approx(-m, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("m_w", "m_l"), [(0.0, 0.0), (0.0, -1.0), (-1.0, 0.0), (-1e-30, -1e4), (-1e4, -1e-30)])
def test_the_odds_of_certain_responses_stay_numbers(m_w: float, m_l: float, dtype: torch.dtype) -> None:
    chosen, rejected = (torch.tensor([m], dtype=dtype, requires_grad=True) for m in (m_w, m_l))
    loss = preference.odds_ratio_loss(chosen, rejected)
    assert loss.isfinite().all()
    for gradient in torch.autograd.grad(loss.sum(), [chosen, rejected]):
        assert gradient.isfinite().all()


def slope(name: str, h: float) -> float:
    chosen = torch.tensor([h], dtype=torch.float64, requires_grad=True)
    loss = PAIR_LOSSES[name](chosen, torch.zeros(1, dtype=torch.float64))
    return torch.autograd.grad(loss.sum(), chosen)[0].item()


# σ(β h) = 1 - ε; σ(β h) = p; h = 1 / (2β).
@pytest.mark.parametrize(
    ("name", "least"),
    [("conservative", math.log(9) / BETA), ("soft_sigmoid", math.log(3) / BETA), ("ipo", 1 / (2 * BETA))],
)
def test_losses_with_a_finite_best_margin_are_least_there(name: str, least: float) -> None:
    assert slope(name, least) == pytest.approx(0.0, abs=1e-12)
    assert slope(name, least - 0.1) < 0 < slope(name, least + 0.1)


def test_the_robust_loss_is_that_of_true_labels_in_expectation_over_flipped_ones() -> None:
    chosen, rejected = numbers(2)
    robust, plain = PAIR_LOSSES["robust"], PAIR_LOSSES["sigmoid"]
    mean = (1 - EPS) * robust(chosen, rejected) + EPS * robust(rejected, chosen)
    torch.testing.assert_close(mean, plain(chosen, rejected))


def test_without_noise_all_label_models_are_the_sigmoid_loss() -> None:
    chosen, rejected = numbers(2)
    wanted = preference.sigmoid_loss(chosen, rejected, BETA)
    torch.testing.assert_close(preference.conservative_loss(chosen, rejected, BETA, 0.0), wanted)
    torch.testing.assert_close(preference.robust_loss(chosen, rejected, BETA, 0.0), wanted)
    torch.testing.assert_close(preference.soft_sigmoid_loss(chosen, rejected, torch.ones_like(chosen), BETA), wanted)


def test_soft_labels_are_conservative_ones_with_an_epsilon_for_each_pair() -> None:
    chosen, rejected = numbers(2)
    soft = preference.soft_sigmoid_loss(chosen, rejected, torch.full_like(chosen, 1 - EPS), BETA)
    torch.testing.assert_close(soft, PAIR_LOSSES["conservative"](chosen, rejected))


@pytest.mark.parametrize("name", [name for name in PAIR_LOSSES if name not in ("soft_sigmoid", "odds_ratio")])
@pytest.mark.parametrize("beta", [0.0, -1.0, math.nan])
def test_a_beta_that_is_not_above_zero_is_refused(name: str, beta: float) -> None:
    loss = PAIR_LOSSES[name]
    assert isinstance(loss, partial)
    with pytest.raises(ValueError, match=f"beta={beta}: must be above 0"):
        loss(torch.zeros(1), torch.zeros(1), beta=beta)


@pytest.mark.parametrize("name", ["conservative", "robust"])
@pytest.mark.parametrize("label_smoothing", [-0.1, 0.5])
def test_a_share_of_wrong_labels_that_cannot_be_is_refused(name: str, label_smoothing: float) -> None:
    loss = PAIR_LOSSES[name]
    assert isinstance(loss, partial)
    with pytest.raises(ValueError, match=rf"label_smoothing={label_smoothing}: must be in \[0, 0\.5\)"):
        loss(torch.zeros(1), torch.zeros(1), label_smoothing=label_smoothing)
