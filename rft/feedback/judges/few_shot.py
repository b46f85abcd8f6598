"""A language model as judge, asked by examples: how much likelier it calls a review positive than negative.

Dimensions: ``B`` texts of a batch, ``S`` tokens of the shared examples, ``T`` tokens of the longest text, ``H`` hidden
width, ``V`` vocabulary.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from rft.config import number
from rft.errors import UserError
from rft.feedback.base import Answer, Work
from rft.feedback.judges.base import PointwiseJudge, Verdicts
from rft.feedback.judges.batches import answer_in_batches
from rft.feedback.judges.cache import KeptVerdicts
from rft.feedback.judges.chat import PlainText
from rft.feedback.judges.operations import Operations
from rft.feedback.judges.request import Message, Reply, Request

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

POSITIVE, NEGATIVE = " positive", " negative"
IDENTITY = {"backend": "few_shot"}


@dataclass
class Config:
    """Settings of `FewShotJudge`."""

    shots: list[dict[str, str]] = field(
        default_factory=lambda: [
            {
                "text": "A warm and clever story that I would gladly watch again tomorrow.",
                "label": "positive",
            },
            {
                "text": "Two hours of flat jokes and wooden acting; I nearly walked out.",
                "label": "negative",
            },
            {
                "text": "The leads are wonderful together and the ending moved me to tears.",
                "label": "positive",
            },
            {
                "text": "A dull, confused mess that wastes everything it has.",
                "label": "negative",
            },
        ]
    )
    """Examples with text and label (positive or negative), at least 1; written for this, not from any data."""
    batch_size: int = number(32, at_least=1)
    """Texts judged at once, at least 1; changes speed and memory only."""
    max_text_tokens: int = number(256, at_least=1)
    """Tokens of a text that the judge reads, at least 1; what follows is cut."""

    def conflict(self) -> str | None:
        """What is wrong with the examples and how to mend it, from the key on; None if all is well."""
        if not self.shots:
            return "shots is empty: give at least one example"
        for i, shot in enumerate(self.shots):
            if not shot.get("text", "").strip() or shot.get("label") not in ("positive", "negative"):
                return f"shots[{i}] needs a text and a label that is positive or negative"
        return None


class FewShotJudge(PointwiseJudge):
    """score(x) = log p(" positive" | examples, x) − log p(" negative" | examples, x), in nats.

    The prompt is ``Review: … Sentiment: …`` for each example and then for x. If a label has several tokens, the
    first in which the two differ counts, given those before it.
    """

    needs = frozenset({"model", "verdicts"})
    version: ClassVar[int] = 2  # what texts begin with alike is read once: the last bits are others than those of 1

    def __init__(
        self, config: Config, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, verdicts: KeptVerdicts
    ) -> None:
        _check(config)
        self.config, self.model, self.tokenizer, self.verdicts = config, model, tokenizer, verdicts
        self._plain, self._operations = PlainText(tokenizer), Operations(model)
        self._again, self._longest = 0, _longest_branch(model)
        self._shots = "".join(f"Review: {s['text']}\nSentiment: {s['label']}\n\n" for s in config.shots)
        self._prefix = self._encode(f"{self._shots}Review:")
        positive, negative = self._encode(POSITIVE), self._encode(NEGATIVE)
        together = zip(positive, negative, strict=False)
        shared = next((i for i, (p, n) in enumerate(together) if p != n), None)
        if shared is None:
            raise UserError(
                f"judge: its tokenizer makes {positive} of {POSITIVE!r} and {negative} of {NEGATIVE!r}: they cannot "
                "be told apart; choose another model"
            )
        self._question = self._encode("\nSentiment:") + positive[:shared]
        self._labels = (positive[shared], negative[shared])

    def asked_again(self, times: int = 1) -> Self:
        """This judge asked anew: it finds none of what it answered before, but what it did at the same `times`."""
        other = copy.copy(self)
        other._again = self._again + times
        return other

    def reads_whole(self, answers: Sequence[Answer]) -> list[bool]:
        """See the base class."""
        return [len(self._text(answer.text)) <= self.config.max_text_tokens for answer in answers]

    def score(self, answers: Sequence[Answer]) -> Verdicts:
        """See the base class. Raw answers: both log-probabilities, ``{"positive": …, "negative": …}``.

        The examples' keys and values are computed once and shared by all texts. Texts that begin alike are batched
        together, and what they share is read once a batch; where they are too long for that, or the model is built
        otherwise, those of like length are. What was asked before in the same batch is found again, where `verdicts`
        looks.
        """
        rows = [self._row(answer.text) for answer in answers]
        branch = all(self._branches(row) for row in rows)
        order = sorted(range(len(rows)), key=lambda i: rows[i] if branch else [len(rows[i])], reverse=True)
        size = self.config.batch_size
        batches = [order[start : start + size] for start in range(0, len(order), size)]
        requests = [self._request(answer.text) for answer in answers]
        with self._judging() as asked:
            answer: Callable[[list[int]], list[Reply]] = lambda batch: asked([rows[i] for i in batch])  # noqa: E731
            replies, kept = answer_in_batches(self.verdicts, IDENTITY, requests, rows, batches, answer)
        found = np.array([reply.logprobs for reply in replies], dtype=np.float64).reshape(-1, 2)
        raw: list[Mapping[str, Any]] = [{"positive": float(p), "negative": float(n)} for p, n in found]
        seconds = math.fsum(reply.seconds for reply in replies)
        read, flops = sum(reply.read for reply in replies), math.fsum(reply.flops for reply in replies)
        work = Work(len(rows), kept=kept, read=read, seconds=seconds, flops=flops)
        return Verdicts(found[:, 0] - found[:, 1], raw, work)

    @contextmanager
    def _judging(self) -> Iterator[Callable[[Sequence[list[int]]], list[Reply]]]:
        """What answers a batch of rows, dropout off; the examples are read once, when the first one comes."""
        import torch

        training, examples = self.model.training, list[tuple["Tensor", "Tensor"]]()

        def answers(rows: Sequence[list[int]]) -> list[Reply]:
            began = time.perf_counter()
            examples[:] = examples or self._examples()
            found = self._answers(rows, examples).tolist()
            if not np.isfinite(found).all():
                raise UserError("judge: the model gives log-probabilities that are NaN or infinite; choose another one")
            seconds = (time.perf_counter() - began) / len(rows)
            read = [len(self._prefix) + len(row) for row in rows]
            flops = [self._operations.rating([count]) for count in read]
            rows_found = zip(read, flops, found, strict=True)
            return [Reply("", (p, n), count, 0, seconds, flops=used) for count, used, (p, n) in rows_found]

        self.model.eval()
        try:
            with torch.inference_mode():
                yield answers
        finally:
            self.model.train(training)

    def _request(self, text: str) -> Request:
        """The question as it is kept: the examples, then the text; what is read of it is in its row."""
        shots: Message = {"role": "system", "content": self._shots.rstrip()}
        asked: Message = {"role": "user", "content": f"Review: {' '.join(text.split())}\nSentiment:"}
        return Request((shots, asked), (POSITIVE, NEGATIVE), 0, 2 * self._again)

    def _encode(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def _row(self, text: str) -> list[int]:
        return self._text(text)[: self.config.max_text_tokens] + self._question

    def _text(self, text: str) -> list[int]:
        """Its tokens, none of which is a control token, whatever the text holds."""
        return self._plain(f" {' '.join(text.split())}")

    @property
    def _device(self) -> torch.device:
        return self.model.get_input_embeddings().weight.device  # type: ignore[return-value]

    def _examples(self) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of the examples in every layer. Shape [1, heads, S, head width] each."""
        import torch
        from transformers import DynamicCache

        cache = DynamicCache()
        ids = torch.tensor([self._prefix], device=self._device)
        self.model.get_decoder()(input_ids=ids, past_key_values=cache, use_cache=True)
        return [(layer.keys, layer.values) for layer in cache.layers]  # type: ignore[misc, union-attr]

    def _branches(self, row: list[int]) -> bool:
        """Whether a text may be read so that it shares with others what they begin with alike."""
        return len(self._prefix) + len(row) <= self._longest

    def _answers(self, rows: Sequence[list[int]], examples: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """Log-probabilities of the two labels after each row. Shape [B, 2], float32 on the CPU."""
        from rft.models.branches import Branches

        if all(self._branches(row) for row in rows):
            branches = Branches(rows, len(self._prefix), self._device)
            last = branches.last_hidden(self.model.get_decoder(), examples)
        else:
            last = self._padded(rows, examples)
        logprobs = self.model.get_output_embeddings()(last).float().log_softmax(dim=-1)  # [B, V]
        answers: Tensor = logprobs[:, list(self._labels)].cpu()
        return answers

    def _padded(self, rows: Sequence[list[int]], examples: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """Last hidden state of each row, whatever the model. Shape [B, H]."""
        import torch
        from transformers import DynamicCache

        size, start = len(rows), len(self._prefix)
        cache = DynamicCache()
        for layer, (keys, values) in enumerate(examples):
            cache.update(keys.expand(size, -1, -1, -1), values.expand(size, -1, -1, -1), layer)
        lengths = torch.tensor([len(row) for row in rows])
        # Padded on the right: the padding lies in the future of every token that counts.
        ids = torch.zeros(size, int(lengths.max()), dtype=torch.long)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
        positions = torch.arange(start, start + ids.shape[1], device=self._device).expand(size, -1)
        hidden = self.model.get_decoder()(
            input_ids=ids.to(self._device), position_ids=positions, past_key_values=cache, use_cache=True
        ).last_hidden_state  # [B, T, H]
        # One contiguous row a text: the head over all positions would cost V / H times the work, and a
        # non-contiguous 3-D input with frozen weights takes a path ten times slower on the CPU.
        last: Tensor = hidden[torch.arange(size), lengths - 1].contiguous()
        return last


def _longest_branch(model: PreTrainedModel) -> int:
    """How long examples and text together may be for ``Branches``; 0: the model is built otherwise."""
    from rft.models.attention import LONGEST, longest_packed
    from rft.models.decoder import decoder_layers

    try:
        return min(LONGEST, longest_packed(model, len(decoder_layers(model))))
    except UserError:  # such a model can judge, though not be trained here
        return 0


def _check(config: Config) -> None:
    if told := config.conflict():
        raise UserError(f"judge.{told}")
    for name, value in (("batch_size", config.batch_size), ("max_text_tokens", config.max_text_tokens)):
        if value < 1:
            raise UserError(f"judge.{name} is {value}: it must be at least 1")
