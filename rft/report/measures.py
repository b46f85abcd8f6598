"""What an audit of a judge measures, in words: one list for the page, the Markdown and the terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import floor, log10
from typing import Any, NamedTuple

from rft.report.wording import MINUS, counted, duration, number, percent

Audit = Mapping[str, Any]
Cell = tuple[str, str]
"""A figure, and what is said below it."""
NONE: Cell = ("–", "")
ONE_BY_ONE: Cell = ("none", "sees one answer at a time: no order can sway it")
NEAR = "near what one person reaches there"
ONE_PERSON = (("majority", "one person with the majority"), ("single", "with the others' mean"))
"""Of the agreement of people: who is one person."""
FAMILY = {
    True: "judge and policy are of one model",
    False: "judge and policy are of different models",
    None: "whether judge and policy are of one model is not known",
}


class Row(NamedTuple):
    """A line of the table: what was measured, what would be good, and what was found, a judge a cell."""

    name: str
    good: str
    cells: list[Cell]


def title(audit: Audit) -> str:
    """Judge and form, a judge that is named by its form once."""
    return ", ".join(dict.fromkeys(str(audit[key]) for key in ("judge", "form") if audit.get(key)))


def measured(audits: Sequence[Audit]) -> list[Row]:
    """All that one of the audits has a figure for."""
    levels = sorted({part["above"] for audit in audits for part in clear(audit)})
    rows = []
    for one in MEASURES:
        rows.append(Row(one.name, one.good, [one.make(audit) for audit in audits]))
        if one.on_clear is not None:
            name, make = one.on_clear
            cells = [(above, [make(_part(audit, above)) for audit in audits]) for above in levels]
            rows += [Row(f"{name} by more than {rating_points(above)}", NEAR, found) for above, found in cells]
    return [row for row in rows if any(cell != NONE for cell in row.cells)]


def clear(audit: Audit) -> Sequence[Audit]:
    """The figures against people on clear cases, by rising clearness; none in an audit of before there were any."""
    return (audit.get("human") or {}).get("clear") or ()


def _part(audit: Audit, above: float) -> Audit:
    """An audit of the cases alone that are clear by more than so many rating points."""
    found = next((part for part in clear(audit) if part["above"] == above), {})
    return {"human": found, "form": audit.get("form"), "order": audit.get("order")}


def rating_points(above: float) -> str:
    """How clear a case is."""
    return {0.5: "half a rating point", 1.0: "a rating point"}.get(above, f"{above:g} rating points")


def labels(audit: Audit) -> list[dict[str, str]]:
    """Who can label, how far they agree with the majority of people, and at what price."""
    return [
        {
            "source": str(row["source"]),
            "people": percent(row.get("share_human")),
            "agreement": _share(row.get("agreement"))[0],
            "range": _share(row.get("agreement"))[1],
            "cost": money(row.get("cost_per_label")),
        }
        for row in audit.get("economics") or ()
    ]


def value(figure: Mapping[str, Any] | None) -> float | None:
    """The number of a figure, if there is one."""
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
    of = counted(round(figure["n"]), "pair") if figure.get("n") else ""
    return percent(figure["value"]), "; ".join(filter(None, (_bounds(figure), of, *more)))


def _excess(figure: Mapping[str, Any] | None, than: str) -> str:
    if not figure or figure.get("value") is None:
        return ""
    span = _bounds(figure, sign=True)
    return f"{points(figure['value'])} points{f' ({span})' if span else ''} against {than}"


def _people(audit: Audit) -> Cell:
    return _share((audit.get("human") or {}).get("accuracy"))


def _people_clear(audit: Audit) -> Cell:
    found = audit["human"].get("ceiling") or {}
    said = [f"{words}: {percent(found[key])}" for key, words in ONE_PERSON if found.get(key) is not None]
    return _share(audit["human"].get("accuracy"), *said)


def _ceiling(audit: Audit) -> Cell:
    found = (audit.get("human") or {}).get("ceiling") or {}
    if found.get("majority") is None:
        return NONE
    named = (*ONE_PERSON[1:], ("half_panel", "half of them with the other half"))
    others = [f"{words}: {percent(found[key])}" for key, words in named if found.get(key) is not None]
    return percent(found["majority"]), "; ".join([ONE_PERSON[0][1], *others])


def _auc(audit: Audit) -> Cell:
    human = audit.get("human") or {}
    found, person = human.get("auc"), value(human.get("auc_person"))
    if not found or found.get("value") is None:
        return NONE
    bounded = found.get("low") is not None and found.get("high") is not None
    said = [
        f"{number(found['low'])} to {number(found['high'])}" if bounded else "",
        counted(found["n"], "pair" if audit.get("order") else "text") if found.get("n") else "",
        "" if person is None else f"one person: {number(person)}",
    ]
    return number(found["value"]), "; ".join(filter(None, said))


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
    people = value(found.get("human_longer"))
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
    family = FAMILY[found.get("same_family")]
    gold = value(found.get("gold_own"))
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
    control = value(found.get("control"))
    kinds = [
        f"{one['attack']} {percent(value(one.get('success')))}"
        for one in sorted(found.get("by_attack") or (), key=lambda one: -(value(one.get("success")) or 0.0))
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


class Measure(NamedTuple):
    """A line of the table before there is an audit."""

    name: str
    make: Callable[[Audit], Cell]
    good: str  # what stands beside it: the ceiling, or the best that can be
    on_clear: tuple[str, Callable[[Audit], Cell]] | None = None  # the same on clear cases: the name, and its cell


MEASURES = (
    Measure("agrees with people", _people, "near what people reach, the line below; 50 % is guessing"),
    Measure(
        "people with one another, the ceiling",
        _ceiling,
        "",
        on_clear=("agrees with people where they are clear", _people_clear),
    ),
    Measure("tells what people like (AUC)", _auc, "1; 0.5 is guessing", on_clear=("AUC where people are clear", _auc)),
    Measure("agrees with the hidden gold", _gold, "high: less to learn that gold does not reward"),
    Measure("prefers the same position in both orders", _same_position, "0 %: else the place wins, not the text"),
    Measure("flips when the order is swapped", _flips, "0 %"),
    Measure("prefers what it is shown first", _first_shown, "50 %"),
    Measure("prefers the longer answer", _longer, "0 points against people"),
    Measure("calibration error", _calibration, "0 %; a Brier score of 0.25 is to say 50 % always"),
    Measure("prefers the policy's answers to people's", _own, "0 points against gold"),
    Measure("says the same when asked again", _again, "100 %"),
    Measure("verdicts that could not be read", _unread, "0"),
    Measure("gives in to answers that talk to it", _attacks, "0 %; far above the harmless addition it obeys"),
    Measure("cost of the audit", _cost, ""),
    Measure("time", _latency, ""),
)
"""What the table of the audits has a row for."""
