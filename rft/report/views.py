"""The summary's numbers in the shape in which the page and the Markdown show them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rft.report import wording
from rft.report.feedback import is_rule
from rft.report.measures import money
from rft.report.pairs import SHARES, reflected, turned
from rft.report.resources import amount, name
from rft.report.selection import other_proxy as other_proxy_of
from rft.report.selection import ranked
from rft.report.spending import ending, quantity

PAIRS = 60
NOTES = 6
MATRIX_ARMS = 20
VALUE_WIDTH = 60
SHORT_COMMIT = 12
LABELS_NOTE = (
    "An arm's own labels are those that it learned from; the shared stage bought all of them, once for every arm. "
    "So an arm's part of the shared labels can be below its own."
)


def eval_judge_cost(summary: Mapping[str, Any]) -> str:
    """The sentence on what the judge of the final test took; empty if that is not known."""
    found = summary["cost"].get("eval_judge")
    if found is None:
        return ""
    paid = "" if found["money"] is None else f", for {money(found['money'])}"
    return (
        f"The judge of the final test read {found['read']:,} tokens and wrote {found['written']:,}{paid}, over all "
        "trials. It measures: no arm is charged for it."
    )


def duels(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every pair of arms without the control on the first split, the arm with the higher mean first."""
    absent = dict.fromkeys(("holm_p", "seeds_needed", *SHARES))
    found = [
        absent | _with_seeds(summary, turned(entry) if entry["mean"] < 0 else dict(entry))
        for split in summary["splits"][:1]
        for entry in summary["pairs"][split]
        if summary["control"] not in (entry["arm"], entry["against"])
    ]
    return sorted(found, key=lambda duel: -duel["mean"])


def _with_seeds(summary: Mapping[str, Any], duel: dict[str, Any]) -> dict[str, Any]:
    return duel | {"more_seeds": wording.more_seeds(summary, duel["arm"], duel["against"], duel)}


def win_matrix(summary: Mapping[str, Any]) -> dict[str, Any] | None:
    """Share of prompts that the arm of a row wins against the arm of a column, best arms first."""
    if not summary["splits"] or len(summary["arms"]) < 2:
        return None
    won: dict[tuple[str, str], Any] = {}
    for entry in summary["pairs"][summary["splits"][0]]:
        if entry.get("win_rate"):
            won[entry["arm"], entry["against"]] = entry["win_rate"]
            won[entry["against"], entry["arm"]] = reflected(entry["win_rate"], 1.0)
    order = ranked(summary)
    arms = order[:MATRIX_ARMS]
    if not won:
        return None
    return {"arms": arms, "rows": {arm: [won.get((arm, other)) for other in arms] for arm in arms}, "of": len(order)}


def learned_from(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each kind of feedback: its arms, and what its labels and its reward model measured."""
    rows: dict[tuple[str, ...], dict[str, Any]] = {}
    for stage in ("preferences", "reward_model"):
        for group in summary["feedback"][stage]:
            row = rows.setdefault(tuple(group["arms"]), {"arms": group["arms"], "source": group["source"]})
            row[stage] = group["metrics"]
            if is_rule(group):
                row["rule"] = group["reward"]
    return [{"preferences": {}, "reward_model": {}, "rule": "", **row} for row in rows.values()]


def stage_groups(stage: Mapping[str, Any]) -> dict[str, Any]:
    """The stage with a letter for every distinct set of results: arms with one letter used the same."""
    letters: dict[tuple[tuple[str, str], ...], str] = {}
    cells = {}
    for arm, uses in stage["arms"].items():
        identity = tuple((use["key"], use["digest"]) for use in uses)
        if uses and identity not in letters:
            letters[identity] = chr(ord("A") + len(letters) % 26)
        cells[arm] = {"letter": letters.get(identity, ""), "uses": uses}
    return {**stage, "cells": cells}


def budget(summary: Mapping[str, Any]) -> dict[str, Any] | None:
    """What every arm used of every resource, a seed: on its own, and with the shared stages in full or in parts."""
    found = summary["cost"].get("budget")
    if not found:
        return None
    kinds = (("own", "by itself"), ("full", "with all shared stages"), ("shared", "with its part of them"))
    tuning = (summary.get("tuning") or {}).get("cost") or {}
    arms = {arm: record for arm, record in found["arms"].items() if arm in summary["arms"]}
    rows = [
        {
            "arm": arm,
            "limit": ", ".join(quantity(limit, key) for key, limit in (record.get("limit") or {}).items()),
            "stopped_by": ending(summary, arm) if record else "",
            "kinds": [
                (title, [amount(used.get(resource), resource) for resource in found["resources"]])
                for title, used in (
                    *((title, record[kind]) for kind, title in kinds if kind in record),
                    *([("tuning, in all", tuning[arm])] if arm in tuning else []),
                )
            ],
        }
        for arm, record in (arms | {arm: {} for arm in tuning if arm not in arms}).items()
    ]
    return {"resources": [name(resource) for resource in found["resources"]], "rows": rows, "prices": _prices(arms)}


def _prices(arms: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """The price lists by the arms that have them; nobody is named if all have one."""
    lists: dict[str, tuple[list[str], dict[str, float]]] = {}
    for arm, record in arms.items():
        prices = record.get("prices") or {}
        lists.setdefault(json.dumps(prices, sort_keys=True), ([], prices))[0].append(arm)
    found = {wording.shortlist(who) if len(lists) > 1 else "": prices for who, prices in lists.values()}
    return {who: prices for who, prices in found.items() if prices}


def budget_notes(summary: Mapping[str, Any]) -> list[str]:
    """What is said of the arms' budgets beside the verdict."""
    return list((summary["cost"].get("budget") or {}).get("notes") or ())


def judge_notes(summary: Mapping[str, Any]) -> list[str]:
    """What a reader of the judge's scores has to know; nothing without them."""
    return list((summary["eval_judge"] or {}).get("sentences") or ())


def laws(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The arms with a fitted law of over-optimisation or a gap between proxy and gold."""
    if not summary["splits"]:
        return []
    fits = summary.get("overoptimisation") or {}
    split = summary["splits"][0]
    rows = [
        {"arm": arm, "law": fits.get(arm), "gap": record["splits"][split].get("gap")}
        for arm, record in summary["arms"].items()
    ]
    return [row for row in rows if row["law"] or row["gap"]]


def other_proxy(summary: Mapping[str, Any]) -> str:
    """The sentence about the arms whose proxy is on another scale than the control's; empty if there are none."""
    arms = other_proxy_of(summary)
    if not arms:
        return ""
    who = wording.listing(arms) if len(arms) <= wording.MOST_NAMES else f"{len(arms)} arms"
    what = "has another reward model" if len(arms) == 1 else "have other reward models"
    return (
        f"{who} {what} than the control {summary['control']}, which makes another scale: "
        "no proxy of theirs is compared with the control's."
    )


def tuned(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Per tuned arm: trials, best value, the winner's settings or why there is none, and what tuning cost."""
    found = summary.get("tuning")
    if not found:
        return []
    return [
        {
            "arm": arm,
            "trials": len(record["trials"]),
            "failed": sum(trial["value"] is None and not trial.get("stopped") for trial in record["trials"]),
            "stopped": sum(bool(trial.get("stopped")) for trial in record["trials"]),
            "best": next((value for value in reversed(record["best_so_far"]) if value is not None), None),
            "winner": ", ".join(f"{key}={value(setting)}" for key, setting in (record["winner"] or {}).items()),
            "failure": record.get("failure") or "",
            "cost": ", ".join(
                f"{amount(used, key)} {name(key)}" if key != "seconds" else amount(used, key)
                for key, used in (found.get("cost") or {}).get(arm, {}).items()
                if used
            ),
        }
        for arm, record in found["arms"].items()
    ]


def bounds(share: Mapping[str, Any]) -> str:
    """The interval of a share in percent; empty if it has none."""
    if share["low"] is None or share["high"] is None:
        return ""
    return f"{wording.number(100 * share['low'], 0)} to {wording.percent(share['high'])}"


def value(setting: Any) -> str:
    """A setting as it is written on the command line."""
    return setting if isinstance(setting, str) else json.dumps(setting, default=str)


def shortened(text: str) -> str:
    """`text` with its middle left out if it is too long for a cell."""
    if len(text) <= VALUE_WIDTH:
        return text
    return f"{text[: VALUE_WIDTH * 2 // 3]} … {text[-VALUE_WIDTH // 4 :]}"


def machine(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the report was made with, as names and words."""
    found = summary.get("environment")
    if not found:
        return []
    box, git, made = found["machine"], found.get("git"), found.get("results") or {}
    words = [
        ("machine", _machine(box)),
        ("system", _joined([box.get("system"), box.get("architecture")])),
        ("commit of rft", f"{git['commit']}{', with changes of its own' if git['dirty'] else ''}" if git else ""),
        ("results made by", _joined([f"rft {version}" for version in made.get("rft_versions") or ()])),
        ("results made", _joined(dict.fromkeys([made.get("first"), made.get("last")]), " to ")),
        ("commits of the results", _joined(_commits(summary), "; ")),
        ("machines of the results", _joined(dict.fromkeys(_machine(one["machine"]) for one in _makers(summary)), "; ")),
    ]
    return [(title, text) for title, text in words if text]


def _machine(box: Mapping[str, Any]) -> str:
    size = wording.size(box["memory_bytes"]) if box.get("memory_bytes") else ""
    return _joined([box.get("processor"), f"{box.get('cores')} cores", size, *(box.get("gpus") or ())])


def _makers(summary: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Commits and machines that made the results, as far as the trials' records tell."""
    return list(((summary.get("environment") or {}).get("results") or {}).get("by") or ())


def _commits(summary: Mapping[str, Any]) -> list[str]:
    """The commits of the results, each once; one with changes is another."""
    known = [one for one in _makers(summary) if one.get("commit")]
    words = [f"{one['commit']}{', with changes of its own' if one.get('dirty') else ''}" for one in known]
    return list(dict.fromkeys(words))


def warnings(summary: Mapping[str, Any]) -> list[str]:
    """What a reader is warned of: that of the trials, and results of several commits."""
    found = list(summary.get("warnings") or ())
    commits = _commits(summary)
    if len(commits) > 1:
        short = [text.replace(text.partition(",")[0], text[:SHORT_COMMIT], 1) for text in commits]
        found.append(f"the results were made by several commits of rft: {wording.shortlist(short)}")
    return found


def _joined(parts: Any, between: str = ", ") -> str:
    return between.join(str(part) for part in parts if part)
