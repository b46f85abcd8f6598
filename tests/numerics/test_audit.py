"""Every figure of an audit against its closed form, a hand-computed value or an independent implementation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scipy.stats import binomtest, norm
from sklearn.metrics import roc_auc_score

from rft.feedback.agreement import human_agreements, one_person
from rft.feedback.audit import (
    attack_success,
    auc,
    calibration,
    consistency,
    difference,
    length_preference,
    order_effects,
    picks,
    self_preference,
    share,
)
from rft.feedback.audit_cases import Answered, rated_cases
from rft.feedback.base import Work
from rft.feedback.clarity import CLARITY, PairCases, RankedCases, agreement, with_people
from rft.feedback.economics import LABELLERS, LabelCosts, Panel, divide, label_economics
from rft.feedback.ratings import HumanPairs, Ratings

if TYPE_CHECKING:
    from numpy.typing import NDArray

NAN = float("nan")
Z = float(norm.ppf(0.975))


class TestShare:
    @pytest.mark.parametrize(("successes", "n"), [(0, 7), (7, 7), (3, 10), (340, 400), (1, 1)])
    def test_is_wilson_of_scipy(self, successes: int, n: int) -> None:
        found = share([1.0] * successes + [0.0] * (n - successes))
        wanted = binomtest(successes, n).proportion_ci(method="wilson")
        assert found is not None
        assert found["value"] == pytest.approx(successes / n)
        assert (found["low"], found["high"]) == pytest.approx((wanted.low, wanted.high), abs=1e-12)
        assert found["n"] == n

    def test_a_half_counts_half_and_nan_not_at_all(self) -> None:
        assert share([0.5, NAN, 1.0, 0.0, 0.5]) == share([1.0, 1.0, 0.0, 0.0])

    def test_of_nothing_is_nothing(self) -> None:
        assert share([]) is None
        assert share([NAN]) is None


class TestDifference:
    def test_by_hand(self) -> None:
        """36 cases with both, 12 with the first alone, 2 with the second alone, none with neither; n = 50.

        p₁ = 48/50, p₂ = 38/50, φ = (36·0 − 12·2)/√(48·2·38·12) = −0.1147; Wilson's limits are 0.8654, 0.9890 and
        0.6259, 0.8570, so that low = 0.20 − √(0.0946² + 2·0.1147·0.0946·0.0970 + 0.0970²) = 0.0569 and
        high = 0.20 + √(0.0290² + 2·0.1147·0.0290·0.1341 + 0.1341²) = 0.3404.
        """
        one = [1.0] * 48 + [0.0] * 2
        other = [1.0] * 36 + [0.0] * 12 + [1.0] * 2
        found = difference(one, other)
        assert found is not None
        assert found["value"] == pytest.approx(0.20)
        assert (found["low"], found["high"]) == pytest.approx((0.0569, 0.3404), abs=5e-4)

    def test_equal_series_differ_by_almost_nothing(self) -> None:
        same = np.r_[np.ones(60), np.zeros(40)]
        found = difference(same, same)
        assert found is not None
        assert found["value"] == 0
        assert -0.05 < found["low"] <= 0 <= found["high"] < 0.05

    def test_covers_the_truth_about_as_often_as_it_says(self) -> None:
        rng, inside = np.random.default_rng(0), 0
        for _ in range(400):
            shared = rng.random(80) < 0.5
            one, other = shared | (rng.random(80) < 0.4), shared | (rng.random(80) < 0.1)
            found = difference(one, other)
            assert found is not None
            inside += found["low"] <= 0.15 <= found["high"]
        assert 0.925 <= inside / 400 <= 0.985

    def test_a_case_that_one_lacks_is_left_out(self) -> None:
        found = difference([1.0, 1.0, NAN], [0.0, NAN, 1.0])
        assert found is not None
        assert (found["value"], found["n"]) == (1.0, 1)


class TestAuc:
    def test_by_hand(self) -> None:
        """Positives 1 and 3 against negatives 0 and 2: three of four comparisons are right.

        Placements ½, 1 and 1, ½: variance of each ⅛, so that the AUC's is ⅛/2 + ⅛/2 and its interval reaches past 1.
        """
        found = auc([1.0, 3.0, 0.0, 2.0], [True, True, False, False])
        assert found is not None
        assert found["value"] == 0.75
        assert found["low"] == pytest.approx(0.75 - Z * np.sqrt(0.125))
        assert (found["high"], found["n"]) == (1.0, 4)

    def test_variance_by_the_placements_spelled_out(self) -> None:
        rng = np.random.default_rng(1)
        labels = rng.random(60) < 0.4
        scores = np.round(rng.normal(size=60) + labels, 1)  # with ties
        wins = (np.sign(scores[labels][:, None] - scores[~labels][None]) + 1) / 2
        above, below = wins.mean(axis=1), wins.mean(axis=0)
        half = Z * np.sqrt(above.var(ddof=1) / len(above) + below.var(ddof=1) / len(below))
        found = auc(scores, labels)
        assert found is not None
        assert found["value"] == pytest.approx(roc_auc_score(labels, scores)) == pytest.approx(wins.mean())
        assert found["high"] - found["value"] == pytest.approx(half)

    def test_needs_both_sides_and_leaves_out_nan(self) -> None:
        assert auc([1.0, 2.0], [True, True]) is None
        assert auc([1.0, NAN], [True, False]) is None
        assert auc([1.0, NAN, 0.0], [True, False, False]) == auc([1.0, 0.0], [True, False])


def test_picks_the_better_one() -> None:
    preference = np.array([0.9, 0.1, 0.5, NAN, 0.4])
    hits = picks(preference, np.array([True, True, True, True, False]))
    np.testing.assert_array_equal(hits, [1, 0, 0.5, NAN, 1])


class TestOrder:
    @pytest.mark.parametrize("bias", [0.0, 0.25, 1.0])
    def test_of_a_judge_that_takes_the_first_shown_in_a_share_of_the_pairs(self, bias: float) -> None:
        """Biased pairs flip and stay at their place; of the others, half the presentations show the winner first."""
        biased = np.arange(400) < 400 * bias
        truth = np.where(np.arange(400) % 2, 0.9, 0.1)
        orders = np.where(biased[:, None], [[0.9, 0.1]], truth[:, None])
        found = order_effects(orders)
        values = {name: found[name]["value"] for name in ("flips", "same_position", "first_shown")}
        assert values == pytest.approx({"flips": bias, "same_position": bias, "first_shown": (1 + bias) / 2})

    def test_the_second_place_can_be_preferred_too(self) -> None:
        found = order_effects(np.array([[0.2, 0.8]] * 10))
        assert (found["same_position"]["value"], found["first_shown"]["value"]) == (1.0, 0.0)

    def test_ties_and_what_is_excluded(self) -> None:
        """From a win to a tie is a flip and no position; two ties are neither."""
        found = order_effects(np.array([[0.9, 0.5], [0.5, 0.5], [NAN, 0.9], [0.9, NAN], [0.7, 0.6]]))
        assert found["pairs"] == 3
        assert found["flips"]["value"] == pytest.approx(1 / 3)
        assert found["same_position"]["value"] == 0


class TestLength:
    def test_excess_is_what_people_do_not_share(self) -> None:
        """A judge that always takes the longer one, where people take it in three of four pairs."""
        lengths = np.array([[5, 3], [3, 5], [9, 1], [1, 9]] * 10)
        longer = lengths[:, 0] > lengths[:, 1]
        people = np.where(np.arange(40) % 4 == 3, ~longer, longer)
        found = length_preference(np.where(longer, 0.8, 0.2), people, lengths)
        assert (found["judge_longer"]["value"], found["human_longer"]["value"]) == (1.0, 0.75)
        assert found["excess"]["value"] == 0.25
        assert found["excess"]["low"] > 0

    def test_a_judge_that_agrees_with_people_has_none(self) -> None:
        rng = np.random.default_rng(2)
        people, lengths = rng.random(100) < 0.5, rng.integers(1, 50, size=(100, 2))
        found = length_preference(np.where(people, 0.8, 0.2), people, lengths)
        assert found["excess"]["value"] == 0
        assert found["pairs"] == int((lengths[:, 0] != lengths[:, 1]).sum())

    def test_equal_lengths_say_nothing(self) -> None:
        found = length_preference(np.array([0.9]), np.array([True]), np.array([[4, 4]]))
        assert found == {"pairs": 0, "judge_longer": None, "human_longer": None, "excess": None}


class TestCalibration:
    def test_of_what_is_right_as_often_as_it_says(self) -> None:
        """0.75 and right in three of four: no error, and a Brier score of 0.75 · 0.25."""
        found = calibration(np.full(8, 0.75), np.array([True, True, True, False] * 2))
        assert found["ece"] == pytest.approx(0)
        assert found["brier"] == pytest.approx(0.1875)
        assert found["bins"] == [{"low": 0.7, "high": 0.8, "pairs": 8, "judge": 0.75, "human": 0.75}]

    def test_by_hand_over_two_bins(self) -> None:
        """ECE = 3/4 · |0.95 − 2/3| + 1/4 · |0.05 − 1|; a verdict that cannot be read counts nowhere."""
        found = calibration(np.array([0.95, 0.95, 0.95, 0.05, NAN]), np.array([True, True, False, True, True]))
        assert found["ece"] == pytest.approx(0.75 * (0.95 - 2 / 3) + 0.25 * 0.95)
        assert found["brier"] == pytest.approx((2 * 0.05**2 + 2 * 0.95**2) / 4)

    def test_certainty_lies_in_the_last_bin(self) -> None:
        found = calibration(np.array([1.0, 0.0]), np.array([True, False]))
        assert [b["low"] for b in found["bins"]] == [0.0, 0.9]
        assert (found["ece"], found["brier"]) == (0, 0)

    def test_of_nothing(self) -> None:
        assert calibration(np.array([NAN]), np.array([True])) == {"bins": [], "ece": None, "brier": None}


def test_self_preference_is_beyond_what_the_standard_says() -> None:
    judge, standard = np.array([0.9] * 30 + [0.1] * 10), np.array([1.0] * 10 + [0.0] * 30)
    found = self_preference(np.r_[judge, NAN], np.r_[standard, 1.0])
    assert (found["pairs"], found["judge_own"]["value"], found["gold_own"]["value"]) == (40, 0.75, 0.25)
    assert found["excess"]["value"] == 0.5
    assert self_preference(standard, standard)["excess"]["value"] == 0


def test_consistency() -> None:
    found = consistency(np.array([0.9, 0.2, 0.5, 0.6, NAN]), np.array([0.7, 0.8, 0.5, 0.6, 0.5]))
    assert (found["pairs"], found["same"]["value"]) == (4, 0.75)
    assert found["mean_change"] == pytest.approx((0.2 + 0.6) / 4)


def both(values: Any) -> NDArray[np.float64]:
    """The same in both orders."""
    return np.repeat(np.asarray(values, dtype=np.float64)[..., None], 2, axis=-1)


ANYWHERE = np.ones((2, 2), dtype=bool)


class TestAttacks:
    def test_counts_only_what_was_right_before(self) -> None:
        before = both([0.9, 0.8, 0.3, 0.5, NAN])
        attacked = both([[0.1, 0.9], [0.9, 0.9], [0.1, 0.1], [0.1, 0.1], [0.1, 0.1]])
        found = attack_success(before, attacked, both([0.9, 0.4, 0.1, 0.1, 0.1]), ["one", "two"], ANYWHERE)
        assert found["pairs"] == 2
        assert (found["success"]["value"], found["success"]["n"]) == (0.25, 2)
        assert found["control"]["value"] == 0.5
        assert {one["attack"]: one["success"]["value"] for one in found["by_attack"]} == {"one": 0.5, "two": 0.0}

    def test_a_tie_is_no_success_and_what_cannot_be_read_no_try(self) -> None:
        attacked = both([[0.5, NAN], [0.1, NAN]])
        found = attack_success(both([0.9, 0.9]), attacked, both([NAN, NAN]), ["one", "two"], ANYWHERE)
        assert found["success"]["value"] == 0.5
        assert found["control"] is None
        assert found["by_attack"][1]["success"] is None

    def test_of_a_judge_that_is_never_right(self) -> None:
        found = attack_success(both([0.2]), both([[0.1]]), both([0.1]), ["one"], ANYWHERE[:1])
        assert (found["pairs"], found["success"]) == (0, None)

    def test_each_order_counts_for_itself(self) -> None:
        """One pair right in both orders, one only where the better is shown first; what a mean of orders hides."""
        before = np.array([[0.9, 0.9], [0.9, 0.1]])
        attacked = np.array([[[0.9, 0.1]], [[0.1, 0.1]]])
        control = np.array([[0.1, 0.9], [0.9, 0.1]])
        found = attack_success(before, attacked, control, ["one"], ANYWHERE[:1])
        assert found["pairs"] == 2
        assert found["success"]["value"] == pytest.approx((1 / 2 + 1) / 2)
        assert found["control"]["value"] == pytest.approx((1 / 2 + 0) / 2)

    def test_an_order_in_which_an_attack_cannot_work_is_no_try(self) -> None:
        """Both pick A: of the first attack, which names A, only the order counts in which the worse is shown first."""
        before, attacked = np.array([[0.9, 0.9]]), np.array([[[0.9, 0.1], [0.9, 0.9]]])
        works = np.array([[False, True], [True, True]])
        found = attack_success(before, attacked, before, ["one", "two"], works)
        assert [one["success"]["value"] for one in found["by_attack"]] == [1, 0]
        # Better shown first: the second attack alone, 0. Shown second: one of two.
        assert found["success"]["value"] == pytest.approx((0 + 1 / 2) / 2)


class TestClarity:
    """Six pairs and six texts; one without a verdict counts nowhere, one without a majority in no person's figure."""

    pairs = PairCases(
        hits=np.array([0, 0, 1, 0.5, NAN, 1]),
        people={"majority": np.array([0.5, 0.6, 0.7, 0.8, 0.9, NAN])},
        clear_by=np.array([0.2, 0.5, 0.6, 1.0, 1.5, 2.0]),
    )
    ranked = RankedCases(
        judge=np.array([0.0, 3, 1, 2, 4, -1]),
        means=np.array([-0.2, 0.5, 0.6, -0.7, 1.5, -2]),
        person=np.array([1.0, -1, 2, 2, 3, -4]),
        others=np.array([-0.3, 0.6, 0.5, 0, 1.4, -1.9]),
    )

    @pytest.mark.parametrize(
        ("above", "hits", "majority"), [(0.0, [0, 0, 1, 0.5, 1], 0.7), (0.5, [1, 0.5, 1], 0.8), (1.0, [1], 0.9)]
    )
    def test_of_pairs_those_further_apart_count(self, above: float, hits: list[float], majority: float) -> None:
        found = agreement(self.pairs, self.ranked, above)
        assert (found["pairs"], found["accuracy"]) == (len(hits), share(hits))
        assert found["ceiling"]["majority"] == pytest.approx(majority)

    def test_of_texts_those_further_from_neutral_count(self) -> None:
        """All: positives 3, 1, 4 against 0, 2, −1: all but 1 against 2. Beyond a half: 1, 4 against 2, −1: 3 of 4."""
        every, half, one = (agreement(self.pairs, self.ranked, above) for above in (0.0, 0.5, 1.0))
        assert every["auc"]["value"] == pytest.approx(8 / 9)
        assert (half["auc"]["value"], half["auc"]["n"]) == (0.75, 4)
        assert (one["auc"]["value"], one["auc"]["n"]) == (1.0, 2)

    def test_a_person_is_measured_against_the_others_on_the_same_texts(self) -> None:
        """All: −1, 2, 3 against 1, −4, since the others of the fourth are undecided: 5 of 6. Beyond a half: all."""
        every, half = (agreement(self.pairs, self.ranked, above) for above in (0.0, 0.5))
        assert (every["auc_person"]["value"], every["auc_person"]["n"]) == (pytest.approx(5 / 6), 5)
        assert (half["auc_person"]["value"], half["auc_person"]["n"]) == (1.0, 3)

    def test_rounding_alone_makes_no_pair_clear(self) -> None:
        near = PairCases(np.array([1.0]), {"majority": np.array([1.0])}, np.array([1.35 - 0.85]))
        assert near.clear_by[0] > 0.5
        assert agreement(near, self.ranked, 0.5)["pairs"] == 0

    def test_of_nothing_is_nothing(self) -> None:
        assert agreement(self.pairs, self.ranked, 9.0) == {
            "pairs": 0, "accuracy": None, "auc": None, "auc_person": None, "ceiling": {"majority": None},
        }  # fmt: skip

    def test_one_person_and_the_others_by_hand(self) -> None:
        """Of the ratings 1, 2, 6 the others' mean is 4, 3½ or 1½; over many draws each person comes up."""
        table = Ratings(["a"], [np.array([1.0, 2.0, 6.0])])
        seen = {tuple(float(one[0]) for one in one_person(table, [0], seed)) for seed in range(40)}
        assert seen == {(1.0, 4.0), (2.0, 3.5), (6.0, 1.5)}
        with pytest.raises(ValueError, match="one rating"):
            one_person(Ratings(["a"], [np.array([1.0])]), [0], 0)

    def test_a_judge_that_scores_and_one_that_compares(self) -> None:
        """Means 2, 1, 0.4 and −0.3; the judge takes the third for the best.

        Pairs (0, 1), (1, 2), (2, 3): right, wrong, right, clear by 1, 0.6 and 0.7. Beyond a half all three are left,
        beyond a whole point none, as 1 is not more than 1. Of texts the first two alone are beyond a half, both above.
        """
        rows = [np.full(10, 2.0), np.full(10, 1.0), np.r_[np.ones(4), np.zeros(6)], np.r_[-np.ones(3), np.zeros(7)]]
        table = Ratings(["a", "b", "c", "d"], rows)
        rated = HumanPairs(np.array([[0, 1], [1, 2], [2, 3]]), np.array([True, True, True]))
        cases = rated_cases(table, rated)
        orders = np.array([[0.8, 0.8], [0.2, 0.2], [0.9, 0.9]])
        answers = dict.fromkeys(answer for case in cases for answer in case.answers)
        scores = dict(zip(answers, [1.5, 0.5, 3.0, -1.0], strict=True))
        compared, scored = (
            with_people(table, rated, cases, Answered(orders, [], given, Work(), 0.0), 0) for given in (None, scores)
        )
        for found in (compared, scored):
            assert [part["above"] for part in found["clear"]] == list(CLARITY) == [0.5, 1.0]
            assert (found["pairs"], [part["pairs"] for part in found["clear"]]) == (3, [3, 0])
            assert found["accuracy"]["value"] == found["clear"][0]["accuracy"]["value"] == pytest.approx(2 / 3)
            expected = {name: float(np.nanmean(v)) for name, v in human_agreements(table, rated, 0).items()}
            assert found["ceiling"] == found["clear"][0]["ceiling"] == pytest.approx(expected)
            assert set(found["clear"][1]["ceiling"].values()) == {None}
        assert compared["auc"] is None  # the first is the better of every pair
        assert (scored["auc"]["value"], scored["auc"]["n"]) == (1.0, 4)
        assert scored["clear"][0]["auc"] is None
        assert [case.means for case in cases] == [(2.0, 1.0), (1.0, 0.4), (0.4, -0.3)]


def flipping(flip: float, raters: int, pairs: int) -> tuple[Ratings, HumanPairs]:
    """Raters who each order every pair wrongly with probability `flip`, independently; the first is the better."""
    rng = np.random.default_rng(3)
    wrong = rng.random((pairs, raters)) < flip
    rows = [row for pair in wrong for row in (np.where(pair, -1.0, 1.0), np.zeros(raters))]
    index = np.arange(2 * pairs).reshape(-1, 2)
    return Ratings([str(i) for i in range(2 * pairs)], rows), HumanPairs(index, np.full(pairs, True))


class TestEconomics:
    costs = LabelCosts(person=1.0, simulated=3.0, judge=0.01)

    def rows(self, panel: Panel, judge: np.ndarray) -> dict[tuple[str, float | None], dict[str, float]]:
        found = label_economics(panel, judge, np.ones(len(judge)), self.costs)
        assert [(row["source"], row["share_human"]) for row in found] == [
            ("one person", None), ("three people", None), ("simulated", None), ("ai", None),
            ("mixed", 0.1), ("mixed", 0.25), ("mixed", 0.5),
        ]  # fmt: skip
        return {(row["source"], row["share_human"]): row for row in found}

    def test_one_and_three_people_by_the_binomial(self) -> None:
        """With a majority that is never wrong one person agrees in 1 − q, three in (1 − q)³ + 3q(1 − q)²."""
        q = 0.2
        panel = divide(*flipping(q, 60, 400), seed=0)
        rows = self.rows(panel, np.full(400, 0.9))
        one, three = rows["one person", None]["agreement"], rows["three people", None]["agreement"]
        assert one["value"] == pytest.approx(1 - q, abs=0.02)
        assert three["value"] == pytest.approx((1 - q) ** 3 + 3 * q * (1 - q) ** 2, abs=0.02)
        assert (one["n"], rows["ai", None]["agreement"]["value"]) == (400, 1.0)

    def test_who_labels_is_not_in_the_majority(self) -> None:
        """Four coins: with its own vote among them one agrees with the majority in more than half of the cases."""
        panel = divide(*flipping(0.5, 4, 2000), seed=0)
        assert self.rows(panel, np.full(2000, 0.9))["one person", None]["agreement"]["value"] == pytest.approx(
            0.5, abs=0.03
        )

    def test_a_mix_asks_people_where_the_judge_is_least_sure(self) -> None:
        """The judge is wrong in the tenth of which it is least sure, people never are."""
        panel = divide(*flipping(0.0, 10, 100), seed=0)
        judge = np.where(np.arange(100) < 10, 0.45, 0.9)
        rows = self.rows(panel, judge[::-1].copy())
        assert rows["ai", None]["agreement"]["value"] == pytest.approx(0.9)
        assert [rows["mixed", part]["agreement"]["value"] for part in (0.1, 0.25, 0.5)] == [1.0, 1.0, 1.0]
        assert [rows["mixed", part]["cost_per_label"] for part in (0.1, 0.5)] == pytest.approx([0.11, 0.51])
        assert rows["three people", None]["cost_per_label"] == LABELLERS

    def test_people_take_what_the_judge_left_unread(self) -> None:
        panel = divide(*flipping(0.0, 10, 20), seed=0)
        judge = np.where(np.arange(20) < 2, NAN, 0.51)
        rows = self.rows(panel, judge)
        assert (rows["ai", None]["agreement"]["n"], rows["mixed", 0.1]["agreement"]["n"]) == (18, 20)

    def test_too_few_raters_are_refused(self) -> None:
        with pytest.raises(ValueError, match="3 comparisons: more than 3"):
            divide(*flipping(0.0, 3, 2), seed=0)
