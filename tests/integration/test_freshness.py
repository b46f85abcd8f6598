"""On-policy means: every rollout is sampled from the weights after the last step, no sooner and no later."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.integration.harness import OF, TINY

# The first of the group to run waits for the sweep that all share.
pytestmark = [pytest.mark.assets, pytest.mark.xdist_group(__name__), pytest.mark.timeout(900)]


@dataclass
class Seen:
    """What held when an iteration's rollouts had been made."""

    iteration: int
    steps: int
    sampled_from: dict[str, object]
    trained: dict[str, object]


def test_each_rollout_is_sampled_from_the_weights_after_the_last_step(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from rft.config import compose
    from rft.data.on_policy import RolloutStream
    from rft.models.backbone import Role
    from rft.store import Store
    from rft.study.pipeline import Pipeline

    seen: list[Seen] = []
    draw = RolloutStream._draw

    def draw_and_note(self: RolloutStream, iteration: int) -> Any:
        drawn = draw(self, iteration)
        backbone = self.algorithm.backbone
        seen.append(
            Seen(
                iteration,
                self.algorithm.global_step,
                {k: v.clone() for k, v in self.engine.model.state_dict().items()},
                {k: v.clone() for k, v in backbone.copies[Role.policy.value].state_dict().items()},
            )
        )
        return drawn

    monkeypatch.setattr(RolloutStream, "_draw", draw_and_note)
    entry = Pipeline(compose([*OF["ppo"], *TINY]), Store(shared), tmp_path).policy

    assert entry is not None
    # Two passes of two minibatches: four steps between one iteration's rollouts and the next.
    assert [(s.iteration, s.steps) for s in seen] == [(0, 0), (1, 4), (2, 8)]
    for now in seen:
        assert all(torch.equal(now.sampled_from[name], now.trained[name]) for name in now.trained)
    for before, after in itertools.pairwise(seen):
        assert any(not torch.equal(before.sampled_from[name], after.sampled_from[name]) for name in after.trained)
