"""The random tensors of each comparison, from fixed seeds. Dimensions: ``B`` sequences (chosen ones first where there
are pairs), ``P`` prompt tokens, ``R`` response tokens, ``T`` = P + R, ``V`` vocabulary.

Policies are tables: the logits after a token are its row of ``table_VV``, so that any tensor can be a prediction and
the gradient on the table is that on all log-probabilities.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.parity.exchange import Case, Tensors

P, R, T, V = 3, 8, 11, 14
PAIRS, GROUPS, GROUP_SIZE = 6, 3, 4
DTYPES = {"float32": torch.float32, "float64": torch.float64}


def response_logprobs(table_VV: Tensor, ids_BT: Tensor) -> Tensor:
    """log p of each response token after the one before it. Shape [B, R]."""
    logprobs_BTV = table_VV[ids_BT[:, P - 1 : -1]].log_softmax(-1)
    return logprobs_BTV.gather(-1, ids_BT[:, P:, None])[..., 0]


class Draw:
    """Random tensors of one seed, drawn in float64 and given in `dtype`."""

    def __init__(self, seed: int, dtype: str = "float64") -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.dtype = DTYPES[dtype]

    def normal(self, *shape: int, scale: float = 1.0) -> Tensor:
        return (scale * torch.randn(*shape, generator=self.generator, dtype=torch.float64)).to(self.dtype)

    def mask(self, rows: int) -> Tensor:
        """Ragged, [B, R]: the first row has one token, the second is cut off at R, the others are of any length."""
        lengths = torch.randint(1, R + 1, (rows,), generator=self.generator)
        lengths[0], lengths[1] = 1, R
        return torch.arange(R)[None] < lengths[:, None]

    def sequences(self, rows: int) -> Tensors:
        """Tokens [B, T], padding too (any number may stand there), and the mask of the responses [B, R]."""
        ids = torch.randint(0, V, (rows, T), generator=self.generator)
        return {"ids_BT": ids, "mask_BR": self.mask(rows)}

    def policies(self) -> Tensors:
        """A policy and a reference that is not far from it."""
        table = self.normal(V, V)
        return {"table_VV": table, "ref_table_VV": table + self.normal(V, V, scale=0.5)}


def preference(seed: int, dtype: str, **settings: Any) -> Case:
    draw = Draw(seed, dtype)
    return Case("dpo", settings, draw.sequences(2 * PAIRS) | draw.policies())


def pair_vectors(kind: str, seed: int, dtype: str, **settings: Any) -> Case:
    """Two numbers for each pair, of ragged responses: summed log-ratios to the reference, or mean log-probabilities
    where `kind` takes those.
    """
    draw = Draw(seed, dtype)
    rows = draw.sequences(2 * PAIRS) | draw.policies()
    x_BR, mask_BR = response_logprobs(rows["table_VV"], rows["ids_BT"]), rows["mask_BR"]
    if kind == "orpo_pairs":
        x_B = torch.where(mask_BR, x_BR, 0.0).sum(-1) / mask_BR.sum(-1)
    else:
        x_B = torch.where(mask_BR, x_BR - response_logprobs(rows["ref_table_VV"], rows["ids_BT"]), 0.0).sum(-1)
    chosen_B, rejected_B = x_B.chunk(2)
    return Case(kind, settings, {"chosen_B": chosen_B.clone(), "rejected_B": rejected_B.clone()})


def simpo(seed: int, dtype: str, **settings: Any) -> Case:
    draw = Draw(seed, dtype)
    return Case("simpo", settings, draw.sequences(2 * PAIRS) | {"table_VV": draw.normal(V, V)})


def kto(seed: int, dtype: str, above: bool, **settings: Any) -> Case:
    """`above`: whether the estimate of the KL is positive; TRL cuts a negative one to zero."""
    draw = Draw(seed, dtype)
    rows = draw.sequences(2 * PAIRS) | draw.policies()
    rows |= {f"kl_{name}": x for name, x in draw.sequences(2 * PAIRS).items()}
    rows["desirable_B"] = torch.rand(2 * PAIRS, generator=draw.generator) < 0.4
    logratios_BR = response_logprobs(rows["table_VV"], rows["kl_ids_BT"])
    logratios_BR = logratios_BR - response_logprobs(rows["ref_table_VV"], rows["kl_ids_BT"])
    if above != bool(logratios_BR[rows["kl_mask_BR"]].sum() > 0):
        rows["table_VV"], rows["ref_table_VV"] = rows["ref_table_VV"], rows["table_VV"]
    return Case("kto", settings, rows)


def surrogate(kind: str, seed: int, dtype: str, **settings: Any) -> Case:
    """A policy that has moved from the one that sampled, far enough for ratios outside every clip range."""
    draw = Draw(seed, dtype)
    rows = draw.sequences(GROUPS * GROUP_SIZE) | draw.policies()
    now_BR = response_logprobs(rows["table_VV"], rows["ids_BT"])
    noise_BR = draw.normal(*now_BR.shape, scale=0.15 if kind == "rloo" else 0.5)
    rows["old_logprobs_BR"] = now_BR + noise_BR
    rows["ref_logprobs_BR"] = response_logprobs(rows.pop("ref_table_VV"), rows["ids_BT"])
    rows["advantages_B"] = draw.normal(GROUPS * GROUP_SIZE)
    return Case(kind, settings, rows)


def sampled_groups(kind: str, seed: int, **settings: Any) -> Case:
    """Rewards of GROUPS prompts, side by side; those of the second are all equal."""
    draw = Draw(seed, "float32")
    rewards = draw.normal(GROUPS, GROUP_SIZE)
    rewards[1] = rewards[1, 0]
    return Case(kind, settings, {"rewards_B": rewards.flatten()})


def reward_model(seed: int, dtype: str) -> Case:
    return Case("reward", {}, {"scores_B": Draw(seed, dtype).normal(2 * PAIRS, scale=2.0)})
