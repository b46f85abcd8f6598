"""What to try next: Optuna's ask and tell, in memory, the same again for the same answers."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from rft.config.search import Choice, Search

HALF = 2
DIGITS = 3
"""Significant digits of a drawn number: what is reported can be typed in again."""


class Asks:
    """Draws the settings of one arm's tuning trials.

    Args:
        space: where each setting is searched for.
        defaults: what the first trial takes, as far as it lies there; none if empty.
        sampler: ``tpe`` or ``random``.
        startup: trials before ``tpe`` learns from them, and before ``median`` stops one.
        seed: of the draws.
        stopping: ``none``, ``median`` (Golovin et al. 2017, section 3.2.2) or ``halving`` (Li et al. 2020,
            arXiv 1810.05934, algorithm 2, the better half goes on).
    """

    def __init__(
        self,
        space: Mapping[str, Search],
        *,
        defaults: Mapping[str, Any],
        sampler: str,
        startup: int,
        seed: int,
        stopping: str = "none",
    ) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._space = dict(space)
        self._distributions = {key: _distribution(search) for key, search in space.items()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its version 4, that this liar is experimental
            chosen = (
                # Trials that are running count as bad ones, so that a batch is not drawn from one place.
                optuna.samplers.TPESampler(n_startup_trials=startup, constant_liar=True, seed=seed)
                if sampler == "tpe"
                else optuna.samplers.RandomSampler(seed=seed)
            )
        pruners: dict[str, Any] = {
            "none": optuna.pruners.NopPruner(),
            "median": optuna.pruners.MedianPruner(n_startup_trials=startup, n_warmup_steps=0),
            "halving": optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=HALF),
        }
        self._study = optuna.create_study(direction="maximize", sampler=chosen, pruner=pruners[stopping])
        self._first = {key: value for key, value in defaults.items() if space[key].holds(value)}
        if self._first:
            self._study.enqueue_trial(self._first)
        self._asked: list[Any] = []

    def ask(self) -> dict[str, Any]:
        """The settings of the next trial."""
        trial = self._study.ask(self._distributions)
        self._asked.append(trial)
        drawn = {key: _rounded(trial.params[key], search) for key, search in self._space.items()}
        return drawn | self._first if trial.number == 0 else drawn

    def look(self, number: int, place: int, value: float) -> bool:
        """Whether a trial goes on after it was tested at one of the points at which all are, counted from 0."""
        trial = self._asked[number]
        trial.report(value, HALF**place)  # halving's own points are at powers of its factor
        return not trial.should_prune()

    def tell(self, number: int, value: float | None) -> None:
        """What a trial came to; None if it was stopped or failed: of these, those never tested are the worst."""
        from optuna.trial import TrialState

        if value is None:
            self._study.tell(self._asked[number], state=TrialState.PRUNED)
        else:
            self._study.tell(self._asked[number], value)


def _distribution(search: Search) -> Any:
    from optuna import distributions

    if isinstance(search, Choice):
        return distributions.CategoricalDistribution(search.values)
    if search.whole:
        return distributions.IntDistribution(int(search.low), int(search.high), log=search.log)
    return distributions.FloatDistribution(search.low, search.high, log=search.log)


def _rounded(value: Any, search: Search) -> Any:
    if isinstance(search, Choice) or search.whole:
        return value
    return min(max(float(f"{value:.{DIGITS}g}"), float(search.low)), float(search.high))
