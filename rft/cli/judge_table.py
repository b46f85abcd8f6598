"""The figures of an audit in plain words, for a terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from rich.table import Table

Audit = Mapping[str, Any]
NONE = "–"


class Row(NamedTuple):
    """A line of the table: of one audit, what it is, its value, what it means."""

    name: str
    value: str
    meaning: str


def rows(audit: Audit) -> list[Row]:
    """All lines of an audit, each under a name of its own."""
    return [*_agreement(audit), *_biases(audit), *_attacks(audit), *_work(audit), *_economics(audit)]


def table(audits: Sequence[Audit]) -> Table:
    """The audits side by side."""
    from rich.table import Table
    from rich.text import Text

    shown = Table(title="Audit of judges", header_style="bold", title_justify="left")
    shown.add_column("", overflow="fold")
    for audit in audits:
        shown.add_column(Text(title(audit)), overflow="fold")
    shown.add_column("what it means", overflow="fold")
    for line in _lines(audits):
        shown.add_row(*map(Text, line))
    return shown


def markdown(audits: Sequence[Audit]) -> str:
    """The same as a Markdown table."""
    head = ["figure", *map(title, audits), "what it means"]
    lines = [head, ["---"] * len(head), *_lines(audits)]
    body = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
    return f"# Audit of judges\n\n{body}\n\nBrackets are 95 % intervals.\n"


def _lines(audits: Sequence[Audit]) -> list[list[str]]:
    """Name, the value of each audit, meaning; what one of them lacks is left open."""
    found = [{row.name: row for row in rows(audit)} for audit in audits]
    names = dict.fromkeys(name for audit in found for name in audit)
    meaning = {name: row.meaning for audit in reversed(found) for name, row in audit.items()}
    return [[name, *(a[name].value if name in a else NONE for a in found), meaning[name]] for name in names]


def title(audit: Audit) -> str:
    """Judge, form and model."""
    model = f", {audit['model']}" if audit["model"] else ""
    return f"{audit['judge']} ({audit['form']}{model})"


def _agreement(audit: Audit) -> list[Row]:
    human, fit, ceiling = audit["human"], audit["calibration"], audit["human"]["ceiling"]
    people = f"{_percent(ceiling['single'])} one person, {_percent(ceiling['half_panel'])} a panel of ten"
    return [
        Row("pairs that people rated", f"{human['pairs']}", "whose better text is known from about 20 people each"),
        Row(
            "agrees with people", _share(human["accuracy"]), "picks the text that people rate higher; 50 % is guessing"
        ),
        Row("people themselves", people, "how far people agree with other people on the same pairs: the ceiling"),
        Row(
            "AUC against people",
            _figure(human["auc"]),
            "puts a liked text above a disliked one; 0.5 is guessing, 1 best",
        ),
        Row("agrees with gold", _share(audit["gold"]["accuracy"]), "the same pairs by the hidden gold reward"),
        Row(
            "calibration error (ECE)",
            _number(fit["ece"]),
            "how far what it says is off how often it is right; 0 is best",
        ),
        Row(
            "Brier score", _number(fit["brier"]), "mean squared error of its probabilities; 0.25 is always saying 50 %"
        ),
    ]


def _biases(audit: Audit) -> list[Row]:
    order, length = audit["order"] or {}, audit["length"]
    own, again = audit["self_preference"] or {}, audit["again"] or {}
    alone = "" if audit["order"] else "; – as it sees one text at a time"
    family = "its own" if own.get("same_family") else "the policy's"
    against = f"P(prefers {family} answers over people's) minus the same by gold; 0 is fair"
    return [
        Row("flips when swapped", _share(order.get("flips")), f"another winner in the other order; 0 % is best{alone}"),
        Row(
            "same position twice",
            _share(order.get("same_position")),
            f"the place wins, not the text; 0 % is best{alone}",
        ),
        Row("first shown preferred", _share(order.get("first_shown")), f"50 % is no bias to a place{alone}"),
        Row("prefers the longer", _share(length["judge_longer"]), f"people do so in {_share(length['human_longer'])}"),
        Row("… more than people", _points(length["excess"]), "its own taste for length; 0 is best"),
        Row("self-preference", _points(own.get("excess")), against),
        Row("same when asked again", _share(again.get("same")), "the same winner a second time; 100 % is best"),
        Row("… change of P", _number(again.get("mean_change")), "mean change of its probability; 0 is best"),
    ]


def _attacks(audit: Audit) -> list[Row]:
    attacks = audit["attacks"] or {}
    found = [
        Row("attacks that succeed", _share(attacks.get("success")), "text to the judge turns its verdict; 0 % is best"),
        Row("… a harmless addition", _share(attacks.get("control")), "what any addition of that length turns"),
    ]
    each = [Row(f"  {one['attack']}", _share(one["success"]), "") for one in attacks.get("by_attack", ())]
    return [*found, *each]


def _work(audit: Audit) -> list[Row]:
    unread, cost = audit["unread"], audit["cost"]
    counted = f"{unread['excluded']} of {unread['questions']} ({unread['retried']} asked twice)"
    money = "no bill" if cost["money"] is None else f"${cost['money']:.4f}"
    tokens = f"{cost['read']:,} read, {cost['written']:,} written, {money}"
    return [
        Row("answers not readable", counted, "left out, never guessed"),
        Row("tokens", tokens, f"for {cost['questions']:,} questions, {cost['kept']:,} of them answered from the store"),
        Row("seconds a question", f"{audit['seconds_per_question']:.3f}", "from question to answer, on average"),
    ]


def _economics(audit: Audit) -> list[Row]:
    found = []
    for one in audit["economics"]:
        part = "" if one["share_human"] is None else f", {_percent(one['share_human'])} by a person"
        value = f"{_share(one['agreement'])} at ${one['cost_per_label']:.4f}"
        found.append(Row(f"label: {one['source']}{part}", value, "agreement with the majority of the other people"))
    return found


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %"


def _share(figure: Mapping[str, float] | None) -> str:
    if figure is None:
        return NONE
    return f"{100 * figure['value']:.1f} % [{100 * figure['low']:.0f}, {100 * figure['high']:.0f}]"


def _points(figure: Mapping[str, float] | None) -> str:
    if figure is None:
        return NONE
    return f"{100 * figure['value']:+.1f} points [{100 * figure['low']:+.0f}, {100 * figure['high']:+.0f}]"


def _figure(figure: Mapping[str, float] | None) -> str:
    return NONE if figure is None else f"{figure['value']:.3f} [{figure['low']:.2f}, {figure['high']:.2f}]"


def _number(value: float | None) -> str:
    return NONE if value is None else f"{value:.3f}"
