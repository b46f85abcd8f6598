"""The lexicon's rule on hand-made words, and its file."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rft.errors import UserError
from rft.rewards.lexicon import NEGATED, Config, LexiconReward, read_lexicon
from rft.store import Store
from rft.store.assets import fetch

TABLE = "good\t1.9\t0.9\t[2, 2]\n:)\t2.0\t1.1\t[2]\nbad\t-2.5\t0.6\t[-3, -2]\nso so\t0.4\t1\t[0]\n$:\t-1.5\t0.8\t[-1]\n"


def rule(**settings: Any) -> LexiconReward:
    reward = LexiconReward(Config(**settings), SimpleNamespace())  # type: ignore[arg-type]
    reward.valences = {"good": 2.0, "bad": -3.0}
    return reward


@pytest.mark.parametrize(
    ("text", "total", "words"),
    [
        ("", 0.0, 8),
        ("It is a film.", 0.0, 8),
        ("Good, GOOD and bad!", 2 + 2 - 3, 8),
        ("not a good film", NEGATED * 2, 8),
        ("It isn’t bad", NEGATED * -3, 8),
        ("no one I know of is good", 2.0, 8),  # six words back
        ("good " * 10, 20.0, 10),
        ("goodness", 0.0, 8),
    ],
)
def test_a_text_scores_the_mean_of_its_words(text: str, total: float, words: int) -> None:
    assert rule().sentiment(text) == pytest.approx(total / words)


def test_negation_can_be_left_out_and_the_least_words_set() -> None:
    assert rule(negation_window=0).sentiment("not good") == pytest.approx(2 / 8)
    assert rule(negation_window=1).sentiment("not a good film") == pytest.approx(2 / 8)
    assert rule(least_words=1).sentiment("not good") == pytest.approx(NEGATED * 2 / 2)


def test_the_table_gives_its_plain_words(tmp_path: Path) -> None:
    path = tmp_path / "table.txt"
    path.write_text(TABLE, encoding="utf-8")
    assert read_lexicon(path) == {"bad": -2.5, "good": 1.9}
    path.write_text(TABLE + "fine\tgood\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"table\.txt:6: no number after the word 'fine'"):
        read_lexicon(path)


def test_what_was_saved_is_read_to_the_last_bit(tmp_path: Path) -> None:
    reward = rule()
    reward.valences = {"good": 1.9000000000000001, "bad": -1 / 3}
    reward.save(tmp_path)
    again = rule()
    again.load(tmp_path)
    assert again.valences == reward.valences


@pytest.mark.assets
def test_the_real_lexicon_is_that_of_the_paper(store_root: Path) -> None:
    """The examples of its own description: good 1.9, great 3.1, horrible −2.5, sucks −1.5."""
    valences = read_lexicon(fetch(Store(store_root), "sentiment-lexicon").path / "vader_lexicon.txt")
    assert {word: valences[word] for word in ("good", "great", "horrible", "sucks")} == {
        "good": 1.9,
        "great": 3.1,
        "horrible": -2.5,
        "sucks": -1.5,
    }
    assert len(valences) > 6500
    assert all(-4 <= value <= 4 for value in valences.values())
