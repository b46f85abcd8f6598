"""Gold is read by evaluation, monitoring and what simulates people or a judge: nothing that trains can see it."""

from __future__ import annotations

from pathlib import Path

import pytest

from rft.testing.gold import READERS, gold_readers, within
from tests.architecture.source import PACKAGE, modules, plant

# What trains, and what carries batches to it, but for the readers that stand between: the sources of labels that
# simulate people or, among the judges, a judge.
TRAINING = (
    "rft.types",
    "rft.ops",
    "rft.models",
    "rft.rollout",
    "rft.rewards",
    "rft.feedback.ai",
    "rft.feedback.judges",
    "rft.data",
    "rft.algorithms",
    "rft.study.training",
)


def readers_below(package: Path, places: tuple[str, ...]) -> list[str]:
    """Where modules below `places` name gold or import a reader of it, each place once; a place may be a reader."""
    allowed = tuple(reader for reader in READERS if reader not in places)
    found = []
    for module in modules(package):
        if within(module.name, places) and not within(module.name, allowed):
            found += gold_readers(module.path, module.name, module.place)
    return found


def test_nothing_that_trains_reads_gold() -> None:
    offenders = readers_below(PACKAGE, TRAINING)
    assert not offenders, "\n".join(offenders)


def test_the_rule_speaks_of_what_there_is() -> None:
    for place in (*TRAINING, *READERS):
        assert any(within(module.name, (place,)) for module in modules(PACKAGE)), place
    # Under another name than gold the rule would look for nothing.
    for reader in READERS:
        assert readers_below(PACKAGE, (reader,)), reader


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("types.py", "class Rollouts:\n    gold: Tensor"),
        ("types.py", "class OnPolicyBatch:\n    gold_rewards: Tensor | None = None"),
        ("algorithms/ppo.py", "from rft.tasks.base import Task"),
        ("algorithms/base.py", "from rft import tasks"),
        ("algorithms/base.py", "def prepare(rollouts):\n    return rollouts.metrics['rollout/gold']"),
        ("data/offline.py", "def rows(task, path):\n    return task.load_gold(path)"),
        ("data/on_policy.py", "def late():\n    import rft.tasks.tfidf"),
        ("data/on_policy.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from rft.tasks import Task"),
        ("rewards/learned.py", "def score(texts, source: GoldReward): ..."),
        ("rewards/learned.py", "getattr(task, 'load_gold')"),
        ("rewards/mixed.py", "from rft.feedback import simulated"),
        ("rollout/engine.py", "import importlib\nimportlib.import_module('rft.tasks')"),
        ("feedback/judges/peek.py", "def verdict(texts, gold=None): ..."),
        ("feedback/judges/few_shot.py", "from rft.feedback.judges.simulated import SimulatedJudge"),
        ("feedback/judges/base.py", "from . import simulated"),
        ("feedback/judges/simulated_too.py", "from rft.tasks.base import GoldReward"),
        ("feedback/ai.py", "from rft.feedback.judges import simulated"),
        ("algorithms/online_dpo.py", "from rft.feedback.mixed import Mixed"),
        ("study/training.py", "from rft.feedback.annotators import load_annotators"),
    ],
)
def test_a_reader_among_what_trains_is_found(tmp_path: Path, path: str, line: str) -> None:
    found = readers_below(plant(tmp_path, {path: line}), TRAINING)
    assert len(found) == 1
    assert found[0].startswith(f"rft/{path}:{len(line.splitlines())}: ")


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("data/on_policy.py", '"""Gold is none of these: only evaluation reads it."""\nx = 1  # never the gold'),
        ("algorithms/ppo.py", "from rft.types import Rollouts"),
        ("feedback/simulated.py", "from rft.tasks.base import GoldReward"),
        ("feedback/mixed.py", "from rft.feedback.simulated import Simulated"),
        ("feedback/judges/simulated.py", "from rft.tasks.base import GoldReward"),
        ("evaluation/evaluate.py", "def evaluate(gold): ..."),
        ("study/shared.py", "def make_labels(task, path):\n    return task.load_gold(path)"),
    ],
)
def test_prose_and_the_permitted_readers_pass(tmp_path: Path, path: str, line: str) -> None:
    assert readers_below(plant(tmp_path, {path: line}), TRAINING) == []
