"""Pairs of arms in the summary: found whichever way round they are stored, and turned round."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SHARES = ("probability_of_improvement", "win_rate", "win_rate_lc")
OPPOSITE = {"better": "worse", "worse": "better"}


def find_pair(summary: Mapping[str, Any], split: str, arm: str, against: str) -> dict[str, Any] | None:
    """The difference `arm` minus `against` on a split; None if it is not there: with many arms not every pair is."""
    for entry in summary["pairs"][split]:
        if (entry["arm"], entry["against"]) == (arm, against):
            return dict(entry)
        if (entry["arm"], entry["against"]) == (against, arm):
            return turned(entry)
    return None


def turned(entry: Mapping[str, Any]) -> dict[str, Any]:
    """A pair the other way round: differences change their sign, shares of wins become those of the other."""
    return {
        **entry,
        "arm": entry["against"],
        "against": entry["arm"],
        **reflected(entry, 0.0),
        "verdict": OPPOSITE.get(entry["verdict"], entry["verdict"]),
        **{share: reflected(entry[share], 1.0) for share in SHARES if entry.get(share)},
    }


def reflected(interval: Mapping[str, Any], total: float) -> dict[str, Any]:
    """`total` minus an interval; of a difference, which has more keys, the three that change."""
    return {
        **({} if total == 0.0 else interval),
        "mean": total - interval["mean"],
        "low": None if interval["high"] is None else total - interval["high"],
        "high": None if interval["low"] is None else total - interval["low"],
    }
