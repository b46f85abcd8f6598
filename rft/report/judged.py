"""What the judge of the final test says of the arms, where one was asked.

Dimensions: `M` rows of a split, `N` prompts, `S` seeds of an arm.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rft.evaluation.judged import TAUGHT
from rft.evaluation.statistics import Bootstrap, FloatArray
from rft.report.feedback import option
from rft.report.load import Rows, StudyResults, Trial
from rft.report.splits import Split, as_dict
from rft.report.wording import counted, listing, shortlist

Numbers = dict[str, Any]


def judged(split: Split) -> dict[str, Numbers | None]:
    """By arm its mean score by the judge, and the difference to the control; None for an arm without scores.

    ``{"mean", "low", "high", "covers", "difference", "excluded"}``, the score in the judge's own unit. A prompt counts
    once, and only if every scored arm has a score of it in every seed; ``excluded`` are the arm's answers without one,
    a seed. The difference is an interval, null for the control and for an arm that another judge scored.
    """
    scores = {
        arm: np.stack([_prompt_means(trial.rows[split.split]) for trial in trials])
        for arm, trials in split.trials.items()
    }
    scored = {arm: values for arm, values in scores.items() if np.isfinite(values).any()}
    kept = np.all([np.isfinite(values).all(axis=0) for values in scored.values()], axis=0) if scored else np.empty(0)
    if not kept.any():
        return dict.fromkeys(scores)
    whole = {arm: values[:, kept] for arm, values in scored.items()}
    bootstrap = Bootstrap(whole, split.bootstrap.settings, paired_seeds=split.bootstrap.paired)
    return {arm: _arm(split, bootstrap, arm) if arm in scored else None for arm in scores}


def _arm(split: Split, bootstrap: Bootstrap, arm: str) -> Numbers:
    control, trials = split.control, split.trials
    like_control = control in bootstrap.scores and arm != control and _judge(trials[arm]) == _judge(trials[control])
    missing = [np.isnan(trial.rows[split.split].judge).sum() for trial in trials[arm]]
    return {
        **as_dict(bootstrap.mean(arm)),
        "difference": as_dict(bootstrap.difference(arm, control)) if control and like_control else None,
        "excluded": float(np.mean(missing)),
    }


def _prompt_means(rows: Rows) -> FloatArray:
    """Means [N] over the samples of each prompt that have a score; NaN where none has."""
    return rows.per_prompt(rows.judge)


def _judge(trials: Sequence[Trial]) -> str:
    """The settings of the judge that scored an arm, which all of its seeds share."""
    return json.dumps(trials[0].config.get("eval_judge"), sort_keys=True, default=str)


def eval_judge(results: StudyResults, arms: Mapping[str, Mapping[str, Any]]) -> Numbers | None:
    """Who scored, which arms learned from it, and what a reader has to know; None if nobody did.

    ``{"judges", "taught", "sentences"}``. `arms`: their records in the summary.
    """
    scored = {
        arm: [numbers["judge"] for numbers in record["splits"].values() if numbers["judge"]]
        for arm, record in arms.items()
    }
    scored = {arm: numbers for arm, numbers in scored.items() if numbers}
    if not scored:
        return None
    names = sorted({option(results, arm, "eval_judge") or "a judge" for arm in scored})
    taught = [arm for arm in scored if any(_taught(trial) for trial in results.arm(arm))]
    told = [f"The column judge is the mean score by {listing(names)}, in its own unit; it decides no verdict."]
    if taught:
        told.append(
            f"{shortlist(taught)} learned from the judge that tests {'it' if len(taught) == 1 else 'them'}: there the "
            "score says how well the teacher is pleased, not how good the answers are."
        )
    if len({_judge(results.arm(arm)) for arm in scored}) > 1:
        told.append("Not all arms were scored by one judge: differences are taken only where it is the control's.")
    missing = round(sum(numbers["excluded"] for found in scored.values() for numbers in found))
    if missing:
        told.append(
            f"Its verdict on {counted(missing, 'answer')} could not be read; their prompts are in no mean of it."
        )
    return {"judges": names, "taught": taught, "sentences": told}


def _taught(trial: Trial) -> bool:
    return bool(trial.evaluation and trial.evaluation.metrics.get(TAUGHT))
