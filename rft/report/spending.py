"""What the arms spent in words: whether their budgets were equal and what ended them, and what each cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rft.report.costs import SCHEDULE
from rft.report.overoptimisation import AT_START
from rft.report.resources import amount, name
from rft.report.selection import ranked
from rft.report.wording import counted, duration, number, percent, shortlist, size

MOST_COSTS = 6
"""With more trained arms than this, the sentence on costs names three."""
WHOLE = 1e7
"""Counts below are written out, since a limit is compared with what was used of it."""

Summary = Mapping[str, Any]


def trained(summary: Summary, arm: str) -> bool:
    """Whether an optimiser made the arm's policies; so it is taken where the store cannot tell."""
    return any(point["step"] is None or point["step"] > 0 for point in summary["frontier"][arm])


def figure(value: float, resource: str) -> str:
    """An amount without its unit, counts in full."""
    counts = resource not in ("seconds", "money") and abs(value) < WHOLE
    return f"{value:,.0f}" if counts else amount(value, resource)


def quantity(value: float, resource: str) -> str:
    """An amount with its unit: ``48,000 generated tokens``, ``1 min 00 s``, ``2.50 in money``."""
    unit = {"seconds": "", "money": " in money"}.get(resource, f" {name(resource)}")
    return figure(value, resource) + unit


def ending(summary: Summary, arm: str) -> str:
    """What ended the arm's training: a resource, its schedule, or not the same in all seeds."""
    record = summary["cost"]["budget"]["arms"][arm]
    if not trained(summary, arm):
        return "not trained"
    if _pauses(record):
        return "a pause"
    if not record["limit"]:
        return "no limit"
    stops = list(record["stops"])
    if len(stops) > 1:
        return "differs by seed"
    return "its schedule" if stops == [SCHEDULE] else name(stops[0])


def notes(summary: Summary) -> list[str]:
    """What has to be known before costs are compared, a sentence each; nothing if the store cannot tell."""
    budget = summary["cost"]["budget"]
    if not budget:
        return []
    arms = {arm: record for arm, record in budget["arms"].items() if trained(summary, arm)}
    told = [*_paused(arms), *_limits(arms), *_not_bound(arms), *_labels(arms), *_picking(summary)]
    priced = _grouped({arm: sorted(record["prices"].items()) for arm, record in budget["arms"].items()})
    if len(priced) > 1:
        if all(len(group) == 1 for group in priced):
            who = shortlist([arm for group in priced for arm in group])
        else:
            who = "; ".join(shortlist(group) for group in priced)
            who = f"the arms ({who})"
        told.append(f"{who} have different price lists: their money cannot be compared.")
    return told


def _grouped(values: Mapping[str, Any]) -> list[list[str]]:
    """The arms with equal values together, in the order of the arms."""
    groups: dict[str, list[str]] = {}
    for arm, value in values.items():
        groups.setdefault(repr(value), []).append(arm)
    return list(groups.values())


def _limit(record: Mapping[str, Any]) -> str:
    """The limits of an arm in words."""
    if not record["limit"]:
        return "none"
    stages = ", shared stages included" if record["charge"] == "full" else ""
    return " and ".join(quantity(limit, resource) for resource, limit in record["limit"].items()) + stages


def _limits(arms: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Whether the arms had one budget."""
    if len(arms) < 2:
        return []
    groups = _grouped({arm: _limit(record) for arm, record in arms.items()})
    if len(groups) > 1:
        each = [f"{shortlist(group)} {_limit(arms[group[0]])}" for group in groups]
        return [f"The arms did not have one budget: {', '.join(each)}."]
    record = next(iter(arms.values()))
    if not record["limit"]:
        return (
            [] if any(map(_pauses, arms.values())) else ["No arm had a limit: each trained to the end of its schedule."]
        )
    own = "" if record["charge"] == "full" else ", shared stages not counted"
    return [f"All arms had the same limit{'s' if len(record['limit']) > 1 else ''}: {_limit(record)}{own}."]


def _pauses(record: Mapping[str, Any]) -> bool:
    """Whether an arm's training was to go on later (`budget.share`)."""
    return float(record.get("share", 1.0)) < 1


def _paused(arms: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The arms whose training was paused before its end."""
    groups = _grouped({arm: record.get("share", 1.0) for arm, record in arms.items()})
    shares = {shortlist(group): arms[group[0]].get("share", 1.0) for group in groups}
    return [f"{who} paused at {percent(share)} of training." for who, share in shares.items() if share < 1]


def _not_bound(arms: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The arms that ended before their limits, those of which the same is to be said together."""
    told: dict[str, list[str]] = {}
    whole, some = [], []
    for arm, record in arms.items():
        ended, seeds = record["stops"].get(SCHEDULE, 0), sum(record["stops"].values())
        if not record["limit"] or not ended or _pauses(record):
            continue
        bound = "the limit did not bind" if len(record["limit"]) == 1 else "no limit bound"
        if ended < seeds:
            which = "that one" if ended == 1 else "those"
            some.append(f"{ended} of {counted(seeds, 'seed')} of {arm} ended by the schedule: {bound} {which}.")
            continue
        used = record["full" if record["charge"] == "full" else "own"]
        at = [f"{figure(used[name], name)} of {quantity(limit, name)}" for name, limit in record["limit"].items()]
        told.setdefault(f"schedule at {' and '.join(at)}: {bound}", []).append(arm)
    for words, who in told.items():
        their, them = ("its", "it") if len(who) == 1 else ("their", "them")
        whole.append(f"{shortlist(who)} ended by {their} {words} {them}.")
    return [*whole, *some]


def _labels(arms: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Limits that count the labels of arms that learn from them, but not those behind the others' reward models."""
    told = []
    for resource in ("labels", "money"):
        limited = {
            arm: record
            for arm, record in arms.items()
            if resource in record["limit"] and record["charge"] != "full" and _counts(resource, record)
        }
        own = [arm for arm, record in limited.items() if record["own"]["labels"]]
        behind = [arm for arm, record in limited.items() if not record["own"]["labels"] and record["full"]["labels"]]
        if own and behind:
            models = "the reward model" if len(behind) == 1 else "the reward models"
            told.append(
                f"The limit on {resource} counts the labels that {shortlist(own)} learned from, but not those that "
                f"{models} of {shortlist(behind)} came from; budget.charge=full counts both."
            )
    return told


def _picking(summary: Summary) -> list[str]:
    """The arms that pay when they are used: without training they moved from the start by picking among answers."""
    split = summary["splits"][0] if summary["splits"] else None
    arms = [
        arm
        for arm, record in summary["arms"].items()
        if split and not trained(summary, arm) and (record["splits"][split]["kl"] or 0.0) >= AT_START
    ]
    pay = "pays" if len(arms) == 1 else "pay"
    return [f"{shortlist(arms)} {pay} n answers at each use, which these figures leave out."] if arms else []


def _counts(resource: str, record: Mapping[str, Any]) -> bool:
    """Whether labels count towards a limit on the resource."""
    return resource == "labels" or any(record["prices"].get(name) for name in ("human_label", "judge_mtoken"))


def cost_sentence(summary: Summary) -> str:
    """What the arms cost a seed, and the whole study."""
    cost = summary["cost"]
    total = f"The whole study took {duration(cost['total_seconds'])} of computing"
    tuning = ((summary.get("tuning") or {}).get("cost") or {}).values()
    if tuning:
        total += f", tuning {duration(sum(used['seconds'] for used in tuning))} of training besides"
    if cost["peak_rss_bytes"] is not None:
        total += f", peak memory of one process {size(cost['peak_rss_bytes'])}"
    if summary["verdict"]["best"] is None:
        return total + "."
    compared = _compared(summary)
    own = [f"{words} {duration(cost['arms'][arm]['own_seconds_per_seed'])}" for arm, words in compared.items()]
    shared = [cost["arms"][arm]["shared_seconds_per_seed"] for arm in compared]
    stages = " to ".join(dict.fromkeys((duration(min(shared)), duration(max(shared)))))
    text = f"A seed cost, in time of its own, {shortlist(own)}, on top of {stages} of shared stages"
    return f"{text}{_money(summary, compared)}. {total}."


def _compared(summary: Summary) -> dict[str, str]:
    """The arms whose costs are told, and how each is called."""
    best, order = summary["verdict"]["best"], ranked(summary)
    arms = [arm for arm in order if trained(summary, arm)]
    if len(arms) <= MOST_COSTS:
        return {arm: arm for arm in order if arm == best or arm in arms}
    seconds = {arm: summary["cost"]["arms"][arm]["own_seconds_per_seed"] for arm in arms}
    told = {best: best}
    for words, pick in (("the cheapest", min), ("the dearest", max)):
        arm = pick(arms, key=lambda one: seconds[one])
        told[arm] = f"{arm} ({words})"
    return told


def _money(summary: Summary, arms: Sequence[str] | Mapping[str, str]) -> str:
    """What the same arms cost in money, where labels were paid for and the price lists are the same."""
    budget = summary["cost"]["budget"]
    known = {arm: budget["arms"][arm] for arm in arms if arm in budget["arms"]} if budget else {}
    paid = any(record["full"]["labels"] and _counts("money", record) for record in known.values())
    if not paid or len(_grouped({arm: sorted(record["prices"].items()) for arm, record in known.items()})) > 1:
        return ""
    each = [f"{arm} {number(record['full']['money'], 2)}" for arm, record in known.items()]
    return f"; in money, with all shared stages and their labels, {shortlist(each)}"
