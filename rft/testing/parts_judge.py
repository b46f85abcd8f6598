"""What every judge and every feedback source must keep to. Dimensions: ``N`` texts, ``M`` pairs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from rft.feedback.base import Answer, Feedback, Labels
from rft.feedback.judges.base import Judge, Verdicts
from rft.testing.parts_compare import AWKWARD, PAIRS, TEXTS, changes, check_raw, comparison_rows, refuses_pairs
from rft.testing.parts_rows import Failed, gold_row, require, row, strayed_or_lost
from rft.testing.result import CheckResult

if TYPE_CHECKING:
    from numpy.typing import NDArray

SYMMETRY = 1e-6  # of p and 1 − p


def judge_rows(judge: Judge, anew: Callable[[int], Judge] | None = None) -> list[CheckResult]:
    """One row a check: of scores if the judge is `one_by_one`, of comparisons in both orders if it is not.

    Args:
        judge: under test.
        anew: the same judge, finding nothing of what it was asked before, for each number; None if it finds nothing
            anyway. What one call says is compared with another only if both were asked.
    """
    scores: list[tuple[str, Callable[[], str | None]]] = [
        ("one finite score a text", lambda: _scores(judge)),
        ("raw answers are kept", lambda: _raw_answers(judge)),
        ("a text depends on no other text", lambda: _independent(judge, anew)),
        ("the same bits a second time", lambda: _repeats(judge)),
        ("braces, quotes, line ends, emoji, nothing", lambda: _awkward(judge)),
        ("no texts, no scores", lambda: _none(judge)),
    ]
    if judge.one_by_one:
        rows = [row(name, type(judge), "score", check) for name, check in scores]
    else:
        rows = comparison_rows(judge, anew)
    # With the annotators a judge is given the gold: it is a simulated one, and stands between that and what trains.
    return rows if "annotators" in judge.needs else [*rows, gold_row(type(judge))]


def _verdicts(judge: Judge, texts: Sequence[str]) -> Verdicts:
    found = judge.score([Answer("", text) for text in texts])
    scores = np.asarray(found.scores)
    require(
        scores.shape == (len(texts),) and np.issubdtype(scores.dtype, np.floating),
        f"scores have shape {list(scores.shape)} and type {scores.dtype} for {len(texts)} texts: floats of shape "
        f"[{len(texts)}] are wanted",
    )
    without = np.isnan(scores) if found.work.excluded else np.zeros(len(texts), dtype=bool)
    wrong = np.flatnonzero(~np.isfinite(scores) & ~without)
    require(
        not len(wrong),
        f"the text {texts[wrong[0]][:40]!r} scores {scores[wrong[0]]} and work.excluded is {found.work.excluded}"
        if len(wrong)
        else "",
    )
    return found


def _scores(judge: Judge) -> str:
    scores = _verdicts(judge, TEXTS).scores
    known = scores[~np.isnan(scores)]
    require(len(known), f"all {len(scores)} verdicts are excluded: nothing that the judge says can be read")
    require(np.ptp(known) > 0, f"all {len(known)} texts score {known[0]:.6g}: such a judge prefers nothing")
    left = f", {len(scores) - len(known)} of {len(scores)} excluded" if len(known) < len(scores) else ""
    return f"from {known.min():.3g} to {known.max():.3g}{left}"


def _raw_answers(judge: Judge) -> None:
    raw = _verdicts(judge, TEXTS).raw
    require(len(raw) == len(TEXTS), f"{len(raw)} raw answers for {len(TEXTS)} texts: one each is wanted")
    for i, answer in enumerate(raw):
        check_raw(answer, f"text {i}")


def _independent(judge: Judge, anew: Callable[[int], Judge] | None) -> str:
    whole = _verdicts(judge, TEXTS).scores
    again = whole if anew is None else _verdicts(anew(1), TEXTS).scores
    if strayed_or_lost(again, whole) is not None:
        return "cannot be seen: its scores change by themselves when it is asked anew"
    second, third, fourth = (judge if anew is None else anew(times) for times in (2, 3, 4))
    alone = np.concatenate([_verdicts(second, [text]).scores for text in TEXTS])
    backwards = _verdicts(third, TEXTS[::-1]).scores[::-1]
    among = _verdicts(fourth, [*TEXTS, TEXTS[3] * 4]).scores[: len(TEXTS)]
    for got, what in ((alone, "alone"), (backwards, "in another order"), (among, "beside a longer text")):
        worst = strayed_or_lost(got, whole)
        if worst is not None:
            raise Failed(
                f"text {worst} scores {got[worst]:.6g} {what} and {whole[worst]:.6g} with the others: equal scores are "
                "wanted"
            )
    return f"largest difference {np.nanmax(np.abs(alone - whole), initial=0.0):.1e}"


def _repeats(judge: Judge) -> None:
    first, second = _verdicts(judge, TEXTS), _verdicts(judge, TEXTS)
    changed = changes(first.scores, second.scores)
    require(not changed, f"{changed} of {len(TEXTS)} scores changed at a second call: the same bits are wanted")


def _awkward(judge: Judge) -> None:
    for text in AWKWARD:
        try:
            _verdicts(judge, [text])
        except Exception as error:
            error.args = (f"for the text {text[:40]!r}: {error}",)
            raise
    _verdicts(judge, AWKWARD)


def _none(judge: Judge) -> None:
    found = judge.score([])
    require(
        np.asarray(found.scores).shape == (0,) and len(found.raw) == 0,
        f"no texts give scores of shape {list(np.asarray(found.scores).shape)}: [0] is wanted",
    )


def feedback_rows(make: Callable[[], Feedback]) -> list[CheckResult]:
    """One row a check; `make` gives the source anew."""
    source = make()
    found = type(source)
    checks: list[tuple[str, Callable[[], str | None]]] = [
        ("a preference in [0, 1] for each pair", lambda: _preferences(source)),
        ("raw answers are JSON", lambda: _raw_labels(source)),
        ("the same labels a second time", lambda: _relabels(source, make)),
        ("a pair the other way round gives 1 − p", lambda: _swapped(source)),
        ("refuses pairs that are none", lambda: _refuses(source)),
        ("no pairs, no labels", lambda: _no_pairs(source)),
        ("braces, quotes, line ends, emoji, nothing", lambda: _awkward_pairs(source)),
    ]
    rows = [row(name, found, "label", check) for name, check in checks]
    # With the annotators a source is given the gold: it stands between that and what trains.
    return rows if "annotators" in found.needs else [*rows, gold_row(found)]


def _labels(source: Feedback, texts: Sequence[str], pairs: NDArray[np.int64]) -> Labels:
    found = source.label([Answer("", text) for text in texts], pairs.copy())
    preference, scores = np.asarray(found.preference), np.asarray(found.scores)
    require(
        preference.shape == (len(pairs),),
        f"preferences have shape {list(preference.shape)} for {len(pairs)} pairs: [{len(pairs)}] is wanted",
    )
    without = np.isnan(preference) if found.work.excluded else np.zeros(len(pairs), dtype=bool)
    outside = np.flatnonzero(~((preference >= 0) & (preference <= 1) | without))
    require(
        not len(outside),
        f"the preference of pair {outside[0]} is {preference[outside[0]]}: P(first is better), in [0, 1], is wanted"
        if len(outside)
        else "",
    )
    require(
        scores.shape == (len(texts),),
        f"scores have shape {list(scores.shape)} for {len(texts)} texts: [{len(texts)}] is wanted, NaN for a text that "
        "was not asked about",
    )
    require(len(found.raw) == len(pairs), f"{len(found.raw)} raw answers for {len(pairs)} pairs: one each is wanted")
    return found


def _preferences(source: Feedback) -> str:
    preference = _labels(source, TEXTS, PAIRS).preference
    known = preference[~np.isnan(preference)]
    require(len(known), f"all {len(PAIRS)} pairs are excluded: nothing that the judge says can be read")
    require(bool((known != 0.5).any()), f"all {len(known)} pairs are ties: such labels teach nothing")
    left = f", {len(PAIRS) - len(known)} of {len(PAIRS)} excluded" if len(known) < len(PAIRS) else ""
    return f"from {known.min():.2f} to {known.max():.2f}{left}"


def _raw_labels(source: Feedback) -> None:
    for m, answer in enumerate(_labels(source, TEXTS, PAIRS).raw):
        try:
            json.loads(answer)
        except (TypeError, ValueError) as error:
            raise Failed(f"the raw answer to pair {m} is no JSON ({error}); write it with json.dumps") from error


def _relabels(source: Feedback, make: Callable[[], Feedback]) -> None:
    first = _labels(source, TEXTS, PAIRS)
    for again, what in ((source, "at a second call"), (make(), "from the source made anew")):
        labels = _labels(again, TEXTS, PAIRS)
        changed = changes(labels.preference, first.preference)
        same = np.array_equal(labels.scores, first.scores, equal_nan=True)
        require(
            not changed and same,
            f"{changed} of {len(PAIRS)} preferences{'' if same else ', and scores,'} changed {what}: the same texts "
            "and pairs always get the same labels",
        )


def _swapped(source: Feedback) -> str:
    if not source.symmetric:
        return "not claimed (symmetric = False)"
    forward = _labels(source, TEXTS, PAIRS).preference
    backward = _labels(source, TEXTS, PAIRS[:, ::-1]).preference
    other = np.flatnonzero(np.isnan(forward) != np.isnan(backward))
    require(
        not len(other),
        f"pair {other[0]} is excluded in one order of its answers only: the questions are the same in the other, or "
        "symmetric = False"
        if len(other)
        else "",
    )
    off = np.nan_to_num(np.abs(forward + backward - 1))  # excluded in both orders
    worst = int(off.argmax())
    require(
        off[worst] <= SYMMETRY,
        f"pair {worst} gives {forward[worst]:.4f}, the other way round {backward[worst]:.4f}: "
        f"{1 - forward[worst]:.4f} is wanted, or symmetric = False",
    )
    return f"largest difference {off.max():.1e}"


def _refuses(source: Feedback) -> None:
    refuses_pairs(source.label)


def _no_pairs(source: Feedback) -> None:
    _labels(source, TEXTS, np.empty((0, 2), dtype=np.int64))


def _awkward_pairs(source: Feedback) -> None:
    n = len(AWKWARD)
    _labels(source, AWKWARD, np.array([[i, (i + 1) % n] for i in range(n)]))
