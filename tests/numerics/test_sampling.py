"""Drawing tokens: against closed forms, and truncation against that of transformers.

Dimensions: ``B`` sequences, ``V`` vocabulary.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from transformers import TopKLogitsWarper, TopPLogitsWarper

from rft.ops.sampling import Truncation, sample, truncate

P = [0.4, 0.25, 0.15, 0.1, 0.06, 0.04]
ROWS = 20000


def closed_form(temperature: float, truncation: Truncation) -> list[float]:
    """Probabilities of the six tokens, which stand from the most likely down."""
    warm = np.array(P) ** (1 / temperature)
    warm /= warm.sum()
    if truncation.top_k:
        warm[truncation.top_k :] = 0
        warm /= warm.sum()
    before = np.cumsum(warm) - warm
    warm[before >= truncation.top_p] = 0
    return list(warm / warm.sum())


@pytest.mark.parametrize(
    ("temperature", "truncation", "support"),
    [
        (1.0, Truncation(), 6),
        (0.5, Truncation(), 6),
        (2.0, Truncation(), 6),
        (1.0, Truncation(top_k=3), 3),
        (1.0, Truncation(top_p=0.7), 3),
        (1.0, Truncation(top_p=0.3), 1),
        (0.5, Truncation(top_p=0.7), 2),
        (2.0, Truncation(top_k=4, top_p=0.8), 3),
    ],
)
def test_frequencies_are_those_of_the_closed_form(temperature: float, truncation: Truncation, support: int) -> None:
    order = torch.tensor([3, 0, 5, 1, 4, 2])  # token i has the probability of this rank
    logits = (torch.tensor(P).log() + 2.5)[order].expand(ROWS, -1)
    numbers = torch.from_numpy(np.random.default_rng(7).random(ROWS))
    drawn = order[sample(logits, numbers, temperature, truncation)]
    expected = np.array(closed_form(temperature, truncation)) * ROWS
    observed = drawn.bincount(minlength=len(P)).numpy()
    assert (expected > 0).sum() == support
    assert observed[expected == 0].sum() == 0
    assert support == 1 or chisquare(observed[expected > 0], expected[expected > 0], sum_check=False).pvalue > 1e-3


@pytest.mark.parametrize("vocabulary", [1, 255, 256, 257, 1000, 5000])
def test_a_token_is_the_one_in_whose_share_the_number_lies(vocabulary: int) -> None:
    torch.manual_seed(0)
    logits, numbers = 4 * torch.randn(500, vocabulary), torch.rand(500, dtype=torch.float64)
    numbers[:2] = torch.tensor([0.0, 1 - 2**-53])
    shares = torch.softmax(logits.double(), -1)
    ends = shares.cumsum(-1)
    drawn = sample(logits, numbers, 1.0)[:, None]
    end, share = ends.gather(1, drawn)[:, 0], shares.gather(1, drawn)[:, 0]
    assert bool((share > 0).all())
    assert bool((numbers <= end + 1e-6).all())
    assert bool((numbers >= end - share - 1e-6).all())
    exact = torch.searchsorted(ends, numbers[:, None], right=True).clamp(max=vocabulary - 1)
    assert float((drawn == exact).double().mean()) > 0.99


@pytest.mark.parametrize("truncation", [Truncation(), Truncation(top_k=20, top_p=0.9)], ids=["whole", "truncated"])
def test_a_row_is_drawn_the_same_whatever_is_drawn_with_it(
    truncation: Truncation, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    logits, numbers = (4 * torch.randn(100, 1000)).bfloat16(), torch.rand(100, dtype=torch.float64)
    drawn = []
    for piece in (100, 32, 7, 1):
        monkeypatch.setattr("rft.ops.sampling.PIECE", piece)
        drawn.append(sample(logits, numbers, 0.8, truncation).tolist())
    assert len(set(drawn[0])) > 50
    assert drawn[1:] == 3 * drawn[:1]


@pytest.mark.parametrize(("first", "last"), [(0, 1), (254, 257), (255, 256), (700, 999), (998, 999)])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_only_what_weighs_something_is_drawn(first: int, last: int, temperature: float) -> None:
    logits = torch.full((4, 1000), -torch.inf)
    logits[:, [first, last]] = 0.0
    drawn = sample(logits, torch.tensor([0.0, 0.49, 0.51, 1 - 2**-53], dtype=torch.float64), temperature)
    assert drawn.tolist() == [first, first, last, last]


@pytest.mark.parametrize("rounded", [False, True], ids=["distinct", "tied"])
@pytest.mark.parametrize("vocabulary", [40, 3000])
@pytest.mark.parametrize("top_k", [0, 1, 7, 5000])
@pytest.mark.parametrize("top_p", [1e-6, 0.3, 0.9, 0.999, 1.0])
def test_truncation_keeps_what_transformers_keeps(rounded: bool, vocabulary: int, top_k: int, top_p: float) -> None:
    # In double precision: the sum over the less likely and that over the more likely round differently.
    logits = 3 * torch.randn(5, vocabulary, generator=torch.Generator().manual_seed(vocabulary), dtype=torch.float64)
    if rounded:
        logits = logits.round()
    wanted = logits
    if top_k:
        wanted = TopKLogitsWarper(top_k)(None, wanted)
    if top_p < 1:
        wanted = TopPLogitsWarper(top_p)(None, wanted)
    kept = truncate(logits, Truncation(top_k, top_p))
    if not rounded:
        assert torch.equal(kept, wanted)
    # Which of several at the edge is left to the sort there; how many is not.
    assert torch.equal(kept.sort(-1).values, wanted.sort(-1).values)


def test_of_equally_likely_tokens_at_the_edge_the_first_are_kept() -> None:
    logits = torch.tensor([[1.0, 3.0, 1.0, 1.0, 0.0, 3.0]])  # probabilities .04 .31 .04 .04 .02 .31, about
    kept = truncate(logits, Truncation(top_p=0.9)).isfinite()
    assert kept.tolist() == [[True, True, True, False, False, True]]


@pytest.mark.parametrize("wrong", [{"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.1}, {"top_p": float("nan")}])
def test_an_impossible_truncation_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="top_k must be at least 0"):
        Truncation(**wrong)  # type: ignore[arg-type]
