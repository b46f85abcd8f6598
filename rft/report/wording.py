"""Numbers as words: the verdict sentences, and how figures are written everywhere in the report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rft.evaluation.statistics import PROMPTS_ONLY
from rft.report.pairs import find_pair
from rft.report.selection import ranked

MINUS = "−"
MOST_NAMES = 8
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


def shortlist(names: Sequence[str], most: int = 6) -> str:
    """A listing of at most `most` names; what is left out is counted."""
    return listing([*names[:most], f"{len(names) - most} more"] if len(names) > most else names)


def counted(count: int, noun: str) -> str:
    """``1 seed``, ``3 seeds``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def p_figure(value: float | None) -> str:
    """``0.012``; below a thousandth ``<0.001``, a dash for None."""
    if value is None:
        return "–"
    return "<0.001" if value < 0.001 else f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def p_value(value: float | None) -> str:
    """``p 0.012`` or ``p <0.001``."""
    return "no p-value" if value is None else f"p {p_figure(value)}"


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
    if not summary["splits"]:
        return {
            "headline": "No verdict: the trials share no evaluation split.",
            "settled": False,
            "best": None,
            "sentences": [],
        }
    split, order = summary["splits"][0], ranked(summary)
    control = summary["control"]
    if control:
        sentences = [_against_control(summary, arm, split) for arm in order if arm != control]
    else:
        sentences = _against_best(summary, order, split)
    sentences += _cautions(summary, split)
    winner, headline = _headline(summary, order)
    return {
        "headline": headline,
        "settled": winner is not None,
        "best": winner or order[0],
        "sentences": sentences,
    }


def _headline(summary: Mapping[str, Any], order: Sequence[str], price: str = "") -> tuple[str | None, str]:
    """The arm that is shown to beat the control with the highest mean, if any, and the sentence, with its price.

    `order`: the arms by falling mean gold. Those with one seed have no verdict, and take none from the others.
    """
    best, control, split = order[0], summary["control"], summary["splits"][0]
    numbers = {arm: summary["arms"][arm]["splits"][split] for arm in order}
    single = [arm for arm in order if numbers[arm]["gold"]["covers"] == PROMPTS_ONLY]
    judged = [arm for arm in order if arm != control and arm not in single]
    if control is None:
        return _without_control(summary, order, single, price)
    if single and (control in single or not judged):
        which = f"No verdict against the control {control} yet" if judged else "No verdict yet"
        return None, (
            f"{which}: {_with_one_seed(single)}, and one run cannot tell an algorithm from its luck. "
            f"Highest so far: {best}, mean gold reward {number(numbers[best]['gold']['mean'])}."
            f"{_first_two(summary, split, judged)}"
        )
    if not judged:
        return None, f"No verdict: the study has nothing but the control {control}."
    better = [arm for arm in judged if numbers[arm]["difference"]["verdict"] == "better"]
    text = _winner(summary, better[0], judged, price) if better else _none_better(summary, split, judged)
    return better[0] if better else None, text + _not_judged(summary, single, best)


def _with_one_seed(single: Sequence[str]) -> str:
    who = listing(single) if len(single) <= MOST_NAMES else f"{len(single)} arms"
    return f"{who} {'has' if len(single) == 1 else 'have'} one seed only"


def _first_two(summary: Mapping[str, Any], split: str, judged: Sequence[str]) -> str:
    """Of the arms with several seeds, by falling mean gold, what the first two's seeds tell; empty for fewer."""
    gap = find_pair(summary, split, *judged[:2]) if len(judged) > 1 else None
    if gap is None:
        return ""
    words = "is better than" if gap["verdict"] == "better" else "cannot be told from"
    figures = f"{number(gap['mean'], sign=True)}, {span(gap, sign=True)}, {p_value(gap['holm_p'])}"
    return f" Of the arms with several seeds, {judged[0]} {words} {judged[1]} ({figures})."


def _not_judged(summary: Mapping[str, Any], single: Sequence[str], best: str) -> str:
    """The arms without a verdict, as a further sentence; `best` has the highest mean of all arms."""
    if not single:
        return ""
    lead = summary["arms"][best]["splits"][summary["splits"][0]]["gold"]["mean"]
    highest = f"; the mean gold reward of {best}, {number(lead)}, is the highest so far" if best in single else ""
    return f" No verdict yet on the others: {_with_one_seed(single)}{highest}."


def _winner(summary: Mapping[str, Any], top: str, judged: Sequence[str], price: str) -> str:
    control, split = summary["control"], summary["splits"][0]
    numbers = {arm: summary["arms"][arm]["splits"][split] for arm in (top, control)}
    text = (
        f"{top} is better than the control {control}: mean gold reward "
        f"{number(numbers[top]['gold']['mean'])} against {number(numbers[control]['gold']['mean'])} "
        f"on {title(split)}, {_evidence(summary, top, control, numbers[top]['difference'])}{price}"
    )
    return text + _runner_up(summary, split, top, [arm for arm in judged if arm != top])


def _evidence(summary: Mapping[str, Any], arm: str, against: str, difference: Mapping[str, Any]) -> str:
    """By how much and how sure: the difference, its interval, its p-value among all comparisons, the seeds."""
    seeds, others = (len(summary["arms"][name]["seeds"]) for name in (arm, against))
    who = "the control" if against == summary["control"] else against
    unlike = f", {who} {others}" if others != seeds else ""
    return (
        f"{number(difference['mean'], sign=True)} ({level(summary)} interval {span(difference, sign=True)}, "
        f"{p_value(difference['holm_p'])}{_among(summary)}, {counted(seeds, 'seed')}{unlike})"
    )


def _among(summary: Mapping[str, Any]) -> str:
    """How many comparisons a p-value is corrected for: those with the control or, without one, all pairs."""
    split, arms = summary["splits"][0], summary["arms"]
    if summary["control"]:
        differences = [record["splits"][split]["difference"] for record in arms.values()]
        compared = sum(difference is not None and difference["holm_p"] is not None for difference in differences)
    else:
        compared = len(arms) * (len(arms) - 1) // 2
    return f" after correction for {compared} comparisons" if compared > 1 else ""


def _none_better(summary: Mapping[str, Any], split: str, others: Sequence[str]) -> str:
    """What is said where none of `others`, by falling mean gold, is shown to beat the control."""
    control, numbers = summary["control"], summary["arms"]
    differences = {arm: numbers[arm]["splits"][split]["difference"] for arm in others}
    opened = [arm for arm in others if differences[arm]["verdict"] == "cannot tell"]
    which = "algorithm" if len(others) == len(numbers) - 1 else "algorithm with several seeds"
    if not opened:
        return f"No {which} is better than the control {control} on {title(split)}: each is shown to be worse."
    best = opened[0]
    return (
        f"Cannot tell whether any {which} is better than the control {control} on {title(split)}; {best} comes "
        f"closest: {_evidence(summary, best, control, differences[best])}; "
        f"{_what_settles(summary, best, control, differences[best])}."
    )


def _what_settles(summary: Mapping[str, Any], arm: str, against: str, difference: Mapping[str, Any]) -> str:
    """How many seeds would settle a difference."""
    return more_seeds(summary, arm, against, difference) or "more seeds alone would not settle it"


def more_seeds(summary: Mapping[str, Any], arm: str, against: str, difference: Mapping[str, Any]) -> str:
    """The seeds that would settle a difference, beside those that there are; empty if that is not known."""
    needed = difference.get("seeds_needed")
    if not needed:
        return ""
    more = needed - min(len(summary["arms"][name]["seeds"]) for name in (arm, against))
    return f"about {counted(more, 'more seed')} an arm would settle it"


def _without_control(
    summary: Mapping[str, Any], order: Sequence[str], single: Sequence[str], price: str
) -> tuple[str | None, str]:
    """The headline of a study without a control: the best arm against the second best."""
    best, split = order[0], summary["splits"][0]
    judged = [arm for arm in order if arm not in single]
    if len(order) == 1:
        return None, f"No verdict: the study has one arm only, {best}, and no control arm."
    gap = find_pair(summary, split, *judged[:2]) if len(judged) > 1 else None
    if gap is None:
        highest = number(summary["arms"][best]["splits"][split]["gold"]["mean"])
        return None, (
            f"No verdict yet: {_with_one_seed(single)}, and one run cannot tell an algorithm from its luck. "
            f"Highest so far: {best}, mean gold reward {highest}. The study has no control arm."
        )
    first, second = judged[:2]
    means = [number(summary["arms"][arm]["splits"][split]["gold"]["mean"]) for arm in judged[:2]]
    figures = (
        f"mean gold reward {means[0]} against {means[1]} on {title(split)}, {_evidence(summary, first, second, gap)}"
    )
    rest = f"{_not_judged(summary, single, best)} The study has no control arm."
    if gap["verdict"] == "better":
        return first, f"{first} is better than {second}: {figures}{price}.{rest}"
    return None, f"Cannot tell {first} from {second}: {figures}; {_what_settles(summary, first, second, gap)}.{rest}"


def _runner_up(summary: Mapping[str, Any], split: str, top: str, others: Sequence[str]) -> str:
    if not others:
        return "."
    gap = find_pair(summary, split, top, others[0])
    if gap is None:
        return "."
    figures = f"{number(gap['mean'], sign=True)}, {span(gap, sign=True)}, {p_value(gap['holm_p'])}"
    if gap["verdict"] == "better":
        return f". It is also ahead of the runner-up {others[0]} ({figures})."
    return (
        f". Whether it is ahead of {others[0]} these seeds cannot tell ({figures}); "
        f"{_what_settles(summary, top, others[0], gap)}."
    )


def _against_best(summary: Mapping[str, Any], order: Sequence[str], split: str) -> list[str]:
    """A sentence for each arm of a study without a control, against the one with the highest mean."""
    best = order[0]
    gaps = {arm: find_pair(summary, split, arm, best) for arm in order[1:]}
    return [_compared(summary, split, arm, best, gap) for arm, gap in gaps.items() if gap is not None]


def _against_control(summary: Mapping[str, Any], arm: str, split: str) -> str:
    difference = summary["arms"][arm]["splits"][split]["difference"]
    return _compared(summary, split, arm, summary["control"], difference)


def _compared(summary: Mapping[str, Any], split: str, arm: str, against: str, difference: Mapping[str, Any]) -> str:
    numbers = summary["arms"][arm]["splits"][split]
    words = {
        "better": "is better than",
        "worse": "is worse than",
        "cannot tell": "cannot be told from",
        "no verdict": "has no verdict against",
    }[difference["verdict"]]
    sure = f"; {p_value(difference['holm_p'])}" if difference["holm_p"] is not None else ""
    text = (
        f"{arm} {words} {against}: {number(difference['mean'], sign=True)} ({span(difference, sign=True)}{sure}), "
        f"at a KL of {number(numbers['kl'], 1)} nats per response"
    )
    if difference["verdict"] != "cannot tell":
        return text + "."
    if difference["excludes_zero"]:
        text += f"; the interval leaves out 0, but not{_among(summary)}"
    return f"{text}; {_what_settles(summary, arm, against, difference)}."


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


def covers_text(summary: Mapping[str, Any]) -> str:
    """Which variance the intervals cover, and which not."""
    repeated = [len(record["seeds"]) > 1 for record in summary["arms"].values()]
    once = "Where an arm has one seed its intervals cover the choice of prompts only: nothing was repeated."
    if not any(repeated):
        return once
    rest = "" if all(repeated) else f" {once}"
    replicate = summary["statistics"]["replicate"]
    if replicate == "pipeline":
        return (
            "A seed repeats the candidates, labels, reward model and policy, so the intervals cover the variance of "
            f"all of these and of the prompts; the start policy is the same throughout.{_unpaired(summary)}{rest}"
        )
    if replicate == "mixed":
        anew, fixed = (
            shortlist([arm for arm, record in summary["arms"].items() if record["replicate"] == kind])
            for kind in ("pipeline", "policy")
        )
        return (
            f"A seed of {anew} repeats the candidates, labels, reward model and policy, one of {fixed} the policy's "
            "training only: the intervals of the first cover more than those of the others, and no difference is taken "
            f"seed by seed.{rest}"
        )
    return (
        "A seed repeats the policy's training only, so the intervals cover its variance and that of the prompts; "
        "the candidates, labels and reward model are fixed, and drawn again they could shift all arms." + rest
    )


def _unpaired(summary: Mapping[str, Any]) -> str:
    """The sentence that says that seeds are missing without which nothing can be taken seed by seed; else empty."""
    seeds = {arm: set(record["seeds"]) for arm, record in summary["arms"].items()}
    every = set.union(*seeds.values())
    missing = {arm: [str(seed) for seed in sorted(every - own)] for arm, own in seeds.items() if own != every}
    lacking = [f"{arm} lacks seed{'s' if len(own) > 1 else ''} {shortlist(own)}" for arm, own in missing.items()]
    if not lacking:
        return ""
    return (
        f" But not all arms have the same seeds ({shortlist(lacking)}): no difference is taken seed by seed, which "
        "makes all of their intervals wider."
    )


def cost_headline(summary: Mapping[str, Any]) -> str:
    """The verdict's headline, with what the arm that it names cost: computing of its own, and KL."""
    best = summary["verdict"]["best"]
    if best is None:
        return str(summary["verdict"]["headline"])
    price = f"; it cost {duration(summary['cost']['arms'][best]['own_seconds_per_seed'])} of its own computing a seed"
    kl = summary["arms"][best]["splits"][summary["splits"][0]]["kl"]
    if kl is not None:
        price += f" and a KL of {number(kl, 1)} nats"
    return _headline(summary, ranked(summary), price)[1]
