"""Numbers out of their range, and settings that do not fit each other, are refused when composing."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import pytest
import yaml
from omegaconf import OmegaConf

from rft.config import compose
from rft.config.limits import check_ranges
from rft.config.ranges import number, out_of_range
from rft.config.schemas import SPLITS
from rft.errors import UserError


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ("algorithm.lr=0", "algorithm.lr=0.0: must be above 0"),
        ("algorithm.lr=nan", "algorithm.lr=nan: must be a finite number, above 0"),
        ("algorithm.weight_decay=-1", "algorithm.weight_decay=-1.0: must be at least 0"),
        ("algorithm.iterations=0", "algorithm.iterations=0: must be at least 1"),
        ("algorithm.samples_per_prompt=0", "algorithm.samples_per_prompt=0"),
        ("algorithm.minibatches=0", "algorithm.minibatches=0"),
        ("algorithm.temperature=0", "algorithm.temperature=0.0: must be above 0"),
        ("algorithm=dpo algorithm.epochs=0", "algorithm.epochs=0"),
        ("algorithm=dpo algorithm.pairs_per_step=0", "algorithm.pairs_per_step=0"),
        ("algorithm.lam=1.5", "algorithm.lam=1.5: must be at least 0 and at most 1"),
        ("algorithm=rlaif algorithm.clip_range=0", "algorithm.clip_range=0.0: must be above 0"),
        ("algorithm=dpo algorithm.label_smoothing=0.5", "must be at least 0 and below 0.5"),
        ("sft.batch_size=0", "sft.batch_size=0: must be at least 1"),
        ("candidates.samples_per_prompt=1", "candidates.samples_per_prompt=1: must be at least 2"),
        ("candidates.heldout_fraction=1", "candidates.heldout_fraction=1.0: must be above 0 and below 1"),
        ("candidates.heldout_fraction=0", "must be above 0 and below 1"),
        ("evaluation.batch_size=0", "evaluation.batch_size=0"),
        ("seed=-1", "seed=-1: must be at least 0"),
        ("strategy.devices=0", "strategy.devices=0: must be at least 1"),
        ("strategy.accumulate=0", "strategy.accumulate=0"),
        ("++strategy.accumulate=0", "strategy.accumulate=0"),
        ("evaluation.splits=[tset]", "no split 'tset'; did you mean 'test'?"),
        ("evaluation.splits=[]", "evaluation.splits: is empty"),
        ("task.train_prompts=16", "algorithm.prompts_per_iteration=32: there are 16 training questions"),
        ("algorithm.minibatches=5", "do not divide into 5 minibatches"),
        ("strategy.accumulate=3", "× 3 microbatches"),
        (
            "strategy=ddp strategy.devices=3",
            "algorithm.prompts_per_iteration=32: must be a multiple of strategy.devices",
        ),
        ("algorithm=dpo strategy.accumulate=3", "algorithm.pairs_per_step=16: must be a multiple of"),
        ("algorithm=dpo algorithm.pairs_per_step=2048", "algorithm.pairs_per_step=2048: at most 1536 pairs"),
        ("reward.prompts_per_step=0", "reward.prompts_per_step=0"),
        ("reward.lr=-1", "reward.lr=-1"),
        ("budget.prices.human_label=-5", "budget.prices.human_label=-5.0: must be at least 0"),
        ("budget.prices.gpu_hour=-1", "budget.prices.gpu_hour=-1.0: must be at least 0"),
        ("budget.prices.core_hour=nan", "budget.prices.core_hour=nan: must be a finite number, at least 0"),
        ("++budget.prices.judge_mtoken=-1", "budget.prices.judge_mtoken=-1.0: must be at least 0"),
        ("algorithm.lr=inf", "algorithm.lr=inf: must be a finite number, above 0"),
        ("study=../elsewhere", "study='../elsewhere': is the name of a folder"),
        ("arm=a/b", "arm='a/b': is the name of a folder"),
        ("study=", "study='': is the name of a folder"),
        ("evaluation.splits=[test,test]", "names a split twice"),
        ("seed=0,1", "seed=0,1: several values make a sweep"),
        ("algorithm=ppo algorithm.kl_horizon=4", "algorithm.kl_horizon=4: must be at least the 32 rollouts"),
        ("candidates.samples_per_prompt=2", "candidates.pairs_per_prompt=3: 2 samples a prompt make 1 pair;"),
    ],
)
def test_is_refused_in_one_line_that_names_key_value_and_range(overrides: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        compose(overrides.split())
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "overrides",
    [
        "algorithm.weight_decay=0",
        "task.train_prompts=32",
        "algorithm.minibatches=4 algorithm.samples_per_prompt=2",
        "strategy=ddp strategy.accumulate=2 algorithm.minibatches=4",
        "task.train_prompts=8 task.prompt_file=mine.jsonl",  # the file says how many there are
        *(f"evaluation.splits=[{split}]" for split in SPLITS),
    ],
)
def test_what_is_just_in_range_is_taken(overrides: str) -> None:
    cfg = compose(overrides.split())
    for key, _, value in (override.partition("=") for override in overrides.split() if "." in override.split("=")[0]):
        assert OmegaConf.select(cfg, key) == yaml.safe_load(value)


def test_a_default_declared_anew_keeps_the_range() -> None:
    @dataclass
    class Base:
        rate: float = number(0.5, above=0, at_most=1)
        free: float = 0.0

    @dataclass
    class Own(Base):
        rate: float = 0.1

    assert out_of_range(Own, "rate", 1.5) == "above 0 and at most 1"
    assert out_of_range(Own, "rate", 1) is None
    assert out_of_range(Own, "free", -5) is None
    assert out_of_range(Own, "rate", None) is None


@dataclass
class Leaf:
    rate: float = number(0.5, above=0)


@dataclass
class Branch:
    leaf: Leaf = field(default_factory=Leaf)


@dataclass
class Tree:
    branch: Branch = field(default_factory=Branch)
    by_name: dict[str, Leaf] = field(default_factory=lambda: {"a": Leaf()})
    listed: list[Leaf] = field(default_factory=lambda: [Leaf()])
    none: Leaf | None = None
    no_names: dict[str, Leaf] | None = None
    no_list: list[Leaf] | None = None
    free: dict[str, float] = field(default_factory=lambda: {"rate": -1.0})


@pytest.mark.parametrize("place", ["branch.leaf", "by_name.a", "listed[0]"])
def test_a_range_holds_at_any_depth(place: str) -> None:
    node = OmegaConf.structured(Tree)
    check_ranges(Tree, node, "")
    OmegaConf.update(node, f"{place}.rate", -1)
    with pytest.raises(UserError, match=re.escape(f"task.{place}.rate=-1.0: must be above 0")):
        check_ranges(Tree, node, "task.")


def test_every_default_is_in_its_own_range() -> None:
    from omegaconf import OmegaConf

    from rft.config.extract import config_class
    from rft.config.schemas import CandidatesConfig, EvaluationConfig, SFTConfig

    algorithms = ("algorithms.ppo", "algorithms.dpo", "algorithms.sft", "algorithms.rlaif")
    names = (*algorithms, "strategy", "rewards.learned", "rewards.lexicon")
    for config in (CandidatesConfig, EvaluationConfig, SFTConfig, *(config_class(f"rft.{name}") for name in names)):
        check_ranges(config, OmegaConf.structured(config), "")


def test_long_names_of_arms_that_differ_at_their_end_stay_different() -> None:
    from hydra import initialize_config_dir
    from hydra.core.hydra_config import HydraConfig

    from rft.config.compose import LONGEST_ARM, _arm
    from rft.config.paths import conf_dir

    names = set()
    for test_prompts in (6, 7):
        common = [f"task.{key}=10" for key in ("validation_prompts", "ood_prompts", "sft_examples", "response_tokens")]
        overrides = [*common, "task.sft_validation_examples=8", f"task.test_prompts={test_prompts}"]
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            from hydra import compose as hydra_compose

            HydraConfig.instance().set_config(hydra_compose("config", overrides=overrides, return_hydra_config=True))
            names.add(_arm("ppo"))
            HydraConfig.instance().cfg = None
    assert len(names) == 2
    assert {len(name) for name in names} == {LONGEST_ARM}
