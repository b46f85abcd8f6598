"""Annotators as noisy readers of the gold reward, fitted to real raters; the stage ``annotators``.

Dimensions: ``I`` snippets, ``K_i`` ratings of snippet i.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rft.feedback.agreement import human_ceiling, krippendorff_alpha
from rft.feedback.ratings import ASSET, HIGHEST, LOWEST, HumanPairs, Ratings, human_pairs, load_ratings
from rft.progress import bar
from rft.store import Entry, Json
from rft.store.assets import asset_key, find_asset
from rft.tasks.base import Task

if TYPE_CHECKING:
    from numpy.typing import NDArray

STAGE, VERSION = "annotators", 1
FILE = "annotators.json"
# The file lists snippets in runs of 30 that the same people rated in the same order: position k of the ratings is
# one person within a run. (A person's deviations correlate at 0.33 between neighbours, at two thirds of that ten
# snippets on, not at all fifty on.)
BLOCK = 30
AGREEMENT_PAIRS = 20_000
# A whole number stands for an interval of length 1: Sheppard's correction of a variance.
ROUNDING_VARIANCE = 1 / 12


@dataclass(frozen=True, slots=True)
class AnnotatorModel:
    """Rating = round(clip(intercept + slope · gold logit + bias + noise, −4, 4)).

    bias ~ N(0, bias_sd²), one draw a rater; noise ~ N(0, noise_sd²), one a rating. Rating points, the slope
    per nat of log-odds.
    """

    slope: float
    intercept: float
    bias_sd: float
    noise_sd: float

    def rate(
        self, logits: NDArray[np.float64], bias: NDArray[np.float64], noise: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Ratings from standard normal draws `bias` and `noise`; the three shapes broadcast."""
        exact = self.intercept + self.slope * logits + self.bias_sd * bias + self.noise_sd * noise
        return np.rint(np.clip(exact, LOWEST, HIGHEST))


def fit_annotators(ratings: Ratings, gold_logits: NDArray[np.float64], block: int = BLOCK) -> AnnotatorModel:
    """Method of moments for a two-way random-effects model in every block of `block` snippets.

    y_ik = μ_i + b_k + e_ik for snippet i and rater k of a block with n snippets and K raters. The mean squares
    of a two-way layout without replication (Searle, Casella & McCulloch 1992, chapter 4; Shrout & Fleiss 1979,
    table 2) have E[MS_error] = σ_e² and E[SS_raters] = (K − 1)(n σ_b² + σ_e²). Summed over blocks:

        σ_e² = Σ SS_error / Σ (n − 1)(K − 1)
        σ_b² = (Σ SS_raters − σ_e² Σ (K − 1)) / Σ n (K − 1)
        σ_μ² = Var(ȳ_i) − mean_i((σ_b² + σ_e²) / K_i)

    noise_sd² is σ_e² − 1/12, since the simulated rating is rounded again. The line maps the gold logits onto the
    moments of the true ratings, slope = σ_μ / sd(logits), not onto their regression: to a simulated annotator the
    gold is the whole truth, and the regression's flatter slope (by the correlation of gold and people) would make
    annotators less sure than people are. Bias is a shift; differences between raters in how wide they use the
    scale are left in σ_e².

    Args:
        ratings: I snippets; in each run of `block` every snippet has as many ratings, in the same order of raters.
        gold_logits: shape [I].
        block: snippets in a run, at least 2.

    Raises:
        ValueError: if shapes or blocks are not as said, or the logits are all equal, or if no block has two snippets
            and two ratings of each.
    """
    if gold_logits.shape != (len(ratings),) or gold_logits.std() == 0:
        raise ValueError(f"gold_logits of shape {gold_logits.shape}: {len(ratings)} differing numbers are wanted")
    error_squares = rater_squares = 0.0
    error_freedom = rater_freedom = weighted_freedom = 0
    for start in range(0, len(ratings), block):
        rows = ratings.ratings[start : start + block]
        if len({len(row) for row in rows}) > 1:
            raise ValueError(f"snippets {start} to {start + len(rows) - 1} differ in their number of ratings")
        y = np.stack(rows)
        n, k = y.shape
        by_rater = y.mean(axis=0) - y.mean()
        residual = y - y.mean(axis=1, keepdims=True) - by_rater
        error_squares += float((residual**2).sum())
        rater_squares += n * float((by_rater**2).sum())
        error_freedom += (n - 1) * (k - 1)
        rater_freedom += k - 1
        weighted_freedom += n * (k - 1)
    if error_freedom == 0:
        raise ValueError("no block has two snippets with two ratings each: bias and noise cannot be told apart")
    error_variance = error_squares / error_freedom
    bias_variance = max(0.0, (rater_squares - error_variance * rater_freedom) / weighted_freedom)
    means = ratings.means
    of_means = float(np.mean((bias_variance + error_variance) / ratings.counts))
    slope = float(np.sqrt(max(0.0, means.var() - of_means)) / gold_logits.std())
    return AnnotatorModel(
        slope=slope,
        intercept=float(means.mean() - slope * gold_logits.mean()),
        bias_sd=float(np.sqrt(bias_variance)),
        noise_sd=float(np.sqrt(max(0.0, error_variance - ROUNDING_VARIANCE))),
    )


def simulate_ratings(
    model: AnnotatorModel, ratings: Ratings, gold_logits: NDArray[np.float64], seed: int, block: int = BLOCK
) -> Ratings:
    """What simulated annotators would have written in place of the people: the same texts, blocks and counts."""
    rng = np.random.default_rng(seed)
    rows: list[NDArray[np.float64]] = []
    for start in range(0, len(ratings), block):
        counts = ratings.counts[start : start + block]
        bias = rng.standard_normal(int(counts.max()))
        for i, count in enumerate(counts, start=start):
            rows.append(model.rate(gold_logits[i], bias[:count], rng.standard_normal(int(count))))
    return Ratings(ratings.texts, rows)


def annotators_entry(task: Task) -> Entry:
    """The stage ``annotators``: the fit and its numbers, computed once for a gold reward.

    Holds ``annotators.json``; its metrics are what `rft annotators` prints.
    """
    gold = task.gold_entry()

    def build(out: Path) -> dict[str, Json]:
        ratings = load_ratings(task.store)
        with bar("simulated annotators", total=3) as progress:
            logits = task.load_gold(gold.path).logit(ratings.texts)
            progress.advance()
            model = fit_annotators(ratings, logits)
            (out / FILE).write_text(json.dumps(asdict(model), indent=1), encoding="utf-8")
            progress.advance()
            found = measure(model, ratings, logits)
            progress.advance()
        return found

    return task.store.get_or_compute(
        STAGE,
        version=VERSION,
        config={"block": BLOCK, "pairs": AGREEMENT_PAIRS},
        inputs={"gold": gold.key, ASSET: asset_key(find_asset(ASSET))},
        build=build,
    )


def load_annotators(path: Path) -> AnnotatorModel:
    """What the stage wrote into the folder `path`."""
    values: Mapping[str, float] = json.loads((path / FILE).read_text(encoding="utf-8"))
    return AnnotatorModel(values["slope"], values["intercept"], values["bias_sd"], values["noise_sd"])


def measure(model: AnnotatorModel, ratings: Ratings, gold_logits: NDArray[np.float64]) -> dict[str, Json]:
    """The fit's numbers, and people beside simulated annotators by the same measures on the same pairs."""
    means = ratings.means
    pairs = human_pairs(ratings, AGREEMENT_PAIRS, seed=0)
    correlation = float(np.corrcoef(gold_logits, means)[0, 1])
    simulated = simulate_ratings(model, ratings, gold_logits, seed=0)
    clear = np.abs(means) > 1
    return {
        "snippets": len(ratings),
        "ratings": int(ratings.counts.sum()),
        **asdict(model),
        "gold_human_correlation": correlation,
        "gold_regression_slope": correlation * float(means.std() / gold_logits.std()),
        "gold_pair_accuracy": pairs.accuracy(gold_logits),
        "gold_clear_accuracy": float(np.mean((gold_logits > 0)[clear] == (means > 0)[clear])),
        "human": _agreement(ratings, pairs),
        "simulated": _agreement(simulated, _pairs_of(simulated, pairs)),
    }


def _pairs_of(ratings: Ratings, like: HumanPairs) -> HumanPairs:
    """The pairs of `like`, with the preferences of `ratings`; equal means are left out."""
    means = ratings.means
    gap = means[like.pairs[:, 0]] - means[like.pairs[:, 1]]
    return HumanPairs(like.pairs[gap != 0], gap[gap != 0] > 0)


def _agreement(ratings: Ratings, pairs: HumanPairs) -> dict[str, Json]:
    return {
        **asdict(human_ceiling(ratings, pairs, seed=0)),
        "krippendorff_alpha": krippendorff_alpha(ratings),
    }
