"""The final test: one row for each sample of a policy on unseen questions."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from scipy.special import expit

from rft.config import EvaluationConfig
from rft.models.backbone import Backbone, Role
from rft.ops.kl import best_of_n_kl, sequence_kl
from rft.progress import bar
from rft.rollout import RolloutEngine, pad_prompts, uniforms

if TYPE_CHECKING:
    from rft.data.on_policy import RewardSource
    from rft.tasks.base import GoldReward


CHECKPOINTS_FILE = "checkpoints.parquet"
"""Beside the final test's rows: those of the points of training that were tested."""


def _sample(
    backbone: Backbone,
    engine: RolloutEngine,
    proxy: RewardSource,
    part: Sequence[dict[str, Any]],
    uniform_BR: torch.Tensor,
    config: EvaluationConfig,
) -> list[dict[str, Any]]:
    """Rows without gold for one batch of questions."""
    ids, mask = pad_prompts([q["token_ids"] for q in part], backbone.pad_id, backbone.device)
    seq = backbone.with_trunk(engine.generate(ids, mask, uniform_BR.to(backbone.device), config.temperature))
    kl = sequence_kl(backbone.logprobs(Role.policy, seq), backbone.logprobs(Role.reference, seq), seq.response_mask)
    scores, truncated = proxy.score(seq), seq.truncated(backbone.eos_id)
    return [
        {
            "split": question["split"],
            "prompt_id": question["prompt_id"],
            "prompt": question["text"],
            "response": backbone.tokenizer.decode(seq.response_ids[i][seq.response_mask[i]], skip_special_tokens=True),
            "proxy": float(scores[i]),
            "kl": float(kl[i]),
            "length": int(seq.lengths[i]),
            "truncated": bool(truncated[i]),
        }
        for i, question in enumerate(part)
    ]


@torch.no_grad()
def evaluate_checkpoint(
    backbone: Backbone,
    engine: RolloutEngine,
    questions: Sequence[dict[str, Any]],
    gold: GoldReward,
    proxy: RewardSource,
    config: EvaluationConfig,
    *,
    response_tokens: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Rows of a point of training: the first questions of the first split, one answer each.

    The sampling numbers are those of the final test's first answer to the same question.
    """
    split = config.splits[0]
    asked = [q for q in questions if q["split"] == split][: config.checkpoint_prompts]
    rows = len(asked) * config.samples_per_prompt
    draws = uniforms(rows, response_tokens, config.seed, seed, zlib.crc32(split.encode()))[:: config.samples_per_prompt]
    engine.sync(backbone)
    found: list[dict[str, Any]] = []
    for start in range(0, len(asked), config.batch_size):
        part = asked[start : start + config.batch_size]
        found += _sample(backbone, engine, proxy, part, draws[start : start + len(part)], config)
    logits = gold.logit([row["prompt"] + row["response"] for row in found])
    kept = ("split", "prompt_id", "proxy", "kl", "length", "truncated")
    return [
        {name: row[name] for name in kept} | {"sample": 0, "gold": float(expit(logit))}
        for row, logit in zip(found, logits, strict=True)
    ]


@torch.no_grad()
def evaluate(
    backbone: Backbone,
    engine: RolloutEngine,
    questions: Sequence[dict[str, Any]],
    gold: GoldReward,
    proxy: RewardSource,
    config: EvaluationConfig,
    *,
    response_tokens: int,
    seed: int,
    out: Path,
    best_of: int = 1,
) -> dict[str, float]:
    """Sample, score and write ``evaluation.parquet``; returns means by split.

    The sampling numbers come from (config.seed, seed, split) and the row: the same for every arm. KL is k1 against
    the reference at temperature 1, in nats per sequence; picking the best of n adds its bound log n − (n−1)/n.
    ``best_of`` responses are sampled for each row, of which the proxy picks one; the first is what one alone would be.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = []
    wanted = sum(q["split"] in config.splits for q in questions) * config.samples_per_prompt
    engine.sync(backbone)
    with bar("evaluation", wanted) as progress:
        for split in config.splits:
            asked = [q for q in questions if q["split"] == split for _ in range(config.samples_per_prompt)]
            seeds = (config.seed, seed, zlib.crc32(split.encode()))
            draws = [uniforms(len(asked), response_tokens, *seeds, *([d] if d else [])) for d in range(best_of)]
            for start in range(0, len(asked), config.batch_size):
                part = asked[start : start + config.batch_size]
                drawn = [_sample(backbone, engine, proxy, part, u[start : start + len(part)], config) for u in draws]
                for options in zip(*drawn, strict=True):
                    best = max(options, key=lambda row: float(row["proxy"]))
                    rows.append(
                        best
                        | {"sample": len(rows) % config.samples_per_prompt, "kl": best["kl"] + best_of_n_kl(best_of)}
                    )
                progress.advance(len(part))
    logits = gold.logit([row["prompt"] + row["response"] for row in rows])
    for row, logit in zip(rows, logits, strict=True):
        row["gold_logit"] = float(logit)
        row["gold"] = float(expit(logit))
    pq.write_table(pa.Table.from_pylist(rows), out / "evaluation.parquet")
    means = {}
    for split in config.splits:
        some = [r for r in rows if r["split"] == split]
        for name in ("gold", "proxy", "kl", "length", "truncated"):
            means[f"eval/{split}/{name}"] = sum(float(r[name]) for r in some) / max(len(some), 1)
    return means
