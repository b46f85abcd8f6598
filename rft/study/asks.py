"""What to try next: Optuna's ask and tell, in memory, the same again for the same answers."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from rft.config.search import Choice, Search

DIGITS = 3
"""Significant digits of a drawn number: what is reported can be typed in again."""


class Asks:
    """Draws the settings of one arm's tuning trials.

    Args:
        space: where each setting is searched for.
        defaults: what the first trial takes, as far as it lies there; none if empty.
        sampler: ``tpe`` or ``random``.
        startup: trials before ``tpe`` learns from them.
        seed: of the draws.
    """

    def __init__(
        self, space: Mapping[str, Search], *, defaults: Mapping[str, Any], sampler: str, startup: int, seed: int
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
        self._study = optuna.create_study(direction="maximize", sampler=chosen)
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

    def tell(self, number: int, value: float | None) -> None:
        """What a trial came to; None if it failed: it is then worse than any that did not."""
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
