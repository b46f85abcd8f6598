"""How often verdicts and intervals are wrong, on simulated studies: the share that is said, within what chance allows.

Dimensions: `S` seeds, `N` prompts. The bounds are Clopper–Pearson's: a rate is refuted if its 99 % interval leaves it
out, so that a right method fails in one run of hundreds, and the draws are fixed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats
from scipy.special import expit

from rft.evaluation.statistics import (
    Bootstrap,
    Interval,
    Resampling,
    bradley_terry,
    decide,
    holm,
    iqm,
    iqm_scores,
    probability_of_improvement,
    win_rate,
    win_rate_lc,
    wins,
)
from rft.report import StudyResults, summarise
from tests.unit.test_report_verdicts import trial

FloatArray = npt.NDArray[np.float64]
SPREADS = (0.5, 1.0, 2.0)  # arms differ in how much their seeds and their noise vary
NOISE: dict[str, Callable[[np.random.Generator, tuple[int, int]], FloatArray]] = {
    "normal": lambda rng, shape: rng.normal(0, 1, shape),
    "heavy tails": lambda rng, shape: rng.standard_t(3, shape),
    "bounded": lambda rng, shape: rng.normal(0, 1, shape),
}


@dataclass(frozen=True)
class World:
    """What simulated studies have in common: arms a0 (the control), a1, …, all of the same true mean but a1."""

    seeds: int
    noise: str = "normal"
    seed_sd: float = 0.2
    untrained_control: bool = False
    paired: bool = False
    arms: int = 4
    prompts: int = 40
    difference: float = 0.0

    def study(self, rng: np.random.Generator, seeds: int = 0, prompts: int = 0) -> dict[str, FloatArray]:
        """Scores [S, N] by arm."""
        shape = (seeds or self.seeds, prompts or self.prompts)
        hard, shared = rng.normal(0, 1, shape[1]), rng.normal(0, self.seed_sd, (shape[0], 1))
        arms = {}
        for a in range(self.arms + 1):
            spread = SPREADS[a % 3]
            seed = rng.normal(0, self.seed_sd * spread, (shape[0], 1)) + (shared if self.paired else 0.0)
            scores = hard + rng.normal(0, 0.5, shape[1]) + seed + spread * NOISE[self.noise](rng, shape)
            if a == 0 and self.untrained_control:
                scores = np.repeat(scores[:1] - seed[:1], shape[0], axis=0)
            if a == 1:
                scores = scores + self.difference
            # Symmetric about 0 before, so about 1/2 after: equal means stay equal whatever the spread.
            arms[f"a{a}"] = expit(2 * scores) if self.noise == "bounded" else scores
        return arms


def bounds(hits: int, of: int) -> tuple[float, float]:
    found = stats.binomtest(hits, of).proportion_ci(0.99)
    return float(found.low), float(found.high)


def false_verdicts(world: World, studies: int, seed: int = 1) -> tuple[int, int]:
    """In how many studies without a difference any arm is called better or worse, after Holm and without it."""
    rng = np.random.default_rng(seed)
    corrected = alone = 0
    for k in range(studies):
        # The prompts' weights are kept for a few generator seeds: drawing them is most of the work.
        bootstrap = Bootstrap(world.study(rng), Resampling(1000, seed=k % 2), paired_seeds=world.paired)
        tested = [bootstrap.estimate({f"a{a}": 1.0, "a0": -1.0}).tested() for a in range(1, world.arms + 1)]
        adjusted = holm([p for _, p in tested if p is not None])
        verdicts = {decide(interval, p, 0.05) for (interval, _), p in zip(tested, adjusted, strict=True)}
        corrected += bool(verdicts & {"better", "worse"})
        alone += any(interval.excludes_zero for interval, _ in tested)
    return corrected, alone


NULL = [
    World(3, "heavy tails"),
    World(3, "bounded", seed_sd=1.0),
    World(3, seed_sd=1.0, arms=10),
    World(3, seed_sd=0.5, untrained_control=True),
    World(3, "heavy tails", paired=True),
    World(5, seed_sd=0.02),
    World(5, "bounded", untrained_control=True),
    World(5, "heavy tails", seed_sd=1.0, paired=True),
]


@pytest.mark.parametrize("world", NULL, ids=str)
def test_without_a_difference_a_verdict_is_said_in_at_most_a_twentieth(world: World) -> None:
    studies = 400
    corrected, _ = false_verdicts(world, studies)
    low, _ = bounds(corrected, studies)
    assert low <= 0.05, f"{corrected} of {studies} studies without any difference got a verdict"


@pytest.mark.slow
@pytest.mark.parametrize("control", ["a0", "none"])
def test_a_headline_of_a_study_without_a_difference_is_rarely_a_verdict(control: str) -> None:
    """Through the whole summary: its headline reads the first split's table against the control, else that of pairs."""
    rng, studies, world = np.random.default_rng(9), 200, World(3, "bounded", seed_sd=1.0, arms=3, prompts=20)
    false = settled = 0
    for k in range(studies):
        trials = [
            trial(arm, seed, gold) for arm, scores in world.study(rng).items() for seed, gold in enumerate(scores)
        ]
        settings = Resampling(1000, seed=k % 2)
        summary = summarise(StudyResults("s", tuple(trials), ()), control=control, settings=settings)
        against = [record["splits"]["test"]["difference"] for record in summary["arms"].values()]
        table = [one for one in against if one] if control == "a0" else summary["pairs"]["test"]
        said = any(comparison["verdict"] in ("better", "worse") for comparison in table)
        false += said
        settled += summary["verdict"]["settled"]
        assert said or not summary["verdict"]["settled"]
    low, _ = bounds(false, studies)
    assert low <= 0.05, f"{false} of {studies} studies without any difference got a verdict"
    assert settled <= false


def test_without_correction_it_would_be_said_far_more_often() -> None:
    """The test above can fail: intervals alone do not pass it."""
    corrected, alone = false_verdicts(World(3, seed_sd=1.0, arms=10), 300)
    assert bounds(alone, 300)[0] > 0.05
    assert alone > 3 * corrected


@pytest.mark.slow
@pytest.mark.parametrize("world", NULL, ids=str)
def test_the_rate_of_false_verdicts_in_thousands_of_studies(world: World) -> None:
    corrected, _ = false_verdicts(world, 4000, seed=2)
    low, high = bounds(corrected, 4000)
    assert low <= 0.05
    assert high < 0.08, "within a percent or two, not just not refuted"


DIFFERENT = [
    World(3, "heavy tails", difference=0.5),
    World(3, "bounded", seed_sd=0.5, difference=0.5),
    World(5, seed_sd=0.5, difference=0.5, untrained_control=True),
    World(5, "bounded", difference=0.3, paired=True),
]


def true_difference(world: World) -> float:
    rng = np.random.default_rng(8)
    if world.noise != "bounded":
        return world.difference
    means = [study["a1"].mean() - study["a0"].mean() for study in (world.study(rng, 40, 400) for _ in range(400))]
    return float(np.mean(means))


def coverage(world: World, studies: int, seed: int = 3) -> int:
    rng, truth, hits = np.random.default_rng(seed), true_difference(world), 0
    for k in range(studies):
        arms = {arm: scores for arm, scores in world.study(rng).items() if arm in ("a0", "a1")}
        found = Bootstrap(arms, Resampling(1000, seed=k % 2), paired_seeds=world.paired).difference("a1", "a0")
        hits += found.low <= truth <= found.high
    return hits


@pytest.mark.parametrize("world", DIFFERENT, ids=str)
def test_a_known_difference_is_covered_as_often_as_said(world: World) -> None:
    hits = coverage(world, 500)
    low, high = bounds(hits, 500)
    assert high >= 0.95, f"covers too rarely, {hits / 500:.3f}"
    assert low <= 0.98, f"wider than need be, {hits / 500:.3f}"


@pytest.mark.slow
@pytest.mark.parametrize("world", DIFFERENT, ids=str)
def test_coverage_in_thousands_of_studies(world: World) -> None:
    low, high = bounds(coverage(world, 4000, seed=4), 4000)
    assert high >= 0.945
    assert low <= 0.98


OTHERS: dict[str, Callable[[Bootstrap, dict[str, FloatArray]], Interval]] = {
    "win rate": lambda bootstrap, lengths: win_rate(bootstrap, "a1", "a0"),
    "win rate at equal length": lambda bootstrap, lengths: win_rate_lc(bootstrap, "a1", "a0", lengths),
    "interquartile mean": lambda bootstrap, lengths: Bootstrap(
        {"a1": iqm_scores(bootstrap.scores["a1"])}, bootstrap.settings
    ).mean("a1"),
    "strength": lambda bootstrap, lengths: next(
        ranked.strength for ranked in bradley_terry(bootstrap, ["a0", "a1"]) if ranked.arm == "a1"
    ),
}


@pytest.mark.parametrize("world", [World(3, "heavy tails", difference=0.5), World(5, "bounded", seed_sd=0.5)], ids=str)
def test_what_is_linearised_covers_as_often_as_said(world: World) -> None:
    """Lengths are drawn apart from the scores, so the win rate at equal length is the win rate."""
    rng, studies = np.random.default_rng(5), 400
    many = [world.study(rng, 40, 400) for _ in range(100)]
    rate = float(np.mean([wins(arms["a1"], arms["a0"]).mean() for arms in many]))
    won = world.prompts * rate
    truth = {
        "win rate": rate,
        "win rate at equal length": rate,
        "interquartile mean": float(np.mean([iqm(arms["a1"]) for arms in many])),
        # With the half win and half loss that both arms are given; two arms have opposite strengths.
        "strength": float(np.log((won + 0.5) / (world.prompts - won + 0.5)) / 2),
    }
    hits = dict.fromkeys(OTHERS, 0)
    for k in range(studies):
        arms = world.study(rng)
        bootstrap = Bootstrap(arms, Resampling(1000, seed=k % 2))
        lengths = {arm: rng.integers(10, 30, scores.shape).astype(np.float64) for arm, scores in arms.items()}
        for name, measure in OTHERS.items():
            found = measure(bootstrap, lengths)
            hits[name] += found.low <= truth[name] <= found.high
    for name, count in hits.items():
        low, high = bounds(count, studies)
        assert high >= 0.95, f"{name}: covers too rarely, {count / studies:.3f}"
        assert low <= 0.98, f"{name}: wider than need be, {count / studies:.3f}"


@pytest.mark.parametrize(("seeds", "difference"), [(3, 0.0), (3, 1.0), (5, 0.0), (5, 2.0)])
def test_the_chance_of_improvement_is_covered_at_least_as_often_as_said(seeds: int, difference: float) -> None:
    rng, hits = np.random.default_rng(6), 0
    truth = stats.norm.cdf(difference / np.sqrt(2))
    for _ in range(400):
        arms = {"a": rng.normal(difference, 1, (seeds, 1)), "b": rng.normal(0, 1, (seeds, 1))}
        found = probability_of_improvement(Bootstrap(arms, Resampling(10)), "a", "b")
        assert found is not None
        hits += found.low <= truth <= found.high
    assert bounds(hits, 400)[1] >= 0.95
