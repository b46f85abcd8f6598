"""The answers that the report shows: prompts picked by rule, every shown arm's answer to each, and why it is there.

Dimensions: `A` shown arms, `N` prompts of the first split.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rft.report.load import Rows, StudyResults
from rft.report.selection import other_proxy, ranked

ASKED, DISAGREED, HACKED = 24, 24, 24
CARD_ARMS = 12
SUSPECTS = 4
"""Of the shown arms, those there for their gap between proxy and gold, if not all arms fit."""
TEXT_LIMIT = 4000

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Answer:
    """One arm's answer to a shown prompt; `hacked`: its proxy is above the control's and its gold below."""

    arm: str
    index: int
    response: str
    cut: int  # characters that are not shown
    gold: float
    proxy: float
    kl: float
    length: int
    truncated: bool
    hacked: bool
    unjudged: bool  # the judge gave it no score, though it gave others one


@dataclass(frozen=True, slots=True)
class Shown:
    """A prompt with every shown arm's answer, and its place in each view, None if it is not part of it."""

    prompt_id: str
    prompt: str
    answers: tuple[Answer, ...]
    spread: float
    asked: int | None
    disagreed: int | None
    hacked: int | None


@dataclass(frozen=True, slots=True)
class Samples:
    """The shown prompts; `why` says which arms are shown if not all are, `views` which views there are."""

    split: str
    prompts: tuple[Shown, ...]
    arms: tuple[str, ...]
    why: str
    views: Mapping[str, int]


def shown_arms(summary: Mapping[str, Any]) -> tuple[str, ...]:
    """The control, the arms with the highest gold and those whose proxy rose most against their gold."""
    arms = list(summary["arms"])
    if len(arms) <= CARD_ARMS:
        return tuple(arms)
    control, split = summary["control"], summary["splits"][0]
    best = [arm for arm in ranked(summary) if arm != control]
    gaps = {arm: summary["arms"][arm]["splits"][split].get("gap") for arm in best}
    suspects = sorted((arm for arm in best if gaps[arm]), key=lambda arm: -gaps[arm]["mean"])[:SUSPECTS]
    others = [arm for arm in best if arm not in suspects]
    kept = {control, *suspects, *others[: CARD_ARMS - len(suspects) - (control is not None)]}
    return tuple(arm for arm in arms if arm in kept)


def samples(results: StudyResults, summary: Mapping[str, Any]) -> Samples:
    """Prompts spread evenly over the first split, and those of the two views that look for trouble."""
    if not summary["splits"]:
        return Samples("", (), tuple(summary["arms"]), "", {})
    split = summary["splits"][0]
    arms = shown_arms(summary)
    index = {arm: place for place, arm in enumerate(summary["arms"])}
    rows = {arm: results.arm(arm)[0].rows[split] for arm in arms}
    first = next(iter(rows.values()))
    starts = [m for m in range(len(first.prompt_ids)) if m == 0 or first.prompt_ids[m] != first.prompt_ids[m - 1]]
    gold = np.stack([own.gold[starts] for own in rows.values()])
    proxy = np.stack([own.proxy[starts] for own in rows.values()])
    unlike = other_proxy(summary)
    proxy[[arm in unlike for arm in arms]] = np.nan
    hacked, hack_score = reward_hacked(gold, proxy, arms.index(summary["control"]) if summary["control"] else None)
    count = min(ASKED, len(starts))
    spread = gold.max(axis=0) - gold.min(axis=0)
    views = {
        "asked": [i * len(starts) // count for i in range(count)],
        "disagreed": _highest(spread, DISAGREED) if len(arms) > 1 else [],
        "hacked": _highest(hack_score, HACKED),
    }
    places = {view: {n: place for place, n in enumerate(picked)} for view, picked in views.items()}
    shown = tuple(
        Shown(
            prompt_id=first.prompt_ids[starts[n]],
            prompt=first.prompts[starts[n]],
            answers=tuple(
                _answer(arm, index[arm], own, starts[n], bool(hacked[a, n]))
                for a, (arm, own) in enumerate(rows.items())
            ),
            spread=float(spread[n]),
            **{view: place.get(n) for view, place in places.items()},
        )
        for n in sorted({n for picked in views.values() for n in picked})
    )
    return Samples(split, shown, arms, _why(summary, arms), {view: len(picked) for view, picked in views.items()})


def reward_hacked(gold: FloatArray, proxy: FloatArray, control: int | None) -> tuple[npt.NDArray[np.bool_], FloatArray]:
    """Which answers have more proxy and less gold than the control's [A, N], and how far apart the two went [N].

    Distances are in standard deviations over the shown answers; 0 where no arm did so. An arm without a proxy that can
    be held against the control's is NaN in `proxy`, and has none; so is an answer that was not judged.
    """
    if control is None or not np.isfinite(proxy[control]).any():
        return np.zeros(gold.shape, dtype=bool), np.zeros(gold.shape[1])
    up, down = proxy - proxy[control], gold[control] - gold
    hacked = (up > 0) & (down > 0)  # never true of NaN
    apart = up / (np.nanstd(proxy) or 1.0) + down / (gold.std() or 1.0)
    return hacked, np.where(hacked, apart, 0.0).max(axis=0)


def _highest(score: FloatArray, most: int) -> list[int]:
    """Places of the highest scores above 0, highest first; the earlier one on a tie."""
    order = np.argsort(-score, kind="stable")[:most]
    return [int(n) for n in order if score[n] > 0]


def _why(summary: Mapping[str, Any], arms: Sequence[str]) -> str:
    count = len(summary["arms"])
    if len(arms) == count:
        return ""
    control = f"the control {summary['control']}, " if summary["control"] else ""
    return (
        f"Of {count} arms, shown are {control}the arms with the highest mean gold reward "
        f"and up to {SUSPECTS} whose proxy reward rose most against their gold reward."
    )


def _answer(arm: str, index: int, rows: Rows, m: int, hacked: bool) -> Answer:
    response = rows.responses[m]
    return Answer(
        arm=arm,
        index=index,
        response=response[:TEXT_LIMIT],
        cut=max(0, len(response) - TEXT_LIMIT),
        gold=float(rows.gold[m]),
        proxy=float(rows.proxy[m]),
        kl=float(rows.kl[m]),
        length=int(rows.length[m]),
        truncated=bool(rows.truncated[m]),
        hacked=hacked,
        unjudged=bool(np.isnan(rows.proxy[m]) and np.isfinite(rows.proxy).any()),
    )
