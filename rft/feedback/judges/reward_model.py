"""A scalar reward model as judge: a sequence classifier, or what an earlier study learned from other feedback.

Dimensions: ``B`` answers of a batch, ``N`` answers.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

import numpy as np

from rft.config.build import build, target_class
from rft.config.plugins import class_digest
from rft.config.ranges import number
from rft.errors import UserError
from rft.feedback.base import Answer, Work
from rft.feedback.judges.base import JUDGE_ENTRY, PointwiseJudge, Verdicts
from rft.feedback.judges.batches import answer_in_batches
from rft.feedback.judges.cache import KeptVerdicts
from rft.feedback.judges.request import Message, Reply, Request
from rft.store import Entry, Store
from rft.strategy import Strategy
from rft.types import Sequences

if TYPE_CHECKING:
    from torch import Tensor

MODEL, START = f"{JUDGE_ENTRY}model", f"{JUDGE_ENTRY}sft"


@dataclass
class Config:
    """Settings of `RewardModelJudge`: give `path` or `entry`."""

    path: str | None = None
    """Folder or hub id of a sequence classifier in safetensors (transformers AutoModelForSequenceClassification)."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    positive: str | None = None
    """The label that is good, by its name in the model's config, if the model has two labels."""
    entry: str | None = None
    """Key, or the beginning of one, of a reward model in the store, from an earlier study (`rft store ls`)."""
    batch_size: int = number(32, at_least=1)
    """Answers scored at once; changes speed and memory only."""
    max_tokens: int = number(1024, at_least=8)
    """Tokens of prompt and response that are read; what follows is cut."""

    def conflict(self) -> str | None:
        """What does not go with `entry`."""
        others = {"path": self.path, "revision": self.revision, "positive": self.positive}
        given = [name for name, value in others.items() if value is not None]
        if self.entry is None or not given:
            return None
        return f"entry={self.entry}: goes without judge.{given[0]}; leave one of the two out"


class Scorer(Protocol):
    """Scores answers that it has made tokens of, in whatever form."""

    def encode(self, prompt: str, response: str) -> Any:
        """The tokens of one answer, at least one."""
        ...

    def length(self, row: Any) -> int:
        """How many they are."""
        ...

    def score(self, rows: Sequence[Any]) -> Tensor:
        """Shape [B], float32 on the CPU."""
        ...


class RewardModelJudge(PointwiseJudge):
    """score(x) is the model's own; a preference σ(score of first − score of second), as its training by Bradley–Terry
    means it.

    With `path` the score is that of `rft.models.classifier.Classifier`. With `entry` it is the score of that reward
    source before it is standardised, so that a difference is in the log-odds that it was trained on; prompt and
    response are tokenised apart and EOS follows, as after a response that was not cut off. An address holds the hashes
    of the model's files (of a hub id its name and revision), or the entry's key; what it cost to make that entry is not
    charged again.
    """

    needs = frozenset({"entries", "verdicts"})
    located = frozenset({"path", "revision", "entry"})
    version: ClassVar[int] = 2  # of answers to one question the last bits are others than those of 1

    @classmethod
    def entries(cls, config: Config, store: Store) -> dict[str, Entry]:
        """The classifier, kept in the store; or the reward model and the start policy that it stands on."""
        if (config.path is None) == (config.entry is None):
            raise UserError(
                "judge: give one of judge.path (folder or hub id of a sequence classifier) and judge.entry (a reward "
                "model in the store, see `rft store ls`)"
            )
        if config.entry is not None:
            found = _reward_model(config.entry, store)
            start = store.find("sft", found.inputs["sft"])
            if start is None:
                raise UserError(
                    f"judge.entry={config.entry}: its start policy, sft {found.inputs['sft'][:12]}, is not in the "
                    "store any more; compute it again, or choose another entry"
                )
            return {MODEL: found, START: start}
        from rft.models.classifier import PretrainedClassifier
        from rft.models.pretrained import Config as Place

        place = Place(path=config.path, revision=config.revision)
        return {MODEL: PretrainedClassifier(place, store, key="judge").prepare()}

    def __init__(
        self, config: Config, entries: Mapping[str, Entry], strategy: Strategy, verdicts: KeptVerdicts
    ) -> None:
        self.config, self.verdicts, self._again = config, verdicts, 0
        self.scorer = self._learned(entries, strategy) if START in entries else self._classifier(entries, strategy)

    def asked_again(self, times: int = 1) -> Self:
        """This judge asked anew: it finds none of what it answered before, but what it did at the same `times`."""
        other = copy.copy(self)
        other._again = self._again + times
        return other

    def reads_whole(self, answers: Sequence[Answer]) -> list[bool]:
        """See the base class. One that fills all its places may have been cut."""
        rows = [self.scorer.encode(answer.prompt, answer.response) for answer in answers]
        return [self.scorer.length(row) < self.config.max_tokens for row in rows]

    def score(self, answers: Sequence[Answer]) -> Verdicts:
        """See the base class. Raw answers: ``{"score": …}``. Answers of like length are batched together."""
        rows = [self.scorer.encode(answer.prompt, answer.response) for answer in answers]
        lengths = [self.scorer.length(row) for row in rows]
        order = sorted(range(len(rows)), key=lambda i: lengths[i], reverse=True)
        size = self.config.batch_size
        batches = [order[start : start + size] for start in range(0, len(order), size)]
        requests = [_request(answer, 2 * self._again) for answer in answers]
        identity = {"backend": "reward_model", "positive": self.config.positive}

        def answered(batch: list[int]) -> list[Reply]:
            began = time.perf_counter()
            scores = self.scorer.score([rows[i] for i in batch]).tolist()
            if not np.isfinite(scores).all():
                raise UserError("judge: the reward model gives scores that are NaN or infinite; choose another one")
            seconds = (time.perf_counter() - began) / len(batch)
            return [Reply(repr(s), None, lengths[i], 0, seconds) for i, s in zip(batch, scores, strict=True)]

        replies, kept = answer_in_batches(self.verdicts, identity, requests, rows, batches, answered)
        found = [float(reply.text) for reply in replies]
        work = Work(len(rows), kept=kept, read=sum(lengths), seconds=math.fsum(reply.seconds for reply in replies))
        return Verdicts(np.array(found, dtype=np.float64), [{"score": s} for s in found], work)

    def _classifier(self, entries: Mapping[str, Entry], strategy: Strategy) -> Scorer:
        from rft.models.classifier import Classifier

        made = Classifier(entries[MODEL].path, self.config.positive, self.config.max_tokens, strategy.dtype)
        made.model.to(device=strategy.device)  # type: ignore[call-arg]
        return made

    def _learned(self, entries: Mapping[str, Entry], strategy: Strategy) -> Scorer:
        return Learned(entries[MODEL], entries[START], self.config.max_tokens, strategy)


def _request(answer: Answer, attempt: int) -> Request:
    """The question as it is kept."""
    prompt: Message = {"role": "user", "content": answer.prompt}
    response: Message = {"role": "assistant", "content": answer.response}
    return Request((prompt, response), attempt=attempt)


def _reward_model(prefix: str, store: Store) -> Entry:
    """The one reward model whose key begins so, its files checked.

    Raises:
        UserError: if there is none, or several.
    """
    there = [entry for entry in store.entries() if entry.stage == "reward_model"]
    found = [entry for entry in there if entry.key.startswith(prefix)] if prefix else []
    if len(found) > 1:
        keys = ", ".join(entry.key[:12] for entry in found)
        raise UserError(
            f"judge.entry={prefix}: begins the keys of {len(found)} reward models ({keys}); give more of it"
        )
    whole = store.find("reward_model", found[0].key) if found else None
    if whole is None:
        keys = ", ".join(entry.key[:12] for entry in there[-5:]) or "none"
        raise UserError(f"judge.entry={prefix}: no reward model in {store.root} has this key; there are: {keys}")
    return whole


class Learned:
    """A reward source of the stage ``reward_model``, built again on the start policy that it was made on.

    Raises:
        UserError: if it was made by other code than there is now, or needs more than its own files.
    """

    def __init__(self, entry: Entry, start: Entry, max_tokens: int, strategy: Strategy) -> None:
        from rft.models.backbone import Backbone, Role
        from rft.models.pretrained import LoraConfig, load_folder
        from rft.rewards.base import Standardised

        config: Mapping[str, Any] = entry.manifest["config"]
        node = dict(config["reward"])
        code, version = node.pop("code", None), node.pop("_version_", 1)
        found = target_class(node)
        if code != class_digest(found, str(node["_target_"])) or version != found.version:
            raise UserError(
                f"judge.entry={entry.key[:12]}: was made by another version of {node['_target_']} than is installed; "
                "compute it again, or install that version"
            )
        if more := sorted(found.needs - {"labels", "role"}):
            raise UserError(f"judge.entry={entry.key[:12]}: needs {', '.join(more)} itself; choose a learned one")
        model, tokenizer = load_folder(start.path, strategy.dtype)
        roles = [Role.reward] if "role" in found.needs else []
        backbone = Backbone(model, tokenizer, LoraConfig(**config["lora"]), roles).to(strategy.device)
        self.source = Standardised.load(build(node, backbone=backbone), entry.path).source
        self.backbone, self.max_tokens = backbone, max_tokens

    def encode(self, prompt: str, response: str) -> tuple[list[int], list[int]]:
        """Prompt and response with EOS; of an answer without a prompt its first token is the prompt."""
        asked, said = (self.backbone.tokenizer.encode(text, add_special_tokens=False) for text in (prompt, response))
        whole = [*asked, *said][: self.max_tokens - 1]
        whole.append(self.backbone.eos_id)
        if len(whole) == 1:
            whole *= 2
        cut = min(max(1, len(asked)), len(whole) - 1)
        return whole[:cut], whole[cut:]

    def length(self, row: tuple[list[int], list[int]]) -> int:
        """Of both."""
        return len(row[0]) + len(row[1])

    def score(self, rows: Sequence[tuple[list[int], list[int]]]) -> Tensor:
        """The source's own scores. Shape [B], float32 on the CPU."""
        from rft.rewards.base import check_scores

        scores = self.source.score(self._sequences(rows))
        check_scores(self.source, scores, len(rows))
        return scores.float().cpu()

    def _sequences(self, rows: Sequence[tuple[list[int], list[int]]]) -> Sequences:
        import torch

        from rft.rollout import pad_prompts

        pad, device = self.backbone.pad_id, self.backbone.device
        prompts = pad_prompts([prompt for prompt, _ in rows], pad, device)
        width = max(len(response) for _, response in rows)
        ids = torch.tensor([response + [pad] * (width - len(response)) for _, response in rows], device=device)
        lengths = torch.tensor([len(response) for _, response in rows], device=device)
        return Sequences(*prompts, ids, torch.arange(width, device=device) < lengths[:, None])
