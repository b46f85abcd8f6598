"""A causal language model in this process as judge: the study's own, or one of its own.

Dimensions: ``B`` requests of a batch, ``S`` tokens that all requests begin with, ``T`` tokens of the longest after
those, ``H`` hidden width, ``V`` vocabulary.
"""

from __future__ import annotations

import copy
import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from rft.config import number
from rft.errors import UserError
from rft.feedback.judges.asking import AskedJudge, AskingConfig
from rft.feedback.judges.cache import KeptVerdicts
from rft.feedback.judges.chat import Chat
from rft.feedback.judges.operations import Operations
from rft.feedback.judges.request import Reply, Request

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase


@dataclass
class Config(AskingConfig):
    """Settings of `HFJudge`."""

    asset: str | None = None
    """Name of a model asset (`rft assets ls`) that judges; None, and no `path`: the study's model."""
    path: str | None = None
    """A local folder or a hub id, instead of an asset."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    batch_size: int = number(16, at_least=1)
    """Requests answered at once, at least 1; changes speed and memory only."""
    max_characters: int = number(1000)
    """Characters of a prompt, and of a response, that the judge reads, at least 1; what follows is cut."""


class HFJudge(AskedJudge):
    """Asks a model of `transformers`, with its chat template if it has one.

    Without a template the turns stand below each other, what the model says after "Answer:".
    """

    needs = frozenset({"model", "verdicts"})
    version: ClassVar[int] = 2  # what questions begin with is read once: the last bits are others than those of 1
    located = frozenset({"asset", "path", "revision", "batch_size"})

    def __init__(
        self, config: Config, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, verdicts: KeptVerdicts
    ) -> None:
        backend = LocalModel(
            model, tokenizer, batch_size=config.batch_size, temperature=config.temperature, seed=config.seed
        )
        super().__init__(config, backend, verdicts)
        if config.answers == "logprobs":
            backend.options(tuple(config.options) if config.form == "pointwise" else ("A", "B"))


class LocalModel:
    """The backend: log-probabilities of what may be said next, or text, in batches padded on the left.

    The tokens that all requests of a call begin with, such as instruction and examples, are read once for all of them.
    Of an option of several tokens the log-probabilities are summed, but for those that all options begin with. Text is
    greedy at temperature 0, else sampled with numbers that come from the request and the seed alone.

    Args:
        model: a causal language model.
        tokenizer: its own.
        batch_size: requests answered at once.
        temperature: of sampled text.
        seed: of sampled text.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        batch_size: int,
        temperature: float,
        seed: int,
    ) -> None:
        self.model, self.tokenizer, self.chat = model, tokenizer, Chat(tokenizer)
        self._operations = Operations(model)
        self.batch_size, self.temperature, self.seed = batch_size, temperature, seed
        ends = getattr(model.generation_config, "eos_token_id", None)
        listed = ends if isinstance(ends, list) else [ends]
        self._ends = {int(end) for end in (*listed, tokenizer.eos_token_id) if end is not None}

    def identity(self, request: Request) -> dict[str, Any]:
        """The way of sampling, if that is asked for; the model is told by its digest."""
        drawn = {"temperature": self.temperature, "seed": self.seed} if self.temperature else {}
        return {"backend": "hf"} if request.options else {"backend": "hf", **drawn}

    def options(self, options: Sequence[str]) -> tuple[list[int], list[tuple[int, ...]]]:
        """Tokens that all options begin with, and what follows of each.

        Raises:
            UserError: if the tokenizer makes one of them the beginning of another, or the same.
        """
        rows = [tuple(self.chat.spoken(option)) for option in options]
        if any(other[: len(row)] == row for i, row in enumerate(rows) for j, other in enumerate(rows) if i != j):
            raise UserError(
                f"judge: of the options {list(options)} its tokenizer makes {[list(row) for row in rows]}: one is the "
                "beginning of another, so that they cannot be told apart; choose other judge.options, another model, "
                "or judge.answers=generated"
            )
        shared = 0
        while len({row[shared] for row in rows}) == 1:
            shared += 1
        return list(rows[0][:shared]), [row[shared:] for row in rows]

    def answer(self, requests: Sequence[Request]) -> Iterator[tuple[int, Reply]]:
        """See `Backend`. The longest first; the same requests in any order make the same batches.

        Raises:
            UserError: if the model gives what are no numbers, or reads no text as long as a request.
        """
        rows = [self.chat.tokens(request.messages) for request in requests]
        self._check_length(rows, requests)
        order = sorted(range(len(rows)), key=lambda i: (bool(requests[i].options), len(rows[i]), rows[i]), reverse=True)
        training = self.model.training
        self.model.eval()
        try:
            for asks in (True, False):
                kind = [i for i in order if bool(requests[i].options) is asks]
                began = time.perf_counter()
                beginning = _Beginning(self.model, [rows[i] for i in kind])
                for start in range(0, len(kind), self.batch_size):
                    batch = kind[start : start + self.batch_size]
                    found = (self._rated if asks else self._written)(
                        [requests[i] for i in batch], [rows[i] for i in batch], beginning
                    )
                    seconds = (time.perf_counter() - began) / len(batch)
                    for i, one in zip(batch, found, strict=True):
                        flops = self._operations_of(requests[i], len(rows[i]), one.written)
                        yield i, replace(one, read=len(rows[i]), seconds=seconds, flops=flops)
                    began = time.perf_counter()
        finally:
            self.model.train(training)

    def _operations_of(self, request: Request, read: int, written: int) -> float:
        """Of a question of so many tokens, and of its answer."""
        if not request.options:
            return self._operations.writing(read, written)
        shared, rest = self.options(request.options)
        begun = {ids[:n] for ids in rest for n in range(len(ids))}  # each is read by itself
        return self._operations.rating([read + len(shared) + len(one) for one in begun])

    def _check_length(self, rows: Sequence[list[int]], requests: Sequence[Request]) -> None:
        config = self.model.config
        # Rotary positions go on beyond what was trained; learned ones end.
        positions = getattr(config, "max_position_embeddings", None)
        if not positions or getattr(config, "rope_parameters", None):
            return
        for row, request in zip(rows, requests, strict=True):
            if len(row) + request.max_tokens > positions:
                raise UserError(
                    f"judge: a question has {len(row)} tokens and an answer may have {request.max_tokens}, but the "
                    f"model reads {positions}; lower judge.max_characters or judge.max_tokens, or choose another model"
                )

    def _rated(self, requests: Sequence[Request], rows: Sequence[list[int]], beginning: _Beginning) -> list[Reply]:
        """Log-probabilities of the options after each row, nats."""
        import torch

        found = []
        options = [self.options(request.options) for request in requests]
        # After each beginning of an option comes one more row; most options are one token, and its beginning is empty.
        asked = {(i, ids[:n]): 0 for i, (_, rest) in enumerate(options) for ids in rest for n in range(len(ids))}
        longer = [rows[i] + options[i][0] + list(begun) for i, begun in asked]
        asked = {key: place for place, key in enumerate(asked)}
        with torch.inference_mode():
            parts = [longer[start : start + self.batch_size] for start in range(0, len(longer), self.batch_size)]
            decoded = [_Decoding(self.model, part, beginning).logits for part in parts]
            logprobs = torch.cat([logits.float().log_softmax(-1).cpu() for logits in decoded])
        for i, (_, rest) in enumerate(options):
            steps = [[float(logprobs[asked[i, ids[:n]], ids[n]]) for n in range(len(ids))] for ids in rest]
            found.append(tuple(sum(step) for step in steps))
        if not np.isfinite(found).all():
            raise UserError("judge: the model gives log-probabilities that are NaN or infinite; choose another one")
        return [Reply("", row, 0, 0, 0.0) for row in found]

    def _written(self, requests: Sequence[Request], rows: Sequence[list[int]], beginning: _Beginning) -> list[Reply]:
        """What the model writes after each row, until it ends or has written all it may: then it is cut."""
        import torch

        from rft.ops.sampling import sample

        limits = [request.max_tokens for request in requests]
        uniform = torch.from_numpy(np.stack([self._numbers(request, max(limits)) for request in requests]))
        written: list[list[int]] = [[] for _ in rows]
        with torch.inference_mode():
            decoding = _Decoding(self.model, rows, beginning)
            for step in range(max(limits)):
                drawn = sample(decoding.logits.float(), uniform[:, step].to(decoding.logits.device), self.temperature)
                going = False
                for ids, token, limit in zip(written, drawn.tolist(), limits, strict=True):
                    if len(ids) == step < limit and (not ids or ids[-1] not in self._ends):
                        ids.append(token)
                        going = going or (len(ids) < limit and token not in self._ends)
                if not going:
                    break
                decoding.advance(drawn)
        texts = [self.tokenizer.decode(ids, skip_special_tokens=True) for ids in written]
        return [
            Reply(str(text), None, 0, len(ids), 0.0, cut=not ids or ids[-1] not in self._ends)
            for text, ids in zip(texts, written, strict=True)
        ]

    def _numbers(self, request: Request, count: int) -> Any:
        """Uniform numbers of one request. Shape [count]."""
        whole = json.dumps([self.seed, asdict(request)], sort_keys=True).encode()
        return np.random.default_rng(int.from_bytes(hashlib.sha256(whole).digest())).random(count)


class _Beginning:
    """The keys and values of the tokens that all rows begin with, read once; none for a single row.

    Of the shortest row one token at least is left to read. The padding of a row comes after them, so that its tokens
    stand at places further on than their positions say. Layers that look back over a number of places, or sum up what
    they read, would take that for distance: a model that has such layers reads each row whole.
    """

    def __init__(self, model: PreTrainedModel, rows: Sequence[list[int]]) -> None:
        import torch
        from transformers import DynamicCache
        from transformers.cache_utils import DynamicLayer

        self._cache = DynamicCache(config=model.config)
        everywhere = all(type(layer) is DynamicLayer for layer in self._cache.layers)
        first, last = min(rows, default=[]), max(rows, default=[])  # what these two share, all between them do
        most = min(map(len, rows)) - 1 if everywhere and len(rows) > 1 else 0
        self.length = next((n for n in range(most) if first[n] != last[n]), most)
        if self.length:
            ids = torch.tensor([first[: self.length]], device=_device(model))  # [1, S]
            with torch.inference_mode():
                model.get_decoder()(input_ids=ids, past_key_values=self._cache, use_cache=True)

    def copies(self, count: int) -> DynamicCache:
        """A cache for so many rows, which may grow."""
        found = copy.deepcopy(self._cache)
        if self.length:
            found.batch_repeat_interleave(count)
        return found


class _Decoding:
    """Rows of tokens that grow by one token at a time, with the keys and values of what was read.

    `logits` are those of the token that comes next. Shape [B, V].
    """

    def __init__(self, model: PreTrainedModel, rows: Sequence[list[int]], beginning: _Beginning) -> None:
        import torch

        self.model, self.cache, read = model, beginning.copies(len(rows)), beginning.length
        pads, device = [max(map(len, rows)) - len(row) for row in rows], _device(model)
        # The padding of a row stands between what all begin with and its own: that is in the cache already.
        ids = torch.tensor([[0] * pad + row[read:] for pad, row in zip(pads, rows, strict=True)], device=device)
        marks = [[1] * read + [0] * pad + [1] * (len(row) - read) for pad, row in zip(pads, rows, strict=True)]
        self.mask = torch.tensor(marks, device=device)  # [B, S + T]
        self.logits = self._read(ids, (self.mask.cumsum(-1) - 1).clamp(min=0)[:, read:])

    def advance(self, ids: Tensor) -> None:
        """Read one more token a row. Shape [B]."""
        import torch

        self.mask = torch.cat([self.mask, torch.ones_like(self.mask[:, :1])], dim=-1)
        self.logits = self._read(ids[:, None].to(self.mask.device), self.mask.sum(-1, keepdim=True) - 1)

    def _read(self, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        hidden = self.model.get_decoder()(
            input_ids=ids,
            attention_mask=self.mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
        ).last_hidden_state  # [B, T, H]
        # The head at the last position alone: over all of them it would cost V / H times the work.
        logits: torch.Tensor = self.model.get_output_embeddings()(hidden[:, -1].contiguous())
        return logits


def _device(model: PreTrainedModel) -> torch.device:
    weights: torch.Tensor = model.get_input_embeddings().weight  # type: ignore[assignment]
    return weights.device
