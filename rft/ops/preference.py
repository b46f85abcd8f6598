"""Losses of preference learning, one number for each pair or response, all to be minimised. Dimensions: ``B`` pairs.

With r = log π(y|x) − log π_ref(y|x), summed over counted tokens (nats per sequence): r_w that of the chosen response,
r_l that of the rejected one, h = r_w − r_l. Nothing is reduced here: the mean over pairs is the caller's. β in all of
them is per nat; where the loss is that of a reward less β·KL, it is that β. ℓ(x) = −log σ(x).

All refuse tensors that are not floating-point (TypeError) or not [B] of one shape (ValueError), and a β that is not
above 0 (ValueError).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from rft.ops.masked import check_boolean, check_dimensions, check_floating, check_same_shape, check_vectors


def _check(beta: float, **values_B: Tensor) -> None:
    check_vectors(**values_B)
    if not beta > 0:
        raise ValueError(f"beta={beta}: must be above 0, the strength of the pull to the reference")


def _check_smoothing(label_smoothing: float) -> None:
    if not 0 <= label_smoothing < 0.5:
        raise ValueError(f"label_smoothing={label_smoothing}: must be in [0, 0.5), the share of labels that are wrong")


def _margin(chosen_logratios_B: Tensor, rejected_logratios_B: Tensor, beta: float) -> Tensor:
    """β h as the difference of the two implicit rewards β r_w and β r_l. Shape [B]."""
    _check(beta, chosen_logratios=chosen_logratios_B, rejected_logratios=rejected_logratios_B)
    return beta * chosen_logratios_B - beta * rejected_logratios_B


def sigmoid_loss(chosen_logratios_B: Tensor, rejected_logratios_B: Tensor, beta: float) -> Tensor:
    """ℓ(β h): the log-likelihood of the labels under Bradley–Terry with rewards β r. Shape [B].

    Source: DPO, Rafailov et al. 2023 (arXiv 2305.18290), equation 7.
    """
    return -logsigmoid(_margin(chosen_logratios_B, rejected_logratios_B, beta))


def conservative_loss(
    chosen_logratios_B: Tensor, rejected_logratios_B: Tensor, beta: float, label_smoothing: float
) -> Tensor:
    """(1−ε) ℓ(β h) + ε ℓ(−β h), ε in [0, 0.5) the share of labels taken to be wrong. Shape [B].

    Least at h = log((1−ε)/ε)/β, so that pairs that are won stop pulling. Source: cDPO, E. Mitchell, "A note on DPO with
    noisy preferences & relationship to IPO", 2023, equation 3.
    """
    margin = _margin(chosen_logratios_B, rejected_logratios_B, beta)
    _check_smoothing(label_smoothing)
    return -((1 - label_smoothing) * logsigmoid(margin) + label_smoothing * logsigmoid(-margin))


def robust_loss(
    chosen_logratios_B: Tensor, rejected_logratios_B: Tensor, beta: float, label_smoothing: float
) -> Tensor:
    """((1−ε) ℓ(β h) − ε ℓ(−β h)) / (1−2ε), ε in [0, 0.5) the share of labels that are wrong. Shape [B].

    Its expectation over labels flipped with probability ε is ``sigmoid_loss`` on the true ones. It falls without bound
    as h grows. Source: rDPO, Chowdhury et al. 2024 (arXiv 2403.00409), equation 12.
    """
    margin = _margin(chosen_logratios_B, rejected_logratios_B, beta)
    _check_smoothing(label_smoothing)
    return (label_smoothing * logsigmoid(-margin) - (1 - label_smoothing) * logsigmoid(margin)) / (
        1 - 2 * label_smoothing
    )


def soft_sigmoid_loss(
    chosen_logratios_B: Tensor, rejected_logratios_B: Tensor, preference_B: Tensor, beta: float
) -> Tensor:
    """p ℓ(β h) + (1−p) ℓ(−β h), p = P(chosen is better) in [0, 1]. Shape [B].

    Least where σ(β h) = p. It is ``sigmoid_loss`` in expectation over labels drawn with p (Rafailov et al. 2023,
    arXiv 2305.18290, equation 7), and ``conservative_loss`` with an ε for each pair.
    """
    check_vectors(chosen_logratios=chosen_logratios_B, preference=preference_B)
    margin = _margin(chosen_logratios_B, rejected_logratios_B, beta)
    return -(preference_B * logsigmoid(margin) + (1 - preference_B) * logsigmoid(-margin))


def ipo_loss(chosen_logratios_B: Tensor, rejected_logratios_B: Tensor, beta: float) -> Tensor:
    """(h − 1/(2β))²: a margin to reach and not to pass. Shape [B], in nats².

    Source: IPO, Azar et al. 2023 (arXiv 2310.12036), equation 17, with τ = β. Log-ratios are sums over tokens, as
    there; some implementations take means.
    """
    _check(beta, chosen_logratios=chosen_logratios_B, rejected_logratios=rejected_logratios_B)
    return (chosen_logratios_B - rejected_logratios_B - 1 / (2 * beta)).square()


def hinge_loss(chosen_logratios_B: Tensor, rejected_logratios_B: Tensor, beta: float) -> Tensor:
    """max(0, 1 − β h). Shape [B].

    Source: the calibration loss of SLiC-HF, Zhao et al. 2023 (arXiv 2305.10425), with log-ratios to the reference in
    place of log-probabilities and 1/β for the margin, as the hinge loss of Liu et al. 2023 (arXiv 2309.06657).
    """
    return (1 - _margin(chosen_logratios_B, rejected_logratios_B, beta)).relu()


def sppo_loss(chosen_logratios_B: Tensor, rejected_logratios_B: Tensor, beta: float) -> Tensor:
    """(r_w − 1/(2β))² + (r_l + 1/(2β))²: each response to its own target. Shape [B], in nats².

    Source: SPPO, Wu et al. 2024 (arXiv 2405.00675), with η = 1/β and hard labels: P(chosen wins) = 1, P(rejected
    wins) = 0.
    """
    _check(beta, chosen_logratios=chosen_logratios_B, rejected_logratios=rejected_logratios_B)
    target = 1 / (2 * beta)
    return (chosen_logratios_B - target).square() + (rejected_logratios_B + target).square()


def apo_zero_loss(chosen_logratios_B: Tensor, rejected_logratios_B: Tensor, beta: float) -> Tensor:
    """(1 − σ(β r_w)) + σ(β r_l): raises the chosen response and lowers the rejected one, each by itself. Shape [B].

    Between 0 and 2. Source: APO-zero, D'Oosterlinck et al. 2024 (arXiv 2408.06266), equation 7.
    """
    _check(beta, chosen_logratios=chosen_logratios_B, rejected_logratios=rejected_logratios_B)
    return (-beta * chosen_logratios_B).sigmoid() + (beta * rejected_logratios_B).sigmoid()


def simpo_loss(chosen_mean_logprobs_B: Tensor, rejected_mean_logprobs_B: Tensor, beta: float, margin: float) -> Tensor:
    """ℓ(β (m_w − m_l) − γ), m = (1/|y|) log π(y|x), γ = ``margin``. Shape [B].

    Normaliser of m: the counted tokens of the response; no reference. γ is that of the paper: ratios γ/β as other
    implementations have them are to be multiplied by β. Source: SimPO, Meng et al. 2024 (arXiv 2405.14734), equation 6.
    """
    _check(beta, chosen_mean_logprobs=chosen_mean_logprobs_B, rejected_mean_logprobs=rejected_mean_logprobs_B)
    return -logsigmoid(beta * (chosen_mean_logprobs_B - rejected_mean_logprobs_B) - margin)


def _log_odds(mean_logprobs_B: Tensor) -> Tensor:
    """log(p/(1−p)) of p = exp(m). Shape [B].

    p is taken to be at most 1 less the rounding error of 1, where odds and their slope are still numbers.
    """
    m_B = mean_logprobs_B.clamp(max=-torch.finfo(mean_logprobs_B.dtype).eps)
    return m_B - (-m_B.expm1()).log()


def odds_ratio_loss(chosen_mean_logprobs_B: Tensor, rejected_mean_logprobs_B: Tensor) -> Tensor:
    """ℓ(log odds_w − log odds_l), odds = p/(1−p), p = exp((1/|y|) log π(y|x)). Shape [B].

    Normaliser of the log-probabilities: the counted tokens of the response; no reference. A response that has become
    certain, p = 1 to rounding, has no gradient. Source: ORPO, Hong et al. 2024 (arXiv 2403.07691), equation 6; the
    paper adds λ times it to the negative log-likelihood of the chosen responses.
    """
    check_vectors(chosen_mean_logprobs=chosen_mean_logprobs_B, rejected_mean_logprobs=rejected_mean_logprobs_B)
    return -logsigmoid(_log_odds(chosen_mean_logprobs_B) - _log_odds(rejected_mean_logprobs_B))


def kto_loss(
    logratios_B: Tensor,
    desirable_B: Tensor,
    kl: Tensor,
    beta: float,
    desirable_weight: float,
    undesirable_weight: float,
) -> Tensor:
    """λ_D (1 − σ(β (r − z₀))) for desirable responses, λ_U (1 − σ(β (z₀ − r))) for the others. Shape [B].

    Args:
        logratios_B: r of single responses; they need not be pairs.
        desirable_B: bool, true for desirable responses.
        kl: z₀, shape [], the estimate of KL(π ‖ π_ref) in nats per sequence; the paper takes max(0, the batch's mean
            of r over mismatched prompts and responses). No gradient passes through it.
        beta: β.
        desirable_weight: λ_D.
        undesirable_weight: λ_U.

    Source: KTO, Ethayarajh et al. 2024 (arXiv 2402.01306), equation 8, less its constant.

    Raises:
        TypeError, ValueError: as the module says; also unless ``desirable_B`` is boolean [B] and ``kl`` a
            floating-point number [].
    """
    _check(beta, logratios=logratios_B)
    check_boolean(desirable=desirable_B)
    check_same_shape(logratios=logratios_B, desirable=desirable_B)
    check_floating(kl=kl)
    check_dimensions("", kl=kl)
    gain_B = beta * (logratios_B - kl.detach())
    return torch.where(desirable_B, desirable_weight * (-gain_B).sigmoid(), undesirable_weight * gain_B.sigmoid())
