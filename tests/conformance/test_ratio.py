"""What the row ``ratio`` lets pass: weights and normalisers that somebody chose are no constant in the ratio."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rft.algorithms import rloo
from rft.models.backbone import Role
from rft.ops.losses import clipped_surrogate
from rft.ops.masked import masked_mean
from rft.testing import check_class
from rft.types import LossOutput, OnPolicyBatch


def _reduced(reduce: Any, advantages: Any = lambda a_BR: a_BR) -> type[rloo.RLOO]:
    """RLOO whose clipped loss over tokens is reduced in another way."""

    class Reduced(rloo.RLOO):
        def loss(self, batch: OnPolicyBatch) -> LossOutput:
            seq = batch.sequences
            logprobs = self.backbone.logprobs(Role.policy, seq, self.config.temperature)
            credit_BR = advantages(batch.advantages) * seq.response_mask
            loss_BR, _ = clipped_surrogate(logprobs, batch.logprobs, credit_BR, seq.response_mask, 0.2, 0.2)
            return LossOutput(reduce(loss_BR, seq.response_mask))

    return Reduced


TAKEN = {
    "half of it": (lambda x, m: 0.5 * masked_mean(x, m), "0.5 "),
    "a sum over tokens for each prompt of four responses": (lambda x, m: 4 * x.sum() / len(m), "4 "),
    "the longest length": (lambda x, m: x.sum() / m.numel(), "0.2 "),
    "the root of the length": (lambda x, m: (x.sum(-1) / m.sum(-1).sqrt()).mean(), "1 "),
    "a setting": (lambda x, m: 0.123456 * masked_mean(x, m), "0.123 "),
}


@pytest.mark.parametrize("case", TAKEN)
def test_a_weight_that_was_chosen_passes(case: str) -> None:
    reduce, scale = TAKEN[case]
    settings = rloo.Config(name="reduced", kl_coef=0.123456)
    (row,) = check_class(_reduced(reduce), settings, only=["ratio"]).results
    assert row.ok, row.detail
    assert f"gradient {scale}×" in row.detail


def test_a_weight_that_is_no_setting_and_no_count_does_not() -> None:
    reduce, _ = TAKEN["a setting"]
    (row,) = check_class(_reduced(reduce), rloo.Config(name="reduced"), only=["ratio"]).results
    assert row.ok is False
    assert "0.123456 times that of −log π, which is no setting and no count" in row.detail


@pytest.mark.parametrize(
    "algorithm",
    [
        _reduced(lambda x, m: (x.sum(-1) * torch.linspace(0.3, 0.9, len(m))).mean()),
        _reduced(masked_mean, advantages=torch.exp),
    ],
    ids=["weights that differ between rows", "not linear in the advantages"],
)
def test_nothing_is_said_of_what_has_no_one_scale(algorithm: Any) -> None:
    (row,) = check_class(algorithm, rloo.Config(name="reduced"), only=["ratio"]).results
    assert row.ok, row.detail
    assert row.detail == "log-probs equal to the bit"
