"""Numbers of evaluation rows, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rft.evaluation.metrics import distinct_n, prompt_means, truncation_rate, words


def test_words_keep_apostrophes_and_part_punctuation() -> None:
    assert words("It isn't BAD, it's\ngreat!!") == ["it", "isn't", "bad", ",", "it's", "great", "!", "!"]
    assert words("L’été") == ["l’été"]


def test_distinct_pairs_by_hand() -> None:
    # "a b", "b a", "a b" of the first and "b c" of the second: 3 distinct of 4; none across the two texts.
    assert distinct_n(["A b a b", "b c"], 2) == 0.75
    assert distinct_n(["a b", "b a"], 1) == 0.5


def test_ready_tokens_count_like_words() -> None:
    assert distinct_n([[7, 8, 7, 8], (8, 9)], 2) == 0.75


def test_texts_too_short_for_an_n_gram_give_no_number() -> None:
    assert math.isnan(distinct_n(["good", ""], 2))
    assert distinct_n(["good", "so so"], 2) == 1.0


def test_an_n_gram_has_a_token() -> None:
    with pytest.raises(ValueError, match="n >= 1"):
        distinct_n(["good"], 0)


def test_truncation_is_a_share_of_the_responses() -> None:
    assert truncation_rate(np.array([True, False, False, False])) == 0.25
    with pytest.raises(ValueError, match="no responses"):
        truncation_rate(np.array([], dtype=bool))


def test_samples_of_a_prompt_are_averaged_in_any_order() -> None:
    means = prompt_means(np.array([1.0, 5.0, 3.0, 0.0]), np.array([1, 0, 1, 2]), 3)
    assert means.tolist() == [5.0, 2.0, 0.0]


@pytest.mark.parametrize(("index", "prompts"), [([0, 1, 1], 3), ([0, 2, 3], 3), ([0, 1], 2)])
def test_a_prompt_without_rows_or_beyond_the_end_is_refused(index: list[int], prompts: int) -> None:
    with pytest.raises(ValueError, match="prompt"):
        prompt_means(np.ones(3), np.array(index), prompts)
