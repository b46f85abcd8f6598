"""The final test: one row for each sample of a policy on unseen questions."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from math import inf, isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from scipy.special import expit

from rft.config import EvaluationConfig
from rft.data.microbatches import passes
from rft.models.backbone import Backbone, Role
from rft.ops.kl import best_of_n_kl, sequence_kl
from rft.progress import bar
from rft.rollout import RolloutEngine, pad_prompts, rows_at_once, uniforms
from rft.store.names import ROWS_FILE
from rft.types import Sequences

if TYPE_CHECKING:
    from rft.data.on_policy import RewardSource
    from rft.evaluation.judged import JudgedRows
    from rft.evaluation.samples import Samples
    from rft.tasks.base import GoldReward


class FinalTest:
    """What policies are tested with: the same questions and sampling numbers for every one of them.

    Args:
        backbone: plays the policy to test, and the reference.
        engine: samples its answers.
        questions: of all splits.
        gold: the hidden reward.
        proxy: the reward that training could see.
        config: how much is tested.
        response_tokens: longest answer.
        seed: of the trial.
        samples: takes some of the rows, if given.

    The sampling numbers come from (config.seed, seed, split) and the row: the same for every arm. KL is k1 against the
    reference at temperature 1, in nats per sequence; where the start's own weights sampled, it is exactly 0.
    """

    def __init__(
        self,
        backbone: Backbone,
        engine: RolloutEngine,
        questions: Sequence[dict[str, Any]],
        gold: GoldReward,
        proxy: RewardSource,
        config: EvaluationConfig,
        *,
        response_tokens: int,
        seed: int,
        samples: Samples | None = None,
    ) -> None:
        self.backbone, self.engine, self.questions = backbone, engine, questions
        self.gold, self.proxy, self.config = gold, proxy, config
        self.response_tokens, self.seed, self.samples = response_tokens, seed, samples

    def _asked(self, split: str) -> list[dict[str, Any]]:
        """The questions of a split, each as often as it is answered."""
        return [q for q in self.questions if q["split"] == split for _ in range(self.config.samples_per_prompt)]

    def _draws(self, split: str, rows: int, more: Sequence[int] = ()) -> torch.Tensor:
        """Uniform numbers [rows, R]."""
        return uniforms(rows, self.response_tokens, self.config.seed, self.seed, zlib.crc32(split.encode()), *more)

    def _at_once(self, asked: Sequence[dict[str, Any]]) -> int:
        """How many answers are drawn at once."""
        if self.config.batch_size is not None:
            return self.config.batch_size
        return rows_at_once(max((len(q["token_ids"]) for q in asked), default=0) + self.response_tokens)

    def _answer(
        self, part: Sequence[dict[str, Any]], draws_BR: Sequence[torch.Tensor], advance: Callable[[int], None]
    ) -> tuple[Sequences, torch.Tensor]:
        """Of each question's answers the one that the proxy scores highest, the first of equals, and its score [B].

        ``advance`` is told how many answers have been scored, whenever some are.
        """
        backbone, n, rows = self.backbone, len(draws_BR), len(part)
        ids, mask = pad_prompts([q["token_ids"] for q in part], backbone.pad_id, backbone.device)
        draws = torch.cat(list(draws_BR)).to(backbone.device)
        asked = ids.repeat(n, 1), mask.repeat(n, 1), draws, self.config.temperature
        seq = backbone.with_trunk(self.engine.generate(*asked, depth=backbone.trunk.depth))
        found = []
        for one in passes(seq):
            found.append(self.proxy.score(one))
            advance(len(one))
        scores = torch.cat(found)
        best = scores.nan_to_num(nan=-inf).view(n, rows).argmax(0)  # one that has no score is picked last
        picked = best * rows + torch.arange(rows, device=best.device)
        return seq[picked], scores[picked]

    def _kl(self, seq: Sequences) -> torch.Tensor:
        """KL of each answer. Shape [B].

        From two passes alike, whose rounding cancels. Log-probs that come with the samples would spare one of them, but
        a token drawn where rounding raised its probability has too high a one: the longer an answer, the more.
        """
        if self.engine.at_start:  # both passes would be the same
            return torch.zeros(len(seq))
        logprobs = self.backbone.logprobs
        return torch.cat(
            [
                sequence_kl(logprobs(Role.policy, one), logprobs(Role.reference, one), one.response_mask)
                for one in passes(seq)
            ]
        )

    def _sample(
        self,
        asked: Sequence[dict[str, Any]],
        draws_BR: Sequence[torch.Tensor],
        advance: Callable[[int], None] = lambda _: None,
    ) -> Iterator[dict[str, Any]]:
        """A row without gold for each question, which is answered as often as there are draws."""
        at_once = max(1, self._at_once(asked) // len(draws_BR))
        for start in range(0, len(asked), at_once):
            part = slice(start, start + at_once)
            yield from self._rows(asked[part], [uniform_BR[part] for uniform_BR in draws_BR], advance)

    def _rows(
        self, part: Sequence[dict[str, Any]], draws_BR: Sequence[torch.Tensor], advance: Callable[[int], None]
    ) -> list[dict[str, Any]]:
        """Those of one batch."""
        backbone = self.backbone
        seq, scores = self._answer(part, draws_BR, advance)
        kl = self._kl(seq)
        truncated = seq.truncated(backbone.eos_id)
        decode = partial(backbone.tokenizer.decode, skip_special_tokens=True)
        return [
            {
                "split": question["split"],
                "prompt_id": question["prompt_id"],
                "prompt": question["text"],
                "response": decode(seq.response_ids[i][seq.response_mask[i]]),
                "proxy": None if isnan(scores[i]) else float(scores[i]),
                "kl": float(kl[i]),
                "length": int(seq.lengths[i]),
                "truncated": bool(truncated[i]),
            }
            for i, question in enumerate(part)
        ]

    def _score(self, rows: Sequence[dict[str, Any]]) -> None:
        """Add gold to rows, as log-odds and as probability."""
        for row, logit in zip(rows, self.gold.logit([row["prompt"] + row["response"] for row in rows]), strict=True):
            row["gold_logit"] = float(logit)
            row["gold"] = float(expit(logit))

    def answers(self, split: str, prompts: int) -> dict[Any, str]:
        """What the engine, as it is, answers first to the first questions of a split, by ``prompt_id``.

        It samples as the final test does.
        """
        every, backbone = self.config.samples_per_prompt, self.backbone
        asked = self._asked(split)[: prompts * every]
        draws, asked = self._draws(split, len(asked))[::every], asked[::every]
        found: dict[Any, str] = {}
        at_once = self._at_once(asked)
        for start in range(0, len(asked), at_once):
            part = asked[start : start + at_once]
            ids, mask = pad_prompts([q["token_ids"] for q in part], backbone.pad_id, backbone.device)
            uniform_BR = draws[start : start + len(part)].to(backbone.device)
            seq = self.engine.generate(ids, mask, uniform_BR, self.config.temperature)
            tokens = [ids_R[mask_R] for ids_R, mask_R in zip(seq.response_ids, seq.response_mask, strict=True)]
            texts = [backbone.tokenizer.decode(one, skip_special_tokens=True) for one in tokens]
            found |= {q["prompt_id"]: str(text) for q, text in zip(part, texts, strict=True)}
        return found

    @torch.no_grad()
    def checkpoint(self, step: int = 0) -> list[dict[str, Any]]:
        """Rows of the policy at a point of training: the first questions of the first split, one answer each.

        It is the final test's first answer to the same question, but for the weights.
        """
        split, every = self.config.splits[0], self.config.samples_per_prompt
        asked = self._asked(split)[: self.config.checkpoint_prompts * every]
        draws, asked = self._draws(split, len(asked))[::every], asked[::every]
        self.engine.sync(self.backbone)
        rows = list(self._sample(asked, [draws]))
        self._score(rows)
        if self.samples is not None:
            self.samples.at_point([row | {"sample": 0} for row in rows], step)
        kept = ("split", "prompt_id", "proxy", "kl", "length", "truncated", "gold")
        return [{name: row[name] for name in kept} | {"sample": 0} for row in rows]

    @torch.no_grad()
    def run(self, out: Path, best_of: int = 1, judge: JudgedRows | None = None) -> dict[str, Any]:
        """Sample, score and write ``evaluation.parquet``; returns means by split, with `judge` those of its scores too.

        ``best_of`` responses are sampled for each row, of which the proxy picks one, which adds the bound
        log n − (n−1)/n to the KL; the first is what one alone would be.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        config = self.config
        rows: list[dict[str, Any]] = []
        asked = {split: self._asked(split) for split in config.splits}
        draws = [
            torch.cat([self._draws(split, len(of_split), [d] if d else []) for split, of_split in asked.items()])
            for d in range(best_of)
        ]
        of_all = [question for of_split in asked.values() for question in of_split]
        self.engine.sync(self.backbone)
        with bar("evaluation", len(of_all) * best_of) as progress:
            for row in self._sample(of_all, draws, progress.advance):
                kl, sample = row["kl"] + best_of_n_kl(best_of), len(rows) % config.samples_per_prompt
                rows.append(row | {"sample": sample, "kl": kl})
        self._score(rows)
        if self.samples is not None:
            self.samples.at_end(rows)
        means: dict[str, Any] = judge.add(rows) if judge else {}
        pq.write_table(pa.Table.from_pylist(rows), out / ROWS_FILE)
        for split in config.splits:
            some = [r for r in rows if r["split"] == split]
            for name in ("gold", "proxy", "kl", "length", "truncated"):
                known = [r for r in some if r[name] is not None]
                means[f"eval/{split}/{name}"] = sum(float(r[name]) for r in known) / max(len(known), 1)
            if self.proxy.may_lack:
                means[f"eval/{split}/unjudged"] = float(sum(r["proxy"] is None for r in some))
        return means
