"""The interquartile mean, which a few outlying seeds or prompts do not move.

Dimensions: `S` seeds, `N` prompts.
"""

from __future__ import annotations

import numpy as np

from rft.evaluation.statistics.intervals import FloatArray

TRIMMED = 0.25


def iqm(scores: FloatArray) -> float:
    """Mean of the middle half of all scores [S, N] (Agarwal et al. 2021, arXiv 2108.13264, section 4.3)."""
    from scipy.stats import trim_mean  # a second, which `rft --help` need not pay

    return float(trim_mean(scores, TRIMMED, axis=None))


def iqm_scores(scores: FloatArray) -> FloatArray:
    """Scores [S, N] whose mean is the interquartile mean and whose spread is that of its estimate.

    score_si = IQM + (w_si − w̄)/(1 − 2·0.25), with w the scores drawn in to their quartiles: the influence of each
    score on a trimmed mean. So its interval comes from the same resampling of seeds and prompts as a mean's.

    Source: Tukey & McLaughlin 1963 (Sankhya A 25:331).
    """
    cut = int(TRIMMED * scores.size)
    ordered = np.sort(scores, axis=None)
    drawn_in = np.clip(scores, ordered[cut], ordered[scores.size - 1 - cut])
    pseudo: FloatArray = iqm(scores) + (drawn_in - drawn_in.mean()) / (1.0 - 2.0 * TRIMMED)
    return pseudo
