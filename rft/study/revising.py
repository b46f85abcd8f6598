"""A start that a constitution has revised: the SFT policy, fine-tuned on its own answers after critique and revision.

The supervised stage of Constitutional AI (SL-CAI), Bai et al. 2022 (arXiv 2212.08073), sections 3.1 to 3.3.

Deviations: each training question has one answer, of the candidates that all arms share, instead of four sampled for
it; the judge's model criticises and revises, which need not be the policy's; what is fine-tuned is the SFT policy, not
the pretrained model with helpful samples mixed in; the preferences that follow are labelled on the common candidates,
so that every arm learns from the same pairs, and not on samples of the fine-tuned policy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import DictConfig

from rft.budget import USAGE, Usage
from rft.config import SFTConfig, number
from rft.errors import UserError
from rft.feedback.base import Work
from rft.feedback.judges.base import Judge
from rft.feedback.revision import (
    critique_request,
    read_critique,
    read_revision,
    response_ids,
    revision_request,
)
from rft.study.parts import part_class
from rft.study.start import Common, Start

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FILE = "revisions.parquet"
MEASURED = 64  # sequences whose likelihood is taken at once


@dataclass
class Config:
    """Settings of `RevisedStart`."""

    questions: int | None = number(None, at_least=1)
    """Training questions, drawn among all, whose answers are revised; all of them if none is given."""
    rounds: int = number(1, at_least=1)
    """Critiques and revisions of an answer, each of what the one before made of it, each under a principle of its own
    draw. Bai et al. take four."""
    all_rounds: bool = False
    """Fine-tune on the revisions of every round, as Bai et al. do, instead of the last one's alone."""
    critique_tokens: int = number(96, at_least=1)
    """Tokens that the judge may write for a critique."""
    revision_tokens: int = number(96, at_least=1)
    """Tokens that it may write for a revision, which is then cut to the task's response_tokens."""
    epochs: int = number(1, at_least=1)
    """Passes over the revisions."""
    batch_size: int = number(32, at_least=1)
    """Revisions in a step."""
    lr: float = number(5e-4, above=0)
    """Learning rate, linearly decayed to a tenth; the start policy's, of which full fine-tuning wants about a tenth."""
    seed: int = number(0, at_least=0)
    """Which questions, answers and principles, the order of the revisions, and the start of the adapter."""


@dataclass
class Revised:
    """One round of one answer."""

    prompt_id: str
    row: int  # of the candidates
    round: int
    prompt: str
    response: str  # that is criticised: the candidate, or the revision of the round before
    principle: str
    prompt_ids: list[int]
    response_ids: list[int] = field(default_factory=list)  # of the revision
    critique: str | None = None
    revision: str | None = None  # as read; None: excluded
    reply: str | None = None  # the judge's last words in this round, unread

    @property
    def usable(self) -> bool:
        """Whether there is a revision to learn from."""
        return bool(self.response_ids)


class RevisedStart(Start):
    """−E_t[log π(y_t | x, y_<t)] over the tokens of revisions y of the SFT policy's own answers to x."""

    needs = frozenset({"judge"})
    config: Config

    @classmethod
    def refuse(cls, cfg: DictConfig) -> None:
        """Refuse a judge that writes no text, or that has no principles to criticise by."""
        judge = part_class("judge", cfg.judge)
        if judge.write is Judge.write:
            raise UserError(
                f"start=revised: the judge {judge.__name__} writes no text; choose one that does, as judge=constitution"
            )
        if not ("principles" in cfg.judge and cfg.judge.principles):
            raise UserError(
                "start=revised: judge.principles is empty, and critiques take a constitution; choose "
                "judge=constitution, or give judge.principles some sentences"
            )

    def make(self, common: Common, out: Path) -> Mapping[str, Any]:
        """Revise, write ``revisions.parquet``, fine-tune, and write ``policy.safetensors``."""
        import pyarrow as pa
        import pyarrow.parquet as pq
        from transformers import AutoTokenizer

        from rft.data.offline import read_table
        from rft.store.cost import COST

        candidates = read_table(common.candidates / "candidates.parquet")
        first = drawn(candidates, self.config)
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(common.sft)
        reviser = Reviser(common.judge(), common.judge_settings, tokenizer, self.config, common.response_tokens)
        rounds, work = reviser.revise(first)
        del reviser  # the judge's weights make room for the training
        rows = [row for one in rounds for row in one]
        pq.write_table(pa.Table.from_pylist([asdict(row) for row in rows], _schema()), out / FILE)
        learnt = [row for one in (rounds if self.config.all_rounds else rounds[-1:]) for row in one if row.usable]
        revised = sum(row.usable for row in rounds[-1])
        if not learnt or 2 * revised < len(first):
            raise UserError(
                f"start=revised: {revised or 'none'} of {len(first)} answers {'has' if revised < 2 else 'have'} a "
                "revision that can be read: too few are left; raise start.critique_tokens or start.revision_tokens, "
                "correct the server, or choose a judge whose model follows instructions; what could be read is kept, "
                "and the same command asks for the rest again"
            )
        usage, trained = fine_tune(self.config, learnt, common, out)
        lengths = [len(row.response_ids) for row in learnt]
        ended = sum(row.response_ids[-1] == tokenizer.eos_token_id for row in learnt)
        return {
            "questions": len(first),
            "revisions": len(learnt),
            "excluded": len(first) - revised,
            "retried": work.retried,
            "unchanged": sum(row.revision == row.response for row in learnt),
            "mean_length": float(np.mean(lengths)),
            "truncated": 1 - ended / len(learnt),
            **trained,
            USAGE: usage.add(work.usage).counted(),
            COST: {"kept": work.kept, "judge_seconds": work.seconds},
        }


class Reviser:
    """Lets a judge's model criticise and revise answers under principles.

    Args:
        judge: that writes.
        settings: the judge's; `principles` and, if it has one, `setting`: what prompts and responses are, a sentence.
        tokenizer: the policy's.
        config: how often, and how long.
        response_tokens: longest response, EOS included.
    """

    def __init__(
        self,
        judge: Judge,
        settings: Mapping[str, Any],
        tokenizer: PreTrainedTokenizerBase,
        config: Config,
        response_tokens: int,
    ) -> None:
        self.judge, self.tokenizer, self.config, self.response_tokens = judge, tokenizer, config, response_tokens
        self.principles, self.setting = [str(one) for one in settings["principles"]], str(settings.get("setting", ""))

    def revise(self, candidates: Sequence[Mapping[str, Any]]) -> tuple[list[list[Revised]], Work]:
        """Each round's rows, and what they took; an answer that a round excludes is in no later one."""
        rounds: list[list[Revised]] = []
        work, texts = Work(), [str(c["response"]) for c in candidates]
        for turn in range(self.config.rounds):
            rows = [
                Revised(
                    prompt_id=str(c["prompt_id"]),
                    row=int(c["row"]),
                    round=turn,
                    prompt=str(c["prompt"]),
                    response=text,
                    principle=self._principle(int(c["row"]), turn),
                    prompt_ids=list(c["prompt_ids"]),
                )
                for c, text in zip(candidates, texts, strict=True)
            ]
            work += self._round(rows)
            rounds.append(rows)
            kept = [i for i, row in enumerate(rows) if row.usable]
            candidates, texts = [candidates[i] for i in kept], [str(rows[i].revision) for i in kept]
        return rounds, work

    def _principle(self, row: int, turn: int) -> str:
        rng = np.random.default_rng([self.config.seed, 1, row, turn])
        return self.principles[int(rng.integers(len(self.principles)))]

    def _round(self, rows: list[Revised]) -> Work:
        """Fill in critiques and revisions."""

        def ask_critique(row: Revised, again: bool) -> str:
            return critique_request(row.prompt, row.response, row.principle, setting=self.setting, again=again)

        def ask_revision(row: Revised, again: bool) -> str:
            return revision_request(
                row.prompt, row.response, row.principle, str(row.critique), setting=self.setting, again=again
            )

        def take_critique(row: Revised, reply: str) -> bool:
            found = read_critique(reply)
            row.reply, row.critique = reply, found.text if found else None
            return found is not None

        def take_revision(row: Revised, reply: str) -> bool:
            row.reply, found = reply, read_revision(reply, row.prompt, row.response)
            if found is not None:
                row.revision = found.text
                row.response_ids = response_ids(self.tokenizer, row.prompt, row.prompt_ids, found, self.response_tokens)
            return row.usable

        critiques = self._ask(rows, ask_critique, take_critique, self.config.critique_tokens)
        criticised = [row for row in rows if row.critique is not None]
        return critiques + self._ask(criticised, ask_revision, take_revision, self.config.revision_tokens)

    def _ask(
        self,
        rows: Sequence[Revised],
        ask: Callable[[Revised, bool], str],
        take: Callable[[Revised, str], bool],
        max_tokens: int,
    ) -> Work:
        """Put a question about each row, and once more where the reply cannot be read; what is left is excluded.

        But what an earlier stage could not read is asked for anew: server or model may be mended.
        """
        work, left = Work(), list(rows)
        for anew in (False, True):
            if anew and not work.kept:
                break
            for again in (False, True):
                if not left:
                    break
                requests = [ask(row, again) for row in left]
                replies, more = self.judge.write(requests, max_tokens, **({"anew": True} if anew else {}))
                read = [take(row, reply) for row, reply in zip(left, replies, strict=True)]
                work += replace(more, retried=more.retried + (len(left) if again and not anew else 0))
                left = [row for row, good in zip(left, read, strict=True) if not good]
        return replace(work, excluded=work.excluded + len(left))


def drawn(candidates: Sequence[Mapping[str, Any]], config: Config) -> list[Mapping[str, Any]]:
    """One candidate of each question that is drawn, in the order of the questions.

    Raises:
        UserError: if there are fewer questions.
    """
    by_question: dict[str, list[Mapping[str, Any]]] = {}
    for candidate in candidates:
        by_question.setdefault(str(candidate["prompt_id"]), []).append(candidate)
    there, wanted = list(by_question.values()), config.questions
    if wanted is not None and wanted > len(there):
        raise UserError(
            f"start.questions={wanted}: there are {len(there)} training questions; ask for at most as many, or leave "
            "it out for all"
        )
    rng = np.random.default_rng([config.seed, 0])
    picked = [samples[int(rng.integers(len(samples)))] for samples in there]
    if wanted is None:
        return picked
    return [picked[i] for i in sorted(rng.permutation(len(picked))[:wanted].tolist())]


def fine_tune(config: Config, rows: Sequence[Revised], common: Common, out: Path) -> tuple[Usage, dict[str, float]]:
    """Train the SFT policy's adapter on prompt → revision; returns the usage and what it came to.

    Writes ``policy.safetensors``.
    """
    from safetensors.torch import save_file

    from rft.data.offline import example_batches
    from rft.models.backbone import Role
    from rft.models.supervised import SupervisedFineTuning, mean_nll, with_trunks
    from rft.study.training import fit_shared, make_backbone

    sft = SFTConfig(config.epochs, config.batch_size, config.lr, config.seed)
    role = [Role.policy]
    backbone, _ = make_backbone(common.sft, common.strategy, common.lora, role, role, config.seed, reference=False)
    examples = [{"prompt_ids": row.prompt_ids, "response_ids": row.response_ids} for row in rows]
    batches = example_batches(examples, sft.batch_size, sft.epochs, sft.seed, backbone.pad_id)
    measured = with_trunks(example_batches(examples, MEASURED, 1, 0, backbone.pad_id), backbone)
    before, spent = mean_nll(measured, backbone), replace(backbone.usage)
    module = SupervisedFineTuning(sft, backbone, len(batches), key="start.lr")
    fit_shared(module, batches, len(batches), "revised start", common.strategy)
    usage = backbone.usage.add(spent, -1)  # what measures it is no part of making it
    save_file(backbone.role_state(Role.policy), out / "policy.safetensors")
    return usage, {"nll_before": before, "nll": mean_nll(measured, backbone), "steps": len(batches)}


def _schema() -> Any:
    import pyarrow as pa

    text, tokens = pa.string(), pa.list_(pa.int64())
    types = {"row": pa.int64(), "round": pa.int64(), "prompt_ids": tokens, "response_ids": tokens}
    return pa.schema([(f.name, types.get(f.name, text)) for f in fields(Revised)])
