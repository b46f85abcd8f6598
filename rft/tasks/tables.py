"""The parquet files of the questions stage. Columns are the contract with every later stage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rft.tasks.base import Example, Prompt


def write_questions(prompts: Sequence[Prompt], path: Path) -> None:
    """``questions.parquet``: split, prompt_id, review_id, text, token_ids (int32), in the given order."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table(
        {
            "split": pa.array([p.split for p in prompts], pa.string()),
            "prompt_id": pa.array([p.prompt_id for p in prompts], pa.string()),
            "review_id": pa.array([p.review_id for p in prompts], pa.string()),
            "text": pa.array([p.text for p in prompts], pa.string()),
            "token_ids": pa.array([list(p.token_ids) for p in prompts], pa.list_(pa.int32())),
        }
    )
    pq.write_table(table, path)


def write_sft(examples: Sequence[Example], path: Path) -> None:
    """``sft.parquet``: split, review_id, prompt_ids, response_ids (lists of int32), in the given order."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table(
        {
            "split": pa.array([e.split for e in examples], pa.string()),
            "review_id": pa.array([e.review_id for e in examples], pa.string()),
            "prompt_ids": pa.array([list(e.prompt_ids) for e in examples], pa.list_(pa.int32())),
            "response_ids": pa.array([list(e.response_ids) for e in examples], pa.list_(pa.int32())),
        }
    )
    pq.write_table(table, path)


def read_questions(path: Path) -> list[Prompt]:
    """The rows of a ``questions.parquet``."""
    import pyarrow.parquet as pq

    return [
        Prompt(r["split"], r["prompt_id"], r["review_id"], r["text"], tuple(r["token_ids"]))
        for r in pq.read_table(path).to_pylist()
    ]


def read_sft(path: Path) -> list[Example]:
    """The rows of an ``sft.parquet``."""
    import pyarrow.parquet as pq

    return [
        Example(r["split"], r["review_id"], tuple(r["prompt_ids"]), tuple(r["response_ids"]))
        for r in pq.read_table(path).to_pylist()
    ]
