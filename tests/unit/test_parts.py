"""Classes from elsewhere: what they must be, what their addresses hold, and which option a feedback is."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from omegaconf import OmegaConf

from rft.algorithms.base import Algorithm
from rft.config import build, compose
from rft.config.build import target_class
from rft.config.files import read_option
from rft.config.options import options
from rft.config.plugins import allowed_packages, class_digest, code_digest
from rft.errors import UserError
from rft.feedback.ai import AiFeedback
from rft.feedback.base import Feedback
from rft.feedback.judges.base import PointwiseJudge
from rft.rewards.base import Reward
from rft.rewards.learned import LearnedReward
from rft.store import Store
from rft.study.parts import part_class, require_scoring_judge, settings_of, version_of
from rft.study.pipeline import Pipeline
from rft.tasks.base import Task

ELSEWHERE = "elsewhere_parts"


class GoodReward(Reward):
    def score(self, sequences: Any) -> Any:
        return sequences.lengths.float()


class Unfinished(Reward):
    pass


class Greedy(GoodReward):
    needs = frozenset({"labels", "lables"})  # type: ignore[arg-type]


class NeedsPeople(Feedback):
    needs = frozenset({"people"})  # type: ignore[arg-type]

    def label(self, texts: Any, pairs: Any) -> Any:
        raise NotImplementedError


class NeedsWeights(PointwiseJudge):
    needs = frozenset({"weights"})  # type: ignore[arg-type]

    def score(self, answers: Any) -> Any:
        raise NotImplementedError


class Stray:
    def score(self, sequences: Any) -> Any:
        return sequences.lengths.float()


class HalfTask(Task):
    pass


class GoodAlgorithm(Algorithm):
    data_kind = "preference"
    needs = frozenset({"reference"})

    def loss(self, batch: Any) -> Any:
        raise NotImplementedError


class Kindless(Algorithm):
    def loss(self, batch: Any) -> Any:
        raise NotImplementedError


class WrongKind(GoodAlgorithm):
    data_kind = "on_polici"  # type: ignore[assignment]


class Uncredited(GoodAlgorithm):
    data_kind = "on_policy"


class Lossless(Algorithm):
    data_kind = "preference"


class NeedsCritic(GoodAlgorithm):
    needs = frozenset({"refrence"})  # type: ignore[arg-type]


class NeedsWord(GoodAlgorithm):
    needs = "reward"  # type: ignore[assignment]


class Second(GoodReward):
    version = 2


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of another package that holds these classes, allowed by the environment."""
    module = ModuleType(ELSEWHERE)
    module.__dict__.update({name: found for name, found in globals().items() if isinstance(found, type)})
    monkeypatch.setitem(sys.modules, ELSEWHERE, module)
    monkeypatch.setenv("RFT_ALLOWED_PACKAGES", ELSEWHERE)
    allowed_packages.cache_clear()
    return ELSEWHERE


@pytest.fixture(autouse=True)
def _forget_packages() -> Any:
    yield
    allowed_packages.cache_clear()


@pytest.mark.parametrize(
    ("group", "name", "words"),
    [
        ("reward", "GoodReward", None),
        ("reward", "Stray", r"does not extend rft\.rewards\.base\.Reward"),
        ("reward", "NeedsPeople", r"does not extend rft\.rewards\.base\.Reward"),
        ("reward", "Unfinished", "does not define score"),
        ("reward", "Greedy", "needs lables; what can be needed is judge, labels, role"),
        ("feedback", "NeedsPeople", "needs people; what can be needed is annotators, judge"),
        ("judge", "NeedsWeights", "needs weights; what can be needed is annotators, entries, model, verdicts"),
        ("algorithm", "GoodAlgorithm", None),
        ("algorithm", "GoodReward", r"does not extend rft\.algorithms\.base\.Algorithm"),
        ("algorithm", "Kindless", "declares no data_kind; valid are none, on_policy, preference, unpaired"),
        ("algorithm", "WrongKind", "declares data_kind='on_polici'; did you mean 'on_policy'"),
        ("algorithm", "Uncredited", r"does not define prepare\(rollouts\)"),
        ("algorithm", "Lossless", r"does not define loss\(batch\)"),
        ("algorithm", "NeedsCritic", "needs 'refrence'; did you mean 'reference'"),
        ("algorithm", "NeedsWord", "needs='reward'; write a set"),
        ("task", "HalfTask", "does not define asset_keys, build_questions"),
    ],
)
def test_a_foreign_class_is_one_of_its_group(elsewhere: str, group: str, name: str, words: str | None) -> None:
    node = OmegaConf.create({"_target_": f"{elsewhere}.{name}"})
    if words is None:
        assert part_class(group, node) is globals()[name]
    else:
        with pytest.raises(UserError, match=words):
            part_class(group, node)


def test_a_task_without_a_longest_response_is_refused() -> None:
    node = {"_target_": "rft.tasks.imdb_sentiment.ImdbSentiment"}
    with pytest.raises(UserError, match="no field response_tokens"):
        part_class("task", node)
    part_class("task", node | {"response_tokens": 3})


def test_the_first_version_leaves_an_address_as_it_was() -> None:
    assert version_of(LearnedReward) == version_of(AiFeedback) == version_of(GoodReward) == {}
    assert version_of(Second) == {"_version_": 2}


def test_no_class_of_ours_has_its_code_in_an_address() -> None:
    for option in options():
        if target := read_option(option.path).get("_target_"):
            assert class_digest(target_class({"_target_": target}), str(target)) is None


class ForeignModel:
    def __init__(self, store: Store) -> None:
        self.store = store

    def prepare(self) -> Any:
        asset = self.store.get_or_compute("asset", version=1, config={}, inputs={}, build=lambda _: None)
        inputs = {"asset": asset.key}
        return self.store.get_or_compute("model", version=1, config={}, inputs=inputs, build=lambda _: None)


def test_a_models_code_is_in_the_address_of_the_model_alone(tmp_path: Path) -> None:
    store = Store(tmp_path)
    keys = {
        ForeignModel(s).prepare().key for s in (store, store.with_code("model", "a"), store.with_code("model", "b"))
    }
    assert len(keys) == 3
    assert len(list((tmp_path / "asset").iterdir())) == 1
    assert keys < store.computed


ADDRESSED = """
from rft.models.tiny import Config as TinyConfig
from rft.tasks.imdb_sentiment import Config as TaskConfig, ImdbSentiment
Config = TinyConfig
class Mine(ImdbSentiment): ...
class Model:
    def __init__(self, config, store):
        self.store = store
    def prepare(self):
        return self.store.get_or_compute("model", version=1, config={}, inputs={}, build=lambda out: None)
"""


def test_the_code_of_a_foreign_task_and_model_is_in_their_addresses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "addressed.py").write_text(ADDRESSED, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("RFT_ALLOWED_PACKAGES", "addressed")
    allowed_packages.cache_clear()
    cfg = compose(["model=tiny"])

    def addresses() -> tuple[Any, str]:
        code_digest.cache_clear()
        from addressed import Mine, TaskConfig  # type: ignore[import-not-found]

        cfg.model["_target_"] = "addressed.Model"
        store = Store(tmp_path / "store")
        task: Any = Mine(TaskConfig(), store=store)
        return task._address({})["code"], Pipeline(cfg, store, tmp_path).model.key

    before = addresses()
    assert addresses() == before
    (tmp_path / "addressed.py").write_text(f"{ADDRESSED}x = 1\n", encoding="utf-8")
    after = addresses()
    assert before[0] != after[0]
    assert before[1] != after[1]
    ours: Any = build(compose([]).task, store=Store(tmp_path / "store"))
    assert ours._address({}) == {"task": "rft.tasks.imdb_sentiment.ImdbSentiment"}


def test_an_algorithms_feedback_is_told_by_its_class_not_by_the_name_of_its_module() -> None:
    with pytest.raises(UserError, match="feedback=simulated: algorithm=rlaif means feedback=ai; leave it out"):
        compose(["algorithm=rlaif", "feedback=simulated"])
    with pytest.raises(UserError, match=r"feedback=simulated: algorithm=ppo means feedback=ai"):
        compose(["algorithm.requires_feedback=ai"])
    assert compose(["algorithm.requires_feedback=ai", "feedback=ai"]).algorithm.name == "ppo"


def test_the_direct_mode_means_the_judges_score() -> None:
    with pytest.raises(UserError, match="reward=learned: algorithm=rlaif_direct means reward=judge; leave it out"):
        compose(["algorithm=rlaif_direct", "reward=learned"])
    chosen = compose(["algorithm=rlaif_direct"])
    assert chosen.reward["_target_"] == "rft.rewards.judge.JudgeReward"
    assert settings_of(chosen.algorithm).keys().isdisjoint({"name", "requires_feedback", "requires_reward"})


COMPARES = """
from dataclasses import dataclass
from rft.feedback.judges.base import Judge
@dataclass
class Config:
    pointwise: bool = False
class Compares(Judge):
    needs = frozenset({"model"})
    def __init__(self, config, model, tokenizer):
        raise AssertionError("it is refused before it is made")
    @classmethod
    def scores_alone(cls, config):
        return config.pointwise
    def compare(self, answers, pairs): ...
"""


def test_a_judge_that_only_compares_is_no_reward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "comparing.py").write_text(COMPARES, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("RFT_ALLOWED_PACKAGES", "comparing")
    allowed_packages.cache_clear()
    cfg = compose(["model=tiny", "algorithm=ppo", "feedback=ai", "reward=judge"])
    cfg.judge = {"_target_": "comparing.Compares", "pointwise": False}
    store = Store(tmp_path / "store")
    with pytest.raises(
        UserError, match=r"judge=comparing\.Compares: compares answers as it is set and scores none by itself"
    ):
        Pipeline(cfg, store, tmp_path).run("sft")
    assert not store.root.exists()
    cfg.judge.pointwise = True
    require_scoring_judge(cfg)
    cfg.judge.pointwise, cfg.reward = False, compose([]).reward
    require_scoring_judge(cfg)


MINE = """
from dataclasses import dataclass
@dataclass
class Config:
    strength: float = 1.0
class Mine: ...
"""


def test_a_module_that_is_only_called_like_the_feedback_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "minebox").mkdir()
    (tmp_path / "minebox" / "__init__.py").touch()
    (tmp_path / "minebox" / "ai.py").write_text(MINE, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("RFT_ALLOWED_PACKAGES", "minebox")
    allowed_packages.cache_clear()
    mine = ["feedback=ai", "feedback._target_=minebox.ai.Mine", "~feedback.temperature"]
    assert compose(["algorithm=ppo", *mine]).feedback["_target_"] == "minebox.ai.Mine"
    with pytest.raises(UserError, match=r"feedback=minebox\.ai\.Mine: algorithm=rlaif means feedback=ai"):
        compose(["algorithm=rlaif", *mine])
