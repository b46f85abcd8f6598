"""Each check of a reward source passes the sources that are right and catches the one that breaks it.

Dimensions: ``N`` candidates, ``R`` response tokens.
"""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rft.errors import UserError
from rft.models.backbone import Role
from rft.models.pretrained import LoraConfig
from rft.rewards.base import Reward, Standardised
from rft.rewards.learned import Config as LearnedConfig
from rft.rewards.learned import LearnedReward
from rft.testing.parts_reward import reward_rows
from rft.testing.result import CheckResult
from rft.types import Sequences
from tests.numerics.backbones import EOS, PAD, VOCABULARY, make_backbone

LORA = LoraConfig(rank=4, top_layers=2)


def some_candidates(n: int = 16) -> Sequences:
    """Ragged on both sides: prompts of 2 or 3 tokens, responses of 1 to 5, some with EOS."""
    draw = torch.Generator().manual_seed(0)
    prompts = torch.randint(3, VOCABULARY, (n, 3), generator=draw)
    prompts[::2, 0] = PAD
    responses = torch.randint(3, VOCABULARY, (n, 5), generator=draw)
    lengths = 1 + torch.arange(n) % 5
    mask = torch.arange(5)[None] < lengths[:, None]
    responses[torch.arange(n), lengths - 1] = torch.where(torch.arange(n) % 3 == 0, EOS, 7)
    return Sequences(prompts, prompts != PAD, torch.where(mask, responses, PAD), mask)


class MeanToken(Reward):
    """The mean number of the response's tokens: a rule that keeps to everything."""

    def score(self, sequences: Sequences) -> Tensor:
        return self.of(sequences.response_ids, sequences.response_mask)

    @staticmethod
    def of(ids: Tensor, mask: Tensor) -> Tensor:
        return (ids * mask).sum(-1).float() / mask.sum(-1).clamp(min=1)


class TwoColumns(MeanToken):
    def score(self, sequences: Sequences) -> Tensor:
        return super().score(sequences)[:, None]


class WholeNumbers(MeanToken):
    def score(self, sequences: Sequences) -> Tensor:
        return super().score(sequences).long()


class NoNumber(MeanToken):
    def score(self, sequences: Sequences) -> Tensor:
        return super().score(sequences) / 0 - torch.inf


class NoTensor(MeanToken):
    def score(self, sequences: Sequences) -> Any:
        return super().score(sequences).tolist()


class DividesByLength(MeanToken):
    def score(self, sequences: Sequences) -> Tensor:
        return (sequences.response_ids * sequences.response_mask).sum(-1) / sequences.lengths


class ReadsLastToken(MeanToken):
    def score(self, sequences: Sequences) -> Tensor:
        for length in sequences.lengths.tolist():
            if length == 0:
                raise IndexError("no last token")
        return super().score(sequences)


class ReadsPadding(MeanToken):
    def score(self, sequences: Sequences) -> Tensor:
        return sequences.response_ids.float().mean(-1)


class ReadsPaddingFaintly(MeanToken):
    def score(self, sequences: Sequences) -> Tensor:
        return 2e-6 * sequences.response_ids.float().mean(-1)


class ReadsPromptPadding(MeanToken):
    def score(self, sequences: Sequences) -> Tensor:
        return super().score(sequences) + sequences.prompt_ids.float().sum(-1)


class Ranks(MeanToken):
    def score(self, sequences: Sequences) -> Tensor:
        return super().score(sequences).argsort().argsort().float()


class Rolls(MeanToken):
    def score(self, sequences: Sequences) -> Tensor:
        return super().score(sequences) + torch.rand(len(sequences))


class WithGradient(MeanToken):
    def score(self, sequences: Sequences) -> Tensor:
        return self.backbone.logprobs(Role.policy, sequences).sum(-1)


class WritesOver(MeanToken):
    def score(self, sequences: Sequences) -> Tensor:
        sequences.response_ids.add_(1)
        return super().score(sequences)


class Indifferent(MeanToken):
    def score(self, sequences: Sequences) -> Tensor:
        return torch.full((len(sequences),), 0.5)


class Forgetful(MeanToken):
    scale = 1.0

    def score(self, sequences: Sequences) -> Tensor:
        return self.scale * super().score(sequences)

    def load(self, folder: Path) -> None:
        """Nothing: what was fitted is lost."""


class BreaksTheCritic(MeanToken):
    def start_critic(self, mean: float, std: float) -> None:
        torch.nn.init.constant_(self.backbone.heads["critic"].bias, float("nan"))  # type: ignore[arg-type]


class MovesTheRewardModel(LearnedReward):
    def start_critic(self, mean: float, std: float) -> None:
        torch.nn.init.zeros_(self.backbone.heads["reward"].weight)  # type: ignore[arg-type]


def rows_of(found: type[Reward]) -> dict[str, CheckResult]:
    def fresh() -> Reward:
        return found(LearnedConfig(), make_backbone("llama", LORA, (Role.policy, Role.critic)))

    source, candidates = fresh(), some_candidates()
    if isinstance(source, Forgetful):
        source.scale = 2.0
    with torch.no_grad():  # what training would have changed
        source.backbone.heads["reward"].bias.fill_(0.3)
    return {row.name: row for row in reward_rows(Standardised(source, 30.0, 10.0), fresh, candidates)}


def failed(rows: dict[str, CheckResult]) -> set[str]:
    return {name for name, row in rows.items() if not row.ok}


@pytest.mark.parametrize("found", [MeanToken, LearnedReward])
def test_a_source_that_is_right_passes(found: type[Reward]) -> None:
    rows = rows_of(found)
    assert not failed(rows), [row for row in rows.values() if not row.ok]
    assert len(rows) == 11


@pytest.mark.parametrize(
    ("found", "check", "method", "words"),
    [
        (
            DividesByLength,
            "empty, one-token and truncated responses",
            "score",
            "for a response without a counted token",
        ),
        (ReadsPadding, "padding counts nowhere", "score", "with more padding"),
        (ReadsPaddingFaintly, "padding counts nowhere", "score", "with more padding"),
        (ReadsPromptPadding, "padding counts nowhere", "score", "with more padding"),
        (Ranks, "a row depends on no other row", "score", "alone"),
        (WithGradient, "no gradient", "score", "no_grad"),
        (Indifferent, "tells candidates apart", "score", "all 16 candidates score 0.5"),
        (Forgetful, "the same after save and load", "load", "of 12 scores are others"),
        (BreaksTheCritic, "the critic starts finite and apart", "start_critic", "not finite"),
        (MovesTheRewardModel, "the critic starts finite and apart", "start_critic", "changed the role reward"),
    ],
)
def test_one_fault_fails_its_own_check_alone(found: type[Reward], check: str, method: str, words: str) -> None:
    rows = rows_of(found)
    assert failed(rows) == {check}
    assert words in rows[check].detail
    line = inspect.getsourcelines(getattr(found, method))[1]
    assert rows[check].where.endswith(f"test_check_reward.py:{line}")


@pytest.mark.parametrize(
    ("found", "check", "words"),
    [
        (TwoColumns, "one finite number a response", "shape [12, 1]"),
        (WholeNumbers, "one finite number a response", "torch.int64"),
        (NoNumber, "one finite number a response", "gives nan for row 0 of 12"),
        (NoTensor, "one finite number a response", "gives a list"),
        (Rolls, "the same bits a second time", "12 of 12 scores changed"),
        (WritesOver, "leaves its input as it is", "changed response_ids in place"),
    ],
)
def test_a_fault_that_others_show_too_fails_its_check(found: type[Reward], check: str, words: str) -> None:
    row = rows_of(found)[check]
    assert not row.ok
    assert words in row.detail


def test_what_a_source_raises_is_told_with_its_line() -> None:
    rows = rows_of(ReadsLastToken)
    (name,) = failed(rows)
    source, start = inspect.getsourcelines(ReadsLastToken.score)
    line = start + next(i for i, text in enumerate(source) if "raise IndexError" in text)
    assert "raised IndexError: for a response without a counted token: no last token" in rows[name].detail
    assert rows[name].where.endswith(f"test_check_reward.py:{line}")


SOURCE = """
from rft.rewards.base import Reward
from {package}.words import score_of
class Mine(Reward):
    def score(self, sequences):
        return score_of(sequences)
"""
WORDS = """
def score_of(sequences):
    return sequences.response_ids.float().mean(-1)
"""


@pytest.mark.parametrize(
    ("file", "more", "words"),
    [
        ("source.py", "def peek(task, path): return task.load_gold(path)", "names 'load_gold'"),
        ("words.py", "from rft.tasks.tfidf import TfidfGold", "imports rft.tasks.tfidf, which reads gold"),
        ("words.py", "def late():\n    from .hidden import standard", "names 'gold'"),
        ("words.py", "x = 'a standard of gold in prose'", None),
    ],
)
def test_a_source_that_reads_what_is_hidden_is_caught_through_its_own_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, more: str, words: str | None
) -> None:
    package = f"planted_{abs(hash((file, more)))}"
    files = {"source.py": SOURCE.format(package=package), "words.py": WORDS, "hidden.py": "standard = 'gold'\n"}
    files[file] += more + "\n"
    folder = tmp_path / package
    folder.mkdir()
    for name, text in {"__init__.py": "", **files}.items():
        (folder / name).write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    row = rows_of(importlib.import_module(f"{package}.source").Mine)["reads no gold"]
    assert row.ok is (words is None)
    if words is not None:
        where = "hidden.py:1" if "hidden" in more else f"{file}:{len(files[file].splitlines())}"
        assert words in row.detail
        assert row.where.endswith(where)


def test_what_standardises_refuses_a_source_that_gives_no_numbers() -> None:
    backbone = make_backbone("llama", LORA)
    with pytest.raises(UserError, match=r"TwoColumns\.score gives shape \[16, 1\] and torch\.float32 for 16 sequences"):
        Standardised(TwoColumns(None, backbone)).score(some_candidates())


def test_candidates_get_mean_0_and_standard_deviation_1() -> None:
    source, candidates = MeanToken(None, make_backbone("llama", LORA)), some_candidates()
    standard = Standardised.on(source, source.score(candidates))
    scores = standard.score(candidates)
    assert float(scores.mean()) == pytest.approx(0.0, abs=1e-6)
    assert float(scores.std()) == pytest.approx(1.0, abs=1e-5)
    assert standard.std > 1


def test_scores_that_are_all_equal_stay_in_their_own_unit() -> None:
    source, candidates = Indifferent(None, make_backbone("llama", LORA)), some_candidates()
    standard = Standardised.on(source, source.score(candidates))
    assert (standard.mean, standard.std) == (0.5, 1.0)


def test_the_critic_of_a_rule_starts_at_the_mean_of_the_standardised_score() -> None:
    backbone = make_backbone("llama", LORA, (Role.policy, Role.critic))
    candidates = some_candidates()
    assert backbone.values(candidates).abs().max() > 0
    Standardised(MeanToken(None, backbone), 30.0, 10.0).start_critic()
    assert torch.equal(backbone.values(candidates), torch.zeros_like(candidates.response_ids, dtype=torch.float32))
