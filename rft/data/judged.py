"""What is said of fresh responses: labels that a feedback source gives them, and scores that are missing.

Dimensions: ``B`` sequences, ``M`` pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from rft.feedback.base import Answer, Feedback
from rft.models.backbone import Backbone
from rft.models.text import decoded
from rft.ops.advantages import fill_missing, pairs_in_groups
from rft.types import Rollouts, Sequences


def label_pairs(feedback: Feedback, seq: Sequences, group_B: Tensor, backbone: Backbone) -> Tensor:
    """P(this response is better than the other one of its pair), NaN where the label is excluded. Shape [B], float64.

    The responses of a group are compared two by two, in their order. What the labels cost counts in the backbone's
    usage.
    """
    prompts, responses = (
        decoded(backbone.tokenizer, ids, mask)
        for ids, mask in ((seq.prompt_ids, seq.prompt_mask), (seq.response_ids, seq.response_mask))
    )
    first_M, second_M = pairs_in_groups(group_B)
    answers = [Answer(prompt, response) for prompt, response in zip(prompts, responses, strict=True)]
    labels = feedback.label(answers, torch.stack([first_M, second_M], 1).cpu().numpy())
    backbone.usage.count(labels.usage)
    found_B = torch.full((len(seq),), torch.nan, dtype=torch.float64)
    preference_M = torch.as_tensor(labels.preference, dtype=torch.float64)
    found_B[first_M.cpu()], found_B[second_M.cpu()] = preference_M, 1 - preference_M
    return found_B


def leave_out_unscored(rollouts: Rollouts) -> Rollouts:
    """Rollouts in which a response whose reward is NaN, since it could not be judged, teaches nothing.

    None of its tokens counts any more, so that it has no gradient and no part in any mean over tokens; it stays in its
    group, at a reward that leaves the others' mean, best and worst as they are (`rft.ops.advantages.fill_missing`). If
    the greedy response to a prompt has no score, none of that prompt's responses teaches.
    """
    greedy = rollouts.greedy_rewards
    missing_B = rollouts.rewards.isnan() if greedy is None else rollouts.rewards.isnan() | greedy.isnan()
    if not bool(missing_B.any()):
        return rollouts
    rewards_B = fill_missing(rollouts.rewards.masked_fill(missing_B, torch.nan), rollouts.group)
    seq, column_B1 = rollouts.sequences, missing_B[:, None]
    without: Callable[[Tensor], Tensor] = lambda x_BR: x_BR.masked_fill(column_B1, 0)  # noqa: E731
    ref, values = rollouts.ref_logprobs, rollouts.values
    return replace(
        rollouts,
        sequences=replace(seq, response_mask=seq.response_mask & ~column_B1),
        logprobs=without(rollouts.logprobs),
        ref_logprobs=None if ref is None else without(ref),
        values=None if values is None else without(values),
        rewards=rewards_B,
        greedy_rewards=None if greedy is None else torch.where(missing_B, rewards_B, greedy),
    )
