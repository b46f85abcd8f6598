"""The audits of the judges that arms learned from: how far AI labels can be trusted."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rft.report.load import StageUse, StudyResults, Trial
from rft.store.names import AUDIT_FILE

AUDIT = "audit"


def audits(results: StudyResults, arms: Sequence[str]) -> dict[str, Any]:
    """``audits`` and ``unaudited`` of the summary.

    ``audits`` has one entry for each judge that was audited, on one set of labels: ``{"arms", "results"}`` and what
    ``audit.json`` holds; where the seeds of the arms have audits of their own, that of the first seed, and how many
    there are. ``unaudited`` are the arms that a judge taught and whose audit is not there.
    """
    users: dict[str, dict[str, None]] = {}
    uses: dict[str, StageUse] = {}
    audited = set()
    for arm in arms:
        for trial in results.arm(arm):
            if AUDIT in trial.stages and _read(use := trial.stages[AUDIT]):
                users.setdefault(use.key, {})[arm] = None
                uses[use.key] = use
                audited.add(arm)
    groups: dict[tuple[tuple[str, ...], str], list[StageUse]] = {}
    for key, names in users.items():
        found = _read(uses[key])
        taught = [arm for arm in names if any(map(taught_by_judge, results.arm(arm)))]
        asked = json.dumps([found.get(name) for name in ("judge", "form", "model")])
        groups.setdefault((tuple(taught or names), asked), []).append(uses[key])
    return {
        "audits": [
            {**_read(same[0]), "arms": list(names), "results": len(same)} for (names, _), same in groups.items()
        ],
        "unaudited": [
            arm for arm in arms if arm not in audited and any(taught_by_judge(trial) for trial in results.arm(arm))
        ],
    }


def taught_by_judge(trial: Trial) -> bool:
    """Whether a judge was asked for what the arm's policy learned from, as the settings of these stages say."""
    entries = (trial.stages[stage].entry for stage in learned_from(trial) if stage in trial.stages)
    return any(entry is not None and "judge" in entry.manifest["config"] for entry in entries)


def learned_from(trial: Trial) -> set[str]:
    """The stages that taught the policy; both kinds of feedback, where the store cannot tell."""
    policy, reward = (trial.stages.get(stage) for stage in ("policy", "reward_model"))
    used = set(policy.entry.inputs) if policy and policy.entry and policy.entry.inputs else {"reward_model"}
    # What learned from no label, a rule, hands on nothing of what the labels say.
    if "reward_model" in used and not (reward and reward.metrics.get("train_pairs") == 0):
        used.add("preferences")
    return {"policy", *used}


def _read(use: StageUse) -> Mapping[str, Any]:
    """What the audit says; empty if it is not there."""
    path = use.file(AUDIT_FILE)
    found = json.loads(path.read_text(encoding="utf-8")) if path else {}
    if not isinstance(found, dict) or not found:
        return {}
    # One that was made before clear cases were told apart says nothing of them.
    return found | {"human": {"auc_person": None, "clear": []} | (found.get("human") or {})}
