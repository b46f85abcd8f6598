"""Operations of a judge in this process count in the budget, and change no address but where they end training."""

from __future__ import annotations

from pathlib import Path

import pytest

from rft.budget.stages import usage_of
from rft.config import compose
from rft.store import Store
from rft.study.charge import Charge
from rft.study.checking import SMALL
from rft.study.pipeline import Pipeline

pytestmark = [pytest.mark.assets]


def test_labels_of_a_local_judge_are_charged(tmp_path: Path, store_root: Path) -> None:
    def made(*overrides: str) -> Pipeline:
        chosen = ["model=tiny", "tracker=none", "judge=few_shot", *SMALL, *overrides]
        return Pipeline(compose(chosen), Store(store_root), tmp_path)

    dpo = made("algorithm=rlaif_dpo")
    labelled = usage_of(dpo.preferences).flops
    assert labelled > 0
    charge = Charge.of(dpo.budget, [dpo.preferences])
    assert (charge.shared["flops"], charge.label.flops) == (labelled, 0)
    assert "charges" not in dpo._policy_address()
    limited = "budget.flops=1e15"
    assert made("algorithm=rlaif_dpo", limited, "budget.charge=full")._policy_address()["charges"] == {
        "judge_flops": {"shared": labelled, "fresh": False}
    }
    assert "charges" not in made("algorithm=rlaif_dpo", limited, "budget.charge=training")._policy_address()
    online = made("algorithm=rlaif_online", limited, "budget.charge=training")._policy_address()
    assert online["charges"] == {"judge_flops": {"shared": 0.0, "fresh": True}}
    assert "charges" not in made("algorithm=dpo", "feedback=simulated", limited, "budget.charge=full")._policy_address()
