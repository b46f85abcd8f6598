"""Drawing tokens from logits.

Dimensions: ``B`` sequences, ``V`` vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

RUN = 256  # tokens of the vocabulary that are summed up together
PIECE = 32  # sequences, or half as many more, that are drawn at once on a CPU, but as many as it has threads


@dataclass(frozen=True, slots=True)
class Truncation:
    """Which tokens may be drawn; as it stands, all.

    Raises:
        ValueError: if ``top_k`` is negative or ``top_p`` not in (0, 1].
    """

    top_k: int = 0
    """The most likely k, and all that are as likely as the k-th (Fan et al. 2018, arXiv 1805.04833); 0: all."""
    top_p: float = 1.0
    """The fewest of the most likely whose probabilities reach p (Holtzman et al. 2020, arXiv 1904.09751)."""

    def __post_init__(self) -> None:
        if self.top_k < 0 or not 0 < self.top_p <= 1:
            raise ValueError(f"{self}: top_k must be at least 0 and top_p in (0, 1]")


WHOLE = Truncation()


def truncate(logits_BV: Tensor, truncation: Truncation) -> Tensor:
    """The logits with minus infinity for the tokens that may not be drawn. Shape [B, V].

    First ``top_k``, then ``top_p`` of what is left, as ``transformers`` does; the temperature has been applied. Of
    tokens equally likely at the edge of ``top_p`` as many are kept as are needed, those with the lower ids first (there
    the sort leaves it open which).

    Args:
        logits_BV: float32 or float64.
        truncation: what to keep.
    """
    if 0 < truncation.top_k < logits_BV.shape[-1]:
        least = logits_BV.topk(truncation.top_k).values[:, -1:]
        logits_BV = logits_BV.masked_fill(logits_BV < least, -torch.inf)
    if truncation.top_p < 1:
        logits_BV = logits_BV.masked_fill(~_nucleus(logits_BV, truncation.top_p), -torch.inf)
    return logits_BV


def _nucleus(logits_BV: Tensor, top_p: float) -> Tensor:
    """The tokens before which, from the most likely down, there is less than p. Shape [B, V], bool."""
    vocabulary, size = logits_BV.shape[-1], 32
    mass = logits_BV.logsumexp(-1, keepdim=True)
    while True:  # a sort of the whole vocabulary is many times the work, and a nucleus is small
        size = min(vocabulary, 8 * size)
        top = logits_BV.topk(size).values
        probabilities = (top - mass).exp()
        reached = probabilities.cumsum(-1)
        if size == vocabulary or bool((reached[:, -1] >= top_p).all()):
            break
    count = ((reached - probabilities) < top_p).sum(-1, keepdim=True).clamp(min=1)
    least = top.gather(1, count - 1)
    above, level = logits_BV > least, logits_BV == least
    wanted = count - above.sum(-1, keepdim=True)
    if bool((level.sum(-1, keepdim=True) > wanted).any()):
        level &= level.cumsum(-1) <= wanted
    return above | level


def sample(logits_BV: Tensor, uniform_B: Tensor, temperature: float, truncation: Truncation = WHOLE) -> Tensor:
    """Draw one token a row by inverting the cumulative distribution at one uniform number. Shape [B].

    The distribution is softmax(logits / temperature), truncated and normalised again. Temperature 0 takes the most
    likely token and needs no number.
    ``torch.multinomial`` draws an exponential for each entry of the vocabulary: many times the work.
    """
    if temperature == 0:
        return logits_BV.argmax(-1)
    pieces = round(len(logits_BV) / max(PIECE, torch.get_num_threads())) if logits_BV.device.type == "cpu" else 1
    if pieces > 1:
        # A few at a time: their float32 logits stay in the same memory, and in a processor's cache.
        parts = zip(logits_BV.tensor_split(pieces), uniform_B.tensor_split(pieces), strict=True)
        return torch.cat([sample(logits_PV, uniform_P, temperature, truncation) for logits_PV, uniform_P in parts])
    scaled = logits_BV.float() if temperature == 1 else logits_BV.float() / temperature
    weights = torch.softmax(truncate(scaled, truncation), -1)
    if left := weights.shape[-1] % RUN:
        weights = functional.pad(weights, (0, RUN - left))
    weights = weights.view(len(weights), -1, RUN)
    # First among runs of tokens, then within one: a running sum over the whole row takes several times as long.
    ends = weights.sum(-1).double().cumsum(-1)
    target = _below(uniform_B.double()[:, None] * ends[:, -1:], ends)
    run = torch.searchsorted(ends, target, right=True).clamp(max=ends.shape[-1] - 1)
    before = torch.where(run > 0, ends.gather(1, (run - 1).clamp(min=0)), 0.0)
    within = weights.gather(1, run[:, :, None].expand(-1, -1, RUN))[:, 0].double().cumsum(-1)
    place = torch.searchsorted(within, _below(target - before, within), right=True)
    # Logits that are no numbers have no place in the row; the loss on them ends the training and says so.
    return (run * RUN + place)[:, 0].clamp(max=logits_BV.shape[-1] - 1)


def _below(target: Tensor, sums: Tensor) -> Tensor:
    """At most the last double below the row's total: the search would else leave it, or end on what weighs nothing."""
    total = sums[:, -1:]
    return torch.minimum(target, torch.nextafter(total, torch.zeros_like(total)))
