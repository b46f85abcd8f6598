"""Direct RLAIF: the judge's score of a response is its reward; no label is made and no reward model is trained.

Source: Lee et al. 2023 (arXiv 2309.00267), section "direct RLAIF"; they ask for a grade of 1 to 10 and weigh the grades
by their probabilities. Here it is whatever score the judge gives, standardised like any other source's.
Dimensions: ``B`` sequences.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from rft.errors import UserError
from rft.feedback.base import Answer
from rft.rewards.base import Reward

if TYPE_CHECKING:
    from torch import Tensor

    from rft.feedback.judges.base import Judge
    from rft.models.backbone import Backbone
    from rft.types import Sequences


@dataclass
class Config:
    """Settings of `JudgeReward`: none, all are the judge's."""


class JudgeReward(Reward):
    """score(x, y) = the judge's score of the response y to the prompt x, in its own unit.

    What asking takes counts in the usage of the backbone, as the policy's own work does. A verdict that could not be
    read is no score: NaN.
    """

    needs = frozenset({"judge"})
    may_lack = True

    def __init__(self, config: Config, backbone: Backbone, judge: Judge) -> None:
        if not judge.one_by_one:
            raise UserError(scores_none(type(judge)))
        super().__init__(config, backbone)
        self.judge = judge

    @torch.no_grad()
    def score(self, sequences: Sequences) -> Tensor:
        """The judge's scores. Shape [B], float32; NaN: excluded."""
        asked = zip(self.prompts(sequences), self.responses(sequences), strict=True)
        verdicts = self.judge.score([Answer(prompt, response) for prompt, response in asked])
        self.backbone.usage.count(verdicts.work.usage)
        return torch.as_tensor(verdicts.scores, dtype=torch.float32).to(sequences.response_ids.device)


def scores_none(judge: type[Judge]) -> str:
    """The refusal of a judge that gives no score to a response by itself."""
    return (
        f"reward: {judge.__name__} compares answers as it is set and scores none by itself; set judge.form=pointwise, "
        "or choose a judge that scores, such as judge=few_shot"
    )
