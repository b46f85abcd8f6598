"""The audits of judges in the words in which the page, the Markdown and the terminal show them."""

from __future__ import annotations

from collections.abc import Mapping
from math import floor, log10
from typing import Any

from rft.report.wording import MINUS, counted, duration, listing, number, percent, shortlist

Audit = Mapping[str, Any]
Cell = tuple[str, str]
"""A figure, and what is said below it."""
NONE: Cell = ("–", "")
ONE_BY_ONE: Cell = ("none", "sees one answer at a time: no order can sway it")
UNAUDITED = "no audit says how good its labels are"


def titles(summary: Mapping[str, Any]) -> list[str]:
    """A name for each audited judge; those of one name are told apart by their arms."""
    audits = summary["audits"]
    short = [", ".join(str(audit[key]) for key in ("judge", "form") if audit.get(key)) for audit in audits]
    return [
        name if short.count(name) == 1 else f"{name} ({shortlist(audit['arms'], 2)})"
        for name, audit in zip(short, audits, strict=True)
    ]


def judges(summary: Mapping[str, Any]) -> dict[str, Any] | None:
    """The table of the audits, a column a judge: heads, and rows of ``(title, cells)``; None without any."""
    audits = summary["audits"]
    if not audits:
        return None
    heads = [
        {
            "title": title,
            "model": audit.get("model") or "",
            "arms": shortlist(audit["arms"]),
            "results": _results(audit),
        }
        for title, audit in zip(titles(summary), audits, strict=True)
    ]
    rows = [(title, [make(audit) for audit in audits]) for title, make in MEASURES.items()]
    return {"heads": heads, "rows": [row for row in rows if any(cell != NONE for cell in row[1])]}


def _results(audit: Audit) -> str:
    count = audit["results"]
    return "" if count == 1 else f"that of the first seed; {count} seeds had labels and audits of their own"


def economics(summary: Mapping[str, Any]) -> list[dict[str, str]]:
    """Who can label, how far they agree with the majority of people, and at what price."""
    return [
        {
            "judge": title,
            "source": str(row["source"]),
            "people": percent(row.get("share_human")),
            "agreement": _share(row.get("agreement"))[0],
            "range": _share(row.get("agreement"))[1],
            "cost": money(row.get("cost_per_label")),
        }
        for title, audit in zip(titles(summary), summary["audits"], strict=True)
        for row in audit.get("economics") or ()
    ]


def lines(summary: Mapping[str, Any]) -> list[str]:
    """A sentence for each judge, its worst finding first, and one for the arms whose judge was not audited."""
    told = [_line(title, audit) for title, audit in zip(titles(summary), summary["audits"], strict=True)]
    return [*told, *unaudited(summary)]


def unaudited(summary: Mapping[str, Any]) -> list[str]:
    """The sentence on the arms whose judge was not audited, if there are any."""
    arms = summary["unaudited"]
    if not arms:
        return []
    return [f"The judge of {shortlist(arms)} was not audited: {UNAUDITED}."]


def _line(title: str, audit: Audit) -> str:
    order, attacks, unread = audit.get("order") or {}, audit.get("attacks") or {}, audit.get("unread") or {}
    excluded, questions = unread.get("excluded") or 0, unread.get("questions") or 0
    found = [
        (_value(order.get("same_position")), "same position preferred in {} of pairs"),
        (_value(order.get("flips")), "{} of verdicts flip with the order"),
        (excluded / questions if questions else None, f"{excluded} of {questions} verdicts unread, so excluded"),
        (_value(attacks.get("success")), f"{{}} of attacks succeed{_control(attacks)}"),
    ]
    known = sorted(((value, words) for value, words in found if value is not None), key=lambda one: -one[0])
    parts = [words.format(percent(value)) for value, words in known]
    parts += [] if order else ["one answer at a time, so no order can sway it"]
    human, ceiling = audit.get("human") or {}, (audit.get("human") or {}).get("ceiling") or {}
    person = f" (one person: {percent(ceiling['majority'])})" if ceiling.get("majority") is not None else ""
    agrees = [
        f"{percent(value)} of {of}"
        for value, of in (
            (_value(human.get("accuracy")), f"people's verdicts{person}"),
            (_value((audit.get("gold") or {}).get("accuracy")), "gold's"),
        )
        if value is not None
    ]
    end = f"; agrees with {listing(agrees)}" if agrees else ""
    return f"judge {title} ({shortlist(audit['arms'])}): {', '.join(parts)}{end}."


def _control(attacks: Audit) -> str:
    control = _value(attacks.get("control"))
    return "" if control is None else f" ({percent(control)} with a harmless addition)"


def _value(figure: Mapping[str, Any] | None) -> float | None:
    return figure["value"] if figure else None


def money(amount: float | None) -> str:
    """A price in the unit of the price list, to two digits that count."""
    if amount is None:
        return "–"
    if amount >= 0.1 or amount == 0:
        return f"{amount:.2f}"
    return f"{amount:.{1 - floor(log10(amount))}f}"


def _bounds(figure: Mapping[str, Any], sign: bool = False) -> str:
    if figure.get("low") is None or figure.get("high") is None:
        return ""
    if sign:
        return f"{points(figure['low'])} to {points(figure['high'])}"
    return f"{number(100 * figure['low'], 0)} to {percent(figure['high'])}"


def points(share: float) -> str:
    """A difference of shares in percentage points."""
    rounded = round(100 * share)
    return f"{MINUS if rounded < 0 else '+' if rounded > 0 else ''}{abs(rounded)}"


def _share(figure: Mapping[str, Any] | None, *more: str) -> Cell:
    """A share with its interval, what it is of, and more to say."""
    if not figure or figure.get("value") is None:
        return NONE
    of = f"{figure['n']:.0f} pairs" if figure.get("n") else ""
    return percent(figure["value"]), "; ".join(filter(None, (_bounds(figure), of, *more)))


def _excess(figure: Mapping[str, Any] | None, than: str) -> str:
    if not figure or figure.get("value") is None:
        return ""
    span = _bounds(figure, sign=True)
    return f"{points(figure['value'])} points{f' ({span})' if span else ''} against {than}"


def _people(audit: Audit) -> Cell:
    return _share((audit.get("human") or {}).get("accuracy"))


def _ceiling(audit: Audit) -> Cell:
    found = (audit.get("human") or {}).get("ceiling") or {}
    if found.get("majority") is None:
        return NONE
    others = [
        f"{words}: {percent(found[key])}"
        for key, words in (("single", "with the others' mean"), ("half_panel", "half of them with the other half"))
        if found.get(key) is not None
    ]
    return percent(found["majority"]), "; ".join(["one person with the majority", *others])


def _auc(audit: Audit) -> Cell:
    found = (audit.get("human") or {}).get("auc")
    if not found or found.get("value") is None:
        return NONE
    bounded = found.get("low") is not None and found.get("high") is not None
    return number(found["value"]), f"{number(found['low'])} to {number(found['high'])}" if bounded else ""


def _gold(audit: Audit) -> Cell:
    return _share((audit.get("gold") or {}).get("accuracy"))


def _ordered(audit: Audit, key: str) -> Cell:
    order = audit.get("order")
    return _share(order.get(key)) if order else ONE_BY_ONE if key == "same_position" else NONE


def _same_position(audit: Audit) -> Cell:
    return _ordered(audit, "same_position")


def _flips(audit: Audit) -> Cell:
    return _ordered(audit, "flips")


def _first_shown(audit: Audit) -> Cell:
    return _ordered(audit, "first_shown")


def _longer(audit: Audit) -> Cell:
    found = audit.get("length") or {}
    people = _value(found.get("human_longer"))
    said = "" if people is None else f"people: {percent(people)}"
    return _share(found.get("judge_longer"), said, _excess(found.get("excess"), "people"))


def _calibration(audit: Audit) -> Cell:
    found = audit.get("calibration") or {}
    if found.get("ece") is None:
        return NONE
    return percent(found["ece"]), f"Brier score {number(found.get('brier'), 3)}"


def _own(audit: Audit) -> Cell:
    found = audit.get("self_preference")
    if not found:
        return NONE
    family = "judge and policy are of one family" if found.get("same_family") else "judge and policy are no family"
    gold = _value(found.get("gold_own"))
    said = "" if gold is None else f"gold: {percent(gold)}"
    return _share(found.get("judge_own"), said, _excess(found.get("excess"), "gold"), family)


def _again(audit: Audit) -> Cell:
    found = audit.get("again") or {}
    change = found.get("mean_change")
    return _share(found.get("same"), "" if change is None else f"mean change of its probability {number(change, 3)}")


def _unread(audit: Audit) -> Cell:
    found = audit.get("unread") or {}
    if found.get("questions") is None:
        return NONE
    return f"{found.get('excluded') or 0}", (
        f"of {counted(found['questions'], 'question')}; {found.get('retried') or 0} asked a second time"
    )


def _attacks(audit: Audit) -> Cell:
    found = audit.get("attacks") or {}
    control = _value(found.get("control"))
    kinds = [
        f"{one['attack']} {percent(_value(one.get('success')))}"
        for one in sorted(found.get("by_attack") or (), key=lambda one: -(_value(one.get("success")) or 0.0))
    ]
    without = "" if control is None else f"with a harmless addition {percent(control)}"
    return _share(found.get("success"), without, ", ".join(kinds))


def _cost(audit: Audit) -> Cell:
    found = audit.get("cost") or {}
    if found.get("questions") is None:
        return NONE
    kept = f", {found['kept']} of them answered before" if found.get("kept") else ""
    tokens = f"{found.get('read') or 0:,} tokens read, {found.get('written') or 0:,} written"
    paid = found.get("money")
    words = [counted(found["questions"], "question") + kept, tokens]
    return (money(paid) if paid is not None else "no bill"), "; ".join(words)


def _latency(audit: Audit) -> Cell:
    seconds = audit.get("seconds_per_question")
    if seconds is None:
        return NONE
    return (duration(seconds) if seconds >= 1 else f"{1000 * seconds:.0f} ms"), "a question"


MEASURES = {
    "agrees with people": _people,
    "people with one another": _ceiling,
    "tells what people like (AUC)": _auc,
    "agrees with the hidden gold": _gold,
    "prefers the same position in both orders": _same_position,
    "flips when the order is swapped": _flips,
    "prefers what it is shown first": _first_shown,
    "prefers the longer answer": _longer,
    "calibration error": _calibration,
    "prefers the policy's answers to people's": _own,
    "says the same when asked again": _again,
    "verdicts that could not be read": _unread,
    "gives in to answers that talk to it": _attacks,
    "cost of the audit": _cost,
    "time": _latency,
}
"""What the table of the audits has a row for."""
