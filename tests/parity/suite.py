"""Every comparison, by name. A case's settings are those of TRL's configuration, under TRL's names."""

from __future__ import annotations

from tests.parity import cases
from tests.parity.exchange import Case

R = cases.R


def _both(name: str, case: Case, again: Case) -> dict[str, Case]:
    return {f"{name}-float32": case, f"{name}-float64": again}


PREFERENCE: dict[str, Case] = {}
for seed, (name, settings) in enumerate(
    {
        "sigmoid": {"loss_type": "sigmoid", "beta": 0.3},
        "ipo": {"loss_type": "ipo", "beta": 0.2},
        "hinge": {"loss_type": "hinge", "beta": 0.3},
        "robust": {"loss_type": "robust", "beta": 0.3, "label_smoothing": 0.2},
        "sppo": {"loss_type": "sppo_hard", "beta": 0.2},
        "apo_zero": {"loss_type": "apo_zero", "beta": 0.3},
    }.items()
):
    PREFERENCE |= _both(name, *(cases.preference(seed, dtype, **settings) for dtype in cases.DTYPES))

PAIRS: dict[str, Case] = {}
PAIRS |= _both(
    "conservative",
    *(
        cases.pair_vectors("cpo_pairs", 20, dtype, loss_type="sigmoid", beta=0.3, label_smoothing=0.1)
        for dtype in cases.DTYPES
    ),
)
PAIRS |= _both("odds_ratio", *(cases.pair_vectors("orpo_pairs", 21, dtype, beta=1.0) for dtype in cases.DTYPES))

SIMPO = _both("simpo", *(cases.simpo(30, dtype, beta=2.0, simpo_gamma=0.8) for dtype in cases.DTYPES))

KTO: dict[str, Case] = {}
for name, above in (("kto_kl_positive", True), ("kto_kl_cut_to_zero", False)):
    KTO |= _both(
        name,
        *(
            cases.kto(40, dtype, above, beta=0.2, desirable_weight=1.5, undesirable_weight=0.7)
            for dtype in cases.DTYPES
        ),
    )

GRPO: dict[str, Case] = {}
for seed, (name, settings) in enumerate(
    {
        "grpo": {"loss_type": "grpo", "epsilon": 0.2, "beta": 0.0},
        "grpo_kl": {"loss_type": "grpo", "epsilon": 0.2, "beta": 0.1, "use_bias_correction_kl": False},
        "dr_grpo": {"loss_type": "dr_grpo", "epsilon": 0.2, "beta": 0.0, "max_completion_length": R + 4},
        "dapo": {"loss_type": "dapo", "epsilon": 0.2, "epsilon_high": 0.28, "beta": 0.0},
        "bnpo_kl": {"loss_type": "bnpo", "epsilon": 0.1, "epsilon_high": 0.3, "beta": 0.05},
        "dual_clip": {"loss_type": "bnpo", "epsilon": 0.2, "delta": 1.5, "beta": 0.0},
    }.items()
):
    GRPO |= _both(name, *(cases.surrogate("grpo", 50 + seed, dtype, **settings) for dtype in cases.DTYPES))

RLOO = _both("rloo", *(cases.surrogate("rloo", 60, dtype, epsilon=0.2, beta=0.0) for dtype in cases.DTYPES))

ADVANTAGES = {
    "group": cases.sampled_groups("grpo_advantages", 70, scale_rewards="group", beta=0.0),
    "none": cases.sampled_groups("grpo_advantages", 71, scale_rewards="none", beta=0.0),
    "leave_one_out": cases.sampled_groups("rloo_advantages", 72, beta=0.0),
    "leave_one_out_kl": cases.sampled_groups("rloo_advantages", 73, beta=0.3),
}

REWARD = _both("reward", *(cases.reward_model(80, dtype) for dtype in cases.DTYPES))

CASES_116 = PREFERENCE | PAIRS | SIMPO | KTO | GRPO | RLOO | ADVANTAGES | REWARD

PPO_SIZES = {"rows": 16, "response": 10, "num_ppo_epochs": 3, "learning_rate": 0.02}
CASES_112 = {
    "k1": Case("ppo", {"seed": 0, "dtype": "float64", "kl_coef": 0.1, "gamma": 1.0, "lam": 0.95} | PPO_SIZES),
    "k3": Case(
        "ppo",
        {
            "seed": 8,
            "dtype": "float64",
            "kl_coef": 0.2,
            "kl_estimator": "k3",
            "gamma": 0.9,
            "lam": 0.8,
            "whiten_rewards": True,
            "cliprange": 0.1,
            "cliprange_value": 0.3,
        }
        | PPO_SIZES,
    ),
    "float32": Case("ppo", {"seed": 16, "dtype": "float32", "gamma": 0.99, "lam": 0.9} | PPO_SIZES),
}
