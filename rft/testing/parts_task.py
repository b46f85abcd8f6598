"""What every task must keep to. Dimensions: ``N`` texts, ``P`` prompt tokens, ``R`` response tokens."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rft.store import Store
from rft.store.entry import describe_files
from rft.tasks.base import SPLITS, Example, Prompt, Task
from rft.tasks.tables import read_questions, read_sft
from rft.testing.parts_rows import require, row
from rft.testing.result import CheckResult

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEXTS = ("A wonderful film, see it.", "Awful, dull and far too long.", "", "It is a film. 😀\n{x}", "no")
Files = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Limits:
    """What the task's questions must fit; None where nothing says so."""

    response_tokens: int  # R: longest response, EOS included
    prompt_tokens: int | None = None  # P: as the task's own settings say
    positions: int | None = None  # of the model: prompt and response together


class Built:
    """A task's files, made when the first check asks for them: twice, each by a task made anew."""

    def __init__(self, make: Callable[[], Task], tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
        self.tokenizer, self.folder = tokenizer, folder
        self.task, self.other = make(), make()

    def _write(self, name: str, write: Callable[[Path], object]) -> Path:
        out = self.folder / name
        out.mkdir(exist_ok=True)
        write(out)
        return out

    @cached_property
    def questions(self) -> tuple[Path, Path]:
        """Two folders with questions and demonstrations."""
        first = self._write("q1", lambda out: self.task.build_questions(self.tokenizer, out))
        return first, self._write("q2", lambda out: self.other.build_questions(self.tokenizer, out))

    @cached_property
    def gold(self) -> tuple[Path, Path]:
        """Two folders with the gold reward."""
        return self._write("g1", self.task.fit_gold), self._write("g2", self.other.fit_gold)

    @property
    def prompts(self) -> list[Prompt]:
        """The questions."""
        return read_questions(self.questions[0] / "questions.parquet")

    @property
    def examples(self) -> list[Example]:
        """The demonstrations."""
        return read_sft(self.questions[0] / "sft.parquet")


def task_rows(make: Callable[[], Task], tokenizer: PreTrainedTokenizerBase, limits: Limits) -> list[CheckResult]:
    """One row a check; `make` gives the task anew."""
    with tempfile.TemporaryDirectory() as folder:
        built = Built(make, tokenizer, Path(folder))
        checks: list[tuple[str, str, Callable[[], str | None]]] = [
            ("an address", "questions_config", lambda: _address(built)),
            ("every split has questions", "build_questions", lambda: _complete(built)),
            ("no source text in two splits", "build_questions", lambda: _disjoint(built)),
            ("ids are unique", "build_questions", lambda: _ids(built)),
            ("prompts and responses fit", "build_questions", lambda: _fit(built, limits)),
            ("tokens decode to the text", "build_questions", lambda: _decode(built)),
            ("two builds give the same files", "build_questions", lambda: _equal(*built.questions)),
            ("two fits of the gold give the same files", "fit_gold", lambda: _equal(*built.gold)),
            ("gold in [0, 1], text by text", "load_gold", lambda: _gold(built)),
        ]
        return [row(name, type(built.task), method, check) for name, method, check in checks]


def _address(built: Built) -> None:
    task = built.task
    version = getattr(type(task), "version", None)
    require(isinstance(version, int), f"version is {version!r}: a whole number on the class is wanted")
    for name in ("questions_config", "gold_config"):
        first, second = dict(getattr(task, name)), dict(getattr(built.other, name))
        try:
            Store.key("questions", 1, first, {})
        except (TypeError, ValueError) as error:
            error.args = (f"{name} is no JSON: {error}",)
            raise
        require(
            first == second, f"{name} differs between two tasks of the same settings: results are never found again"
        )
    Store.key("questions", 1, {}, task.asset_keys)


def _complete(built: Built) -> str:
    counts = {split: sum(p.split == split for p in built.prompts) for split in SPLITS}
    empty = [split for split, count in counts.items() if count == 0]
    require(not empty, f"no questions in {', '.join(empty)}; every one of {', '.join(SPLITS)} needs one")
    unknown = {p.split for p in built.prompts} - set(SPLITS)
    require(not unknown, f"there is no split {', '.join(sorted(unknown))}; valid are {', '.join(SPLITS)}")
    for split in ("train", "validation"):
        require(any(e.split == split for e in built.examples), f"no demonstrations (sft.parquet) in {split}")
    return ", ".join(f"{count} {split}" for split, count in counts.items())


def _disjoint(built: Built) -> None:
    owner: dict[str, str] = {}
    of_prompts = [(p.review_id, p.split) for p in built.prompts]
    of_examples = [(e.review_id, f"sft {e.split}") for e in built.examples]
    for identity, split in [*of_prompts, *of_examples]:
        other = owner.setdefault(identity, split)
        require(other == split, f"the source text {identity} is in {other} and in {split}: splits must be disjoint")
    starts: dict[tuple[int, ...], str] = {}
    for prompt in built.prompts:
        other = starts.setdefault(prompt.token_ids, prompt.split)
        require(other == prompt.split, f"{prompt.prompt_id}: the same question is in {other} and in {prompt.split}")


def _ids(built: Built) -> None:
    seen: set[str] = set()
    for prompt in built.prompts:
        require(prompt.prompt_id not in seen, f"the prompt_id {prompt.prompt_id} is there twice")
        seen.add(prompt.prompt_id)


def _fit(built: Built, limits: Limits) -> str:
    r, eos = limits.response_tokens, built.tokenizer.eos_token_id
    most = max(len(p.token_ids) for p in built.prompts)
    for prompt in built.prompts:
        n = len(prompt.token_ids)
        require(n >= 1, f"{prompt.prompt_id} has no tokens")
        p = limits.prompt_tokens
        require(p is None or n <= p, f"{prompt.prompt_id} has {n} tokens, task.prompt_tokens are {p}")
        room = limits.positions
        require(room is None or n + r <= room, f"{prompt.prompt_id}: {n} and {r} tokens exceed {room} positions")
    for example in built.examples:
        n = len(example.response_ids)
        where = f"a demonstration from {example.review_id}"
        require(len(example.prompt_ids) >= 1 and n >= 1, f"{where} has no prompt or no response")
        require(n <= r, f"{where} has {n} response tokens, task.response_tokens are {r}")
        require(eos not in example.response_ids[:-1], f"{where} goes on after EOS")
    return f"prompts up to {most} tokens"


def _decode(built: Built) -> None:
    size = len(built.tokenizer)
    for prompt in built.prompts:
        require(
            all(0 <= token < size for token in prompt.token_ids),
            f"{prompt.prompt_id} has a token outside 0 to {size - 1}",
        )
        text = str(built.tokenizer.decode(list(prompt.token_ids), clean_up_tokenization_spaces=False))
        require(text == prompt.text, f"{prompt.prompt_id}: its tokens are {text!r}, its text is {prompt.text!r}")
    for example in built.examples:
        tokens = (*example.prompt_ids, *example.response_ids)
        require(all(0 <= token < size for token in tokens), f"a demonstration has a token outside 0 to {size - 1}")


def _equal(first: Path, second: Path) -> str:
    one: Files = describe_files(first)
    two: Files = describe_files(second)
    require(one, "no files were written")
    require(set(one) == set(two), f"one build wrote {', '.join(sorted(one))}, another {', '.join(sorted(two))}")
    changed = [name for name in one if one[name] != two[name]]
    require(
        not changed, f"{', '.join(changed)} differ between two builds of the same settings: draw from the seed alone"
    )
    return ", ".join(sorted(one))


def _gold(built: Built) -> str:
    gold = built.task.load_gold(built.gold[0])
    texts = [*TEXTS, *(p.text for p in built.prompts[:20])]
    logit, probability = np.asarray(gold.logit(texts)), np.asarray(gold.probability(texts))
    for name, found in (("logit", logit), ("probability", probability)):
        require(
            found.shape == (len(texts),) and bool(np.isfinite(found).all()),
            f"{name} gives shape {list(found.shape)} or numbers that are not finite for {len(texts)} texts",
        )
    low, high = float(probability.min()), float(probability.max())
    require(low >= 0 and high <= 1, f"probabilities go from {low} to {high}: [0, 1] is wanted")
    require(bool(np.allclose(probability, 1 / (1 + np.exp(-logit)), atol=1e-6)), "the probability is not σ(logit)")
    alone = np.concatenate([np.asarray(gold.logit([text])) for text in texts])
    require(bool(np.allclose(alone, logit, atol=1e-6)), "the logit of a text depends on the others")
    return f"from {low:.2f} to {high:.2f}"
