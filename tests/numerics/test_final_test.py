"""The final test on a small random model: its KL against whole passes, and rows that no batch size changes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, LlamaConfig

from rft.config import EvaluationConfig
from rft.data import microbatches
from rft.data.offline import to_sequences
from rft.evaluation import evaluate
from rft.evaluation.evaluate import FinalTest
from rft.models.backbone import Backbone, Role
from rft.models.pretrained import LoraConfig
from rft.ops.kl import best_of_n_kl, sequence_kl
from rft.rollout import RolloutEngine
from rft.testing.world import EOS, PAD, PROMPTS, Tokenizer, TokenReward
from rft.types import Sequences

VOCABULARY, TOKENS = 7, 9
LORA = LoraConfig(rank=2, alpha=8, top_layers=1)


class Numbers(Tokenizer):
    """Tokens as numbers, in tensors too."""

    def decode(self, ids: Any, *, skip_special_tokens: bool = False) -> str:
        return super().decode([int(token) for token in ids], skip_special_tokens=skip_special_tokens)


class Gold:
    def logit(self, texts: Sequence[str]) -> NDArray[Any]:
        return torch.tensor([float(len(text)) for text in texts]).numpy()


def make_test(lora: LoraConfig = LORA, dtype: torch.dtype = torch.float64, **config: Any) -> FinalTest:
    """Of a policy that is another than the start, on 8 questions of one split and 5 of another."""
    torch.manual_seed(3)
    small: Any = {"vocab_size": VOCABULARY, "eos_token_id": EOS, "pad_token_id": PAD, "hidden_size": 16}
    layers: Any = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    model = AutoModelForCausalLM.from_config(LlamaConfig(**small, **layers)).eval().to(dtype)
    engine = RolloutEngine(model, EOS, PAD)
    tokenizer: Any = Numbers()
    backbone = Backbone(model, tokenizer, lora, [Role.policy])
    engine.usage = backbone.usage
    with torch.no_grad():
        for name, parameter in backbone.named_parameters():
            if "lora_B" in name or "copies" in name:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))))
    questions = [
        {"split": split, "prompt_id": f"{split}-{i}", "text": " ".join(map(str, ids)) + " ", "token_ids": ids}
        for split, some in (("test", PROMPTS), ("ood", PROMPTS[::-1][:5]))
        for i, ids in enumerate(some)
    ]
    given = EvaluationConfig(samples_per_prompt=2, **config)
    gold: Any = Gold()
    return FinalTest(backbone, engine, questions, gold, TokenReward(), given, response_tokens=TOKENS, seed=1)


def run(test: FinalTest, out: Path, best_of: int = 1) -> list[dict[str, Any]]:
    test.run(out, best_of)
    rows: list[dict[str, Any]] = pq.read_table(out / "evaluation.parquet").to_pylist()
    return rows


def sequences(rows: Sequence[dict[str, Any]]) -> Sequences:
    """What the rows hold: their texts are the tokens as numbers."""
    texts = ([[int(token) for token in row[name].split()] for row in rows] for name in ("prompt", "response"))
    return to_sequences(*texts, PAD)


def whole_kl(backbone: Backbone, seq: Sequences) -> list[float]:
    with torch.no_grad():
        policy, reference = (backbone.logprobs(role, seq) for role in (Role.policy, Role.reference))
    return [float(x) for x in sequence_kl(policy, reference, seq.response_mask)]


@pytest.mark.parametrize("best_of", [1, 3])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("lora", [LORA, LoraConfig(enabled=False)], ids=["lora", "full"])
def test_the_kl_is_that_of_whole_passes(lora: LoraConfig, temperature: float, best_of: int, tmp_path: Path) -> None:
    test = make_test(lora, temperature=temperature)
    rows = run(test, tmp_path, best_of)
    assert len({row["length"] for row in rows}) > 3
    wanted = [kl + best_of_n_kl(best_of) for kl in whole_kl(test.backbone, sequences(rows))]
    assert [row["kl"] for row in rows] == pytest.approx(wanted, abs=1e-6)
    assert max(map(abs, wanted)) > 0.1


@pytest.mark.parametrize("best_of", [1, 3])
def test_no_batch_size_changes_the_rows(best_of: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test = make_test()
    whole = run(test, tmp_path, best_of)
    assert [(row["split"], row["prompt_id"], row["sample"]) for row in whole] == [
        (split, f"{split}-{i}", sample) for split, n in (("test", 8), ("ood", 5)) for i in range(n) for sample in (0, 1)
    ]
    monkeypatch.setattr(microbatches, "PASSED_TOKENS", 40)
    for size in (1, 7, 64):
        rows = run(make_test(batch_size=size), tmp_path, best_of)
        for row, other in zip(rows, whole, strict=True):
            assert row == {name: pytest.approx(x) if isinstance(x, float) else x for name, x in other.items()}
    first = [row for row in whole if row["split"] == "test" and row["sample"] == 0]
    points = test.checkpoint()
    if best_of == 1:
        assert [row["kl"] for row in points] == pytest.approx([row["kl"] for row in first])


@pytest.mark.parametrize(
    ("size", "best_of", "wanted"),
    [(None, 1, [26]), (10, 1, [10, 10, 6]), (10, 4, [8] * 13), (2, 4, [4] * 26), (None, 4, [104])],
)
def test_a_number_is_obeyed_and_none_takes_all_splits_at_once(
    size: int | None, best_of: int, wanted: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    test, drawn = make_test(batch_size=size), list[int]()
    generate = test.engine.generate

    def watched(ids: torch.Tensor, *args: Any, **settings: Any) -> Any:
        drawn.append(len(ids))
        return generate(ids, *args, **settings)

    monkeypatch.setattr(test.engine, "generate", watched)
    run(test, tmp_path, best_of)
    assert drawn == wanted


def test_passes_are_bounded_and_the_bar_moves_with_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test, passed, moved = make_test(), list[int](), list[int]()
    monkeypatch.setattr(microbatches, "PASSED_TOKENS", 60)
    logprobs = test.backbone.logprobs

    def watched(role: Role, seq: Sequences, *args: Any) -> torch.Tensor:
        passed.append(len(seq) * seq.row_tokens)
        return logprobs(role, seq, *args)

    class Bar:
        def __enter__(self) -> Any:
            return SimpleNamespace(advance=moved.append)

        def __exit__(self, *_: object) -> None: ...

    def bar(_: str, total: int) -> Bar:
        assert total == 52
        return Bar()

    monkeypatch.setattr(test.backbone, "logprobs", watched)
    monkeypatch.setattr(evaluate, "bar", bar)
    run(test, tmp_path, best_of=2)
    assert len(passed) > 3
    assert max(passed) <= 60
    assert len(moved) > 3
    assert sum(moved) == 52


@pytest.mark.parametrize("lora", [LORA, LoraConfig(enabled=False)], ids=["lora", "full"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_start_has_no_kl_and_what_is_near_it_only_that_of_rounding(
    lora: LoraConfig, dtype: torch.dtype, tmp_path: Path
) -> None:
    test = make_test(lora, dtype)
    with torch.no_grad():
        for name, parameter in test.backbone.named_parameters():
            if "lora_B" in name:
                parameter.zero_()
        for copied in test.backbone.copies.values():
            copied.load_state_dict(test.backbone.base.state_dict())
    assert all(row["kl"] == 0 for row in run(test, tmp_path))
    with torch.no_grad():
        weight = dict(test.backbone.named_parameters())
        name = next(name for name in reversed(weight) if "lora_B.policy" in name or "copies" in name)
        weight[name].add_(0.01)
    kl = [row["kl"] for row in run(test, tmp_path)]
    assert any(x != 0 for x in kl)
    assert abs(sum(kl) / len(kl)) < 0.05


def test_what_is_counted_is_the_sampling_and_both_passes_and_at_the_start_the_sampling_alone(tmp_path: Path) -> None:
    test = make_test(splits=["test"])
    counted = list[float]()
    for step in ("moved", "start"):
        if step == "start":
            with torch.no_grad():
                for name, parameter in test.backbone.named_parameters():
                    if "lora_B" in name:
                        parameter.zero_()
        test.backbone.usage.flops = 0.0
        seq = sequences(run(test, tmp_path))
        counted.append(test.backbone.usage.flops)
        test.backbone.usage.flops = 0.0
        seq = test.engine.generate(
            seq.prompt_ids, seq.prompt_mask, test._draws("test", len(seq)), 1.0, depth=test.backbone.trunk.depth
        )
        if step == "moved":
            whole_kl(test.backbone, seq)
        assert counted[-1] == pytest.approx(test.backbone.usage.flops, rel=1e-12)
    assert counted[0] > counted[1] > 0
