"""Where the arms' parts come from: which stages they share, by key, and in which settings they differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rft.report.alike import COSMETIC
from rft.report.load import StageUse, StudyResults, Trial

OWN_STAGES = ("policy", "evaluation")
"""What an arm does itself; every other stage is shared by the arms that ask for the same thing."""
FEEDBACK_STAGES = ("revisions", "preferences", "reward_model")
"""Shared stages that may differ between arms by intent: arms may learn from different feedback, and start from what it
has revised."""
MEASURING_STAGES = ("audit",)
"""Shared stages that nothing depends on: they may differ between arms, and no arm is charged for them."""
DRAWN_STAGES = ("candidates", *FEEDBACK_STAGES)
"""Shared stages that a seed may draw anew."""
STAGE_ORDER = (
    "questions",
    "sft",
    "candidates",
    "revisions",
    "preferences",
    "trunk_rated",
    "reward_model",
    "reference",
    "reference_mismatched",
    "audit",
    "policy",
    "evaluation",
)


def order(stage: str) -> tuple[int, str]:
    """Sort key: stages in the order of the flow, before those only the task knows."""
    return (STAGE_ORDER.index(stage) if stage in STAGE_ORDER else -1, stage)


def stage_names(results: StudyResults) -> list[str]:
    """Stages that any trial used, in the order of the flow."""
    return sorted({stage for trial in results.trials for stage in trial.stages}, key=order)


def replicated(results: StudyResults, arms: Sequence[str]) -> dict[str, str | None]:
    """What a seed of each arm repeats: ``pipeline`` if some shared stage differs between its seeds, else ``policy``.

    None if the arm cannot tell: it has one seed, or uses no stage that a seed could draw anew.
    """
    return {arm: _repeats(results.arm(arm)) for arm in arms}


def _repeats(trials: Sequence[Trial]) -> str | None:
    keys: dict[str, set[str]] = {}
    unlike = {*OWN_STAGES, *MEASURING_STAGES}
    for trial in trials:
        for stage, use in trial.stages.items():
            keys.setdefault(stage, set()).add(use.key)
    if any(len(distinct) > 1 for stage, distinct in keys.items() if stage not in unlike):
        return "pipeline"
    return "policy" if len(trials) > 1 and keys.keys() & set(DRAWN_STAGES) else None


def replicate_of(arms: Mapping[str, str | None]) -> str:
    """What the seeds of a study repeat, by arm as `replicated` tells: ``policy``, ``pipeline`` or ``mixed``."""
    kinds = {kind for kind in arms.values() if kind}
    return "mixed" if len(kinds) > 1 else next(iter(kinds), "policy")


def reward_models(trials: Sequence[Trial]) -> frozenset[str]:
    """Keys of the reward models that gave trials their proxy: proxies of other models are on other scales."""
    return frozenset(trial.stages["reward_model"].key for trial in trials if "reward_model" in trial.stages)


def shared_stages(results: StudyResults, arms: Sequence[str]) -> dict[str, Any]:
    """Per shared stage: the keys each arm used, whether all are the same, and whether the arms are alike.

    ``same``: for every seed, all arms that use the stage use one and the same result. ``alike`` is false only
    where that breaks the comparison: a stage of the common start differs, or one key has given two digests.
    """
    stages: dict[str, Any] = {}
    for stage in stage_names(results):
        if stage in (*OWN_STAGES, *MEASURING_STAGES):
            continue
        uses = [(trial.arm, trial.seed, trial.stages[stage]) for trial in results.trials if stage in trial.stages]
        seeds = {seed for _, seed, _ in uses}
        same = all(len({use.key for _, s, use in uses if s == seed}) == 1 for seed in seeds)
        one_content = len({(use.key, use.digest) for _, _, use in uses}) == len({use.key for _, _, use in uses})
        stages[stage] = {
            "same": same and one_content,
            "may_differ": stage in FEEDBACK_STAGES,
            "alike": one_content and (same or stage in FEEDBACK_STAGES),
            "arms": {arm: _keys([use for name, _, use in uses if name == arm]) for arm in arms},
        }
    return stages


def _keys(uses: Sequence[StageUse]) -> list[dict[str, str]]:
    distinct = {(use.key, use.digest): None for use in uses}
    return [{"key": key, "digest": digest} for key, digest in distinct]


def differences(results: StudyResults, arms: Sequence[str]) -> list[dict[str, Any]]:
    """The configuration keys in which arms differ, nested keys dotted: ``{"key", "arms": {arm: value}}``.

    An arm whose configuration lacks the key is absent from ``arms``. All seeds of an arm have equal settings.
    """
    settings = {arm: dict(_flat(results.arm(arm)[0].config)) for arm in arms}
    keys = dict.fromkeys(key for own in settings.values() for key in own)
    found = []
    for key in sorted(keys):
        values = {arm: own[key] for arm, own in settings.items() if key in own}
        if key.partition(".")[0] not in COSMETIC and (
            len(values) < len(arms) or any(value != next(iter(values.values())) for value in values.values())
        ):
            found.append({"key": key, "arms": values})
    return found


def _flat(config: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value
