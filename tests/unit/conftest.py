"""The real parts that several unit tests share, made once in the run's store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from rft.store import Entry, Store

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from rft.tasks.imdb_sentiment import ImdbSentiment


@pytest.fixture(scope="session")
def run_store(store_root: Path) -> Store:
    return Store(store_root)


@pytest.fixture(scope="session")
def tiny_entry(run_store: Store) -> Entry:
    """`model=tiny` as it is configured by default; whoever takes it fetches an asset."""
    from rft.models.tiny import Config, Tiny

    return Tiny(Config(), run_store).prepare()


@pytest.fixture(scope="session")
def tiny(tiny_entry: Entry) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    import torch

    from rft.models.pretrained import load_folder

    return load_folder(tiny_entry.path, torch.float32)


@pytest.fixture(scope="session")
def imdb(run_store: Store) -> ImdbSentiment:
    """The default task on the real reviews."""
    from rft.tasks.imdb_sentiment import Config, ImdbSentiment

    return ImdbSentiment(Config(), run_store)
