"""Labels of which too little could be read: a stage stops before it is finished, and says what was said instead."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rft.errors import UserError
from rft.feedback.ai import AiFeedback
from rft.feedback.ai import Config as AiConfig
from rft.feedback.base import Labels, Work
from rft.feedback.judges.asking import AnswersEnum
from rft.feedback.pairs import Pair, write_pairs
from rft.feedback.unread import require_labels
from rft.study.shared import make_labels
from tests.unit.test_asking import judge

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from rft.feedback.judges.request import Request

TEXTS = ["good", "fine", "bad", "poor"]


class Length:
    """A standard: the longer, the better."""

    def logit(self, texts: Sequence[str]) -> NDArray[np.float64]:
        return np.array([len(text) for text in texts], dtype=np.float64)


def candidates(folder: Path) -> Path:
    folder.mkdir()
    rows = [{"prompt": "", "response": text} for text in TEXTS]
    pq.write_table(pa.Table.from_pylist(rows), folder / "candidates.parquet")
    write_pairs(
        [Pair(m, "p", *rows, heldout=False) for m, rows in enumerate([(0, 2), (1, 3), (0, 3)])],
        folder / "pairs.parquet",
    )
    return folder


def test_a_labelling_that_cannot_be_read_stops_and_is_mended_by_another_answer(tmp_path: Path) -> None:
    """Of three pairs one has a label; then the server is mended, and that one is not asked about again."""

    def rambles(request: Request, texts: list[str]) -> str:
        return (
            "A"
            if texts[0] == "good" and "bad" in texts
            else "B"
            if "bad" in texts and "good" in texts
            else "I like\nboth!"
        )

    folder, out = candidates(tmp_path / "candidates"), tmp_path / "out"
    out.mkdir()
    one, _ = judge(rambles, tmp_path, answers=AnswersEnum.generated)
    with pytest.raises(UserError) as told:
        make_labels(AiFeedback(AiConfig(), one), Length(), folder, out)  # type: ignore[arg-type]
    said = str(told.value)
    assert "judge: 4 of 6 verdicts could not be read, and 2 of 3 pairs have no label" in said
    assert "one answer was “I like both!”" in said
    for mend in ("judge.form", "judge.max_tokens", "rft judge verdicts", "choose another judge"):
        assert mend in said
    assert "\n" not in said
    assert list(out.iterdir()) == []
    mended, backend = judge(
        lambda request, texts: "A" if texts[0] > texts[1] else "B", tmp_path, answers=one.config.answers
    )
    found = make_labels(AiFeedback(AiConfig(), mended), Length(), folder, out)  # type: ignore[arg-type]
    assert len(backend.asked) == 4
    assert (found["pairs"], found["excluded"]) == (3, 0)
    assert (out / "labels.parquet").exists()


def labels(preference: list[float], raw: str, work: Work) -> Labels:
    return Labels(np.full(2, np.nan), np.array(preference), [raw] * len(preference), work=work)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ('{"first": {"logprobs": {"A": null}, "excluded": true}}', "one answer was “{"),
        (
            '{"ai": {"shown_first": {"text": "", "refused": "(400): too long", "excluded": true}}}',
            "not taken: (400): too",
        ),
        ('{"first": {"text": " ", "excluded": true}}', "the answers were empty"),
        ('{"first": {"text": "' + "x" * 500 + '\\u001b", "excluded": true}}', "x" * 79 + "…”"),
        ("[]", "too few are left; `rft"),
    ],
)
def test_what_is_shown_of_the_raw_answers(raw: str, words: str) -> None:
    lost = labels([np.nan, np.nan, 0.5], raw, Work(questions=6, excluded=4))
    with pytest.raises(UserError, match="4 of 6") as told:
        require_labels(lost)
    assert words in str(told.value)
    assert "\x1b" not in str(told.value)
    with pytest.raises(UserError, match="what the judge said could not be read, and 2 of 3 pairs"):
        require_labels(replace(lost, work=Work()))


def test_half_is_enough_and_no_pairs_are_no_fault() -> None:
    require_labels(labels([np.nan, 1.0], "{}", Work(questions=4, excluded=2)))
    require_labels(labels([], "{}", Work()))
    with pytest.raises(UserError, match="2 of 3 pairs"):
        require_labels(labels([np.nan, np.nan, 1.0], "{}", Work()))
