"""Annotators' fit and people's agreement: by hand on tiny tables, and as recovery of what was simulated.

Dimensions: ``I`` snippets, ``K_i`` ratings of snippet i.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from rft.feedback.agreement import human_ceiling, krippendorff_alpha
from rft.feedback.annotators import AnnotatorModel, fit_annotators, simulate_ratings
from rft.feedback.ratings import HumanPairs, Ratings, human_pairs


def ratings(*rows: list[int]) -> Ratings:
    return Ratings([f"text {i}" for i in range(len(rows))], [np.array(row, dtype=np.float64) for row in rows])


def pairs(*rows: tuple[int, int]) -> HumanPairs:
    return HumanPairs(np.array(rows), np.ones(len(rows), dtype=bool))


class TestFit:
    def test_two_snippets_and_two_raters_by_hand(self) -> None:
        # y = [[0, 1], [2, 5]]: row means 0.5 and 3.5, raters' effects −1 and 1, residuals ±0.5. So σ_e² = 1/1,
        # SS_raters = 2·(1 + 1) = 4, σ_b² = (4 − 1)/2, σ_μ² = 1.5² − (1.5 + 1)/2 = 1; the logits' sd is 1.
        model = fit_annotators(ratings([0, 1], [2, 5]), np.array([0.0, 2.0]))
        assert model.slope == pytest.approx(1.0)
        assert model.intercept == pytest.approx(2.0 - 1.0 * 1.0)
        assert model.bias_sd == pytest.approx(math.sqrt(1.5))
        assert model.noise_sd == pytest.approx(math.sqrt(1 - 1 / 12))

    def test_recovers_what_it_simulated(self) -> None:
        truth = AnnotatorModel(slope=0.6, intercept=-0.3, bias_sd=0.5, noise_sd=0.8)
        rng = np.random.default_rng(0)
        logits = rng.normal(0.2, 1.0, 6000)
        counts = np.repeat(rng.integers(10, 25, 200), 30)
        blank = Ratings([""] * 6000, [np.zeros(count) for count in counts])
        fitted = fit_annotators(simulate_ratings(truth, blank, logits, seed=1), logits)
        # Four standard errors: about 3,400 biases, 100,000 ratings, 6,000 snippets.
        assert fitted.bias_sd == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(2 * 3400))
        assert fitted.noise_sd == pytest.approx(0.8, abs=4 * 0.8 / math.sqrt(2 * 94_000))
        assert fitted.intercept == pytest.approx(-0.3, abs=4 * 0.5 / math.sqrt(3400))
        assert fitted.slope == pytest.approx(0.6, abs=0.02)

    def test_bias_is_not_taken_for_noise(self) -> None:
        """The same people in another order in every snippet have no bias that a block could show."""
        truth = AnnotatorModel(slope=0.6, intercept=0.0, bias_sd=1.0, noise_sd=0.5)
        rng = np.random.default_rng(2)
        logits = rng.normal(0, 1.0, 3000)
        simulated = simulate_ratings(truth, Ratings([""] * 3000, [np.zeros(20)] * 3000), logits, seed=3)
        shuffled = Ratings(simulated.texts, [rng.permutation(row) for row in simulated.ratings])
        kept, lost = fit_annotators(simulated, logits), fit_annotators(shuffled, logits)
        assert kept.bias_sd == pytest.approx(1.0, abs=0.1)
        assert lost.bias_sd < 0.1
        assert lost.noise_sd == pytest.approx(math.hypot(1.0, 0.5), abs=0.1)

    def test_a_snippet_too_many_in_a_run_is_refused(self) -> None:
        table = ratings([0, 1], [2, 3], [1, 2, 3])
        with pytest.raises(ValueError, match="snippets 0 to 2 differ in their number of ratings"):
            fit_annotators(table, np.arange(3.0))
        assert fit_annotators(table, np.arange(3.0), block=2).slope > 0

    @pytest.mark.parametrize("logits", [np.zeros(2), np.arange(3.0)])
    def test_logits_must_differ_and_be_one_a_snippet(self, logits: np.ndarray) -> None:
        with pytest.raises(ValueError, match="2 differing numbers"):
            fit_annotators(ratings([0, 1], [2, 3]), logits)

    @pytest.mark.parametrize(("rows", "block"), [(([0, 1], [2, 3]), 1), (([0], [2]), 2)])
    def test_bias_and_noise_need_two_by_two(self, rows: tuple[list[int], ...], block: int) -> None:
        with pytest.raises(ValueError, match="cannot be told apart"):
            fit_annotators(ratings(*rows), np.array([0.0, 1.0]), block=block)


class TestModel:
    def test_rating_by_hand(self) -> None:
        model = AnnotatorModel(slope=2.0, intercept=1.0, bias_sd=0.5, noise_sd=0.1)
        # 1 + 2·0.2 + 0.5·1 + 0.1·(−1) = 1.8; 1 + 2·(−0.9) + 0.5·1 + 0.1·2 = −0.1; 1 + 2·5 and 1 − 2·5 beyond the ends.
        logits = np.array([0.2, -0.9, 5.0, -5.0])
        got = model.rate(logits, np.ones(4), np.array([-1.0, 2.0, 0.0, 0.0]))
        assert got.tolist() == [2, 0, 4, -4]

    def test_a_rater_keeps_the_bias_within_a_block_only(self) -> None:
        model = AnnotatorModel(slope=0.0, intercept=0.0, bias_sd=1.5, noise_sd=0.0)
        blank = ratings([0] * 8, [0] * 8, [0] * 8, [0] * 5)
        rows = simulate_ratings(model, blank, np.zeros(4), seed=0, block=2).ratings
        assert [len(row) for row in rows] == [8, 8, 8, 5]
        assert rows[0].tolist() == rows[1].tolist() != rows[2].tolist()
        assert rows[2][:5].tolist() == rows[3].tolist()


class TestAgreement:
    def test_majority_by_hand(self) -> None:
        # Votes 1, 1, −1, 0 of the first pair: three quarters less the tie's half vote, 2.5 of 4. Of the second only
        # the ratings that have a partner count: 1, 1. The third is undecided and left out.
        table = ratings([3, 2, 1, 0], [1, 1, 2, 0], [4, 4, -4], [0, 1], [2, 2, 0], [1, 3, 0])
        ceiling = human_ceiling(table, pairs((0, 1), (2, 3), (4, 5)), seed=0)
        assert ceiling.majority == pytest.approx((2.5 / 4 + 1.0) / 2)

    def test_people_of_one_mind_agree_fully(self) -> None:
        ceiling = human_ceiling(ratings([3, 3, 3], [-1, -1, -1]), pairs((0, 1), (1, 0)), seed=0)
        assert (ceiling.majority, ceiling.single, ceiling.half_panel) == (1.0, 1.0, 1.0)

    def test_equal_ratings_count_half(self) -> None:
        # One of (0, 0, 3) against one of (0, 0, −3): alike with 4/9, which is half right; else in the others' order.
        table = ratings([0, 0, 3], [0, 0, -3])
        single = human_ceiling(table, pairs(*[(0, 1)] * 4000), seed=0).single
        # Without both of 3 and −3, with 1/9, the others' means are equal: that pair is undecided.
        decided, right = 1 - 1 / 9, 4 / 9 * 0.5 + 4 / 9
        assert single == pytest.approx(right / decided, abs=4 * 0.25 / math.sqrt(3500))

    def test_one_rating_is_no_agreement(self) -> None:
        with pytest.raises(ValueError, match="two of every snippet"):
            human_ceiling(ratings([1], [0, 2]), pairs((0, 1)), seed=0)

    def test_undecided_pairs_alone_give_no_figure(self) -> None:
        with pytest.raises(ValueError, match="none of the 1 pairs is decided"):
            human_ceiling(ratings([1, 1], [1, 1]), pairs((0, 1)), seed=0)

    # Krippendorff 2011: α = 1 − D_o / D_e over n ratings, D_o = Σ_units Σ_{i≠j} (x_i − x_j)² / (m_u − 1) / n and
    # D_e = Σ_{i≠j} (x_i − x_j)² / (n (n − 1)).
    @pytest.mark.parametrize(
        ("rows", "alpha"),
        [
            (([1, 1], [3, 3]), 1.0),
            (([1, 2], [3, 4]), 1 - 1 / (40 / 12)),
            (([1, 2, 3], [5, 5]), 1 - (12 / 2 / 5) / (128 / 20)),
            (([1, 3], [1, 3]), 1 - 4 / (32 / 12)),
        ],
    )
    def test_krippendorffs_alpha_by_hand(self, rows: tuple[list[int], ...], alpha: float) -> None:
        assert krippendorff_alpha(ratings(*rows)) == pytest.approx(alpha)


class TestHumanPairs:
    def test_hits_by_hand(self) -> None:
        some = HumanPairs(np.array([[0, 1], [1, 2], [2, 0]]), np.array([True, True, False]))
        scores = np.array([3.0, 1.0, 1.0])
        assert some.hits(scores).tolist() == [1.0, 0.5, 1.0]
        assert some.accuracy(scores) == pytest.approx(2.5 / 3)

    def test_drawn_pairs_are_ordered_by_people_and_further_apart_than_the_gap(self) -> None:
        rng = np.random.default_rng(0)
        table = ratings(*rng.integers(-4, 5, (40, 4)).tolist())
        drawn = human_pairs(table, 200, seed=1, min_gap=1.0)
        gap = table.means[drawn.pairs[:, 0]] - table.means[drawn.pairs[:, 1]]
        assert len(drawn.pairs) == 200
        assert (np.abs(gap) > 1.0).all()
        assert ((gap > 0) == drawn.first_better).all()
        assert drawn.accuracy(table.means) == 1.0
        assert 0.3 < drawn.first_better.mean() < 0.7
        again, other = human_pairs(table, 200, seed=1, min_gap=1.0), human_pairs(table, 200, seed=2, min_gap=1.0)
        assert np.array_equal(again.pairs, drawn.pairs)
        assert not np.array_equal(other.pairs, drawn.pairs)

    def test_too_few_pairs_are_refused(self) -> None:
        with pytest.raises(ValueError, match="5 pairs with a gap above 3"):
            human_pairs(ratings([0, 1], [2, 3]), 5, seed=0, min_gap=3)
