"""What every reward source must keep to. Dimensions: ``N`` candidates, ``B`` of them, ``P``, ``R`` tokens."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import torch
from torch import Tensor

from rft.models.backbone import Role
from rft.rewards.base import LEAST_STD, Reward, Standardised, check_scores
from rft.testing.parts_rows import Failed, gold_row, require, row, strayed
from rft.testing.result import CheckResult
from rft.types import Sequences

PROBES = 12  # sequences that most checks look at


def reward_rows(standard: Standardised, fresh: Callable[[], Reward], candidates: Sequences) -> list[CheckResult]:
    """One row a check.

    Args:
        standard: the fitted source.
        fresh: makes the source anew, not fitted, on a backbone of its own that has the critic's role.
        candidates: N responses of the start policy, at least two.
    """
    source = standard.source
    probes = replace(candidates, trunk=None)[slice(0, PROBES)]
    checks: list[tuple[str, str, Callable[[], str | None]]] = [
        ("one finite number a response", "score", lambda: _numbers(source, probes)),
        ("empty, one-token and truncated responses", "score", lambda: _edges(source, probes)),
        ("padding counts nowhere", "score", lambda: _padding(source, probes)),
        ("a row depends on no other row", "score", lambda: _batching(source, probes)),
        ("the same bits a second time", "score", lambda: _repeats(source, probes)),
        ("no gradient", "score", lambda: _gradient(source, probes)),
        ("leaves its input as it is", "score", lambda: _input(source, probes)),
        ("tells candidates apart", "score", lambda: _varies(source, replace(candidates, trunk=None))),
        ("the same after save and load", "load", lambda: _restored(standard, fresh, probes)),
        ("the critic starts finite and apart", "start_critic", lambda: _critic(standard, fresh, probes)),
    ]
    return [*(row(name, type(source), method, check) for name, method, check in checks), gold_row(type(source))]


def _scored(source: Reward, seq: Sequences) -> Tensor:
    """Checked scores. Shape [B], float64 on the CPU."""
    with torch.no_grad():
        scores = source.score(seq)
    check_scores(source, scores, len(seq))
    return scores.double().cpu()


def _same(got_B: Tensor, wanted_B: Tensor, what: str) -> str:
    """The largest difference, which must be one of rounding."""
    worst = strayed(got_B.numpy(), wanted_B.numpy())
    if worst is not None:
        raise Failed(
            f"row {worst} scores {float(got_B[worst]):.6g} {what} and {float(wanted_B[worst]):.6g} otherwise: equal "
            "scores are wanted"
        )
    return f"largest difference {float((got_B - wanted_B).abs().max()):.1e}"


def _numbers(source: Reward, seq: Sequences) -> str:
    scores = _scored(source, seq)
    return f"from {float(scores.min()):.3g} to {float(scores.max()):.3g}"


def _edges(source: Reward, seq: Sequences) -> None:
    """No counted token; EOS alone; one token without EOS; as long as can be, without EOS."""
    eos = source.backbone.eos_id
    one, width = seq[slice(0, 1)], max(2, seq.response_ids.shape[1])
    token = int(one.prompt_ids[0, -1])  # a token that is neither EOS nor padding
    for what, tokens in (
        ("without a counted token", []),
        ("of EOS alone", [eos]),
        ("of one token", [token]),
        ("that was truncated", [token] * width),
    ):
        ids = torch.tensor([tokens + [source.backbone.pad_id] * (width - len(tokens))], device=one.response_ids.device)
        mask = torch.arange(width, device=ids.device)[None] < len(tokens)
        try:
            _scored(source, replace(one, response_ids=ids, response_mask=mask))
        except Exception as error:
            error.args = (f"for a response {what}: {error}",)
            raise


def _padding(source: Reward, seq: Sequences) -> str:
    """More padding on both sides, filled with tokens that mean something."""
    noise = seq.prompt_ids[:, -1:]
    responses = torch.where(seq.response_mask, seq.response_ids, noise)
    more, off = noise.expand(-1, 3), torch.zeros_like(seq.prompt_mask[:, :1]).expand(-1, 3)
    longer = Sequences(
        torch.cat([more, seq.prompt_ids], 1),
        torch.cat([off, seq.prompt_mask], 1),
        torch.cat([responses, more], 1),
        torch.cat([seq.response_mask, off], 1),
    )
    return _same(_scored(source, longer), _scored(source, seq), "with more padding")


def _batching(source: Reward, seq: Sequences) -> str:
    whole = _scored(source, seq)
    alone = torch.cat([_scored(source, seq[slice(i, i + 1)]) for i in range(len(seq))])
    _same(alone, whole, "alone")
    backwards = torch.arange(len(seq) - 1, -1, -1)
    return _same(_scored(source, seq[backwards])[backwards], whole, "with the rows in another order")


def _repeats(source: Reward, seq: Sequences) -> None:
    first, second = _scored(source, seq), _scored(source, seq)
    changed = int((first != second).sum())
    require(changed == 0, f"{changed} of {len(seq)} scores changed at a second call: the same bits are wanted")


def _gradient(source: Reward, seq: Sequences) -> None:
    with torch.enable_grad():
        scores = source.score(seq)
    require(not scores.requires_grad, "the scores carry a gradient; put @torch.no_grad() above the method")


def _input(source: Reward, seq: Sequences) -> None:
    names = [f.name for f in fields(seq) if isinstance(getattr(seq, f.name), Tensor)]
    before = {name: getattr(seq, name).clone() for name in names}
    _scored(source, seq)
    changed = [name for name in names if not torch.equal(before[name], getattr(seq, name))]
    require(not changed, f"changed {', '.join(changed)} in place; work on a copy")


def _varies(source: Reward, candidates: Sequences) -> str:
    scores = torch.cat([_scored(source, candidates[slice(i, i + 64)]) for i in range(0, len(candidates), 64)])
    spread = float(scores.std())
    require(
        spread >= LEAST_STD,
        f"all {len(scores)} candidates score {float(scores[0]):.6g}: there is nothing to learn from such a reward",
    )
    return f"standard deviation {spread:.3g} over {len(scores)} candidates"


def _restored(standard: Standardised, fresh: Callable[[], Reward], seq: Sequences) -> None:
    with tempfile.TemporaryDirectory() as folder:
        standard.save(Path(folder))
        again = Standardised.load(fresh(), Path(folder))
    got, wanted = _scored(again.source, seq), _scored(standard.source, seq)
    changed = int((got != wanted).sum())
    require(
        changed == 0,
        f"{changed} of {len(seq)} scores are others after save and load (row {int((got != wanted).int().argmax())}): "
        "save what the scores depend on",
    )


def _critic(standard: Standardised, fresh: Callable[[], Reward], seq: Sequences) -> str:
    with tempfile.TemporaryDirectory() as folder:
        standard.save(Path(folder))
        again = Standardised.load(fresh(), Path(folder))
    before = _scored(again.source, seq)
    again.start_critic()
    with torch.no_grad():
        values = again.source.backbone.values(seq)[seq.response_mask]
    require(bool(torch.isfinite(values).all()), "the critic's values are not finite")
    require(
        torch.equal(_scored(again.source, seq), before), f"starting the critic changed the role {Role.reward.value}"
    )
    return f"values from {float(values.min()):.3g} to {float(values.max()):.3g}"
