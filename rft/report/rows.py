"""Evaluation rows: read a trial's file, refuse what cannot be averaged, keep what trials have in common once.

Dimensions: `M` rows of one split, sorted by (prompt_id, sample), so that row m of every trial answers the same
prompt with the same sample number; `N` prompts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt

from rft.errors import UserError
from rft.evaluation.metrics import known_prompt_means
from rft.report.wording import brief

if TYPE_CHECKING:
    import pyarrow as pa

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

SPLIT, PROMPT_ID, SAMPLE, PROMPT = ASKED = ("split", "prompt_id", "sample", "prompt")
NUMBERS = ("gold", "proxy", "kl", "length")
OPTIONAL = ("gold_logit", "judge")
"""Columns that rows may be without."""
MAY_LACK = ("proxy", "gold_logit")
"""Columns that may be NaN throughout a split: there is no reward model, or the rows are of before the column."""
POSSIBLE = {"gold": (0.0, 1.0), "length": (1.0, np.inf)}
"""Lowest and highest value: gold is a probability whatever the task, and EOS counts as a token."""
COLUMNS = (*ASKED, "response", *NUMBERS, "truncated")
LISTED = 3


class LeftOut(Exception):
    """Why a trial cannot be used."""


@dataclass(frozen=True, eq=False)
class Questions:
    """What the rows of one split answer; trials read with one `Pool` that answered the same share the object."""

    prompt_ids: tuple[str, ...]  # length M, as are the next two
    samples: tuple[int, ...]
    prompts: tuple[str, ...]
    prompt_index: IntArray  # [M], in [0, N), in the order of prompt_id

    @cached_property
    def identity(self) -> tuple[tuple[str, int], ...]:
        """(prompt_id, sample) of every row."""
        return tuple(zip(self.prompt_ids, self.samples, strict=True))

    @property
    def n_prompts(self) -> int:
        """N."""
        return int(self.prompt_index[-1]) + 1


class Responses(Sequence[str]):
    """The M responses of a trial on a split, read from its file when they are asked for.

    Going through them keeps nothing; the texts of a trial of which single ones are asked for are kept, as it is shown.
    """

    def __init__(self, path: Path, order: IntArray) -> None:
        """`order` [M]: the rows' places in the file."""
        self._path, self._order = path, order
        self._kept: pa.ChunkedArray | None = None

    def _texts(self) -> pa.ChunkedArray:
        if self._kept is not None:
            return self._kept
        try:
            return _cast(read_columns(self._path, ("response",)).column(0), "string").take(self._order)
        except LeftOut as error:
            raise UserError(f"{self._path}: {error}; it went away while the report was made: start it again") from error

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts().to_pylist())

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...
    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        self._kept = self._texts()
        if isinstance(index, slice):
            return tuple(self._kept.take(np.arange(len(self))[index]).to_pylist())
        text: str = self._kept[index].as_py()
        return text


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Evaluation rows of one trial on one split; every array has length M."""

    questions: Questions
    responses: Sequence[str]
    gold: FloatArray  # probability in [0, 1]
    proxy: FloatArray  # reward's score; NaN where a judge gave none, or throughout if the study has no reward
    kl: FloatArray  # nats per sequence against the SFT reference
    length: FloatArray  # counted response tokens
    truncated: npt.NDArray[np.bool_]
    gold_logit: FloatArray  # log-odds; all NaN if the rows do not hold them
    judge: FloatArray  # score by the judge of the final test; NaN where its verdict is excluded, or throughout

    @property
    def prompt_ids(self) -> tuple[str, ...]:
        """Of every row."""
        return self.questions.prompt_ids

    @property
    def samples(self) -> tuple[int, ...]:
        """Number among the samples of its prompt, of every row."""
        return self.questions.samples

    @property
    def prompts(self) -> tuple[str, ...]:
        """Text of the prompt, of every row."""
        return self.questions.prompts

    @property
    def identity(self) -> tuple[tuple[str, int], ...]:
        """(prompt_id, sample) of every row: equal for trials that answered the same questions."""
        return self.questions.identity

    def per_prompt(self, values: FloatArray) -> FloatArray:
        """Means [N] of `values` [M] over the samples of each prompt that have one, in the order of prompt_id."""
        return known_prompt_means(values, self.questions.prompt_index, self.questions.n_prompts)


class Pool:
    """Reads rows and keeps once what is the same in many files: a study's trials answer the same prompts."""

    def __init__(self) -> None:
        self._layouts: dict[Any, dict[str, tuple[IntArray, Questions]]] = {}
        self._questions: dict[Any, Questions] = {}

    def read(self, path: Path, longest: float = np.inf) -> dict[str, Rows]:
        """The rows of an evaluation by split.

        Args:
            path: the file.
            longest: tokens of a response at most.

        Raises:
            LeftOut: the file cannot be read, lacks a column or a value, holds a row twice, a number that is none or one
                that cannot be.
        """
        table = read_columns(path, COLUMNS, more=OPTIONAL)
        if table.num_rows == 0:
            raise LeftOut(f"{path.name} has no rows")
        for name in (*ASKED, "response", "truncated"):
            if nulls := table.column(name).null_count:
                raise LeftOut(f"{path.name}: {name} is missing in {nulls} of {table.num_rows} rows")
        try:
            asked = tuple(tuple(_texts(table.column(name))) for name in (SPLIT, PROMPT_ID, PROMPT))
            samples = tuple(_cast(table.column(SAMPLE), "int64").to_pylist())
            columns = {name: _floats(table, name) for name in (*NUMBERS, *OPTIONAL)}
            unscored = table.column("proxy").is_null().to_numpy()
            truncated = _cast(table.column("truncated"), "bool").to_numpy()
            _cast(table.column("response"), "string")
        except ValueError as error:  # ArrowInvalid is one
            raise LeftOut(f"{path.name}: a column has the wrong type ({brief(str(error))})") from error
        layout = self._layout((*asked, samples), path.name)
        found = {}
        for split, (order, questions) in layout.items():
            own = {name: values[order] for name, values in columns.items()}
            unjudged = {"judge": np.isnan(own["judge"]), "proxy": unscored[order]}
            _require_finite(own, unjudged, questions, f"{path.name}: split {split}")
            _require_possible(own, questions, f"{path.name}: split {split}", longest)
            found[split] = Rows(questions, Responses(path, order), truncated=truncated[order], **own)
        return found

    def _layout(self, asked: tuple[tuple[Any, ...], ...], file: str) -> dict[str, tuple[IntArray, Questions]]:
        """Split → the places of its rows in the file, and what they answer."""
        if asked in self._layouts:
            return self._layouts[asked]
        splits, ids, prompts, samples = asked
        by_split: dict[str, list[int]] = {}
        for m in sorted(range(len(ids)), key=lambda m: (splits[m], ids[m], samples[m])):
            by_split.setdefault(splits[m], []).append(m)
        layout = {
            split: (
                np.array(places),
                self._asked(*(tuple(part[m] for m in places) for part in (ids, samples, prompts))),
            )
            for split, places in by_split.items()
        }
        for split, (_, questions) in layout.items():
            twice = [key for key, count in Counter(questions.identity).items() if count > 1]
            if twice:
                raise LeftOut(
                    f"{file}: split {split}: {row_names(twice)} {'is' if len(twice) == 1 else 'are'} there twice"
                )
        self._layouts[asked] = layout
        return layout

    def _asked(self, ids: tuple[str, ...], samples: tuple[int, ...], prompts: tuple[str, ...]) -> Questions:
        key = (ids, samples, prompts)
        if key not in self._questions:
            _, index = np.unique(np.array(ids), return_inverse=True)
            self._questions[key] = Questions(ids, samples, prompts, index.astype(np.int64))
        return self._questions[key]


def row_names(rows: Sequence[tuple[str, int]]) -> str:
    """The first of some (prompt_id, sample), in words."""
    shown = "; ".join(f"prompt {prompt}, sample {sample}" for prompt, sample in rows[:LISTED])
    return shown if len(rows) <= LISTED else f"{shown} and {len(rows) - LISTED} more"


def read_columns(path: Path, names: Sequence[str], more: Sequence[str] = ()) -> pa.Table:
    """Columns of a parquet file: all of `names`, and those of `more` that it has.

    Raises:
        LeftOut: if it cannot be read or one of `names` is not there.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            there = set(file.schema_arrow.names)
            if absent := sorted(set(names) - there):
                raise LeftOut(f"{path.name} has no column {', '.join(absent)}")
            table = file.read([*names, *(name for name in more if name in there)], use_threads=False)
            table.validate(full=True)
            return table
    except (OSError, pa.ArrowException) as error:
        raise LeftOut(f"{path.name} cannot be read ({brief(str(error))})") from error


def _cast(column: pa.ChunkedArray, kind: str) -> pa.ChunkedArray:
    return column if str(column.type) == kind else column.cast(kind)


def _texts(column: pa.ChunkedArray) -> list[str]:
    found: list[str] = _cast(column, "string").to_pylist()
    return found


def _floats(table: pa.Table, name: str) -> FloatArray:
    """A column as [rows]; NaN where it has no value, and throughout if it is not there."""
    if name not in table.column_names:
        return np.full(table.num_rows, np.nan)
    found: FloatArray = _cast(table.column(name), "double").to_numpy()
    return found


def _require_finite(
    columns: Mapping[str, FloatArray], unjudged: Mapping[str, npt.NDArray[np.bool_]], questions: Questions, where: str
) -> None:
    """`unjudged`: by column, the rows that may be without a number, since a verdict could not be read."""
    for name, values in columns.items():
        finite = np.isfinite(values) | unjudged.get(name, False)
        if finite.all() or (name in MAY_LACK and np.isnan(values).all()):
            continue
        raise LeftOut(f"{where}: {_first(name, values, ~finite, questions)}")


def _require_possible(columns: Mapping[str, FloatArray], questions: Questions, where: str, longest: float) -> None:
    for name, (lowest, highest) in (POSSIBLE | {"length": (POSSIBLE["length"][0], longest)}).items():
        bad = (columns[name] < lowest) | (columns[name] > highest)
        if bad.any():
            wanted = f"from {lowest:g} to {highest:g}" if np.isfinite(highest) else f"at least {lowest:g}"
            raise LeftOut(f"{where}: {_first(name, columns[name], bad, questions)}; it must be {wanted}")


def _first(name: str, values: FloatArray, bad: npt.NDArray[np.bool_], questions: Questions) -> str:
    """The first of some bad values [M], in words."""
    places = np.flatnonzero(bad)
    more = f" (and {len(places) - 1} more)" if len(places) > 1 else ""
    return f"{name} of prompt {questions.prompt_ids[places[0]]} is {values[places[0]]}{more}"
