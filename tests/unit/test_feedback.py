"""Which pairs are compared, and what annotators and judges say about them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scipy import stats

from rft.errors import UserError
from rft.feedback.agreement import human_ceiling, krippendorff_alpha
from rft.feedback.ai import AiFeedback
from rft.feedback.ai import Config as AiConfig
from rft.feedback.annotators import AnnotatorModel, annotators_entry, fit_annotators, load_annotators
from rft.feedback.base import Answer, Feedback, Labels
from rft.feedback.judges.base import PointwiseJudge, Verdicts
from rft.feedback.judges.few_shot import Config as JudgeConfig
from rft.feedback.pairs import Pair, choose_pairs, read_pairs, write_pairs
from rft.feedback.ratings import RATINGS, TEXTS, Ratings, human_pairs, load_ratings, read_ratings
from rft.feedback.simulated import Config, Simulated
from rft.store import Store
from rft.tasks.tfidf import TfidfGold
from tests.unit.test_judge import few_shot

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from rft.tasks.imdb_sentiment import ImdbSentiment

PROMPTS = [f"train-{i:05d}" for i in range(20)]


class TestPairs:
    def test_counts_and_rows(self) -> None:
        pairs = choose_pairs(PROMPTS, 4, 3, 0.25, seed=0)
        assert [p.pair for p in pairs] == list(range(60))
        assert Counter(p.prompt_id for p in pairs) == dict.fromkeys(PROMPTS, 3)
        for p in pairs:
            assert {PROMPTS[p.first // 4], PROMPTS[p.second // 4]} == {p.prompt_id}

    def test_pairs_of_a_prompt_are_distinct_in_either_order(self) -> None:
        pairs = choose_pairs(PROMPTS, 4, 6, 0.0, seed=0)
        found = {frozenset((p.first, p.second)) for p in pairs}
        wanted = {frozenset(c) for i in range(20) for c in combinations(range(4 * i, 4 * i + 4), 2)}
        assert found == wanted
        assert len(pairs) == len(wanted) == 120

    def test_every_pair_and_order_is_as_likely(self) -> None:
        drawn = Counter(
            (p.first % 3, p.second % 3)
            for seed in range(30)
            for p in choose_pairs([str(i) for i in range(100)], 3, 1, 0.0, seed)
        )
        assert len(drawn) == 6
        assert stats.chisquare(list(drawn.values())).pvalue > 0.001

    @pytest.mark.parametrize(("fraction", "prompts"), [(0.0, 0), (0.25, 5), (0.001, 1), (0.9, 18)])
    def test_whole_prompts_are_held_out(self, fraction: float, prompts: int) -> None:
        pairs = choose_pairs(PROMPTS, 4, 2, fraction, seed=0)
        heldout = {p.prompt_id for p in pairs if p.heldout}
        assert len(heldout) == prompts
        assert not heldout & {p.prompt_id for p in pairs if not p.heldout}

    def test_the_seed_decides_all(self) -> None:
        assert choose_pairs(PROMPTS, 4, 2, 0.1, seed=3) == choose_pairs(PROMPTS, 4, 2, 0.1, seed=3)
        assert choose_pairs(PROMPTS, 4, 2, 0.1, seed=3) != choose_pairs(PROMPTS, 4, 2, 0.1, seed=4)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"samples_per_prompt": 1}, "samples_per_prompt is 1: it takes 2"),
            ({"pairs_per_prompt": 7}, "pairs_per_prompt is 7, but 4 samples a prompt make 6 pairs; ask for 1 to 6"),
            ({"pairs_per_prompt": 0}, "pairs_per_prompt is 0"),
            ({"heldout_fraction": 1.0}, r"heldout_fraction is 1\.0: it must be in \[0, 1\)"),
            ({"heldout_fraction": -0.1}, r"heldout_fraction is -0\.1"),
            ({"heldout_fraction": 0.99}, r"heldout_fraction is 0\.99: it holds out 20 of 20 prompts"),
            ({"seed": -1}, "seed is -1: it must be at least 0"),
        ],
    )
    def test_numbers_out_of_range_are_refused(self, change: dict[str, Any], message: str) -> None:
        settings = {"samples_per_prompt": 4, "pairs_per_prompt": 2, "heldout_fraction": 0.1, "seed": 0, **change}
        with pytest.raises(UserError, match=rf"candidates\.{message}"):
            choose_pairs(PROMPTS, **settings)

    def test_an_id_twice_is_refused(self) -> None:
        with pytest.raises(ValueError, match="duplicates"):
            choose_pairs(["a", "a"], 4, 2, 0.0, seed=0)

    def test_a_file_gives_back_what_was_written(self, tmp_path: Path) -> None:
        pairs = [Pair(0, "train-1", 5, 4, True), Pair(1, "train-2", 8, 11, False)]
        write_pairs(pairs, tmp_path / "pairs.parquet")
        assert read_pairs(tmp_path / "pairs.parquet") == pairs


class TestRatingFiles:
    @staticmethod
    def read(folder: Path, texts: str, ratings: str) -> Ratings:
        (folder / TEXTS).write_text(texts, "utf-8")
        (folder / RATINGS).write_text(ratings, "utf-8")
        return read_ratings(folder)

    def test_texts_and_ratings_are_joined_by_id(self, tmp_path: Path) -> None:
        texts = "1_1\t0.5\tgood\u0085film\n1_2\t-2\tbad\n"
        read = self.read(tmp_path, texts, "1_2\t-2\t0\t[-2, -2]\n1_1\t0.5\t1\t[1, 0, 4]\n")
        assert list(read.texts) == ["bad", "good\u0085film"]
        assert [row.tolist() for row in read.ratings] == [[-2, -2], [1, 0, 4]]
        assert read.means.tolist() == pytest.approx([-2, 5 / 3])
        assert read.counts.tolist() == [2, 3]

    @pytest.mark.parametrize(
        ("texts", "ratings", "where"),
        [
            ("1\t0\tgood\n2\t0\n", "1\t0\t0\t[1]\n", f"{TEXTS}:2: 2 fields, 3 wanted"),
            ("1\t0\tgood\n1\t0\tbad\n", "1\t0\t0\t[1]\n", f"{TEXTS}:2: the ID 1 is there twice"),
            ("1\t0\tgood\n", "1\t0\t[1]\n", f"{RATINGS}:1: 3 fields, 4 wanted"),
            ("1\t0\tgood\n", "2\t0\t0\t[1]\n", f"{RATINGS}:1: no text"),
            ("1\t0\tgood\n", "1\t0\t0\t[1]\n1\t0\t0\t[1]\n", f"{RATINGS}:2: no text"),
            ("1\t0\tgood\n2\t0\tbad\n", "1\t0\t0\t[1]\n", f"{RATINGS}: the ID 2 has no ratings"),
            *(
                ("1\t0\tgood\n", f"1\t0\t0\t{row}\n", f"{RATINGS}:1: no")
                for row in ("[", "[]", "[5]", "[NaN]", "[.5]", "3")
            ),
        ],
    )
    def test_a_wrong_line_is_named(self, tmp_path: Path, texts: str, ratings: str, where: str) -> None:
        with pytest.raises(UserError) as caught:
            self.read(tmp_path, texts, ratings)
        assert where in str(caught.value)
        assert "\n" not in str(caught.value)


# logit("good") = 2, logit("bad") = −1, logit of anything else 0.
GOLD = TfidfGold({"good": 0, "bad": 1}, np.ones(2), np.array([2.0, -1.0]), 0.0)
PLAIN = AnnotatorModel(slope=1.0, intercept=0.0, bias_sd=0.7, noise_sd=0.8)
SURE = Config(bias_scale=0.0, noise_scale=0.0)


def said(*texts: str) -> list[Answer]:
    return [Answer("", text) for text in texts]


def index(*pairs: tuple[int, int]) -> Any:
    return np.array(pairs, dtype=np.int64)


class TestSimulated:
    def test_without_bias_and_noise_by_hand(self) -> None:
        texts = ["good", "bad", "so so", "never asked"]
        labels = Simulated(SURE, GOLD, PLAIN).label(said(*texts), index((0, 1), (1, 2), (2, 2)))
        assert labels.preference.tolist() == [1.0, 0.0, 0.5]
        assert labels.scores[:3].tolist() == [2.0, -1.0, 0.0]
        assert np.isnan(labels.scores[3])
        answer = json.loads(labels.raw[0])
        assert (answer["first"], answer["second"]) == ([2, 2, 2], [-1, -1, -1])

    def test_preference_and_score_are_the_raw_answers_means(self) -> None:
        texts = [f"{word} {i}" for i in range(20) for word in ("good", "bad", "odd")]
        pairs = index(*((3 * i + a, 3 * i + b) for i in range(20) for a, b in ((0, 1), (2, 0))))
        labels = Simulated(Config(raters=7, raters_per_pair=5), GOLD, PLAIN).label(said(*texts), pairs)
        given: dict[int, list[int]] = {}
        for m, (pair, raw) in enumerate(zip(pairs.tolist(), labels.raw, strict=True)):
            answer = json.loads(raw)
            assert len(set(answer["raters"])) == 5
            assert set(answer["raters"]) <= set(range(7))
            votes = [
                1.0 if a > b else 0.5 if a == b else 0.0 for a, b in zip(answer["first"], answer["second"], strict=True)
            ]
            assert labels.preference[m] == pytest.approx(sum(votes) / 5)
            for text, side in zip(pair, ("first", "second"), strict=True):
                given.setdefault(text, []).extend(answer[side])
        for text, some in given.items():
            assert labels.scores[text] == pytest.approx(np.mean(some))
        assert 0.0 < labels.preference.mean() < 1.0

    def test_a_label_does_not_depend_on_what_else_is_labelled(self) -> None:
        texts = [f"good bad {i}" for i in range(12)]
        pairs = index(*((i, i + 1) for i in range(11)))
        whole = Simulated(Config(), GOLD, PLAIN).label(said(*texts), pairs)
        order = [7, 2, 9]
        part = Simulated(Config(), GOLD, PLAIN).label(said(*texts), pairs[order])
        assert part.preference.tolist() == whole.preference[order].tolist()
        assert part.raw == [whole.raw[i] for i in order]
        elsewhere = Simulated(Config(), GOLD, PLAIN).label(said(texts[8], "other", texts[7]), index((2, 0)))
        assert elsewhere.raw == [whole.raw[7]]
        assert len(set(whole.raw)) == 11

    def test_the_seed_decides_all(self) -> None:
        texts, pairs = [f"good {i}" for i in range(20)], index(*((i, i + 1) for i in range(19)))
        first, again, other = (
            Simulated(Config(seed=seed), GOLD, PLAIN).label(said(*texts), pairs).raw for seed in (0, 0, 1)
        )
        assert first == again
        assert first != other

    def test_a_person_has_one_bias_for_good(self) -> None:
        biased = AnnotatorModel(slope=0.0, intercept=0.0, bias_sd=1.5, noise_sd=0.0)
        texts, pairs = [f"text {i}" for i in range(60)], index(*((i, i + 1) for i in range(59)))
        labels = Simulated(Config(raters=6), GOLD, biased).label(said(*texts), pairs)
        given: dict[int, set[int]] = {}
        for answer in map(json.loads, labels.raw):
            for rater, first, second in zip(answer["raters"], answer["first"], answer["second"], strict=True):
                given.setdefault(rater, set()).update((first, second))
        assert set(given) == set(range(6))
        assert {len(ratings) for ratings in given.values()} == {1}
        assert len(set.union(*given.values())) > 1

    def test_noise_turns_as_many_preferences_as_it_must(self) -> None:
        # Ratings of N(1, σ²) and N(0, σ²), rounded and clipped: P(a > b) + ½ P(a = b), summed over −4..4.
        noise, edges = 1.2, np.array([-np.inf, *np.arange(-3.5, 4), np.inf])
        first, second = (np.diff(stats.norm.cdf(edges, mean, noise)) for mean in (1.0, 0.0))
        wanted = float(first @ (np.cumsum(second) - second / 2))
        model = AnnotatorModel(slope=0.5, intercept=0.0, bias_sd=0.0, noise_sd=0.6)
        texts = [f"{word} {i}" for i in range(2000) for word in ("good", "odd")]
        pairs = index(*((2 * i, 2 * i + 1) for i in range(2000)))
        labels = Simulated(Config(noise_scale=2.0), GOLD, model).label(said(*texts), pairs)
        assert labels.preference.mean() == pytest.approx(wanted, abs=4 * 0.45 / np.sqrt(6000))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"raters_per_pair": 0}, r"feedback\.raters_per_pair is 0: it must be from 1 to feedback\.raters \(20\)"),
            ({"raters_per_pair": 21}, r"feedback\.raters_per_pair is 21"),
            ({"bias_scale": -0.5}, r"feedback\.bias_scale is -0\.5: it must be at least 0"),
            ({"noise_scale": float("nan")}, r"feedback\.noise_scale is nan"),
            ({"seed": -1}, r"feedback\.seed is -1"),
        ],
    )
    def test_settings_out_of_range_are_refused(self, change: dict[str, Any], message: str) -> None:
        with pytest.raises(UserError, match=message):
            Simulated(replace(Config(), **change), GOLD, PLAIN)


class Table(PointwiseJudge):
    """Knows the scores of some texts and remembers what it was asked."""

    def __init__(self, scores: Mapping[str, float]) -> None:
        self.scores = scores
        self.asked: list[str] = []

    def score(self, answers: Sequence[Answer]) -> Verdicts:
        texts = [answer.text for answer in answers]
        self.asked += texts
        return Verdicts(np.array([self.scores[t] for t in texts]), [{"score": self.scores[t]} for t in texts])


class TestAi:
    @pytest.mark.parametrize("temperature", [1.0, 0.5])
    def test_preference_is_bradley_terry_on_the_scores(self, temperature: float) -> None:
        judge = Table({"a": 0.0, "b": temperature * np.log(3), "c": 2000.0})
        labels = AiFeedback(AiConfig(temperature), judge).label(
            said("a", "b", "c"), index((0, 1), (1, 0), (1, 1), (2, 0), (0, 2))
        )
        assert labels.preference == pytest.approx([0.25, 0.75, 0.5, 1.0, 0.0])
        assert json.loads(labels.raw[0]) == {"first": {"score": 0.0}, "second": {"score": judge.scores["b"]}}

    def test_each_text_is_asked_about_once_and_others_never(self) -> None:
        judge = Table({"a": 1.0, "c": 2.0, "d": 3.0})
        labels = AiFeedback(AiConfig(), judge).label(said("a", "b", "c", "d"), index((3, 0), (3, 2), (0, 2)))
        assert sorted(judge.asked) == ["a", "c", "d"]
        assert np.isnan(labels.scores[1])
        assert labels.scores[[0, 2, 3]].tolist() == [1.0, 2.0, 3.0]

    @pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
    def test_a_temperature_that_is_not_above_zero_is_refused(self, temperature: float) -> None:
        with pytest.raises(UserError, match=r"feedback\.temperature is"):
            AiFeedback(AiConfig(temperature), Table({}))


@pytest.mark.parametrize("source", [Simulated(SURE, GOLD, PLAIN), AiFeedback(AiConfig(), Table({"a": 0.0, "b": 0.0}))])
class TestEverySource:
    @pytest.mark.parametrize("pairs", [np.zeros(2, int), np.zeros((1, 3), int), np.zeros((1, 2))])
    def test_pairs_of_another_form_are_refused(self, source: Feedback, pairs: Any) -> None:
        with pytest.raises(ValueError, match=r"\[M, 2\] integers are wanted"):
            source.label(said("a", "b"), pairs)

    @pytest.mark.parametrize("row", [2, -1])
    def test_a_row_out_of_reach_is_named(self, source: Feedback, row: int) -> None:
        with pytest.raises(IndexError, match=rf"pair 1 is \[0, {row}\], but there are 2 answers"):
            source.label(said("a", "b"), index((0, 1), (0, row)))


@pytest.mark.assets
class TestRealParts:
    def test_sources_can_be_compared_label_by_label(
        self, tiny: tuple[PreTrainedModel, PreTrainedTokenizerBase]
    ) -> None:
        texts = [f"The film was {word} {i}." for i in range(6) for word in ("good", "bad", "so so", "long")]
        chosen = choose_pairs([str(i) for i in range(6)], 4, 2, 0.2, seed=0)
        pairs = index(*((p.first, p.second) for p in chosen))
        sources = (Simulated(Config(), GOLD, PLAIN), AiFeedback(AiConfig(), few_shot(JudgeConfig(), *tiny)))
        labels: list[Labels] = [source.label(said(*texts), pairs) for source in sources]
        for some in labels:
            assert some.scores.shape == (24,)
            assert some.preference.shape == (12,)
            assert ((some.preference >= 0) & (some.preference <= 1)).all()
            assert [set(json.loads(raw)) >= {"first", "second"} for raw in some.raw] == [True] * 12
            assert set(np.flatnonzero(~np.isnan(some.scores))) == set(pairs.ravel().tolist())
        ai = labels[1]
        margin = ai.scores[pairs[:, 0]] - ai.scores[pairs[:, 1]]
        np.testing.assert_allclose(ai.preference, 1 / (1 + np.exp(-margin)))
        np.testing.assert_allclose(
            sources[1].label(said(*texts), pairs[:, ::-1]).preference, 1 - ai.preference, atol=1e-5
        )

    def test_people_agree_as_published(self, run_store: Store) -> None:
        ratings = load_ratings(run_store)
        assert len(ratings) == 10_605
        ceiling = human_ceiling(ratings, human_pairs(ratings, 5000, seed=1), seed=0)
        # A share of 5,000 has a standard error of 0.005 at most.
        assert ceiling.majority == pytest.approx(0.845, abs=0.02)
        assert ceiling.single < ceiling.half_panel < 1.0
        assert krippendorff_alpha(ratings) == pytest.approx(0.79, abs=0.015)

    @pytest.mark.slow
    def test_simulated_people_agree_like_real_ones(self, imdb: ImdbSentiment, run_store: Store) -> None:
        entry = annotators_entry(imdb)
        measured: Any = entry.metrics
        for name in ("majority", "single", "half_panel", "krippendorff_alpha"):
            assert measured["simulated"][name] == pytest.approx(measured["human"][name], abs=0.03), name
        model = load_annotators(entry.path)
        ratings = load_ratings(run_store)
        logits = imdb.load_gold(imdb.gold_entry().path).logit(ratings.texts)
        assert model == fit_annotators(ratings, logits)
        assert measured["gold_human_correlation"] == pytest.approx(np.corrcoef(logits, ratings.means)[0, 1])
        assert measured["gold_human_correlation"] > 0.5
