"""Chunked log-probabilities and entropies against autograd through a plain log-softmax.

Dimensions: ``B`` sequences, ``R`` tokens, ``H`` hidden, ``V`` vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from rft.ops.logprobs import CHUNK, token_entropy, token_logprobs
from tests.numerics.ragged import longer, padded, ragged

Operation = Callable[..., Tensor]


def logprobs_of(
    hidden: Tensor, head: Tensor, ids: Tensor, mask: Tensor, temperature: float = 1.0, softcap: float | None = None
) -> Tensor:
    return token_logprobs(hidden, head, ids, mask, temperature, softcap)


def entropy_of(
    hidden: Tensor, head: Tensor, ids: Tensor, mask: Tensor, temperature: float = 1.0, softcap: float | None = None
) -> Tensor:
    return token_entropy(hidden, head, mask, temperature, softcap)


def plain_logits(hidden: Tensor, head: Tensor, temperature: float, softcap: float | None) -> Tensor:
    logits = hidden @ head.T
    return (logits if softcap is None else softcap * torch.tanh(logits / softcap)) / temperature


def plain_logprobs(
    hidden: Tensor, head: Tensor, ids: Tensor, mask: Tensor, temperature: float = 1.0, softcap: float | None = None
) -> Tensor:
    logp = plain_logits(hidden, head, temperature, softcap).log_softmax(-1)
    return logp.gather(-1, ids[..., None])[..., 0] * mask


def plain_entropy(
    hidden: Tensor, head: Tensor, ids: Tensor, mask: Tensor, temperature: float = 1.0, softcap: float | None = None
) -> Tensor:
    logp = plain_logits(hidden, head, temperature, softcap).log_softmax(-1)
    return -(logp.exp() * logp).sum(-1) * mask


PAIRS = {"logprobs": (logprobs_of, plain_logprobs), "entropy": (entropy_of, plain_entropy)}
BOTH = {name: ours for name, (ours, _) in PAIRS.items()}


def inputs(batch: int, tokens: int, width: int, vocabulary: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(batch, tokens, width, generator=generator, dtype=dtype, requires_grad=True)
    head = torch.randn(vocabulary, width, generator=generator, dtype=dtype, requires_grad=True)
    return hidden, head, torch.randint(vocabulary, (batch, tokens), generator=generator)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize(("temperature", "softcap"), [(1.0, None), (0.7, None), (1.0, 2.0), (0.7, 2.0)])
def test_values_and_gradients_are_those_of_log_softmax(name: str, temperature: float, softcap: float | None) -> None:
    batch, tokens = 9, 40
    assert batch * tokens > 2 * CHUNK
    hidden, head, ids = inputs(batch, tokens, 12, 50, torch.float32)
    generator = torch.Generator().manual_seed(1)
    mask = torch.rand(batch, tokens, generator=generator) < 0.9
    weight = torch.randn(batch, tokens, generator=generator)

    ours, plain = (operation(hidden, head, ids, mask, temperature, softcap) for operation in PAIRS[name])
    torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-5)
    got = torch.autograd.grad((ours * weight).sum(), [hidden, head])
    wanted = torch.autograd.grad((plain * weight).sum(), [hidden, head])
    for ours_, plain_ in zip(got, wanted, strict=True):
        torch.testing.assert_close(ours_, plain_, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_gradients_are_those_of_finite_differences(name: str, temperature: float) -> None:
    hidden, head, ids = inputs(3, 4, 3, 5, torch.float64)
    _, mask = ragged(0)
    assert torch.autograd.gradcheck(lambda *x: BOTH[name](*x, ids, mask, temperature), (hidden, head))


@pytest.mark.parametrize("name", BOTH)
def test_blocks_that_are_made_again_give_the_gradients_of_those_kept(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden, head, ids = inputs(9, 40, 12, 50, torch.float64)
    mask = torch.ones_like(ids, dtype=torch.bool)
    weight = torch.randn(9, 40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = []
    for kept in (9 * 40 * 50, 130 * 50):  # all; blocks of 130 tokens, which are no whole chunks
        monkeypatch.setattr("rft.ops.logprobs.KEPT", kept)
        found.append(torch.autograd.grad((BOTH[name](hidden, head, ids, mask) * weight).sum(), [hidden, head]))
    for whole, made_again in zip(*found, strict=True):
        torch.testing.assert_close(made_again, whole)


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("frozen", [True, False], ids=["frozen head", "trained head"])
def test_how_many_tokens_are_widened_at_once_changes_no_bit(
    name: str, dtype: torch.dtype, frozen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden, head, ids = inputs(9, 40, 12, 50, dtype)
    wanted = [hidden] if frozen else [hidden, head]
    head.requires_grad_(not frozen)
    mask = torch.ones_like(ids, dtype=torch.bool)
    weight = torch.randn(9, 40, generator=torch.Generator().manual_seed(1))
    found = []
    for piece in (9 * 40, 7, 1):
        monkeypatch.setattr("rft.ops.logprobs.PIECE", piece)
        values = BOTH[name](hidden, head, ids, mask, 0.7, 2.0)
        found.append([values, *torch.autograd.grad((values * weight).sum(), wanted)])
    for pieces in found[1:]:
        assert all(torch.equal(one, other) for one, other in zip(found[0], pieces, strict=True))


@pytest.mark.parametrize("name", BOTH)
def test_no_token_of_a_large_vocabulary_is_summed_up_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch splits the sum over a single row among threads, which rounds otherwise."""
    hidden, head, ids = inputs(1, 17 * 33, 12, 33_000, torch.float32)
    mask = torch.ones(1, 33, dtype=torch.bool)
    threads, found = torch.get_num_threads(), []
    torch.set_num_threads(2)
    try:
        for piece in (33, 16, 4):
            monkeypatch.setattr("rft.ops.logprobs.PIECE", piece)
            rows = zip(hidden.split(33, 1), ids.split(33, 1), strict=True)
            with torch.no_grad():
                found.append(torch.cat([BOTH[name](hidden_, head, ids_, mask) for hidden_, ids_ in rows]))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(found[0], pieces) for pieces in found[1:])


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("trained", ["hidden", "head"])
def test_what_is_frozen_gets_no_gradient_and_the_other_the_same(name: str, trained: str) -> None:
    hidden, head, ids = inputs(3, 4, 3, 5, torch.float64)
    _, mask = ragged(0)
    gradients = torch.autograd.grad(BOTH[name](hidden, head, ids, mask).sum(), [hidden, head])
    both = dict(zip(("hidden", "head"), gradients, strict=True))
    only = {"hidden": hidden.detach(), "head": head.detach()}
    only[trained].requires_grad_()
    BOTH[name](only["hidden"], only["head"], ids, mask).sum().backward()
    assert torch.equal(only[trained].grad, both[trained])
    assert all(x.grad is None for key, x in only.items() if key != trained)


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_half_precision_is_promoted_and_no_other(name: str, given: torch.dtype, wanted: torch.dtype) -> None:
    hidden, head, ids = inputs(3, 4, 3, 5, given)
    _, mask = ragged(0)
    out = BOTH[name](hidden, head, ids, mask)
    assert out.dtype is wanted
    assert BOTH[name](hidden, head, ids, torch.zeros_like(mask)).dtype is wanted
    gradients = torch.autograd.grad(out.sum(), [hidden, head])
    assert all(gradient.dtype is given for gradient in gradients)
    # Of bfloat16 logits the last of 8 bits is lost.
    exact = PAIRS[name][1](hidden.double(), head.double(), ids, mask)
    torch.testing.assert_close(out.double(), exact, atol=0.05 if given.itemsize == 2 else 1e-5, rtol=0)


@pytest.mark.parametrize("name", BOTH)
def test_padding_is_zero_and_has_no_part(name: str) -> None:
    hidden, head, ids = inputs(3, 4, 3, 5, torch.float64)
    _, mask = ragged(0)
    out = BOTH[name](hidden, head, ids, mask)
    assert out[~mask].eq(0).all()
    wide = torch.cat([hidden.detach(), torch.full((3, 2, 3), math.nan, dtype=torch.float64)], 1).requires_grad_()
    again = BOTH[name](wide, head, padded(ids, 4), longer(mask))
    assert torch.equal(again, padded(out, 0.0))
    got = torch.autograd.grad(again.sum(), [wide, head])
    wanted = torch.autograd.grad(out.sum(), [hidden, head])
    assert torch.equal(got[1], wanted[1])
    assert torch.equal(got[0][:, :4], wanted[0])
    assert got[0][:, 4:].eq(0).all()


def test_one_token_of_a_known_distribution() -> None:
    # Logits log 2, 0, 0 are probabilities 1/2, 1/4, 1/4: entropy (1/2) log 2 + (1/2) log 4 = 1.5 log 2.
    hidden, head = torch.ones(1, 1, 1), torch.tensor([[math.log(2)], [0.0], [0.0]])
    ids, mask = torch.tensor([[1]]), torch.ones(1, 1, dtype=torch.bool)
    assert token_logprobs(hidden, head, ids, mask).item() == pytest.approx(-math.log(4))
    assert token_entropy(hidden, head, mask).item() == pytest.approx(1.5 * math.log(2))
    # At temperature 1/2 the logits double: probabilities 4/6, 1/6, 1/6.
    assert token_logprobs(hidden, head, ids, mask, 0.5).item() == pytest.approx(-math.log(6))
    wanted = 2 / 3 * math.log(3 / 2) + 1 / 3 * math.log(6)
    assert token_entropy(hidden, head, mask, 0.5).item() == pytest.approx(wanted)


def test_entropy_is_log_v_where_all_tokens_are_alike_and_zero_where_one_is_certain() -> None:
    mask = torch.ones(1, 2, dtype=torch.bool)
    hidden = torch.tensor([[[0.0], [1e6]]], requires_grad=True)
    entropy = token_entropy(hidden, torch.tensor([[1.0], [0.0], [-1.0], [0.5]]), mask)
    assert entropy[0, 0].item() == pytest.approx(math.log(4))
    assert entropy[0, 1].item() == 0.0
    assert torch.autograd.grad(entropy.sum(), hidden)[0].isfinite().all()


@pytest.mark.parametrize("name", BOTH)
def test_no_counted_token_gives_zeros_and_no_gradient(name: str) -> None:
    hidden, head, ids = inputs(2, 3, 4, 5, torch.float32)
    out = BOTH[name](hidden, head, ids, torch.zeros(2, 3, dtype=torch.bool))
    assert out.eq(0).all()
    for gradient in torch.autograd.grad(out.sum(), [hidden, head]):
        assert gradient.eq(0).all()


@pytest.mark.parametrize("name", BOTH)
def test_a_second_derivative_is_refused_rather_than_wrong(name: str) -> None:
    hidden, head, ids = inputs(1, 2, 3, 5, torch.float64)
    out = BOTH[name](hidden, head, ids, torch.ones(1, 2, dtype=torch.bool))
    (gradient,) = torch.autograd.grad(out.square().sum(), hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_shapes_that_disagree_are_refused() -> None:
    ids, mask = torch.zeros(2, 3, dtype=torch.long), torch.ones(2, 4, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"must agree in \[B, R\]; take the hidden states at the positions before"):
        token_logprobs(torch.randn(2, 3, 4), torch.randn(5, 4), ids, mask)


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_a_temperature_that_is_not_above_zero_is_refused(name: str, temperature: float) -> None:
    hidden, head, ids = inputs(1, 2, 3, 5, torch.float32)
    with pytest.raises(ValueError, match=f"temperature={temperature}: must be above 0"):
        BOTH[name](hidden, head, ids, torch.ones(1, 2, dtype=torch.bool), temperature)
