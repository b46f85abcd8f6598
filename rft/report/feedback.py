"""What the arms learned from: how good the labels and the reward models are, and how far two sources agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from rft.feedback.unread import stood_in
from rft.report.load import StageUse, StudyResults
from rft.report.wording import number, shortlist

STAGES = ("preferences", "reward_model")
LABELS_FILE = "labels.parquet"


def feedback(results: StudyResults, arms: Sequence[str]) -> dict[str, Any]:
    """The metrics of the stages `preferences` and `reward_model`, and the agreement of the feedback sources.

    ``preferences`` and ``reward_model`` are lists with one entry for each set of arms that used the same
    results: ``{"arms", "source", "reward", "results", "metrics": {name: {"mean", "min", "max"}}}``, with the options of
    feedback and reward. ``agreement`` compares two sources that labelled the same pairs:
    ``{"a", "b", "pairs", "share"}``. ``revisions`` is a list of the same kind, where an arm began from revised answers.
    """
    revised = [_measured(results, group) for group in _groups(results, arms, "revisions")]
    return {
        **{stage: [_measured(results, group) for group in _groups(results, arms, stage)] for stage in STAGES},
        **({"revisions": revised} if revised else {}),
        "agreement": _agreement(results, arms),
    }


Group = tuple[tuple[str, ...], list[StageUse]]


def _groups(results: StudyResults, arms: Sequence[str], stage: str) -> list[Group]:
    """Distinct results of a stage, put together by the arms that used them."""
    uses: dict[str, StageUse] = {}
    users: dict[str, dict[str, None]] = {}
    for arm in arms:
        for trial in results.arm(arm):
            if stage in trial.stages:
                use = trial.stages[stage]
                uses[use.key] = use
                users.setdefault(use.key, {})[arm] = None
    groups: dict[tuple[str, ...], list[StageUse]] = {}
    for key, names in users.items():
        groups.setdefault(tuple(names), []).append(uses[key])
    return list(groups.items())


def _measured(results: StudyResults, group: Group) -> dict[str, Any]:
    arms, uses = group
    values: dict[str, list[float]] = {}
    for use in uses:
        for name, value in use.metrics.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                values.setdefault(name, []).append(float(value))
    return {
        "arms": list(arms),
        "source": option(results, arms[0], "feedback"),
        "reward": option(results, arms[0], "reward"),
        "results": len(uses),
        "metrics": {
            name: {"mean": sum(found) / len(found), "min": min(found), "max": max(found)}
            for name, found in sorted(values.items())
        },
    }


def is_rule(group: Mapping[str, Any]) -> bool:
    """Whether a reward source learned from none of the labels that it is measured on."""
    return bool(group["metrics"].get("train_pairs", {}).get("mean") == 0)


def excluded(feedback: Mapping[str, Any]) -> list[str]:
    """A sentence for each feedback of which a judge's verdicts could not be read; `feedback` as in the summary."""
    told = []
    for group in feedback["preferences"]:
        lost, pairs = (group["metrics"].get(name) for name in ("excluded", "pairs"))
        if lost and lost["max"] > 0:
            mean = "" if lost["min"] == lost["max"] else ", in the mean"
            of = f" of {number(pairs['mean'], 0)}" if pairs else ""
            are = "is" if lost["mean"] == 1 else "are"
            told.append(
                f"{number(lost['mean'], 0 if not mean else 1)}{of} pairs of {group['source'] or 'the'} feedback "
                f"({shortlist(group['arms'])}) {are} excluded{mean}: the judge's verdict could not be read, and no "
                "label was guessed."
            )
        if found := group["metrics"].get("people_unread"):
            people = group["metrics"]["people_pairs"]["mean"]
            said = stood_in(people, found["mean"], pairs["mean"])
            told.append(f"Of {group['source']} feedback ({shortlist(group['arms'])}) {said}.")
    for group in feedback.get("revisions", []):
        lost, asked = group["metrics"]["excluded"], group["metrics"]["questions"]
        if lost["max"] > 0:
            told.append(
                f"{number(lost['mean'], 0)} of {number(asked['mean'], 0)} answers ({shortlist(group['arms'])}) have no "
                "revision that could be read: the start policy was not fine-tuned on them."
            )
    return told


def option(results: StudyResults, arm: str, group: str) -> str:
    """The name of a group's option: its module's in rft, its class's elsewhere; empty if the record does not say."""
    target = str((results.arm(arm)[0].config.get(group) or {}).get("_target_", ""))
    module, _, name = target.rpartition(".")
    return module.rpartition(".")[2] if target.startswith("rft.") else name


def _agreement(results: StudyResults, arms: Sequence[str]) -> list[dict[str, Any]]:
    """Share of the pairs, tied by neither of two sources, on which both prefer the same answer."""
    sources = []
    for names, uses in _groups(results, arms, "preferences"):
        entry, labels = uses[0].entry, _labels(uses[0].file(LABELS_FILE))
        if entry and labels:
            sources.append(
                (
                    f"{option(results, names[0], 'feedback')} ({', '.join(names)})",
                    labels,
                    entry.inputs.get("candidates"),
                )
            )
    found = []
    for (a, ours, asked), (b, theirs, also_asked) in combinations(sources, 2):
        if asked is None or asked != also_asked:
            continue
        both = [pair for pair in ours if 0.5 not in (ours[pair], theirs.get(pair, 0.5))]
        if both:
            same = sum((ours[pair] > 0.5) == (theirs[pair] > 0.5) for pair in both)
            found.append({"a": a, "b": b, "pairs": len(both), "share": same / len(both)})
    return found


def _labels(path: Path | None) -> Mapping[Any, float]:
    """Pair → preference for its first answer; a pair whose verdict is excluded has none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path is None:
        return {}
    try:
        table = pq.read_table(path, columns=["pair", "preference"])
    except (pa.ArrowException, OSError):
        return {}
    found = zip(table.column("pair").to_pylist(), table.column("preference").to_pylist(), strict=True)
    return {pair: preference for pair, preference in found if preference is not None}
