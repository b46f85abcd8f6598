"""A quicker decode loop and training step change no result: each algorithm's curve is that of before them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from rft.config import compose
from rft.config.build import target_class
from rft.testing.suite import algorithm_names
from tests.integration.curves import ARMS, curve
from tests.integration.harness import Warm

pytestmark = [pytest.mark.assets, pytest.mark.xdist_group("curves")]
BEFORE: dict[str, Any] = json.loads(Path(__file__).with_name("curves.json").read_text(encoding="utf-8"))["curves"]
# Ways of asking a judge; what is learned from its answers is learned as in PPO, DPO and online DPO.
MODES = {"constitutional", "online_feedback", "rlaif_direct", "rlaif_dpo", "rlaif_online"}
# Of float32, added up in another order over a dozen steps.
RELATIVE, ABSOLUTE = 1e-4, 2e-6


@pytest.fixture(scope="module")
def store(assets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store whose shared stages the first algorithm makes, with the code of today."""
    folder = tmp_path_factory.mktemp("curves") / "store"
    shutil.copytree(assets, folder / "asset")
    return folder


def test_every_algorithm_that_trains_by_itself_has_a_curve() -> None:
    trained = {n for n in algorithm_names() if target_class(compose([f"algorithm={n}"]).algorithm).data_kind != "none"}
    assert set(BEFORE) == set(ARMS) == trained - MODES


@pytest.mark.parametrize("name", ARMS)
def test_a_curve_is_that_of_before(name: str, warm: Warm, store: Path, tmp_path: Path) -> None:
    found = curve(warm, tmp_path, store, name)
    assert len(found) == len(BEFORE[name])
    for row, before in zip(found, BEFORE[name], strict=True):
        assert row == pytest.approx(before, rel=RELATIVE, abs=ABSOLUTE)
