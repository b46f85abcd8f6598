"""What the arms cost: seconds of every stage, and every resource that a budget can limit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rft.budget import RESOURCES, Prices, Usage
from rft.budget.stages import ran_on_gpu, usage_of
from rft.report.load import StudyResults, Trial
from rft.report.provenance import MEASURING_STAGES, OWN_STAGES, stage_names
from rft.store import Entry

CHARGED = ("sft", "candidates", "revisions", "preferences", "reward_model")
"""Shared stages that a policy may depend on. The reference's log-probs of the fixed answers, which are made before it
learns from them, count as the policy's own."""
SCHEDULE = "schedule"
"""Among the `stops` of an arm: seeds that no limit ended."""


def costs(results: StudyResults, arms: Sequence[str]) -> dict[str, Any]:
    """Seconds of computing every stage, each result counted once; shared ones charged in full to each arm."""
    distinct = {use.key: (stage, use) for trial in results.trials for stage, use in trial.stages.items()}
    stages: dict[str, Any] = {}
    for stage in stage_names(results):
        uses = [use for name, use in distinct.values() if name == stage]
        stages[stage] = {
            "results": len(uses),
            "seconds": sum(use.seconds for use in uses),
            "shared": stage not in OWN_STAGES,
            "arms": {arm: _arm_seconds(results.arm(arm), stage) for arm in arms},
        }
    peaks = [use.peak_rss_bytes for _, use in distinct.values() if use.peak_rss_bytes is not None]
    return {
        "budget": budget(results, arms),
        "eval_judge": _eval_judge(results),
        "total_seconds": sum(use.seconds for _, use in distinct.values()),
        "peak_rss_bytes": max(peaks, default=None),
        "stages": stages,
        "arms": {
            arm: {
                "own_seconds_per_seed": _per_seed(results.arm(arm), own=True),
                "shared_seconds_per_seed": _per_seed(results.arm(arm), own=False),
            }
            for arm in arms
        },
        "trials": [
            {
                "arm": trial.arm,
                "seed": trial.seed,
                "seconds": {stage: use.seconds for stage, use in trial.stages.items()},
                "computed": sorted(stage for stage, use in trial.stages.items() if use.computed),
            }
            for trial in results.trials
        ],
    }


def _eval_judge(results: StudyResults) -> dict[str, Any] | None:
    """What the judge of the final test took, each result counted once; None if none was asked, or it is not known."""
    uses = (trial.stages.get("evaluation") for trial in results.trials)
    entries = {use.key: use.entry for use in uses if use is not None and use.entry is not None}
    told = [entry.cost for entry in entries.values() if entry.cost.get("judge_read") is not None]
    if not told:
        return None
    paid = [cost["judge_money"] for cost in told if cost.get("judge_money") is not None]
    return {
        "read": sum(cost["judge_read"] for cost in told),
        "written": sum(cost["judge_written"] for cost in told),
        "money": sum(paid) if paid else None,
    }


def _arm_seconds(trials: Sequence[Trial], stage: str) -> float | None:
    """Mean seconds of the stage's result over the arm's seeds; None if the arm does without."""
    seconds = [trial.stages[stage].seconds for trial in trials if stage in trial.stages]
    return sum(seconds) / len(seconds) if seconds else None


def _per_seed(trials: Sequence[Trial], *, own: bool) -> float:
    total = sum(
        use.seconds
        for trial in trials
        for stage, use in trial.stages.items()
        if (stage in OWN_STAGES) is own and stage not in MEASURING_STAGES
    )
    return total / len(trials)


def budget(results: StudyResults, arms: Sequence[str]) -> dict[str, Any] | None:
    """Resources by arm, as means over its seeds; None if no trial's store entries tell.

    ``own``: the policy's training. ``full``: with every shared stage it depends on. ``shared``: with those stages
    divided over all trials of the study that depend on them. A trial's own labels are those that it learned from; the
    shared stage has bought them, unless they are of its own fresh responses. The final test is in none: it measures. It
    asks every arm the same questions, but an arm that picks among n answers samples n times as many, as it does at each
    use.
    """
    told = {arm: [trial for trial in results.arm(arm) if _policy(trial) is not None] for arm in arms}
    known = [trial for trials in told.values() for trial in trials]
    if not known:
        return None
    users = Counter(entry.key for trial in known for entry in _charged(trial))
    found = {arm: _budget_of(trials, users) for arm, trials in told.items() if trials}
    first, *others = (record["prices"] for record in found.values())
    return {
        "resources": list(RESOURCES),
        "arms": found,
        "prices": first if all(prices == first for prices in others) else None,
    }


def _budget_of(trials: Sequence[Trial], users: Counter[str]) -> dict[str, Any]:
    def mean(amounts: Sequence[Mapping[str, float]]) -> dict[str, float]:
        return {name: sum(one[name] for one in amounts) / len(amounts) for name in RESOURCES}

    own: list[dict[str, float]] = []
    full: list[dict[str, float]] = []
    shared: list[dict[str, float]] = []
    for trial in trials:
        policy = _policy(trial)
        assert policy is not None
        prices = prices_of(trial.config, policy)
        used = usage_of(policy)
        alone = _without_bought(policy, used)
        whole, part = prices.amounts(alone), prices.amounts(alone)
        for entry in _charged(trial):
            for name, amount in _amounts(trial, entry).items():
                whole[name] += amount
                part[name] += amount / users[entry.key]
        own.append(prices.amounts(used))
        full.append(whole)
        shared.append(part)
    settings = trials[0].config.get("budget") or {}
    stopped = [policy.metrics.get("stopped_by") for trial in trials if (policy := _policy(trial))]
    stops = Counter(resource or SCHEDULE for resource in stopped)
    return {
        "own": mean(own),
        "full": mean(full),
        "shared": mean(shared),
        "limit": {name: float(settings[name]) for name in RESOURCES if settings.get(name) is not None},
        "charge": settings.get("charge", "training"),
        "share": float(settings.get("share", 1.0)),
        "stopped_by": stopped[0] if len(stops) == 1 else None,
        "stops": dict(sorted(stops.items())),
        "prices": _listed(trials[0].config),
    }


def _without_bought(policy: Entry, used: Usage) -> Usage:
    """A policy's usage without labels that a shared stage has bought, which is charged whole.

    A policy that learns from the stage's labels buys none; one that does not has bought its own: of fresh responses.
    """
    if "preferences" not in policy.inputs:
        return used
    return replace(used, labels=0.0, human_labels=0.0, judge_tokens=0.0, judge_money=0.0)


def _amounts(trial: Trial, entry: Entry) -> dict[str, float]:
    """What a stage used, at the trial's prices."""
    return prices_of(trial.config, entry).amounts(usage_of(entry))


def _policy(trial: Trial) -> Entry | None:
    use = trial.stages.get("policy")
    return use.entry if use else None


def _charged(trial: Trial) -> list[Entry]:
    """The shared stages that the trial's policy depends on, directly or not, as far as the store still has them."""
    policy = _policy(trial)
    assert policy is not None
    inputs = set(policy.inputs)
    if {"preferences", "reward_model"} & inputs:
        inputs |= {"candidates", "preferences"}
    if "revisions" in inputs:
        inputs.add("candidates")
    uses = [trial.stages[name] for name in CHARGED if name in inputs and name in trial.stages]
    return [use.entry for use in uses if use.entry is not None]


def _listed(config: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(price) for name, price in ((config.get("budget") or {}).get("prices") or {}).items()}


def prices_of(config: Mapping[str, Any], entry: Entry) -> Prices:
    """The price list that a trial was run with; all zero in one from before there were any.

    Args:
        config: of the trial.
        entry: a result that it uses, which tells the kind of device.
    """
    listed = _listed(config)
    hour = listed.get("gpu_hour" if ran_on_gpu(entry) else "core_hour", 0.0)
    return Prices(hour, listed.get("human_label", 0.0), listed.get("judge_mtoken", 0.0))


def charges_full(trial: Trial) -> bool:
    """Whether the trial's budget counts the shared stages (`budget.charge=full`)."""
    return (trial.config.get("budget") or {}).get("charge") == "full"


def spent(trial: Trial, counted: Mapping[str, float], clock: Mapping[str, float]) -> dict[str, float]:
    """Every resource at a point of a trial's training, as its budget counts it.

    With `budget.charge=full` that includes the shared stages; labels that one of them has bought are among theirs.

    Args:
        trial: whose prices count.
        counted: what its history says, by name.
        clock: seconds and device seconds at that point.
    """
    policy = _policy(trial)
    assert policy is not None
    used = Usage.of({**counted, **clock})
    if not charges_full(trial):
        return prices_of(trial.config, policy).amounts(used)
    stages = [_amounts(trial, entry) for entry in _charged(trial)]
    own = prices_of(trial.config, policy).amounts(_without_bought(policy, used))
    return {name: amount + sum(one[name] for one in stages) for name, amount in own.items()}
