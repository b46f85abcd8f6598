"""Operations of a judge in this process against torch's own counter of a plain forward of each question by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rft.feedback.base import Answer, Work
from rft.feedback.judges.cache import KeptVerdicts
from rft.feedback.judges.few_shot import Config, FewShotJudge
from rft.feedback.judges.hf import LocalModel
from rft.feedback.judges.request import Reply, Request
from tests.numerics.test_flops import executed
from tests.tokenizers import bytewise
from tests.unit.test_judge import random_model

QUESTIONS = ("Is it good?", "Is this one good at all?", "Is it?")


@pytest.fixture(scope="module")
def small() -> tuple[Any, Any]:
    tokenizer = bytewise()
    return random_model(len(tokenizer), attn_implementation="eager"), tokenizer


def replies(small: tuple[Any, Any], requests: list[Request], size: int = 4) -> list[Reply]:
    backend = LocalModel(*small, batch_size=size, temperature=0.0, seed=0)
    return [reply for _, reply in sorted(backend.answer(requests), key=lambda one: one[0])]


@pytest.mark.parametrize(("options", "length"), [(("A", "B"), 0), ((), 5)])
def test_one_question_is_exact_and_counts_the_same_among_others(
    small: tuple[Any, Any], options: tuple[str, ...], length: int
) -> None:
    asked = [Request(({"role": "user", "content": text},), options, length) for text in QUESTIONS]
    alone = []
    for one in asked:
        seen = executed(lambda one=one: alone.extend(replies(small, [one])))
        assert alone[-1].flops == seen > 0
    assert [one.flops for one in replies(small, asked)] == [one.flops for one in alone]
    assert [one.flops for one in replies(small, asked[::-1], size=1)][::-1] == [one.flops for one in alone]


def test_a_few_shot_judge_counts_its_questions_as_read_whole_and_what_was_kept_as_when_asked(
    small: tuple[Any, Any], tmp_path: Path
) -> None:
    model, _ = small
    judge = FewShotJudge(Config(), *small, KeptVerdicts(tmp_path / "v.sqlite", {}))
    answers = [Answer("It was ", text) for text in ("good", "a long and tiresome film")]
    rows = [judge._prefix + judge._row(answer.text) for answer in answers]

    @torch.no_grad()
    def plainly() -> None:
        for row in rows:
            hidden = model.get_decoder()(input_ids=torch.tensor([row])).last_hidden_state
            model.get_output_embeddings()(hidden[:, -1])

    first, again = judge.score(answers).work, judge.score(answers).work
    assert first.flops == again.flops == executed(plainly)
    assert (first.kept, again.kept) == (0, 2)
    assert (first + Work(flops=1.0)).usage.flops == first.flops + 1
