"""Each check of a task passes what is right and catches what breaks it; simulated annotators pass theirs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from rft.feedback.annotators import AnnotatorModel
from rft.feedback.simulated import Config as SimulatedConfig
from rft.feedback.simulated import Simulated
from rft.store import Store
from rft.tasks.base import SPLITS, Example, Prompt, Task
from rft.tasks.tables import write_questions, write_sft
from rft.testing.parts_judge import feedback_rows
from rft.testing.parts_task import Limits, task_rows
from rft.testing.result import CheckResult
from tests.tokenizers import bytewise

if TYPE_CHECKING:
    from numpy.typing import NDArray

EVERY = count()
LIMITS = Limits(response_tokens=6, prompt_tokens=9, positions=64)


class Sign:
    """Longer is better: a standard that keeps to everything."""

    def logit(self, texts: Sequence[str]) -> NDArray[np.float64]:
        return np.array([(len(text) - 20) / 10 for text in texts], dtype=np.float64)

    def probability(self, texts: Sequence[str]) -> NDArray[np.float64]:
        return np.asarray(1 / (1 + np.exp(-self.logit(texts))))


class Percent(Sign):
    def probability(self, texts: Sequence[str]) -> NDArray[np.float64]:
        return 100 * super().probability(texts)


class AnotherSigma(Sign):
    def probability(self, texts: Sequence[str]) -> NDArray[np.float64]:
        return np.asarray(1 / (1 + np.exp(-2 * self.logit(texts))))


class Standing(Sign):
    def logit(self, texts: Sequence[str]) -> NDArray[np.float64]:
        logit = super().logit(texts)
        return logit - logit.mean()


class Toy(Task):
    """Questions of eight letters, answers of three and EOS: keeps to everything."""

    version = 1
    standard: type[Sign] = Sign

    @property
    def asset_keys(self) -> Mapping[str, str]:
        return {}

    @property
    def questions_config(self) -> Mapping[str, Any]:
        return {"seed": 0}

    @property
    def gold_config(self) -> Mapping[str, Any]:
        return {"seed": 0}

    def build_questions(self, tokenizer: Any, out: Path) -> dict[str, Any]:
        write_questions(self.prompts(tokenizer), out / "questions.parquet")
        write_sft(self.examples(tokenizer), out / "sft.parquet")
        return {}

    def prompts(self, tokenizer: Any) -> list[Prompt]:
        return [
            Prompt(split, f"{split}-{i}", f"text-{split}-{i}", text, tuple(tokenizer.encode(text)))
            for n, split in enumerate(SPLITS)
            for i, text in enumerate(f"text {n}.{i}" for i in range(3))
        ]

    def examples(self, tokenizer: Any) -> list[Example]:
        ids = tuple(tokenizer.encode("text 9.9")), (*tokenizer.encode("yes"), tokenizer.eos_token_id)
        return [Example(split, f"example-{split}", *ids) for split in ("train", "validation")]

    def fit_gold(self, out: Path) -> dict[str, Any]:
        (out / "standard.json").write_text(json.dumps(self.fitted()), encoding="utf-8")
        return {}

    def fitted(self) -> float:
        return 20.0

    def load_gold(self, path: Path) -> Any:
        return self.standard()


class NoVersion(Toy):
    version = None  # type: ignore[assignment]


class NewAddress(Toy):
    @property
    def questions_config(self) -> Mapping[str, Any]:
        return {"seed": next(EVERY)}


class NoAddress(Toy):
    @property
    def gold_config(self) -> Mapping[str, Any]:
        return {"path": Path("x")}


class NoOod(Toy):
    def prompts(self, tokenizer: Any) -> list[Prompt]:
        return [p for p in super().prompts(tokenizer) if p.split != "ood"]


class NoValidation(Toy):
    def examples(self, tokenizer: Any) -> list[Example]:
        return super().examples(tokenizer)[:1]


class SharedText(Toy):
    def prompts(self, tokenizer: Any) -> list[Prompt]:
        first, *others = super().prompts(tokenizer)
        return [replace(first, review_id=others[-1].review_id), *others]


class SharedWithDemonstrations(Toy):
    def prompts(self, tokenizer: Any) -> list[Prompt]:
        first, *others = super().prompts(tokenizer)
        return [replace(first, review_id="example-train"), *others]


class SharedQuestion(Toy):
    def prompts(self, tokenizer: Any) -> list[Prompt]:
        first, *others = super().prompts(tokenizer)
        return [replace(first, text=others[-1].text, token_ids=others[-1].token_ids), *others]


class SameId(Toy):
    def prompts(self, tokenizer: Any) -> list[Prompt]:
        first, *others = super().prompts(tokenizer)
        return [replace(first, prompt_id=others[-1].prompt_id), *others]


class LongPrompt(Toy):
    def prompts(self, tokenizer: Any) -> list[Prompt]:
        first, *others = super().prompts(tokenizer)
        return [replace(first, text="text 10.10", token_ids=tuple(tokenizer.encode("text 10.10"))), *others]


class LongResponse(Toy):
    def examples(self, tokenizer: Any) -> list[Example]:
        return [replace(e, response_ids=tuple(tokenizer.encode("for ever"))) for e in super().examples(tokenizer)]


class GoesOn(Toy):
    def examples(self, tokenizer: Any) -> list[Example]:
        return [replace(e, response_ids=e.response_ids[::-1]) for e in super().examples(tokenizer)]


class OtherText(Toy):
    def prompts(self, tokenizer: Any) -> list[Prompt]:
        return [replace(p, text=p.text.upper()) for p in super().prompts(tokenizer)]


class Unsteady(Toy):
    def prompts(self, tokenizer: Any) -> list[Prompt]:
        found = super().prompts(tokenizer)
        return found if next(EVERY) % 2 else found[::-1]


class UnsteadyStandard(Toy):
    def fitted(self) -> float:
        return float(next(EVERY))


class InPercent(Toy):
    standard = Percent


class NoSigma(Toy):
    standard = AnotherSigma


class Graded(Toy):
    standard = Standing


class Raises(Toy):
    def fit_gold(self, out: Path) -> dict[str, Any]:
        raise KeyError("labels")


def rows_of(found: type[Task], tmp_path: Path) -> list[CheckResult]:
    return task_rows(lambda: found(Store(tmp_path)), bytewise(), LIMITS)


def failed(rows: Sequence[CheckResult]) -> dict[str, CheckResult]:
    return {row.name: row for row in rows if not row.ok}


def test_a_task_that_is_right_passes(tmp_path: Path) -> None:
    rows = rows_of(Toy, tmp_path)
    assert not failed(rows), failed(rows)
    assert len(rows) == 9


@pytest.mark.parametrize(
    ("found", "check", "words"),
    [
        (NoVersion, "an address", "version is None"),
        (NewAddress, "an address", "questions_config differs between two tasks"),
        (NoAddress, "an address", "gold_config is no JSON"),
        (NoOod, "every split has questions", "no questions in ood"),
        (NoValidation, "every split has questions", "no demonstrations (sft.parquet) in validation"),
        (SharedText, "no source text in two splits", "text-ood-2 is in train and in ood"),
        (SharedWithDemonstrations, "no source text in two splits", "example-train is in train and in sft train"),
        (SharedQuestion, "no source text in two splits", "the same question is in train and in ood"),
        (SameId, "ids are unique", "ood-2 is there twice"),
        (LongPrompt, "prompts and responses fit", "train-0 has 10 tokens, task.prompt_tokens are 9"),
        (LongResponse, "prompts and responses fit", "has 8 response tokens, task.response_tokens are 6"),
        (GoesOn, "prompts and responses fit", "goes on after EOS"),
        (OtherText, "tokens decode to the text", "its tokens are 'text 0.0', its text is 'TEXT 0.0'"),
        (Unsteady, "two builds give the same files", "questions.parquet differ"),
        (UnsteadyStandard, "two fits of the gold give the same files", "standard.json differ"),
        (InPercent, "gold in [0, 1], text by text", "[0, 1] is wanted"),
        (NoSigma, "gold in [0, 1], text by text", "not σ(logit)"),
        (Graded, "gold in [0, 1], text by text", "depends on the others"),
    ],
)
def test_one_fault_fails_its_own_check_alone(found: type[Task], check: str, words: str, tmp_path: Path) -> None:
    rows = failed(rows_of(found, tmp_path))
    assert set(rows) == {check}
    assert words in rows[check].detail
    assert "test_check_task.py:" in rows[check].where


def test_what_a_task_raises_is_told_with_its_line(tmp_path: Path) -> None:
    rows = failed(rows_of(Raises, tmp_path))
    assert set(rows) == {"two fits of the gold give the same files", "gold in [0, 1], text by text"}
    row = rows["two fits of the gold give the same files"]
    assert row.detail == "raised KeyError: 'labels'"
    file, _, line = row.where.rpartition(":")
    source = Path(__file__).read_text(encoding="utf-8").splitlines()
    assert file.endswith("test_check_task.py")
    assert 'raise KeyError("labels")' in source[int(line) - 1]


def test_positions_of_the_model_are_kept(tmp_path: Path) -> None:
    rows = task_rows(lambda: Toy(Store(tmp_path)), bytewise(), replace(LIMITS, positions=13))
    assert "8 and 6 tokens exceed 13 positions" in failed(rows)["prompts and responses fit"].detail


def test_simulated_annotators_pass() -> None:
    rows = feedback_rows(lambda: Simulated(SimulatedConfig(), Sign(), AnnotatorModel(1.0, 0.0, 0.5, 1.0)))
    assert not failed(rows), failed(rows)
    assert [row.name for row in rows if row.name == "reads no gold"] == []
    assert next(row.detail for row in rows if "other way round" in row.name) == "not claimed (symmetric = False)"
