"""Intervals over seeds and prompts: how sure a mean, or the difference of two arms, is.

Dimensions: `S` seeds of an arm, `N` prompts, `R` resamples.

**Design of the data.** Every seed of every arm answers the same prompts, so the scores of an arm are a
crossed table `y[s, i]` (seed s, prompt i; samples of one prompt are averaged first):

    y[s, i] = μ + seed_s + prompt_i + noise_si,      Var(ȳ) = σ²_seed/S + σ²_prompt/N + σ²_noise/(S·N)

Prompts are many and common to all arms: what a hard prompt does to one arm it does to the other, so a
resample takes one set of prompts for all arms. Seeds are few and belong to their arm. For a contrast
Σ_a c_a·ȳ_a (an arm's mean: c = 1; a difference: 1 and −1), with d[i] = Σ_a c_a·ȳ_a[·, i], resample r is

    d*_r = d̄ + λ·Σ_i w_ri·(d[i] − d̄) + √(Σ_a c_a²·s_a²/S_a)·t_r

1. *Prompts*: w_r ~ multinomial(N, 1/N)/N, the ordinary bootstrap, the same w for all arms, so the prompt
   effect that two arms share cancels from their difference. λ² = 1 − Σ_a c_a²·MSE_a/S_a / Var_i(d[i]),
   at least 0, takes out the noise, which term 2 holds already (MSE_a: residual mean square of the arm's
   table). Counting it in both, as the plain two-level bootstrap does, widens the interval for nothing.
2. *Seeds*: t_r ~ Student's t, s_a the standard deviation of the arm's seed means (E s_a² = σ²_seed +
   σ²_noise/N). Degrees of freedom: S−1 for one arm, Welch–Satterthwaite's for several. An arm whose
   seeds are all equal, such as an untrained control, adds nothing and takes no degrees of freedom. The
   draws are stratified, one from each of R equally likely slices in random order: the tails of two or
   three degrees of freedom decide the interval, and plain draws miss them by several per cent.

**Why the seeds are not drawn with replacement**, as in the pigeonhole bootstrap (Owen 2007): three seeds
have ten distinct resamples, whose variance is too small by (S−1)/S and whose tails know nothing of the
uncertain spread. Where seeds are what varies, that nominal 95 % interval covers under 80 % with three
seeds; this one covers about 95 % (both measured in tests/numerics/test_statistics.py). The price is an
honest width: two seeds say very little, five say a lot more than three.

**Seeds of two arms are independent** by default (`replicate=policy`: seed 0 of one arm shares with seed 0 of
another nothing that was learnt, only the random numbers of the evaluation's sampling, of which no use is
made: were all noise the same in both arms, coverage would lie between 0.92 and 0.98). With `paired_seeds`
(`replicate=pipeline`: seed 0 of all arms shares its candidates, labels and reward model) the contrast is
taken seed by seed first: the paired t interval.

**With one seed** there is no seed term: the interval covers prompts only and carries no verdict.

**Verdicts.** Intervals are percentile intervals of d*, each for one comparison. A p-value is the level at which
its interval would end at 0. A verdict is given on p-values after Holm's correction over a table: on each split, all
that is compared with the control is one table, all pairs of arms another. Where nothing truly differs, a given table
holds a false *better* or *worse* in at most 1 − level of the studies, however many arms there are (measured in
tests/numerics/test_calibration.py). That is per table: the first split's table against the control (all pairs, in a
study without one) is the one that the headline reads; that some table of several holds one is likelier.

**What is not a mean** (interquartile mean, win rates, Bradley–Terry strengths) is linearised: each seed's and
prompt's influence on it makes a table of scores, which is resampled as above. So all intervals of the report rest on
the same draws of prompts and the same treatment of few seeds.

All randomness comes from a fixed seed and all sums over scores are made without BLAS, so equal input gives equal
bits whatever the number of threads.

Sources: Owen 2007, "The pigeonhole bootstrap" (Ann. Appl. Stat. 1:386); Davison & Hinkley 1997, section
3.8 (hierarchical data); Carpenter, Goldstein & Rasbash 2003 (J. R. Stat. Soc. C 52:431; rescaling resampled
effects to their estimated variance); Hesterberg 2015 (Am. Stat. 69:371; how narrow percentile intervals of
few units are); Welch 1947 (Biometrika 34:28); Agarwal et al. 2021 (arXiv 2108.13264; few seeds need
intervals).
"""

from rft.evaluation.statistics.bootstrap import Bootstrap, Estimate
from rft.evaluation.statistics.decisions import decide, holm, seeds_needed
from rft.evaluation.statistics.intervals import (
    PROMPTS_ONLY,
    SEEDS_AND_PROMPTS,
    SEEDS_ONLY,
    FloatArray,
    Interval,
    Resampling,
)
from rft.evaluation.statistics.ranking import Ranked, bradley_terry
from rft.evaluation.statistics.robust import iqm, iqm_scores
from rft.evaluation.statistics.scaling import Curve, fit_curve
from rft.evaluation.statistics.wins import probability_of_improvement, win_rate, win_rate_lc, wins

__all__ = [
    "PROMPTS_ONLY",
    "SEEDS_AND_PROMPTS",
    "SEEDS_ONLY",
    "Bootstrap",
    "Curve",
    "Estimate",
    "FloatArray",
    "Interval",
    "Ranked",
    "Resampling",
    "bradley_terry",
    "decide",
    "fit_curve",
    "holm",
    "iqm",
    "iqm_scores",
    "probability_of_improvement",
    "seeds_needed",
    "win_rate",
    "win_rate_lc",
    "wins",
]
