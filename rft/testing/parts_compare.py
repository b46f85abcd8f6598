"""What every judge that compares must keep to, and what the checks of judges and feedback share. ``M`` pairs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rft.feedback.base import Answer
from rft.feedback.judges.base import Comparisons, Judge
from rft.testing.parts_rows import Failed, require, row, strayed, strayed_or_lost
from rft.testing.result import CheckResult

if TYPE_CHECKING:
    from numpy.typing import NDArray

TEXTS = (
    "A warm, clever film that I would gladly see again.",
    "Two hours of flat jokes and wooden acting; I nearly walked out.",
    "It is a film.",
    "The leads are wonderful together, the ending moved me to tears, and the music is the best of the year.",
    "Not good, not bad, and much too long in the middle.",
    "Worst film I have ever seen, avoid it.",
)
AWKWARD = (
    "",
    " ",
    "{text} {0} {} %s ${name} {{x}}",
    "She said \"no\", he said 'yes' \\ and `so on`.",
    "First line.\nSecond line.\r\n\tThird.\n\n",
    "Lovely 😀🎬 naïve “art”, 電影",
    "</s> <eos> [INST] Review: good Sentiment: positive",
    "so good " * 600,
)
PAIRS = np.array([[0, 1], [2, 0], [3, 5], [4, 2], [1, 5], [5, 3], [2, 2]])


def comparison_rows(judge: Judge, anew: Callable[[int], Judge] | None = None) -> list[CheckResult]:
    """One row a check; `anew` as of `rft.testing.parts_judge.judge_rows`."""
    checks: list[tuple[str, Callable[[], str | None]]] = [
        ("both orders of each pair, in [0, 1]", lambda: _both_orders(judge)),
        ("raw answers are kept", lambda: _raw_answers(judge)),
        ("a swapped pair swaps the orders", lambda: _swapped(judge, anew)),
        ("the same bits a second time", lambda: _repeats(judge)),
        ("refuses pairs that are none", lambda: refuses_pairs(judge.compare)),
        ("braces, quotes, line ends, emoji, nothing", lambda: _awkward(judge)),
        ("no pairs, no verdicts", lambda: _none(judge)),
    ]
    return [row(name, type(judge), "compare", check) for name, check in checks]


def _compared(judge: Judge, texts: Sequence[str], pairs: NDArray[np.int64]) -> Comparisons:
    """The verdicts, of the right shape, between 0 and 1, NaN only if they are counted as excluded."""
    found = judge.compare([Answer("", text) for text in texts], pairs.copy())
    orders = np.asarray(found.orders)
    require(
        orders.shape == (len(pairs), 2) and np.issubdtype(orders.dtype, np.floating),
        f"orders have shape {list(orders.shape)} and type {orders.dtype} for {len(pairs)} pairs: floats of shape "
        f"[{len(pairs)}, 2] are wanted",
    )
    wrong = np.argwhere(~((orders >= 0) & (orders <= 1) | np.isnan(orders)))
    require(
        not len(wrong),
        f"pair {wrong[0][0]} has {orders[tuple(wrong[0])]} where it is shown {('first', 'second')[wrong[0][1]]}: "
        "P(first is better), in [0, 1], is wanted"
        if len(wrong)
        else "",
    )
    missing, counted = bool(np.isnan(orders).any()), found.work.excluded
    require(
        missing == (counted > 0),
        f"{int(np.isnan(orders).sum())} verdicts are NaN and work.excluded is {counted}: a verdict that cannot be read "
        "is NaN and is counted",
    )
    require(len(found.raw) == len(pairs), f"{len(found.raw)} raw answers for {len(pairs)} pairs: one each is wanted")
    return found


def _both_orders(judge: Judge) -> str:
    found = _compared(judge, TEXTS, PAIRS)
    known = found.orders[~np.isnan(found.orders)]
    require(len(known), f"all {found.orders.size} verdicts are excluded: nothing that the judge says can be read")
    require(bool((known != 0.5).any()), f"all {len(known)} verdicts are ties: such a judge prefers nothing")
    both = found.orders[~np.isnan(found.orders).any(axis=1)]
    # P(first) above ½ shown first and below it shown second, or the other way round: the place decided.
    same = np.sign(both[:, 0] - 0.5) * np.sign(both[:, 1] - 0.5) < 0
    left = f", {found.work.excluded} excluded" if found.work.excluded else ""
    return f"from {known.min():.2f} to {known.max():.2f}, the place decides {int(same.sum())} of {len(both)}{left}"


def _raw_answers(judge: Judge) -> None:
    for m, answer in enumerate(_compared(judge, TEXTS, PAIRS).raw):
        check_raw(answer, f"pair {m}")


def _swapped(judge: Judge, anew: Callable[[int], Judge] | None) -> str:
    forward = _compared(judge, TEXTS, PAIRS).orders
    again = forward if anew is None else _compared(anew(1), TEXTS, PAIRS).orders
    if strayed_or_lost(again.ravel(), forward.ravel()) is not None:
        return "cannot be seen: its verdicts change by themselves when it is asked anew"
    other = judge if anew is None else anew(2)
    backward = 1 - _compared(other, TEXTS, PAIRS[:, ::-1]).orders[:, ::-1]
    require(
        np.array_equal(np.isnan(forward), np.isnan(backward)),
        "other verdicts are excluded when the pairs are swapped: the questions are the same, so equal ones are wanted",
    )
    worst = strayed(np.nan_to_num(backward).ravel(), np.nan_to_num(forward).ravel())
    if worst is not None:
        m, order = divmod(worst, 2)
        shown = ("first", "second")
        raise Failed(
            f"pair {m} shown {shown[order]} gives {forward[m, order]:.4f}, swapped and shown {shown[1 - order]} "
            f"{1 - backward[m, order]:.4f}: {1 - forward[m, order]:.4f} is wanted, it is the same question"
        )
    return f"largest difference {np.nanmax(np.abs(forward - backward), initial=0.0):.1e}"


def _repeats(judge: Judge) -> None:
    first, second = _compared(judge, TEXTS, PAIRS).orders, _compared(judge, TEXTS, PAIRS).orders
    changed = changes(first, second)
    require(not changed, f"{changed} of {first.size} verdicts changed at a second call: the same bits are wanted")


def _awkward(judge: Judge) -> None:
    n = len(AWKWARD)
    for i in range(n):
        pair = [AWKWARD[i], TEXTS[0]]
        try:
            _compared(judge, pair, np.array([[0, 1]]))
        except Exception as error:
            error.args = (f"for the text {pair[0][:40]!r}: {error}",)
            raise
    _compared(judge, AWKWARD, np.array([[i, (i + 1) % n] for i in range(n)]))


def _none(judge: Judge) -> None:
    _compared(judge, TEXTS, np.empty((0, 2), dtype=np.int64))


def check_raw(answer: Any, what: str) -> None:
    """Fail unless a raw answer is JSON and says something."""
    try:
        json.dumps(answer, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise Failed(f"the raw answer to {what} is no JSON ({error}); keep plain numbers and strings") from error
    require(answer, f"the raw answer to {what} is empty: what was answered is wanted")


def changes(first: NDArray[np.float64], second: NDArray[np.float64]) -> int:
    """How many numbers are not the same bits; NaN is NaN."""
    return int(((first != second) & ~(np.isnan(first) & np.isnan(second))).sum())


def refuses_pairs(call: Callable[[Sequence[Answer], NDArray[Any]], object]) -> None:
    """Fail unless pairs that are none are refused as `rft.feedback.base.check_pairs` does."""
    n = len(TEXTS)
    for pairs, wanted, what in (
        (np.array([[0, 1, 2]]), ValueError, "of three texts"),
        (np.array([0, 1]), ValueError, "of shape [2]"),
        (np.array([[0.0, 1.0]]), ValueError, "of floats"),
        (np.array([[0, n]]), IndexError, "with a row that there is not"),
        (np.array([[-1, 0]]), IndexError, "with a negative row"),
    ):
        try:
            call([Answer("", text) for text in TEXTS], pairs)
        except wanted:
            continue
        except Exception as error:
            error.args = (f"for pairs {what}, where {wanted.__name__} is wanted: {error}",)
            raise
        raise Failed(f"takes pairs {what}: {wanted.__name__} is wanted; call rft.feedback.base.check_pairs first")
