"""Frozen data that passes between the layers.

Dimensions: ``B`` sequences, ``P`` prompt tokens, ``R`` response tokens, ``K`` samples a prompt, ``V`` vocabulary.
Prompts are padded on the left and responses on the right, so that the first response token follows the last
prompt token in every row. Masks are true on counted tokens; EOS is the last counted token of a response.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch
    from torch import Tensor

T = TypeVar("T")


def to_device(data: T, device: torch.device) -> T:
    """A frozen dataclass with every tensor in it on a device; to a GPU by pinned memory, without waiting for it."""

    def move(value: Any) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return to_device(value, device)
        if device.type == "cuda" and getattr(value, "is_cpu", False):
            return value.pin_memory().to(device, non_blocking=True)
        return value.to(device) if hasattr(value, "to") else value

    fields = {f.name: move(getattr(data, f.name)) for f in dataclasses.fields(data)}  # type: ignore[arg-type]
    return dataclasses.replace(data, **fields)  # type: ignore[type-var]


def take(data: T, rows: Tensor | slice) -> T:
    """Some rows of a frozen dataclass: of every tensor in it that has rows, nested ones included."""

    def pick(value: Any) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return take(value, rows)
        return value[rows] if getattr(value, "ndim", 0) else value

    fields = {f.name: pick(getattr(data, f.name)) for f in dataclasses.fields(data)}  # type: ignore[arg-type]
    return dataclasses.replace(data, **fields)  # type: ignore[type-var]


@dataclass(frozen=True, slots=True)
class Sequences:
    """Prompts with one response each."""

    prompt_ids: Tensor  # [B, P] int64, left-padded
    prompt_mask: Tensor  # [B, P] bool
    response_ids: Tensor  # [B, R] int64, right-padded
    response_mask: Tensor  # [B, R] bool, EOS counted, what follows it not
    trunk: Tensor | None = None  # [B, P + R, H] output of the layers that no role changes, if computed already

    def __len__(self) -> int:
        return int(self.prompt_ids.shape[0])

    @property
    def lengths(self) -> Tensor:
        """Counted response tokens. Shape [B], int64."""
        return self.response_mask.sum(-1)

    @property
    def counted(self) -> Tensor:
        """Which tokens of prompt and response count. Shape [B, P + R], bool."""
        import torch

        return torch.cat([self.prompt_mask, self.response_mask], 1)

    @property
    def row_tokens(self) -> int:
        """P + R: prompt and response, padding counted."""
        return int(self.prompt_ids.shape[1] + self.response_ids.shape[1])

    def truncated(self, eos_id: int) -> Tensor:
        """Whether the response ended without EOS. Shape [B], bool."""
        last = (self.lengths - 1).clamp(min=0)
        return self.response_ids.gather(1, last[:, None])[:, 0] != eos_id

    def same_tokens(self, other: Sequences) -> bool:
        """Whether the other holds the same counted and uncounted tokens in the same places."""
        mine = (self.prompt_ids, self.prompt_mask, self.response_ids, self.response_mask)
        theirs = (other.prompt_ids, other.prompt_mask, other.response_ids, other.response_mask)
        return all(a.shape == b.shape and bool((a == b).all()) for a, b in zip(mine, theirs, strict=True))

    def __getitem__(self, rows: Tensor | slice) -> Sequences:
        return take(self, rows)


def join(parts: Iterable[Sequences], pad_id: int = 0) -> Sequences:
    """The rows of all, padded to the widest prompt and the widest response; their trunks, if all have one.

    Args:
        parts: at least one.
        pad_id: what stands where nothing is counted.
    """
    import torch
    from torch.nn.functional import pad

    parts = list(parts)
    before, after = (max(getattr(seq, name).shape[1] for seq in parts) for name in ("prompt_ids", "response_ids"))
    fields: dict[str, list[Tensor]] = {}
    for seq in parts:
        left, right = before - seq.prompt_ids.shape[1], after - seq.response_ids.shape[1]
        margins = {"prompt_ids": ((left, 0), pad_id), "prompt_mask": ((left, 0), False)}
        margins |= {"response_ids": ((0, right), pad_id), "response_mask": ((0, right), False)}
        for name, (margin, value) in margins.items():
            fields.setdefault(name, []).append(pad(getattr(seq, name), margin, value=value))
        if seq.trunk is not None:
            fields.setdefault("trunk", []).append(pad(seq.trunk, (0, 0, left, right)))
    return Sequences(**{name: torch.cat(found) for name, found in fields.items() if len(found) == len(parts)})


@dataclass(frozen=True, slots=True)
class Rollouts:
    """Responses of the current policy with all that is known of them before the update, without gradient."""

    sequences: Sequences
    logprobs: Tensor  # [B, R] of the policy that sampled, zero outside the mask
    rewards: Tensor  # [B] one number a sequence, from the reward source
    truncated: Tensor  # [B] bool
    group: Tensor  # [B] int64, equal for the responses drawn together for a prompt, samples_per_prompt of each
    ref_logprobs: Tensor | None = None  # [B, R] of the reference, if the algorithm needs it
    values: Tensor | None = None  # [B, R] of the critic at the state before each token, if needed
    greedy_rewards: Tensor | None = None  # [B] reward of the most likely response to the same prompt, if needed
    metrics: Mapping[str, float] = field(default_factory=dict)  # named parts of the reward and timings
    preferences: Tensor | None = None  # [B] P(better than the other of its pair), if needed; 0.5: tie, or excluded

    def __len__(self) -> int:
        return len(self.sequences)

    def __getitem__(self, rows: Tensor | slice) -> Rollouts:
        return take(self, rows)


@dataclass(frozen=True, slots=True)
class OnPolicyBatch:
    """A minibatch of rollouts with credit assigned."""

    sequences: Sequences
    logprobs: Tensor  # [B, R] old log-probabilities
    advantages: Tensor  # [B, R], zero outside the mask
    returns: Tensor | None = None  # [B, R] targets of the critic
    values: Tensor | None = None  # [B, R] the critic's old values
    ref_logprobs: Tensor | None = None  # [B, R]
    weight: float = 1.0  # makes means over microbatches and ranks the mean over the whole minibatch

    def __len__(self) -> int:
        return len(self.sequences)

    def __getitem__(self, rows: Tensor | slice) -> OnPolicyBatch:
        return take(self, rows)

    @property
    def count(self) -> int:
        """Counted tokens."""
        return int(self.sequences.response_mask.sum())


@dataclass(frozen=True, slots=True)
class PreferenceBatch:
    """Pairs of responses to the same prompt. A pair whose preference is 0.5 is a tie and counts nowhere."""

    chosen: Sequences  # [B, ...]
    rejected: Sequences  # [B, ...]
    preference: Tensor  # [B] P(chosen is better), in [0.5, 1]
    ref_chosen_logprobs: Tensor | None = None  # [B] summed over counted tokens
    ref_rejected_logprobs: Tensor | None = None  # [B]
    weight: float = 1.0  # as in OnPolicyBatch

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, rows: Tensor | slice) -> PreferenceBatch:
        return take(self, rows)

    @property
    def both(self) -> Sequences:
        """The chosen ones, then the rejected ones, [2 B, ...]: one pass, in which a pair's prompt is passed once."""
        return join((self.chosen, self.rejected))

    @property
    def row_tokens(self) -> int:
        """Of both responses with their prompt, padding counted."""
        return self.chosen.row_tokens + self.rejected.row_tokens

    @property
    def decided(self) -> Tensor:
        """Pairs that are no ties. Shape [B], bool."""
        return self.preference > 0.5

    @property
    def count(self) -> int:
        """Decided pairs."""
        return int(self.decided.sum())


@dataclass(frozen=True, slots=True)
class UnpairedBatch:
    """Single responses, each called good or bad; with each prompt, a response to another one."""

    sequences: Sequences  # [B, ...]
    desirable: Tensor  # [B] bool
    mismatched: Sequences  # [B, ...] the same prompts with responses that were given to other prompts
    ref_logprobs: Tensor | None = None  # [B] summed over counted tokens
    ref_mismatched_logprobs: Tensor | None = None  # [B]
    kl: Tensor | None = None  # [] nats a sequence between policy and reference, without gradient
    weight: float = 1.0  # as in OnPolicyBatch

    def __len__(self) -> int:
        return len(self.sequences)

    def __getitem__(self, rows: Tensor | slice) -> UnpairedBatch:
        return take(self, rows)

    @property
    def row_tokens(self) -> int:
        """Of a response with its prompt, padding counted."""
        return self.sequences.row_tokens

    @property
    def count(self) -> int:
        """Responses."""
        return len(self)


@dataclass(frozen=True, slots=True)
class ComparisonBatch:
    """Answers with the comparisons among them, for a model that scores each answer once."""

    answers: Sequences  # [B, ...]
    chosen: Tensor  # [M] int64, rows of answers
    rejected: Tensor  # [M] int64
    preference: Tensor  # [M] P(chosen is better), in [0.5, 1]

    def __len__(self) -> int:
        return int(self.chosen.shape[0])

    @property
    def count(self) -> int:
        """Comparisons."""
        return len(self)

    def parts(self, tokens: int | None) -> list[ComparisonBatch]:
        """The comparisons in parts of at most so many tokens, padding counted, as far as each answer is in one part."""
        pairs = list(zip(self.chosen.tolist(), self.rejected.tolist(), strict=True))
        last = {row: i for i, pair in enumerate(pairs) for row in pair}
        most = len(self.answers) if tokens is None else tokens // self.answers.row_tokens
        cuts, rows, start, reach = [0], 0, 0, -1  # the part so far has so many answers; a group begins at `start`
        for i, pair in enumerate(pairs):
            reach = max(reach, *(last[row] for row in pair))
            if i < reach:
                continue
            more = len({row for one in pairs[start : i + 1] for row in one})
            if rows and rows + more > most:
                cuts.append(start)
                rows = 0
            rows, start = rows + more, i + 1
        return [self._part(begin, end) for begin, end in zip(cuts, [*cuts[1:], len(pairs)], strict=True)]

    def _part(self, start: int, stop: int) -> ComparisonBatch:
        if (start, stop) == (0, len(self)):
            return self
        parts = self.chosen[start:stop], self.rejected[start:stop]
        rows = sorted({row for part in parts for row in part.tolist()})
        place = {row: i for i, row in enumerate(rows)}
        chosen, rejected = (part.new_tensor([place[row] for row in part.tolist()]) for part in parts)
        return ComparisonBatch(
            self.answers[self.chosen.new_tensor(rows)], chosen, rejected, self.preference[start:stop]
        )


@dataclass(frozen=True, slots=True)
class ExampleBatch:
    """Demonstrations to imitate."""

    sequences: Sequences

    def __len__(self) -> int:
        return len(self.sequences)

    @property
    def count(self) -> int:
        """Counted tokens."""
        return int(self.sequences.response_mask.sum())

    def parts(self, tokens: int | None) -> list[ExampleBatch]:
        """The rows in parts of at most so many tokens, padding counted, or of one row."""
        most = len(self) if tokens is None else max(1, tokens // self.sequences.row_tokens)
        return [ExampleBatch(self.sequences[slice(i, i + most)]) for i in range(0, len(self), most)]


@dataclass(frozen=True, slots=True)
class LossOutput:
    """A loss and the metrics to log beside it (detached scalars)."""

    loss: Tensor  # [] to be minimised
    metrics: Mapping[str, Tensor] = field(default_factory=dict)
