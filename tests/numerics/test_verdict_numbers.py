"""P-values, Holm, seeds still needed, win rates, strengths, interquartile means and Gao's curves, against other ways.

Dimensions: `S` seeds, `N` prompts.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats
from scipy.optimize import minimize
from scipy.special import expit, logit

from rft.evaluation.statistics import (
    PROMPTS_ONLY,
    SEEDS_ONLY,
    Bootstrap,
    Interval,
    Resampling,
    bradley_terry,
    decide,
    fit_curve,
    holm,
    iqm,
    iqm_scores,
    probability_of_improvement,
    seeds_needed,
    win_rate,
    win_rate_lc,
    wins,
)

FloatArray = npt.NDArray[np.float64]
MANY = Resampling(resamples=20_000)


def flat(seed_means: list[float], prompts: int = 5) -> FloatArray:
    """Scores [S, N] of an arm whose seeds differ and whose prompts do not."""
    return np.repeat(np.array(seed_means)[:, None], prompts, axis=1)


def noisy(rng: np.random.Generator, mean: float, seeds: int = 3, prompts: int = 30) -> FloatArray:
    return mean + rng.normal(0, 0.05, (seeds, 1)) + rng.normal(0, 0.2, (seeds, prompts))


# Holm 1979: the smallest of m is multiplied by m, the next by m − 1, …, and none may be below the one before.
@pytest.mark.parametrize(
    ("p_values", "family", "adjusted"),
    [
        ([0.01, 0.04, 0.03, 0.005], None, [0.03, 0.06, 0.06, 0.02]),
        ([0.01], None, [0.01]),
        ([0.5, 0.6], None, [1.0, 1.0]),
        ([0.02, 0.02], None, [0.04, 0.04]),
        ([0.01, 0.04], 10, [0.1, 0.36]),
        ([], None, []),
    ],
)
def test_holm_by_hand(p_values: list[float], family: int | None, adjusted: list[float]) -> None:
    assert holm(p_values, family) == pytest.approx(adjusted)


@pytest.mark.parametrize(
    ("mean", "adjusted", "verdict"),
    [(0.1, 0.01, "better"), (-0.1, 0.01, "worse"), (0.1, 0.05, "cannot tell"), (0.1, None, "no verdict")],
)
def test_verdicts_follow_the_corrected_p_value(mean: float, adjusted: float | None, verdict: str) -> None:
    assert decide(Interval(mean, 0.0, 0.0), adjusted, 0.05) == verdict


def test_p_value_of_seeds_alone_is_welchs() -> None:
    first, second = [0.80, 0.90, 0.70, 0.75], [0.50, 0.52, 0.51]
    bootstrap = Bootstrap({"a": flat(first), "b": flat(second)}, MANY)
    _, p = bootstrap.estimate({"a": 1.0, "b": -1.0}).tested()
    assert p == pytest.approx(stats.ttest_ind(first, second, equal_var=False).pvalue, rel=1e-9)


def test_p_value_of_paired_seeds_is_the_paired_tests() -> None:
    first, second = [0.80, 0.90, 0.70], [0.60, 0.68, 0.52]
    bootstrap = Bootstrap({"a": flat(first), "b": flat(second)}, MANY, paired_seeds=True)
    _, p = bootstrap.estimate({"a": 1.0, "b": -1.0}).tested()
    assert p == pytest.approx(stats.ttest_rel(first, second).pvalue, rel=1e-9)


@pytest.mark.parametrize("level", [0.8, 0.95])
@pytest.mark.parametrize("resamples", [3, 100, 2000])
def test_p_value_and_interval_never_contradict_each_other(level: float, resamples: int) -> None:
    rng, sides = np.random.default_rng(11), set()
    for k in range(120):
        arms = {"a": noisy(rng, rng.normal(0, 0.15), prompts=8), "b": noisy(rng, 0.0, prompts=8)}
        if k % 4 == 0:  # untrained: the prompts alone decide
            arms = {arm: np.repeat(scores[:1], 3, axis=0) for arm, scores in arms.items()}
        estimate = Bootstrap(arms, Resampling(resamples, level, seed=k % 3)).estimate({"a": 1.0, "b": -1.0})
        interval, p = estimate.tested()
        assert p is not None
        assert 0.0 < p <= 1.0
        assert (p < estimate.settings.error_rate) == interval.excludes_zero
        sides.add(interval.excludes_zero)
    assert sides == {True, False}


def test_p_value_is_the_level_at_which_the_interval_ends_at_zero() -> None:
    rng = np.random.default_rng(12)
    arms = {"a": noisy(rng, 0.12), "b": noisy(rng, 0.0)}
    _, p = Bootstrap(arms, MANY).estimate({"a": 1.0, "b": -1.0}).tested()
    assert p is not None
    found = Bootstrap(arms, Resampling(20_000, level=1.0 - p)).difference("a", "b")
    assert found.low == pytest.approx(0.0, abs=0.01 * (found.high - found.low))


def test_equal_arms_have_a_p_value_of_one_and_one_seed_has_none() -> None:
    same = flat([0.4, 0.4, 0.4])
    assert Bootstrap({"a": same, "b": same}).estimate({"a": 1.0, "b": -1.0}).tested()[1] == 1.0
    one = Bootstrap({"a": flat([0.5]), "b": same}).estimate({"a": 1.0, "b": -1.0})
    assert one.tested()[1] is None
    assert seeds_needed(one) is None


def test_seeds_needed_have_the_power_that_is_said() -> None:
    """Simulated: two arms of the number of seeds that is said, with the difference and spread that the few showed."""
    seeds = np.array([-1.0, 0.0, 1.0])
    estimate = Bootstrap({"a": flat(list(seeds + 1.2)), "b": flat(list(seeds))}, MANY).estimate({"a": 1, "b": -1})
    needed = seeds_needed(estimate)
    assert needed is not None

    def power(count: int) -> float:
        rng = np.random.default_rng(13)
        first, second = rng.normal(1.2, 1, (4000, count)), rng.normal(0, 1, (4000, count))
        return float(np.mean(stats.ttest_ind(first, second, axis=1, equal_var=False).pvalue < 0.05))

    assert needed == 12
    assert power(needed) == pytest.approx(0.8, abs=0.02) or power(needed) > 0.8
    assert power(needed - 1) < 0.8
    more = seeds_needed(estimate, multiplier=10)
    assert more is not None
    assert more > needed


def test_seeds_needed_are_more_than_there_are_and_not_to_be_known_where_prompts_decide() -> None:
    rng = np.random.default_rng(14)
    clear = Bootstrap({"a": flat([0.5, 0.6, 0.7]), "b": flat([0.0, 0.1, 0.2])}, MANY).estimate({"a": 1, "b": -1})
    assert seeds_needed(clear) == 4
    own = rng.normal(0, 1, (1, 10))
    arms = {"a": flat([0.1, 0.11, 0.12], 10) + own, "b": flat([0.0, 0.01, 0.02], 10)}
    assert seeds_needed(Bootstrap(arms, MANY).estimate({"a": 1, "b": -1})) is None


def test_iqm_by_hand_and_its_scores() -> None:
    scores = np.array([[0.0, 1.0, 2.0, 3.0], [4.0, 5.0, 6.0, 100.0]])
    assert iqm(scores) == pytest.approx((2 + 3 + 4 + 5) / 4)
    assert iqm_scores(scores).mean() == pytest.approx(3.5)
    # Drawn in to 2 and 5: winsorised mean 3.5, deviations doubled.
    assert iqm_scores(scores)[0].tolist() == pytest.approx([0.5, 0.5, 0.5, 2.5])


def test_iqm_interval_of_prompts_alone_is_the_bootstraps() -> None:
    rng = np.random.default_rng(15)
    scores = rng.standard_t(3, (1, 200))
    found = Bootstrap({"a": iqm_scores(scores)}, MANY).mean("a")
    draws = [iqm(rng.choice(scores[0], 200)[None, :]) for _ in range(4000)]
    low, high = np.quantile(draws, [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.05 * (high - low))


def test_wins_by_hand() -> None:
    ours, theirs = np.array([[1.0, 0.0], [0.5, 0.5]]), np.array([[0.5, 0.5]])
    assert wins(ours, theirs).tolist() == [[[1.0, 0.0]], [[0.5, 0.5]]]
    assert wins(ours, ours[::-1], paired=True).tolist() == [[1.0, 0.0], [0.0, 1.0]]


def test_win_rates_of_two_arms_add_to_one_and_stay_within_it() -> None:
    rng = np.random.default_rng(16)
    bootstrap = Bootstrap({"a": noisy(rng, 0.1), "b": noisy(rng, 0.0), "best": noisy(rng, 9.0)}, MANY)
    there, back = win_rate(bootstrap, "a", "b"), win_rate(bootstrap, "b", "a")
    assert there.mean == pytest.approx(wins(bootstrap.scores["a"], bootstrap.scores["b"]).mean())
    assert there.mean + back.mean == pytest.approx(1.0)
    assert there.low < there.mean < there.high
    sure = win_rate(bootstrap, "best", "b")
    assert (sure.mean, sure.high) == (1.0, 1.0)
    assert 0.9 < sure.low < 1.0


def test_win_rate_of_prompts_alone_is_the_binomials() -> None:
    """One seed, 200 prompts of which 140 are won: the logit's standard error is (n·p·q)^−½."""
    scores = np.r_[np.ones(140), -np.ones(60)][None, :]
    found = win_rate(Bootstrap({"a": scores, "b": np.zeros_like(scores)}, MANY), "a", "b")
    error = 1.96 / math.sqrt(200 * 0.7 * 0.3)
    wanted = expit([logit(0.7) - error, logit(0.7) + error])
    assert (found.low, found.high) == pytest.approx(tuple(wanted), abs=0.005)
    assert found.covers == PROMPTS_ONLY


def lengths_that_win(rng: np.random.Generator, prompts: int = 400) -> tuple[Bootstrap, dict[str, FloatArray]]:
    """Two arms as good as each other at equal length; the first writes more, and what is longer scores higher."""
    lengths = {"a": rng.normal(30, 8, (3, prompts)), "b": rng.normal(22, 8, (3, prompts))}
    scores = {arm: 0.05 * own + rng.normal(0, 0.4, own.shape) for arm, own in lengths.items()}
    return Bootstrap(scores, MANY), lengths


def test_length_is_taken_out_of_the_win_rate() -> None:
    bootstrap, lengths = lengths_that_win(np.random.default_rng(17))
    raw, fair = win_rate(bootstrap, "a", "b"), win_rate_lc(bootstrap, "a", "b", lengths)
    assert raw.low > 0.6
    assert fair.low < 0.5 < fair.high
    assert win_rate_lc(bootstrap, "b", "a", lengths).mean == pytest.approx(1 - fair.mean, abs=1e-9)


def test_length_control_is_the_logistic_regression() -> None:
    """Against a general optimiser on the same penalised likelihood."""
    bootstrap, lengths = lengths_that_win(np.random.default_rng(18), prompts=60)
    won = wins(bootstrap.scores["a"], bootstrap.scores["b"])
    longer = lengths["a"][:, None, :] - lengths["b"][None, :, :]
    x = np.tanh(longer / longer.std())

    def loss(beta: FloatArray) -> float:
        eta = beta[0] + beta[1] * x
        data = (np.logaddexp(0, eta) - won * eta).sum() / 9
        return float(data + np.logaddexp(0, beta[0]) - 0.5 * beta[0] + beta[1] ** 2 / (2 * 2.5**2))

    wanted = minimize(loss, np.zeros(2), tol=1e-12).x[0]
    assert logit(win_rate_lc(bootstrap, "a", "b", lengths).mean) == pytest.approx(wanted, abs=1e-4)


def test_length_control_degrades_gracefully() -> None:
    rng = np.random.default_rng(19)
    bootstrap = Bootstrap({"a": noisy(rng, 0.1), "b": noisy(rng, 0.0), "best": noisy(rng, 9.0)}, MANY)
    same = {arm: np.full((3, 30), 20.0) for arm in bootstrap.scores}
    assert win_rate_lc(bootstrap, "a", "b", same) == win_rate(bootstrap, "a", "b")
    # Whatever is longer wins, without exception: the slope has no finite estimate of its own.
    longer = {"a": 20.0 + bootstrap.scores["a"], "b": 20.0 + bootstrap.scores["b"], "best": rng.normal(20, 3, (3, 30))}
    for arm in ("a", "best"):
        found = win_rate_lc(bootstrap, arm, "b", longer)
        assert 0.0 < found.low < found.mean < found.high < 1.0
    assert win_rate_lc(bootstrap, "best", "b", longer).mean > 0.9


def test_chance_of_improvement_is_mann_whitneys() -> None:
    first, second = [0.80, 0.60, 0.70, 0.55], [0.50, 0.58, 0.60]
    bootstrap = Bootstrap({"a": flat(first), "b": flat(second)}, MANY)
    found = probability_of_improvement(bootstrap, "a", "b")
    assert found is not None
    assert found.mean == pytest.approx(stats.mannwhitneyu(first, second).statistic / 12)
    assert 0.0 < found.low < found.mean < found.high < 1.0
    assert found.covers == SEEDS_ONLY


def test_chance_of_improvement_against_a_fixed_mark_is_wilsons() -> None:
    """Wilson's interval for 2 of 4, with Student's quantile of three degrees of freedom for 1.96."""
    bootstrap = Bootstrap({"a": flat([0.3, 0.4, 0.6, 0.7]), "sft": flat([0.5, 0.5])}, MANY)
    found = probability_of_improvement(bootstrap, "a", "sft")
    assert found is not None
    q = stats.t.ppf(0.975, 3)
    half = q * math.sqrt(0.25 / 4 + q**2 / 64) / (1 + q**2 / 4)
    assert (found.low, found.high) == pytest.approx((0.5 - half, 0.5 + half), abs=1e-9)
    fixed = probability_of_improvement(bootstrap, "sft", "sft")
    assert fixed is not None
    assert (fixed.low, fixed.mean, fixed.high) == (0.5, 0.5, 0.5)


def test_chance_of_improvement_needs_two_seeds() -> None:
    assert probability_of_improvement(Bootstrap({"a": flat([0.5]), "b": flat([0.1, 0.2])}), "a", "b") is None


def test_strengths_of_two_arms_are_half_the_log_odds() -> None:
    scores = np.r_[np.ones(140), -np.ones(60)][None, :]
    best, other = bradley_terry(Bootstrap({"a": scores, "b": np.zeros_like(scores)}, MANY), ["b", "a"])
    assert (best.arm, other.arm) == ("a", "b")
    odds = math.log(140.5 / 60.5)
    assert best.strength.mean == pytest.approx(odds / 2, abs=1e-6)
    assert other.strength.mean == pytest.approx(-odds / 2, abs=1e-6)
    error = 1.96 / math.sqrt(200 * 0.7 * 0.3) / 2
    assert (best.strength.low, best.strength.high) == pytest.approx((odds / 2 - error, odds / 2 + error), abs=0.01)


def test_strengths_interval_is_that_of_refitting_each_resample() -> None:
    """One seed: prompts are all that varies, so drawing them and fitting anew is the plain bootstrap."""
    from choix import ilsr_pairwise_dense

    rng = np.random.default_rng(20)
    scores = {arm: rng.normal(mean, 1, (1, 120)) for arm, mean in (("a", 0.4), ("b", 0.0), ("c", -0.2))}
    ranked = {r.arm: r.strength for r in bradley_terry(Bootstrap(scores, MANY), list(scores))}
    won = np.array([[wins(x, y)[0, 0] for y in scores.values()] for x in scores.values()])  # [K, K, N]
    refitted = []
    for _ in range(600):
        table = won[:, :, rng.integers(0, 120, 120)].sum(axis=2) + 0.5
        np.fill_diagonal(table, 0.0)
        strengths = ilsr_pairwise_dense(table)
        refitted.append(strengths - strengths.mean())
    low, high = np.quantile(refitted, [0.025, 0.975], axis=0)
    for k, arm in enumerate(scores):
        wanted = (low[k], high[k])
        assert (ranked[arm].low, ranked[arm].high) == pytest.approx(wanted, abs=0.12 * (high[k] - low[k]))
    assert sum(strength.mean for strength in ranked.values()) == pytest.approx(0.0, abs=1e-8)


def test_an_arm_that_wins_all_keeps_a_finite_strength() -> None:
    rng = np.random.default_rng(21)
    bootstrap = Bootstrap({"a": noisy(rng, 9.0), "b": noisy(rng, 0.0), "c": noisy(rng, -9.0)}, MANY)
    ranked = bradley_terry(bootstrap, ["c", "a", "b"])
    assert [r.arm for r in ranked] == ["a", "b", "c"]
    assert all(math.isfinite(x) for r in ranked for x in (r.strength.mean, r.strength.low, r.strength.high))
    assert bradley_terry(bootstrap, ["a"]) == []


def test_bits_are_equal_whatever_the_number_of_threads() -> None:
    code = (
        "import numpy as np; from rft.evaluation.statistics import *; rng = np.random.default_rng(0);"
        "arms = {f'a{k}': rng.random((3, 300)) + k / 9 for k in range(20)}; b = Bootstrap(arms, Resampling(500));"
        "print(repr([b.estimate({'a0': 1, 'a1': -1}).tested(), bradley_terry(b, list(arms))]))"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads},
            capture_output=True, text=True, check=True,
        ).stdout
        for threads in ("1", "2")
    }  # fmt: skip
    assert len(found) == 1
    assert "strength=" in found.pop()


@pytest.mark.parametrize("law", ["rl", "best_of_n"])
def test_a_known_curve_is_found_again(law: str) -> None:
    kl = np.tile([0.5, 2.0, 6.0, 12.0, 25.0], 3)
    d, seeds = np.sqrt(kl), np.repeat([0, 1, 2], 5)
    gain = d * (0.8 - 0.2 * (np.log(d) if law == "rl" else d))
    curve = fit_curve(law, kl, gain, list(seeds))
    assert curve is not None
    assert (curve.alpha.mean, curve.beta.mean, curve.points) == (pytest.approx(0.8), pytest.approx(0.2), 15)
    assert curve.alpha.high - curve.alpha.low == pytest.approx(0.0, abs=1e-9)
    # Where the derivative is 0: log d = α/β − 1, and d = α/2β.
    assert curve.peak == pytest.approx(math.exp(3) if law == "rl" else 2.0)


def test_curve_intervals_cover_the_coefficients_with_few_seeds() -> None:
    rng, hits = np.random.default_rng(22), {"alpha": 0, "beta": 0}
    for _ in range(500):
        seeds = np.repeat(np.arange(4), 6)
        kl = np.tile(np.linspace(0.5, 20, 6), 4) * rng.uniform(0.8, 1.25, 24)
        d = np.sqrt(kl)
        gain = d * (0.5 - 0.1 * np.log(d)) + np.repeat(rng.normal(0, 0.05, 4), 6) * d + rng.normal(0, 0.02, 24)
        curve = fit_curve("rl", kl, gain, list(seeds))
        assert curve is not None
        hits["alpha"] += curve.alpha.low <= 0.5 <= curve.alpha.high
        hits["beta"] += curve.beta.low <= 0.1 <= curve.beta.high
    for name, count in hits.items():
        found = stats.binomtest(count, 500).proportion_ci(0.99)
        assert found.high >= 0.95, f"{name}: {count / 500}"
        assert found.low <= 0.99, f"{name}: {count / 500}"


@pytest.mark.parametrize(
    "kl", [[1.0, 2.0, 3.0], [1.0, 1.0, 2.0, 3.0], [0.0, -0.1, 2.0, 3.0, 4.0], [4.0] * 6, [4.0, 5.0, 6.0, 8.99]]
)
def test_too_few_distances_give_no_curve(kl: list[float]) -> None:
    assert fit_curve("rl", np.array(kl), np.ones(len(kl)), list(range(len(kl)))) is None


def test_distances_are_far_enough_apart_from_one_and_a_half_on() -> None:
    kl = np.array([4.0, 5.0, 6.0, 9.0])
    curve = fit_curve("rl", kl, np.sqrt(kl), [0] * 4)
    assert curve is not None
    assert curve.furthest == 3.0


@pytest.mark.parametrize(
    ("beta", "noise", "furthest", "falls"),
    [(0.4, 0.0, 25.0, True), (0.1, 0.0, 25.0, False), (0.4, 0.5, 25.0, False), (-0.2, 0.0, 25.0, False)],
)
def test_a_curve_falls_where_beta_is_sure_and_the_peak_within_the_points(
    beta: float, noise: float, furthest: float, falls: bool
) -> None:
    """With α = 0.5 the peak is at d = e^(0.5/β − 1): 1.3 for β = 0.4 and 55 for 0.1, of points up to 5."""
    kl = np.tile([0.25, 2.0, 6.0, 12.0, furthest], 3)
    d, seeds = np.sqrt(kl), np.repeat([0, 1, 2], 5)
    # Each seed has a β of its own; their mean is exact.
    own = beta + np.repeat([-noise, 0.0, noise], 5)
    curve = fit_curve("rl", kl, d * (0.5 - own * np.log(d)), list(seeds))
    assert curve is not None
    assert curve.beta.mean == pytest.approx(beta)
    assert curve.falls == falls


def test_one_seed_does_not_show_a_fall() -> None:
    d = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    curve = fit_curve("rl", d**2, d * (0.2 - 0.1 * np.log(d)), [0] * 5)
    assert curve is not None
    assert curve.peak == pytest.approx(math.e)
    assert not curve.falls


def test_one_seeds_curve_has_no_interval() -> None:
    kl = np.array([1.0, 2.0, 4.0, 8.0])
    curve = fit_curve("rl", kl, np.sqrt(kl), [0] * 4)
    assert curve is not None
    assert curve.alpha.mean == pytest.approx(1.0)
    assert math.isnan(curve.alpha.low)
    assert curve.peak is None or curve.peak > 1e100
