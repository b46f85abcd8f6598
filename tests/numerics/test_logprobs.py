"""Chunked log-probabilities against autograd through a plain log-softmax.

Dimensions: ``B`` sequences, ``R`` tokens, ``H`` hidden, ``V`` vocabulary.
"""

from __future__ import annotations

import pytest
import torch

from rft.ops.logprobs import CHUNK, token_logprobs


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_values_and_gradients_are_those_of_log_softmax(temperature: float) -> None:
    generator = torch.Generator().manual_seed(0)
    batch, tokens, width, vocabulary = 9, 40, 12, 50
    assert batch * tokens > 2 * CHUNK
    hidden = torch.randn(batch, tokens, width, generator=generator, requires_grad=True)
    head = torch.randn(vocabulary, width, generator=generator, requires_grad=True)
    ids = torch.randint(vocabulary, (batch, tokens), generator=generator)
    mask = torch.rand(batch, tokens, generator=generator) < 0.9
    weight = torch.randn(batch, tokens, generator=generator)

    ours = token_logprobs(hidden, head, ids, mask, temperature)
    plain = (hidden @ head.T / temperature).log_softmax(-1).gather(-1, ids[..., None])[..., 0] * mask
    torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-5)
    got = torch.autograd.grad((ours * weight).sum(), [hidden, head])
    wanted = torch.autograd.grad((plain * weight).sum(), [hidden, head])
    for ours_, plain_ in zip(got, wanted, strict=True):
        torch.testing.assert_close(ours_, plain_, atol=2e-5, rtol=1e-4)


def test_no_counted_token_gives_zeros() -> None:
    ids, mask = torch.zeros(2, 3, dtype=torch.long), torch.zeros(2, 3, dtype=torch.bool)
    assert token_logprobs(torch.randn(2, 3, 4), torch.randn(5, 4), ids, mask).eq(0).all()


def test_shapes_that_disagree_are_refused() -> None:
    ids, mask = torch.zeros(2, 3, dtype=torch.long), torch.ones(2, 4, dtype=torch.bool)
    with pytest.raises(ValueError, match="must agree"):
        token_logprobs(torch.randn(2, 3, 4), torch.randn(5, 4), ids, mask)
