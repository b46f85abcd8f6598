"""A wrong configuration is refused in one line that names the key and the mend, before torch is imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rft.config import compose, expand_sweep
from rft.errors import UserError


@pytest.mark.parametrize("algorithm", ["sft", "ppo", "dpo", "rlaif"])
def test_every_algorithm_composes(algorithm: str) -> None:
    cfg = compose([f"algorithm={algorithm}", "model=tiny", "seed=3"])
    assert cfg.algorithm.name == algorithm
    assert cfg.seed == 3


def test_rlaif_means_ai_feedback() -> None:
    assert compose(["algorithm=rlaif"]).feedback._target_.startswith("rft.feedback.ai.")
    assert compose(["algorithm=ppo"]).feedback._target_.startswith("rft.feedback.simulated.")


@pytest.mark.parametrize(
    ("override", "where", "mend"),
    [
        ("algorithm=pppo", "algorithm=pppo", "did you mean 'ppo'"),
        ("algorithm.clip_rang=0.1", "algorithm.clip_rang", "did you mean 'clip_range'"),
        ("+algorithm.clip_rang=0.1", "algorithm.clip_rang", "did you mean 'clip_range'"),
        ("++algorithm.clip_rang=0.1", "algorithm.clip_rang", "did you mean 'clip_range'"),
        ("algorithm.lr=abc", "algorithm.lr", "Float"),
        ("strategy.precision=fp8", "strategy.precision", "bf16"),
        ("modle=tiny", "modle", "did you mean 'model'"),
        ("model.lora.rnk=4", "model.lora.rnk", "did you mean 'rank'"),
        ("model=hf", "model.path", "has no value"),
        ("model._target_=os.system", "_target_=os.system", "RFT_ALLOWED_PACKAGES"),
    ],
)
def test_a_wrong_override_is_one_line_with_the_mend(override: str, where: str, mend: str) -> None:
    with pytest.raises(UserError) as caught:
        compose([override])
    message = str(caught.value)
    assert where in message
    assert mend in message
    assert "\n" not in message


def test_another_feedback_than_the_name_says_is_refused() -> None:
    with pytest.raises(UserError, match="means feedback=ai"):
        compose(["algorithm=rlaif", "feedback=simulated"])


def test_a_sweep_is_the_product_of_its_choices() -> None:
    runs = expand_sweep(["algorithm=ppo,dpo", "seed=0,1", "model=tiny"])
    assert runs[0] == ["algorithm=ppo", "seed=0", "model=tiny"]
    assert len(runs) == 4


def test_a_refusal_exits_with_two_imports_no_torch_and_leaves_nothing(tmp_path: Path) -> None:
    code = (
        "import sys, rft.cli\n"
        "sys.argv = ['rft', 'run', 'algorithm.clip_rang=1']\n"
        "try:\n    rft.cli.main()\n"
        "except SystemExit as end:\n    print(end.code, 'torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2", "False"]
    assert len(done.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
