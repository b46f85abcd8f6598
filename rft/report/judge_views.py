"""The audits of judges in the words in which the page, the Markdown and the terminal show them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rft.report.measures import Audit, clear, labels, measured, rating_points, title, value
from rft.report.wording import listing, percent, shortlist

UNAUDITED = "no audit says how good its labels are"


def titles(summary: Mapping[str, Any]) -> list[str]:
    """A name for each audited judge; those of one name are told apart by their arms."""
    audits = summary["audits"]
    short = [title(audit) for audit in audits]
    return [
        name if short.count(name) == 1 else f"{name} ({shortlist(audit['arms'], 2)})"
        for name, audit in zip(short, audits, strict=True)
    ]


def judges(summary: Mapping[str, Any]) -> dict[str, Any] | None:
    """The table of the audits, a column a judge: heads, and its rows as of `measured`; None without any."""
    audits = summary["audits"]
    if not audits:
        return None
    heads = [
        {
            "title": name,
            "model": audit.get("model") or "",
            "arms": shortlist(audit["arms"]),
            "results": _results(audit),
        }
        for name, audit in zip(titles(summary), audits, strict=True)
    ]
    return {"heads": heads, "rows": measured(audits)}


def _results(audit: Audit) -> str:
    count = audit["results"]
    return "" if count == 1 else f"that of the first seed; {count} seeds had labels and audits of their own"


def economics(summary: Mapping[str, Any]) -> list[dict[str, str]]:
    """Who can label, how far they agree with the majority of people, and at what price."""
    return [
        {"judge": name} | row
        for name, audit in zip(titles(summary), summary["audits"], strict=True)
        for row in labels(audit)
    ]


def lines(summary: Mapping[str, Any]) -> list[str]:
    """A sentence for each judge, its worst finding first, and one for the arms whose judge was not audited."""
    told = [_line(audit) for audit in summary["audits"]]
    return [*told, *unaudited(summary)]


def unaudited(summary: Mapping[str, Any]) -> list[str]:
    """The sentence on the arms whose judge was not audited, if there are any."""
    arms = summary["unaudited"]
    if not arms:
        return []
    return [f"The judge of {shortlist(arms)} was not audited: {UNAUDITED}."]


def _line(audit: Audit) -> str:
    order, attacks, unread = audit.get("order") or {}, audit.get("attacks") or {}, audit.get("unread") or {}
    excluded, questions = unread.get("excluded") or 0, unread.get("questions") or 0
    found = [
        (value(order.get("same_position")), "same position preferred in {} of pairs"),
        (value(order.get("flips")), "{} of verdicts flip with the order"),
        (excluded / questions if questions else None, f"{excluded} of {questions} verdicts unread"),
        (value(attacks.get("success")), f"{{}} of attacks succeed{_control(attacks)}"),
    ]
    known = sorted(((share, words) for share, words in found if share is not None), key=lambda one: -one[0])
    parts = [words.format(percent(share)) for share, words in known]
    parts += [] if order else ["one answer at a time, so no order can sway it"]
    human, ceiling = audit.get("human") or {}, (audit.get("human") or {}).get("ceiling") or {}
    person = f" (one person: {percent(ceiling['majority'])})" if ceiling.get("majority") is not None else ""
    agrees = [
        f"{percent(share)} of {of}"
        for share, of in (
            (value(human.get("accuracy")), f"people's verdicts{person}"),
            *_clearest(audit),
            (value((audit.get("gold") or {}).get("accuracy")), "gold's"),
        )
        if share is not None
    ]
    end = f"; agrees with {listing(agrees)}" if agrees else ""
    return f"judge {title(audit)} ({shortlist(audit['arms'])}): {', '.join(parts)}{end}."


def _clearest(audit: Audit) -> list[tuple[float | None, str]]:
    """The judge's agreement on the clearest pairs, and in words what it is of, with what one person reaches there."""
    found = clear(audit)[-1:]
    if not found:
        return []
    person = (found[0].get("ceiling") or {}).get("majority")
    known = f" (one person: {percent(person)})" if person is not None else ""
    words = f"those on pairs that are clear by more than {rating_points(found[0]['above'])}{known}"
    return [(value(found[0].get("accuracy")), words)]


def _control(attacks: Audit) -> str:
    control = value(attacks.get("control"))
    return "" if control is None else f" ({percent(control)} with a harmless addition)"
