"""The JSON summary of a study: every number of the report. docs/summary.md describes every key.

What decides comes from the evaluation rows alone; ``feedback`` and ``curves`` are what the stages measured
about themselves, to explain it.
Everything outside the keys ``cost`` and ``environment`` is free of times and of the machine, so that the same
study gives the same bits again. Intervals are objects ``{"mean", "low", "high", "covers"}``; a number that does not
exist is null.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rft.evaluation.statistics import Resampling
from rft.report.audits import audits
from rft.report.costs import costs
from rft.report.curves import axes, curves, frontier
from rft.report.environment import environment
from rft.report.factors import feedback_of, optimiser_of, two_way
from rft.report.feedback import feedback
from rft.report.judged import eval_judge, judged
from rft.report.label_quality import label_quality
from rft.report.load import StudyResults, Trial
from rft.report.overoptimisation import overoptimisation
from rft.report.provenance import differences, replicate_of, replicated, shared_stages
from rft.report.spending import cost_sentence, notes
from rft.report.splits import FULL_PAIRS, Split
from rft.report.wording import cost_headline, covers_text, verdict

SCHEMA = 2
CONTROL = "sft"
METHOD = (
    "prompts resampled jointly for all arms, seeds by Student's t; percentile intervals, each for one comparison; "
    "verdicts by p-values with Holm's correction for all comparisons of a table"
)


def summarise(results: StudyResults, *, control: str = CONTROL, settings: Resampling | None = None) -> dict[str, Any]:
    """Summary of `results` against the arm `control` (differences are null if the study has no such arm)."""
    settings = settings or Resampling()
    arms = _arm_names(results, control)
    compared = control if control in arms else None
    repeated = replicated(results, arms)
    replicate = replicate_of(repeated)
    splits = {
        split: Split(results, split, arms, compared, settings, paired=replicate == "pipeline")
        for split in results.splits
    }
    numbers = {split: found.numbers() for split, found in splits.items()}
    for split, found in splits.items():
        for arm, scores in judged(found).items():
            numbers[split]["arms"][arm]["judge"] = scores
    stages = shared_stages(results, arms)
    summary: dict[str, Any] = {
        "schema": SCHEMA,
        "study": results.study,
        "control": compared,
        "splits": list(splits),
        "statistics": _statistics(settings, replicate),
        "started_alike": all(stage["alike"] for stage in stages.values()),
        "arms": {arm: _arm(results, arm, numbers) | {"replicate": repeated[arm]} for arm in arms},
        "pairs": {split: found["pairs"] for split, found in numbers.items()},
        "ranking": {split: found["ranking"] for split, found in numbers.items()},
        "stages": stages,
        "feedback": feedback(results, arms),
        **audits(results, arms),
        "curves": curves(results, arms),
        "frontier": frontier(results, arms, compared),
        "tuning": results.tuning,
        "failed": [
            {"arm": trial.arm, "seed": trial.seed, "trial": trial.folder, "error": trial.error}
            for trial in results.failed
        ],
        "warnings": list(results.warnings),
        "incomplete": results.incomplete,
    }
    summary["eval_judge"] = eval_judge(results, summary["arms"])
    summary["two_way"] = {split: two_way(found.bootstrap, summary["arms"]) for split, found in splits.items()}
    summary["label_quality"] = (
        label_quality(results, next(iter(splits.values())).bootstrap, summary["arms"]) if splits else None
    )
    summary["overoptimisation"] = overoptimisation(summary)
    summary["statistics"]["covers_text"] = covers_text(summary)
    summary["provenance"] = {"differences": differences(results, arms)}
    summary["verdict"] = verdict(summary)
    summary["cost"] = costs(results, arms) | {"axes": axes(results, arms)}
    summary["cost"]["headline"] = cost_headline(summary)
    summary["cost"]["sentence"] = cost_sentence(summary)
    if summary["cost"]["budget"]:
        summary["cost"]["budget"]["notes"] = notes(summary)
    summary["environment"] = environment(results)
    return summary


def _statistics(settings: Resampling, replicate: str) -> dict[str, Any]:
    return {
        "level": settings.level,
        "resamples": settings.resamples,
        "seed": settings.seed,
        "replicate": replicate,
        "correction": "holm",
        "full_pairs": FULL_PAIRS,
        "method": METHOD,
    }


def _arm_names(results: StudyResults, control: str) -> list[str]:
    """The control first, then the others by name."""
    return sorted({trial.arm for trial in results.trials}, key=lambda arm: (arm != control, arm))


def _arm(results: StudyResults, arm: str, splits: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    trials = results.arm(arm)
    return {
        "algorithm": trials[0].algorithm,
        "feedback": feedback_of(results, arm),
        "optimiser": optimiser_of(results, arm),
        "seeds": [trial.seed for trial in trials],
        "n_prompts": {split: len(set(trials[0].rows[split].prompt_ids)) for split in splits},
        "splits": {split: numbers["arms"][arm] for split, numbers in splits.items()},
        "stages": _stage_keys(trials),
    }


def _stage_keys(trials: Sequence[Trial]) -> dict[str, list[dict[str, str]]]:
    """Per stage, the distinct results that the arm's seeds used; one if the stage is shared by all of them."""
    stages: dict[str, dict[str, str]] = {}
    for trial in trials:
        for stage, use in trial.stages.items():
            stages.setdefault(stage, {})[use.key] = use.digest
    return {stage: [{"key": key, "digest": digest} for key, digest in uses.items()] for stage, uses in stages.items()}
