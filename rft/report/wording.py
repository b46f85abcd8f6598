"""Numbers as words: the verdict sentences, and how figures are written everywhere in the report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rft.evaluation.statistics import PROMPTS_ONLY

MINUS = "−"
SPLIT_TITLES = {"test": "unseen questions", "ood": "unseen topics", "validation": "tuning questions"}


def number(value: float | None, digits: int = 2, *, sign: bool = False) -> str:
    """`value` with `digits` decimals, a real minus, and no minus before a zero; a dash for None."""
    if value is None or not math.isfinite(value):
        return "–"
    text = f"{abs(value):.{digits}f}"
    if float(text) == 0.0:
        return text
    return (MINUS if value < 0 else "+" if sign else "") + text


def span(interval: Mapping[str, Any], digits: int = 2, *, sign: bool = False) -> str:
    """``low to high`` of an interval."""
    return f"{number(interval['low'], digits, sign=sign)} to {number(interval['high'], digits, sign=sign)}"


def percent(value: float | None) -> str:
    """A share in [0, 1] as a whole percentage."""
    return "–" if value is None else f"{100 * value:.0f} %"


def duration(seconds: float | None) -> str:
    """Seconds as the two largest units."""
    if seconds is None:
        return "–"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def size(count: int | None) -> str:
    """Bytes in decimal units."""
    if count is None:
        return "–"
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def listing(names: Sequence[str]) -> str:
    """``a``, ``a and b`` or ``a, b and c``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def brief(error: str) -> str:
    """A failed trial's error in one line: of a traceback its end, which says what went wrong."""
    lines = [line.strip() for line in error.splitlines() if line.strip()]
    if not lines:
        return "no reason is known"
    return lines[-1] if lines[0].startswith("Traceback") else " ".join(lines)


def title(split: str) -> str:
    """What a split holds, in words; a split of the user's own goes by its name."""
    return SPLIT_TITLES.get(split, split)


def level(summary: Mapping[str, Any]) -> str:
    """The intervals' coverage, such as ``95 %``."""
    return f"{100 * summary['statistics']['level']:g} %"


def verdict(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The headline and one sentence an arm, from the first split's numbers.

    ``settled`` says whether the headline names a winner over the control.
    """
    split = summary["splits"][0] if summary["splits"] else None
    if split is None:
        return {
            "headline": "No verdict: the trials share no evaluation split.",
            "settled": False,
            "best": None,
            "sentences": [],
        }
    arms = summary["arms"]
    ranked = sorted(arms, key=lambda arm: (-arms[arm]["splits"][split]["gold"]["mean"], arm))
    control = summary["control"]
    sentences = [_against_control(summary, arm, split) for arm in ranked if arm != control and control]
    sentences += _cautions(summary, split)
    winner, headline = _headline(summary, split, ranked)
    return {
        "headline": headline,
        "settled": winner is not None,
        "best": winner or ranked[0],
        "sentences": sentences,
    }


def _headline(summary: Mapping[str, Any], split: str, ranked: Sequence[str]) -> tuple[str | None, str]:
    """The arm that is shown to beat the control with the highest mean, if any, and the sentence."""
    best, control = ranked[0], summary["control"]
    numbers = {arm: summary["arms"][arm]["splits"][split] for arm in ranked}
    single = [arm for arm in ranked if numbers[arm]["gold"]["covers"] == PROMPTS_ONLY]
    if single:
        return None, (
            f"No verdict yet: {listing(single)} {'has' if len(single) == 1 else 'have'} one seed only, "
            f"and one run cannot tell an algorithm from its luck. Highest so far: {best}, mean gold reward "
            f"{number(numbers[best]['gold']['mean'])}."
        )
    if control is None:
        return None, f"No verdict: the study has no control arm. Highest mean gold reward: {best}."
    better = [arm for arm in ranked if arm != control and numbers[arm]["difference"]["verdict"] == "better"]
    if not better:
        return None, f"No algorithm is shown to be better than the control {control} on {title(split)}."
    top = better[0]
    difference = numbers[top]["difference"]
    seeds = len(summary["arms"][top]["seeds"])
    text = (
        f"{top} is better than the control {control}: mean gold reward "
        f"{number(numbers[top]['gold']['mean'])} against {number(numbers[control]['gold']['mean'])} "
        f"on {title(split)}, {number(difference['mean'], sign=True)} "
        f"({level(summary)} interval {span(difference, sign=True)}, {seeds} seeds)"
    )
    return top, text + _runner_up(summary, split, top, [arm for arm in ranked if arm not in (top, control)])


def _runner_up(summary: Mapping[str, Any], split: str, top: str, others: Sequence[str]) -> str:
    if not others:
        return "."
    gap = pair(summary, split, top, others[0])
    figures = f"{number(gap['mean'], sign=True)}, {span(gap, sign=True)}"
    if gap["verdict"] == "better":
        return f". It is also ahead of the runner-up {others[0]} ({figures})."
    return f". Whether it is ahead of {others[0]} these seeds cannot tell ({figures})."


def pair(summary: Mapping[str, Any], split: str, arm: str, against: str) -> dict[str, Any]:
    """The difference `arm` minus `against` on a split, whichever way round it is stored."""
    for entry in summary["pairs"][split]:
        if (entry["arm"], entry["against"]) == (arm, against):
            return dict(entry)
        if (entry["arm"], entry["against"]) == (against, arm):
            flipped = {"better": "worse", "worse": "better"}
            return {
                **entry,
                "arm": arm,
                "against": against,
                "mean": -entry["mean"],
                "low": -entry["high"],
                "high": -entry["low"],
                "verdict": flipped.get(entry["verdict"], entry["verdict"]),
            }
    raise KeyError(f"no pair {arm}, {against} on {split}")


def _against_control(summary: Mapping[str, Any], arm: str, split: str) -> str:
    numbers = summary["arms"][arm]["splits"][split]
    difference = numbers["difference"]
    words = {
        "better": "is better than",
        "worse": "is worse than",
        "cannot tell": "cannot be told from",
        "no verdict": "has no verdict against",
    }[difference["verdict"]]
    return (
        f"{arm} {words} {summary['control']}: {number(difference['mean'], sign=True)} "
        f"({span(difference, sign=True)}), at a KL of {number(numbers['kl'], 1)} nats per response."
    )


def _cautions(summary: Mapping[str, Any], split: str) -> list[str]:
    cautions = []
    if not summary["started_alike"]:
        stages = [name for name, stage in summary["stages"].items() if not stage["alike"]]
        cautions.append(
            f"The arms did not start alike ({listing(stages)} differ): "
            f"their differences are not due to the algorithm alone."
        )
    if summary["failed"]:
        count = len(summary["failed"])
        cautions.append(f"{count} {'trial is' if count == 1 else 'trials are'} left out: failed or not comparable.")
    control = summary["control"]
    base = summary["arms"][control]["splits"][split]["distinct_2"] if control else None
    for arm, record in summary["arms"].items():
        value = record["splits"][split]["distinct_2"]
        if base and arm != control and value < base / 2:
            cautions.append(
                f"{arm} repeats itself: distinct-2 {number(value)} is less than half of {control}'s "
                f"{number(base)}, so read its answers before trusting its reward."
            )
    return cautions


def cost_sentence(summary: Mapping[str, Any]) -> str:
    """What the headline's arm cost, and the whole study."""
    cost = summary["cost"]
    total = f"The whole study took {duration(cost['total_seconds'])} of computing"
    if cost["peak_rss_bytes"] is not None:
        total += f", peak memory of one process {size(cost['peak_rss_bytes'])}"
    best = summary["verdict"]["best"]
    if best is None:
        return total + "."
    own = cost["arms"][best]
    return (
        f"{best} cost {duration(own['own_seconds_per_seed'])} a seed on top of "
        f"{duration(own['shared_seconds_per_seed'])} of shared stages. {total}."
    )
