"""Answers of a model in this process that are kept by whole batches. Dimensions: ``N`` requests."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rft.feedback.judges.cache import KeptVerdicts
from rft.feedback.judges.request import Reply, Request
from rft.progress import bar


def answer_in_batches(
    verdicts: KeptVerdicts,
    identity: Mapping[str, Any],
    requests: Sequence[Request],
    rows: Sequence[Any],
    batches: Sequence[list[int]],
    answer: Callable[[list[int]], Sequence[Reply]],
) -> tuple[list[Reply], int]:
    """Each request's reply, and how many were kept from before.

    What a model answers depends, to the last bit, on what it reads at once and on the place there. So both are part of
    what a reply is kept under: what is found has the bits that asking would give, whatever else was asked before, and a
    labelling that was killed goes on where it was. A batch is kept in one transaction, and asked whole or not at all.

    Args:
        verdicts: where replies are looked for, and kept as they come.
        identity: of who answers.
        requests: N of them.
        rows: what the model reads of each, as JSON data: tokens. N of them.
        batches: places of requests that are answered at once; each place is in one of them.
        answer: gives the replies to a batch, in its order.
    """
    who: list[Mapping[str, Any]] = [{}] * len(requests)
    for batch in batches:
        read = hashlib.sha256(json.dumps([rows[i] for i in batch]).encode()).hexdigest()
        for place, i in enumerate(batch):
            who[i] = {**identity, "batch": read[:32], "place": place}
    replies = verdicts.find_many(list(zip(who, requests, strict=True)))
    kept = 0
    with bar("Judging", total=len(requests)) as progress:
        for batch in batches:
            if any(replies[i] is None for i in batch):
                fresh = answer(batch)
                verdicts.keep_many([(who[i], requests[i], one) for i, one in zip(batch, fresh, strict=True)])
                for i, one in zip(batch, fresh, strict=True):
                    replies[i] = one
            else:
                kept += len(batch)
            progress.advance(len(batch))
    return [reply for reply in replies if reply is not None], kept
