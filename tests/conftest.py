"""What holds for every test: an own store, quiet libraries, nothing contacted but what a test asks for."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

QUIET = {
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "WANDB_ERROR_REPORTING": "false",
    "WANDB_MODE": "offline",
    "WANDB_SILENT": "true",
}


def pytest_collection_finish() -> None:
    """What was imported and collected stays to the end: no later collection of garbage need visit it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads that a test asks torch for end with it: beside other workers they mostly wait for one another."""
    yield
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() > 1:
        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def store_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for the whole test run, shared by its worker processes: an asset is fetched once."""
    base = tmp_path_factory.getbasetemp()
    root = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "store"
    root.mkdir(exist_ok=True)
    return root


@pytest.fixture(scope="session", autouse=True)
def _own_surroundings(store_root: Path) -> Iterator[None]:
    """The user's store, account and progress file stay out of reach, of child processes too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RFT_STORE", str(store_root))
        patch.delenv("RFT_PROGRESS_FILE", raising=False)
        patch.delenv("WANDB_API_KEY", raising=False)
        patch.setenv("RFT_THREADS", "1")
        for name, value in QUIET.items():
            patch.setenv(name, value)
        yield
