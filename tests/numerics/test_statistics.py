"""Intervals against closed forms and scipy's t intervals, and how often they cover the truth.

Dimensions: `S` seeds, `N` prompts, `R` resamples.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from rft.evaluation.statistics import PROMPTS_ONLY, SEEDS_AND_PROMPTS, Bootstrap, Interval, Resampling, decide

FloatArray = npt.NDArray[np.float64]
MANY = Resampling(resamples=20_000)


def seeds_only(seed_means: list[float], prompts: int = 5) -> FloatArray:
    """Scores [S, N] of an arm whose seeds differ and whose prompts do not."""
    return np.repeat(np.array(seed_means)[:, None], prompts, axis=1)


def bounds(interval: Interval) -> tuple[float, float]:
    return interval.low, interval.high


# A stratified draw misses a quantile by about a slice: 1/R over the density of t at its 97.5 % point, which is 0.00195
# for one degree of freedom and 0.011 for two, makes 0.2 % and 0.1 % of that point.
@pytest.mark.parametrize("seed_means", [[0.5, 0.7], [0.5, 0.7, 0.65], [0.1, 0.4, 0.2, 0.9, 0.35]])
def test_seeds_alone_give_the_student_interval(seed_means: list[float]) -> None:
    interval = Bootstrap({"a": seeds_only(seed_means)}, MANY).mean("a")
    wanted = stats.ttest_1samp(seed_means, 0.0).confidence_interval(0.95)
    assert interval.mean == pytest.approx(np.mean(seed_means))
    assert bounds(interval) == pytest.approx(tuple(wanted), rel=0, abs=0.002 * (wanted.high - wanted.low))
    assert interval.covers == SEEDS_AND_PROMPTS


def test_level_is_the_share_between_the_bounds() -> None:
    seed_means = [0.5, 0.7, 0.65]
    interval = Bootstrap({"a": seeds_only(seed_means)}, Resampling(20_000, level=0.8)).mean("a")
    wanted = stats.ttest_1samp(seed_means, 0.0).confidence_interval(0.8)
    assert bounds(interval) == pytest.approx(tuple(wanted), abs=1e-3)


def test_difference_of_independent_seeds_is_welchs_interval() -> None:
    first, second = [0.80, 0.90, 0.70, 0.75], [0.50, 0.52, 0.51]
    arms = {"a": seeds_only(first), "b": seeds_only(second)}
    interval = Bootstrap(arms, MANY).difference("a", "b")
    wanted = stats.ttest_ind(first, second, equal_var=False).confidence_interval(0.95)
    assert interval.mean == pytest.approx(0.7875 - 0.51)
    assert bounds(interval) == pytest.approx(tuple(wanted), abs=1e-3)
    turned = Bootstrap(arms, MANY).difference("b", "a")
    assert interval.low > 0.0
    assert turned.high < 0.0


def test_difference_of_paired_seeds_is_the_paired_interval() -> None:
    first, second = [0.80, 0.90, 0.70], [0.60, 0.68, 0.52]
    arms = {"a": seeds_only(first), "b": seeds_only(second)}
    interval = Bootstrap(arms, MANY, paired_seeds=True).difference("a", "b")
    wanted = stats.ttest_rel(first, second).confidence_interval(0.95)
    assert bounds(interval) == pytest.approx(tuple(wanted), abs=2e-4)
    # What the seeds have in common cancels only where they are paired.
    assert not Bootstrap(arms, MANY).difference("a", "b").excludes_zero
    assert interval.low > 0.0


def test_control_without_variation_takes_no_degrees_of_freedom() -> None:
    seed_means = [0.5, 0.7, 0.65]
    arms = {"a": seeds_only(seed_means), "sft": seeds_only([0.4, 0.4, 0.4])}
    wanted = stats.ttest_1samp(np.array(seed_means) - 0.4, 0.0).confidence_interval(0.95)
    assert bounds(Bootstrap(arms, MANY).difference("a", "sft")) == pytest.approx(tuple(wanted), abs=1e-3)


def test_two_prompts_alone_give_the_bootstrap_distribution() -> None:
    # Two draws of two prompts: both the first, one each, both the second, with chances 1/4, 1/2, 1/4.
    draws = Bootstrap({"a": np.array([[0.2, 0.6]])}, MANY).estimate({"a": 1.0}).draws()
    values, counts = np.unique(draws.round(12), return_counts=True)
    assert values.tolist() == pytest.approx([0.2, 0.4, 0.6])
    assert stats.chisquare(counts, MANY.resamples * np.array([0.25, 0.5, 0.25])).pvalue > 0.001


def test_noise_is_taken_out_of_the_prompts_share() -> None:
    # Seed means 1.5 and 1.5, prompt means 0.5 and 2.5, residuals ±0.5: MSE = 1 on one degree of freedom,
    # Var_i(d) = 2, λ² = 1 − (1/2)/2 = 3/4.
    draws = Bootstrap({"a": np.array([[0.0, 3.0], [1.0, 2.0]])}, MANY).estimate({"a": 1.0}).draws()
    values = np.unique(draws.round(12))
    assert values.tolist() == pytest.approx([1.5 - math.sqrt(0.75), 1.5, 1.5 + math.sqrt(0.75)])


def test_prompts_that_are_all_noise_add_nothing() -> None:
    # Prompt means 0.55 and 0.45 differ by less than the residuals: λ² would be negative.
    draws = Bootstrap({"a": np.array([[0.1, 0.9], [1.0, 0.0]])}, MANY).estimate({"a": 1.0}).draws()
    assert draws.std() == 0.0


def test_what_a_prompt_does_to_both_arms_cancels() -> None:
    prompts = np.array([0.1, 0.9, 0.3, 0.5])
    bootstrap = Bootstrap({"a": np.tile(prompts + 0.25, (3, 1)), "b": np.tile(prompts, (3, 1))}, MANY)
    assert bounds(bootstrap.difference("a", "b")) == pytest.approx((0.25, 0.25))
    low, high = bounds(bootstrap.mean("a"))
    assert high - low > 0.3


def test_every_contrast_draws_the_same_prompts() -> None:
    rng = np.random.default_rng(3)
    bootstrap = Bootstrap({"a": rng.random((1, 9)), "b": rng.random((1, 9))}, MANY)
    first, second, both = (bootstrap.estimate(c).draws() for c in ({"a": 1.0}, {"b": 1.0}, {"a": 1.0, "b": -1.0}))
    np.testing.assert_allclose(both, first - second, atol=1e-12)


def test_one_seed_covers_prompts_only_and_has_no_verdict() -> None:
    one, same = np.array([[0.8, 0.9, 0.85]]), np.array([[0.1, 0.2, 0.15]] * 3)
    three = same + np.array([[0.0], [0.01], [0.02]])
    bootstrap = Bootstrap({"one": one, "same": same, "three": three}, MANY)
    for coefficients in ({"one": 1.0}, {"one": 1.0, "same": -1.0}, {"one": 1.0, "three": -1.0}):
        interval, p_value = bootstrap.estimate(coefficients).tested()
        assert interval.covers == PROMPTS_ONLY
        assert interval.excludes_zero
        assert p_value is None
        assert decide(interval, p_value, 0.05) == "no verdict"
    assert bootstrap.mean("three").covers == SEEDS_AND_PROMPTS


@pytest.mark.parametrize(
    ("low", "high", "p_value", "verdict"),
    [
        (0.1, 0.2, 0.01, "better"),
        (-0.2, -0.1, 0.01, "worse"),
        (-0.1, 0.1, 0.9, "cannot tell"),
        (0.0, 0.1, 0.05, "cannot tell"),
        (0.1, 0.2, 0.08, "cannot tell"),  # by itself it would be a verdict; among other comparisons it is none
    ],
)
def test_verdict_follows_the_p_value_and_the_side_of_zero(
    low: float, high: float, p_value: float, verdict: str
) -> None:
    interval = Interval((low + high) / 2, low, high)
    assert decide(interval, p_value, 0.05) == verdict
    assert interval.excludes_zero == (low > 0 or high < 0)


def crossed(rng: np.random.Generator, prompts: FloatArray, seed_sd: float, noise_sd: float) -> FloatArray:
    """Scores [3, N] with mean 0 over all that is random."""
    return prompts + rng.normal(0, seed_sd, (3, 1)) + rng.normal(0, noise_sd, (3, len(prompts)))


def test_equal_input_gives_equal_bits_whatever_else_is_compared() -> None:
    rng = np.random.default_rng(4)
    arms = {arm: crossed(rng, rng.random(20), 0.1, 0.2) for arm in ("a", "b", "c")}
    alone = Bootstrap({"a": arms["a"], "b": arms["b"]}).difference("a", "b")
    assert Bootstrap(dict(reversed(arms.items()))).difference("a", "b") == alone
    assert Bootstrap(arms, Resampling(seed=1)).difference("a", "b") != alone


def share(hits: list[bool]) -> tuple[float, float]:
    """99 % interval (Clopper–Pearson) of a coverage."""
    found = stats.binomtest(sum(hits), len(hits)).proportion_ci(0.99)
    return found.low, found.high


# Shares of the three variances as an arm's mean sees them with 3 seeds and 40 prompts: seeds only just matter, matter
# as much as prompts, are nearly all.
@pytest.mark.parametrize(("seed_sd", "prompt_sd", "noise_sd"), [(0.01, 0.3, 0.1), (0.08, 0.3, 0.3), (0.05, 0.02, 0.02)])
def test_three_seeds_cover_the_truth_as_often_as_said(seed_sd: float, prompt_sd: float, noise_sd: float) -> None:
    rng = np.random.default_rng(5)
    hits: dict[str, list[bool]] = {"mean": [], "independent": [], "paired": []}
    for k in range(700):
        common = rng.normal(0, prompt_sd, 40)
        arms = {arm: crossed(rng, common + rng.normal(0, prompt_sd / 3, 40), seed_sd, noise_sd) for arm in "ab"}
        settings = Resampling(resamples=800, seed=k)
        free, paired = Bootstrap(arms, settings), Bootstrap(arms, settings, paired_seeds=True)
        for name, interval in (
            ("mean", free.mean("a")),
            ("independent", free.difference("a", "b")),
            ("paired", paired.difference("a", "b")),
        ):
            hits[name].append(not interval.excludes_zero)
    for name, found in hits.items():
        low, high = share(found)
        assert high >= 0.95, f"{name}: covers too rarely, {np.mean(found):.3f}"
        assert low <= 0.97, f"{name}: wider than need be, {np.mean(found):.3f}"


# Where seeds differ in nothing but that noise, both arms show the same spread of seeds, which is counted as if each had
# shown its own; where they differ in more, it is counted though it cancels.
@pytest.mark.parametrize(("prompt_sd", "seed_sd", "coverage"), [(0.2, 0.0, 0.92), (0.1, 0.02, 0.98)])
def test_noise_that_arms_share_shifts_coverage_by_little(prompt_sd: float, seed_sd: float, coverage: float) -> None:
    rng = np.random.default_rng(7)
    hits = []
    for k in range(400):
        noise = rng.normal(0, 0.3, (3, 40))
        arms = {arm: noise + rng.normal(0, seed_sd, (3, 1)) + rng.normal(0, prompt_sd, 40) for arm in "ab"}
        hits.append(not Bootstrap(arms, Resampling(800, seed=k)).difference("a", "b").excludes_zero)
    low, high = share(hits)
    assert low <= coverage <= high


def test_seeds_drawn_with_replacement_cover_three_quarters() -> None:
    """The nominal 95 % interval runs from the least to the greatest of three seeds: 1 − 2/2³ = 0.75.

    The least seed three times has a chance of 1/27, above the tail of 0.025. So the truth, the median of a seed, is
    missed whenever all three lie on one side of it.
    """
    rng = np.random.default_rng(6)
    resampled, ours = [], []
    for k in range(1000):
        seeds = rng.normal(0, 1, 3)
        draws = rng.choice(seeds, (2000, 3)).mean(axis=1)
        low, high = np.quantile(draws, [0.025, 0.975])
        resampled.append(bool(low <= 0 <= high))
        ours.append(not Bootstrap({"a": seeds[:, None]}, Resampling(1000, seed=k)).mean("a").excludes_zero)
    low, high = share(resampled)
    assert low <= 0.75 <= high < 0.80
    low, high = share(ours)
    assert low <= 0.95 <= high


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        ({}, "no arms"),
        ({"a": np.zeros(3)}, "want \\[seeds, prompts\\]"),
        ({"a": np.zeros((0, 3))}, "want \\[seeds, prompts\\]"),
        ({"a": np.array([[0.0, np.nan]])}, "'a' hold NaN"),
        ({"a": np.zeros((2, 3)), "b": np.zeros((2, 4))}, "number of prompts"),
    ],
)
def test_scores_that_cannot_be_compared_are_refused(arms: dict[str, FloatArray], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Bootstrap(arms)


def test_pairing_needs_equal_seed_counts() -> None:
    arms = {"a": np.zeros((2, 3)), "b": np.zeros((3, 3))}
    Bootstrap(arms)
    with pytest.raises(ValueError, match="same seeds"):
        Bootstrap(arms, paired_seeds=True)


@pytest.mark.parametrize("wrong", [{"resamples": 0}, {"level": 0.0}, {"level": 1.0}])
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="resamples >= 1"):
        Resampling(**wrong)  # type: ignore[arg-type]
