"""Credit assignment. Dimensions: ``B`` sequences, ``R`` response tokens, ``G`` groups.

A group is the responses to one prompt: the rows with one id in ``group_B``. Ids are any whole numbers and the rows of
a group need not stand side by side. All rows of a group must be in the same call.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rft.ops.masked import (
    check_boolean,
    check_dimensions,
    check_integer,
    check_same_shape,
    check_sequences,
    check_tokens,
    check_vectors,
)


def token_rewards(sequence_rewards_B: Tensor, kl_BR: Tensor, mask_BR: Tensor, kl_coef: float | Tensor) -> Tensor:
    """−kl_coef · KL at each counted token, plus the sequence's reward at the last of them. Shape [B, R].

    Units: those of the reward; ``kl_coef`` is in reward units per nat. Zero outside the mask. A sequence without
    counted tokens gets nothing. Source: Ziegler et al. 2019 (arXiv 1909.08593), equation 2.

    Raises:
        TypeError: unless the mask is boolean, and rewards and KL floating-point numbers.
        ValueError: unless KL and mask are [B, R], and the rewards [B].
    """
    check_tokens(mask_BR, kl=kl_BR)
    check_sequences(mask_BR, sequence_rewards=sequence_rewards_B)
    rewards = torch.where(mask_BR, -kl_coef * kl_BR, torch.zeros_like(kl_BR))
    places_R = torch.arange(mask_BR.shape[1], device=mask_BR.device)
    last_B = torch.where(mask_BR, places_R, torch.zeros_like(places_R)).amax(-1)
    at_end = torch.where(mask_BR.any(-1), sequence_rewards_B, torch.zeros_like(sequence_rewards_B))
    return rewards.scatter_add(1, last_B[:, None], at_end[:, None].to(rewards.dtype))


def gae(rewards_BR: Tensor, values_BR: Tensor, mask_BR: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation. Two tensors [B, R]: advantages and returns, zero outside the mask.

    δ_t = r_t + γ V_{t+1} − V_t,  A_t = δ_t + γλ A_{t+1},  return_t = A_t + V_t,
    with V = 0 after the last counted token (Schulman et al. 2015, arXiv 1506.02438, equation 16).

    Raises:
        TypeError, ValueError: see ``rft.ops.masked.check_tokens``.
    """
    check_tokens(mask_BR, rewards=rewards_BR, values=values_BR)
    zero = torch.zeros_like(values_BR)
    v_BR = torch.where(mask_BR, values_BR, zero)
    r_BR = torch.where(mask_BR, rewards_BR, zero)
    advantages = torch.zeros_like(v_BR)
    running = torch.zeros_like(v_BR[:, 0])
    v_next = torch.zeros_like(running)
    for t in reversed(range(v_BR.shape[1])):
        delta = r_BR[:, t] + gamma * v_next - v_BR[:, t]
        running = torch.where(mask_BR[:, t], delta + gamma * lam * running, running)
        advantages[:, t] = torch.where(mask_BR[:, t], running, zero[:, t])
        v_next = torch.where(mask_BR[:, t], v_BR[:, t], v_next)
    return advantages, torch.where(mask_BR, advantages + v_BR, zero)


def rewards_to_go(rewards_BR: Tensor, mask_BR: Tensor, gamma: float = 1.0) -> Tensor:
    """G_t = r_t + γ G_{t+1}: the discounted sum of the rewards from each counted token on. Shape [B, R].

    Zero outside the mask, and after the last counted token. It is ``gae`` at λ = 1 without values (Williams 1992;
    Sutton & Barto 2018, equation 3.9).

    Raises:
        TypeError, ValueError: see ``rft.ops.masked.check_tokens``.
    """
    return gae(rewards_BR, torch.zeros_like(rewards_BR), mask_BR, gamma, 1.0)[0]


def _check_grouped(rewards_B: Tensor, group_B: Tensor) -> None:
    check_vectors(rewards=rewards_B)
    check_integer(group=group_B)
    check_same_shape(rewards=rewards_B, group=group_B)


def _members(group_B: Tensor) -> dict[int, list[int]]:
    """The rows of each group, groups in the order in which they first appear."""
    members: dict[int, list[int]] = {}
    for row, group in enumerate(group_B.tolist()):
        members.setdefault(group, []).append(row)
    return members


def _centred(
    rewards_B: Tensor, group_B: Tensor, counted_B: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """In float64: rewards less their group's mean [B] and the size of its group [B]; then each row's group among
    the sorted ids [B], and these ids [G]. A row that is not counted is a group by itself.
    """
    _check_grouped(rewards_B, group_B)
    if counted_B is not None:
        check_boolean(counted=counted_B)
        check_same_shape(rewards=rewards_B, counted=counted_B)
        if not bool(counted_B.all()):
            own_B = group_B.max() + 1 + torch.arange(len(group_B), device=group_B.device)
            group_B = torch.where(counted_B, group_B, own_B.to(group_B.dtype))
    ids_G, place_B = group_B.unique(return_inverse=True)
    zeros_G = torch.zeros(len(ids_G), dtype=torch.float64, device=rewards_B.device)
    sizes_G = zeros_G.index_add(0, place_B, torch.ones_like(rewards_B, dtype=torch.float64))
    # Counted from the least of each group, equal rewards are exactly zero, and no rounding error is scaled up.
    x_B = rewards_B.double()
    x_B = x_B - zeros_G.scatter_reduce(0, place_B, x_B.detach(), "amin", include_self=False)[place_B]
    means_G = zeros_G.index_add(0, place_B, x_B) / sizes_G
    return x_B - means_G[place_B], sizes_G[place_B], place_B, ids_G


def group_relative(
    rewards_B: Tensor, group_B: Tensor, counted_B: Tensor | None = None, *, scale: bool, eps: float = 1e-6
) -> Tensor:
    """A_i = r_i − mean(r of its group), over (std(r of its group) + eps) if ``scale``. Shape [B].

    A row that is not in ``counted_B`` (all are, if it is None) is no member of its group and gets 0.
    Normaliser: the sample standard deviation (unbiased, n − 1) of the group; a group of one gets 0. Source: Shao et
    al. 2024 (arXiv 2402.03300), section 4.1.2; without ``scale``, Dr. GRPO (Liu et al. 2025, arXiv 2503.20783).

    Raises:
        TypeError: unless rewards are floating-point numbers, group ids whole ones, and ``counted_B`` boolean.
        ValueError: unless all are [B].
    """
    centred_B, sizes_B, place_B, ids_G = _centred(rewards_B, group_B, counted_B)
    if scale:
        squares_G = torch.zeros_like(ids_G, dtype=torch.float64).index_add(0, place_B, centred_B.square())
        std_B = (squares_G[place_B] / (sizes_B - 1).clamp(min=1)).sqrt()
        centred_B = centred_B / (std_B + eps)
    return centred_B.to(rewards_B.dtype)


def leave_one_out(rewards_B: Tensor, group_B: Tensor, counted_B: Tensor | None = None) -> Tensor:
    """A_i = r_i − (1/(n−1)) Σ_{j≠i} r_j, over the n members of its group. Shape [B].

    A row that is not in ``counted_B`` (all are, if it is None) is no member of its group and gets 0; so does one whose
    others all are not. It equals n/(n−1) times the reward less the group's mean. Source: Kool et al. 2019 ("Buy 4
    REINFORCE samples, get a baseline for free!"); Ahmadian et al. 2024 (arXiv 2402.14740), equation 8.

    Raises:
        TypeError: unless rewards are floating-point numbers, group ids whole ones, and ``counted_B`` boolean.
        ValueError: unless all are [B]; for a group of one, which has no others.
    """
    centred_B, sizes_B, place_B, ids_G = _centred(rewards_B, group_B)
    alone_B = sizes_B < 2
    if bool(alone_B.any()):
        row = int(alone_B.nonzero()[0])
        raise ValueError(
            f"group {int(ids_G[place_B[row]])} (row {row}) has one member, so there are no others to compare it with; "
            "sample at least two responses a prompt, and keep those of a prompt in one call"
        )
    if counted_B is not None:
        centred_B, sizes_B, *_ = _centred(rewards_B, group_B, counted_B)
    return (centred_B * sizes_B / (sizes_B - 1).clamp(min=1)).to(rewards_B.dtype)


def group_extremes(rewards_B: Tensor, group_B: Tensor) -> tuple[Tensor, Tensor]:
    """The rows of the best and of the worst response of each group. Two tensors [G], int64.

    Groups stand in the order in which they first appear; of equal rewards the lowest row is taken, so that a group of
    equal rewards, or of one, gives the same row twice.

    Raises:
        TypeError: unless rewards are floating-point numbers and group ids whole ones.
        ValueError: unless both are [B].
    """
    _check_grouped(rewards_B, group_B)
    members = _members(group_B)
    reward = rewards_B.tolist()
    best = [max(rows, key=reward.__getitem__) for rows in members.values()]
    worst = [min(rows, key=reward.__getitem__) for rows in members.values()]
    return group_B.new_tensor(best, dtype=torch.int64), group_B.new_tensor(worst, dtype=torch.int64)


def fill_missing(rewards_B: Tensor, group_B: Tensor) -> Tensor:
    """Rewards in which NaN, a response that has none, is the mean of the group's others; 0 if all are NaN. Shape [B].

    There it changes neither the mean of its group nor, since it stays between them, the best and the worst of it.

    Raises:
        TypeError: unless rewards are floating-point numbers and group ids whole ones.
        ValueError: unless both are [B].
    """
    _check_grouped(rewards_B, group_B)
    missing_B = rewards_B.isnan()
    ids_G, place_B = group_B.unique(return_inverse=True)
    known_K, group_K = rewards_B[~missing_B].double(), place_B[~missing_B]
    zeros_G = torch.zeros(len(ids_G), dtype=torch.float64, device=rewards_B.device)
    counts_G = zeros_G.index_add(0, group_K, torch.ones_like(known_K)).clamp(min=1)
    least_G, most_G = (zeros_G.scatter_reduce(0, group_K, known_K, how, include_self=False) for how in ("amin", "amax"))
    # Rounding must not take the mean of equal rewards out of them: it would be the best.
    means_G = (zeros_G.index_add(0, group_K, known_K) / counts_G).clamp(least_G, most_G)
    return torch.where(missing_B, means_G[place_B].to(rewards_B.dtype), rewards_B)


def pairs_in_groups(group_B: Tensor) -> tuple[Tensor, Tensor]:
    """The rows of each group two by two, in their order: first and second of each pair. Two tensors [M], int64.

    Groups stand in the order in which they first appear.

    Raises:
        TypeError: unless group ids are whole numbers.
        ValueError: unless they are [B], and every group has an even number of rows.
    """
    check_integer(group=group_B)
    check_dimensions("B", group=group_B)
    members = _members(group_B)
    for group, rows in members.items():
        if len(rows) % 2:
            raise ValueError(
                f"group {group} has {len(rows)} rows: an even number is wanted, to compare them two by two"
            )
    first = [row for rows in members.values() for row in rows[::2]]
    second = [row for rows in members.values() for row in rows[1::2]]
    return group_B.new_tensor(first, dtype=torch.int64), group_B.new_tensor(second, dtype=torch.int64)


def overlong_penalty(lengths_B: Tensor, limit: int, buffer: int) -> Tensor:
    """0 up to limit − buffer tokens, (limit − buffer − length) / buffer up to limit, −1 beyond. Shape [B], float32.

    Soft overlong punishment, to be added to the reward (Yu et al. 2025, arXiv 2503.14476, equation 13). All lengths
    in counted response tokens.

    Raises:
        TypeError: unless the lengths are whole numbers.
        ValueError: unless they are [B], and 1 ≤ buffer ≤ limit.
    """
    check_integer(lengths=lengths_B)
    check_dimensions("B", lengths=lengths_B)
    if not 1 <= buffer <= limit:
        raise ValueError(f"buffer={buffer}, limit={limit}: the buffer must be at least 1 and at most the limit")
    return ((limit - buffer - lengths_B) / buffer).float().clamp(-1.0, 0.0)
