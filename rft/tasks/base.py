"""What a task gives to the stages: questions with demonstrations, and a hidden gold reward."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

from rft.config import schemas
from rft.config.plugins import class_digest
from rft.store import Entry, Json, Store

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase

SPLITS = schemas.SPLITS


@dataclass(frozen=True, slots=True)
class Prompt:
    """A practice question. `token_ids` are what the model gets; `text` is their decoding."""

    split: str  # one of SPLITS
    prompt_id: str  # unique over all splits
    review_id: str  # the source text, equal for equal texts
    text: str
    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Example:
    """A demonstration for supervised fine-tuning. A complete response ends with EOS."""

    split: str  # train or validation
    review_id: str
    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]


class GoldReward(Protocol):
    """The hidden standard: only evaluation, monitoring and the simulated annotators may read it."""

    def logit(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Log-odds that each text (prompt and response together) is good. Shape [N]."""
        ...

    def probability(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """σ(logit). Shape [N]."""
        ...


class Task(ABC):
    """Makes the files of the stages ``questions`` and ``gold``.

    The constructor takes the module's ``Config``, which has a field ``response_tokens`` (the longest response, EOS
    included), and by name the ``store``. If the config also has ``train_prompts`` and ``prompt_tokens``, they mean
    what they do in `rft.tasks.imdb_sentiment`. Raise `version` when the code changes what the files hold.

    The address of a stage's entry is made of `version`, the stage's config below and `asset_keys`, so
    `questions_config` and `gold_config` must hold all settings that their stage's files depend on, and no
    others: then a change of the prompts leaves the gold reward where it is. The code of another package's task is part
    of both.
    """

    version: ClassVar[int]

    def __init__(self, store: Store) -> None:
        self.store = store

    @property
    @abstractmethod
    def asset_keys(self) -> Mapping[str, str]:
        """Store key of each asset that the task reads, by asset name. Fetches nothing."""

    @property
    @abstractmethod
    def questions_config(self) -> Mapping[str, Json]:
        """Settings that decide `build_questions`, besides the tokenizer."""

    @property
    @abstractmethod
    def gold_config(self) -> Mapping[str, Json]:
        """Settings that decide `fit_gold`."""

    def gold_entry(self) -> Entry:
        """The stage ``gold``: the fitted gold reward, computed once."""
        return self.store.get_or_compute(
            "gold",
            version=self.version,
            config=self._address(self.gold_config),
            inputs=self.asset_keys,
            build=self.fit_gold,
        )

    def questions_entry(self, load_tokenizer: Callable[[], PreTrainedTokenizerBase], model_key: str) -> Entry:
        """The stage ``questions``, computed once for a model's tokenizer.

        Args:
            load_tokenizer: called only if the entry is not there yet.
            model_key: store key of the model that the tokenizer belongs to.
        """
        return self.store.get_or_compute(
            "questions",
            version=self.version,
            config=self._address(self.questions_config),
            inputs={**self.asset_keys, "model": model_key},
            build=lambda out: self.build_questions(load_tokenizer(), out),
        )

    def _address(self, config: Mapping[str, Json]) -> dict[str, Json]:
        code = class_digest(type(self))
        own: dict[str, Json] = {} if code is None else {"code": code}
        return {"task": f"{type(self).__module__}.{type(self).__qualname__}", **own, **config}

    @abstractmethod
    def build_questions(self, tokenizer: PreTrainedTokenizerBase, out: Path) -> dict[str, Json]:
        """Write ``questions.parquet`` and ``sft.parquet`` into the folder `out`; returns metrics.

        `rft.tasks.tables` writes them. Every one of SPLITS has a question, and both splits of the demonstrations have
        one; no source text stands in two of them, nor in what the gold reward is fitted on. The same settings, seed
        included, give the same bytes.

        Raises:
            UserError: if the data cannot give what the config asks for.
        """

    def continuations(self, questions: Path, tokenizer: PreTrainedTokenizerBase) -> Mapping[str, str]:
        """What people wrote after each question, where that is known: response by prompt_id; nothing by default.

        As long as a response may be, and cut as demonstrations are. The audit of a judge sets them against the policy's
        own responses.

        Args:
            questions: the folder of the stage ``questions``.
            tokenizer: that the questions were made with.
        """
        return {}

    @abstractmethod
    def fit_gold(self, out: Path) -> dict[str, Json]:
        """Fit the gold reward on texts that no prompt comes from, write it into `out`; returns metrics.

        The first job of a study may call it in a fork of itself, with one thread, beside its own first stages: what it
        writes must not depend on the number of threads.
        """

    @abstractmethod
    def load_gold(self, path: Path) -> GoldReward:
        """The gold reward that `fit_gold` wrote into the folder `path`."""
