"""Checks an option of the groups reward, judge, feedback or task, ours or a stranger's, on a tiny model."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from rft.config import build, compose
from rft.errors import UserError
from rft.store import Store
from rft.study.parts import part_class, require_scoring_judge, settings_of
from rft.study.pipeline import Pipeline
from rft.testing.parts_rows import row
from rft.testing.result import CheckResult, Report

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from rft.feedback.base import Feedback
    from rft.feedback.judges.base import Judge
    from rft.rewards.base import Reward

# What the checks run on. What an option's own settings lack is left out.
SMALL = (
    "model.hidden_size=32",
    "model.layers=1",
    "strategy.accelerator=cpu",
    "strategy.precision=fp32",
    "strategy.threads=1",
    "task.train_prompts=32",
    "task.validation_prompts=4",
    "task.test_prompts=6",
    "task.ood_prompts=4",
    "task.sft_examples=64",
    "task.sft_validation_examples=8",
    "task.response_tokens=10",
    "task.gold_fit_reviews=300",
    "task.gold_heldout_reviews=100",
    "sft.lr=3e-3",
)
MISSING = object()


def check_part(group: str, name: str, overrides: Sequence[str] = (), store: Store | None = None) -> Report:
    """All checks of one option; what comes before it in the flow is kept in the store as in any run.

    Args:
        group: reward, judge, feedback or task.
        name: the option, as in ``reward=name``.
        overrides: further ones, in Hydra's grammar.
        store: the user's own if None.

    Raises:
        UserError: if there is no such group or option, or its class is none of the group's kind.
    """
    if group not in CHECKS:
        raise UserError(f"{group}: no such group of parts to check; valid are {', '.join(CHECKS)}")
    cfg = small_config(group, name, overrides)
    part_class(group, cfg[group])
    with tempfile.TemporaryDirectory() as folder:
        pipeline = Pipeline(cfg, store or Store.default(), Path(folder))
        _ = pipeline.strategy  # sets the threads
        return Report(f"{group}={name}", CHECKS[group](pipeline))


def small_config(group: str, name: str, overrides: Sequence[str]) -> DictConfig:
    """The configuration that an option is checked in: `overrides` come last and win."""
    chosen = (f"{group}={name}", "algorithm=sft", "model=tiny", "tracker=none")
    cfg = compose([*chosen, *overrides])
    small = [one for one in SMALL if OmegaConf.select(cfg, one.partition("=")[0], default=MISSING) is not MISSING]
    return compose([*chosen, *small, *overrides])


def _settings(pipeline: Pipeline, group: str) -> CheckResult:
    """The option's class and settings can stand in an address."""
    node = pipeline.cfg[group]

    def check() -> str:
        return Store.key("preferences", 1, settings_of(node), {})[:12]

    return row("an address", part_class(group, node), "__init__", check)


def _reward(pipeline: Pipeline) -> list[CheckResult]:
    from rft.models.backbone import Role
    from rft.study.shared import fit_reward
    from rft.study.training import make_backbone
    from rft.testing.parts_reward import reward_rows

    node, lora, strategy = pipeline.cfg.reward, pipeline.lora, pipeline.strategy
    found = part_class("reward", node)
    require_scoring_judge(pipeline.cfg)
    inputs = pipeline.reward_inputs | (pipeline.judge.inputs() if "judge" in found.needs else {})
    runtime = {"judge": pipeline.judge.make(inputs, trial=True)} if "judge" in found.needs else {}
    fitted: list[Any] = []

    def fit() -> str:
        fitted.extend(fit_reward(node, lora, inputs, strategy, runtime))
        return f"mean {fitted[0].mean:.3g}, standard deviation {fitted[0].std:.3g} on the candidates"

    def fresh() -> Reward:
        roles = [Role.policy, Role.critic, *([Role.reward] if "role" in found.needs else [])]
        backbone, _ = make_backbone(inputs["sft"].path, strategy, lora, roles, [Role.policy, Role.critic], seed=1)
        source: Reward = build(node, backbone=backbone, **runtime)
        return source

    rows = [_settings(pipeline, "reward"), row("can be fitted", found, "fit", fit)]
    return [*rows, *reward_rows(fitted[0], fresh, fitted[1])] if fitted else rows


def _make_judge(pipeline: Pipeline) -> Judge:
    """As in a trial, where a model in this process is asked anew: what was kept would only be compared with itself."""
    return pipeline.judge.make(pipeline.judge.inputs(), trial=True)


def _judge(pipeline: Pipeline) -> list[CheckResult]:
    from rft.testing.parts_judge import judge_rows

    judge, needs = _make_judge(pipeline), pipeline.judge.found.needs
    # An endpoint's answers are found again in a trial too.
    anew = judge.asked_again if "verdicts" in needs and "model" not in needs else None
    return [_settings(pipeline, "judge"), *judge_rows(judge, anew)]


def _feedback(pipeline: Pipeline) -> list[CheckResult]:
    from rft.study.judging import make_feedback
    from rft.testing.parts_judge import feedback_rows

    needs = part_class("feedback", pipeline.cfg.feedback).needs
    inputs = pipeline.judge.inputs() if "judge" in needs else {}
    if "annotators" in needs:
        inputs |= {"gold": pipeline.gold, "annotators": pipeline.annotators}

    def make() -> Feedback:
        return make_feedback(pipeline, inputs, trial=True)

    return [_settings(pipeline, "feedback"), *feedback_rows(make)]


def _task(pipeline: Pipeline) -> list[CheckResult]:
    from transformers import AutoTokenizer

    from rft.testing.parts_task import Limits, task_rows

    cfg, model = pipeline.cfg.task, pipeline.model
    settings = json.loads((model.path / "config.json").read_text(encoding="utf-8"))
    cut = "prompt_tokens" in cfg and cfg.get("prompt_file") is None  # questions of one's own are not cut
    limits = Limits(
        response_tokens=pipeline.response_tokens,
        prompt_tokens=int(cfg.prompt_tokens) if cut else None,
        positions=settings.get("max_position_embeddings") or settings.get("n_positions"),
    )
    tokenizer = AutoTokenizer.from_pretrained(model.path)
    return task_rows(lambda: build(cfg, store=pipeline.store), tokenizer, limits)


CHECKS: dict[str, Callable[[Pipeline], list[CheckResult]]] = {
    "reward": _reward,
    "judge": _judge,
    "feedback": _feedback,
    "task": _task,
}
