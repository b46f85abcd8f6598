"""Whether the questions leave the model room for a response."""

from __future__ import annotations

import json

from rft.errors import UserError
from rft.store import Entry


def require_room(questions: Entry, model: Entry, response_tokens: int) -> None:
    """Refuse a question that leaves the model too few positions for a response.

    Raises:
        UserError: naming the question; for a prompt file its id holds the line.
    """
    from rft.data.offline import read_table

    config = json.loads((model.path / "config.json").read_text(encoding="utf-8"))
    positions = config.get("max_position_embeddings") or config.get("n_positions")
    for row in read_table(questions.path / "questions.parquet") if positions else ():
        if len(row["token_ids"]) + response_tokens > positions:
            raise UserError(
                f"question {row['prompt_id']}: {len(row['token_ids'])} prompt tokens and {response_tokens} response "
                f"tokens exceed the model's {positions} positions; shorten it, or lower task.response_tokens"
            )
