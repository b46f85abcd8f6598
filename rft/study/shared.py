"""What the shared stages and the evaluation write into their store entries."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Seq
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from omegaconf import DictConfig
from safetensors.torch import load_file

from rft.budget import USAGE, Usage
from rft.callbacks.training import SNAPSHOTS
from rft.config import CandidatesConfig, EvaluationConfig, SFTConfig, to_config
from rft.config.build import target_class
from rft.data.offline import (
    comparison_batches,
    example_batches,
    load_answers,
    load_comparisons,
    read_table,
)
from rft.errors import UserError
from rft.evaluation.evaluate import FinalTest
from rft.evaluation.judged import JudgedRows
from rft.evaluation.samples import Samples
from rft.feedback.base import Answer, or_none
from rft.feedback.mixed import PEOPLE
from rft.feedback.pairs import choose_pairs, write_pairs
from rft.feedback.unread import require_labels
from rft.models.backbone import Role
from rft.models.decoder import decoder_layers
from rft.models.module import Module
from rft.models.pretrained import LoraConfig, load_folder, save_folder
from rft.models.supervised import SupervisedFineTuning, mean_nll, with_trunks
from rft.models.trunk import trunk_depth
from rft.progress import bar
from rft.rewards.base import Fitting, Reward, Standardised, check_scores
from rft.rollout import RolloutEngine, pad_prompts, rows_at_once, uniforms
from rft.store import Entry
from rft.store.cost import COST
from rft.store.names import CHECKPOINTS_FILE, LABELLER, ORDERS, SCORES_FILE
from rft.strategy import Strategy
from rft.study.fixed_answers import KEPT_BYTES, keep_trunk, with_kept_trunk, write_trunk
from rft.study.rated import RATED_TRUNK, RATINGS, rated_pairs
from rft.study.training import fit_shared, load_reward, make_backbone
from rft.types import ComparisonBatch, Sequences, to_device

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from rft.feedback.base import Feedback
    from rft.tasks.base import GoldReward, Task

BATCH = 64  # sequences scored at once


def make_sft(
    config: SFTConfig, lora: LoraConfig, model: Entry, questions: Entry, strategy: Strategy, out: Path
) -> dict[str, Any]:
    """Fine-tune on the demonstrations and write a plain model folder, adapters merged."""
    role = [Role.policy]
    backbone, engine = make_backbone(model.path, strategy, lora, role, role, config.seed, reference=False)
    rows = read_table(questions.path / "sft.parquet")
    train = [r for r in rows if r["split"] == "train"]
    batches = example_batches(train, config.batch_size, config.epochs, config.seed, backbone.pad_id)
    held = example_batches([r for r in rows if r["split"] == "validation"], BATCH, 1, 0, backbone.pad_id)
    held = with_trunks(held, backbone)
    before, measured = mean_nll(held, backbone), replace(backbone.usage)
    fit_shared(SupervisedFineTuning(config, backbone, len(batches)), batches, len(batches), "start policy", strategy)
    usage = backbone.usage.add(measured, -1).counted()  # what measures it is no part of making it
    after = mean_nll(held, backbone)
    engine.sync(backbone)
    save_folder(engine.model, backbone.tokenizer, out)
    return {"validation_nll_before": before, "validation_nll": after, "steps": len(batches), USAGE: usage}


def _sampled(
    engine: RolloutEngine,
    tokenizer: PreTrainedTokenizerBase,
    asked: Seq[dict[str, Any]],
    config: CandidatesConfig,
    response_tokens: int,
    depth: int,
) -> tuple[list[dict[str, Any]], list[torch.Tensor]]:
    """A row for each question's answer, and what so many of the lowest layers gave at the counted tokens, in parts.

    There are no parts where they would be too large to keep, and of a model that is decoded by its own forward pass.
    """
    rows: list[dict[str, Any]] = []
    trunks: list[torch.Tensor] = []
    numbers, device = uniforms(len(asked), response_tokens, config.seed), engine.model.device
    at_once = rows_at_once(max(len(q["token_ids"]) for q in asked) + response_tokens)
    at_once = max(at_once - at_once % config.samples_per_prompt, config.samples_per_prompt)  # a prompt is passed once
    with bar("candidates", len(asked)) as progress:
        for start in range(0, len(asked), at_once):
            part = asked[start : start + at_once]
            ids, mask = pad_prompts([q["token_ids"] for q in part], engine.pad_id, device)
            uniform = numbers[start : start + len(part)].to(device)
            seq = engine.generate(ids, mask, uniform, config.temperature, depth=depth)
            trunks += [] if seq.trunk is None else [seq.trunk[seq.counted].cpu()]
            if sum(one.nbytes for one in trunks) > KEPT_BYTES:
                trunks, depth = [], 0
            truncated = seq.truncated(engine.eos_id)
            for i, question in enumerate(part):
                tokens = seq.response_ids[i][seq.response_mask[i]].tolist()
                rows.append(
                    {
                        "row": start + i,
                        "prompt_id": question["prompt_id"],
                        "sample": (start + i) % config.samples_per_prompt,
                        "prompt_ids": list(question["token_ids"]),
                        "response_ids": tokens,
                        "prompt": question["text"],
                        "response": tokenizer.decode(tokens, skip_special_tokens=True),
                        "truncated": bool(truncated[i]),
                    }
                )
            progress.advance(len(part))
    counted = sum(len(row["prompt_ids"]) + len(row["response_ids"]) for row in rows)
    return rows, trunks if sum(map(len, trunks)) == counted else []


def make_candidates(
    config: CandidatesConfig,
    response_tokens: int,
    lora: LoraConfig,
    sft: Entry,
    questions: Entry,
    strategy: Strategy,
    out: Path,
) -> dict[str, Any]:
    """Sample answers to each training question from the start policy and choose the pairs to compare.

    What the layers below the adapters gave while the answers were sampled is kept for all who learn from these.
    """
    model, tokenizer = load_folder(sft.path, strategy.dtype)
    model.to(strategy.device)  # type: ignore[arg-type]
    engine = RolloutEngine(model, int(tokenizer.eos_token_id), int(tokenizer.pad_token_id))
    train = [q for q in read_table(questions.path / "questions.parquet") if q["split"] == "train"]
    asked = [q for q in train for _ in range(config.samples_per_prompt)]
    depth = trunk_depth(len(decoder_layers(model)), lora)
    rows, trunks = _sampled(engine, tokenizer, asked, config, response_tokens, depth)
    pairs = choose_pairs(
        [q["prompt_id"] for q in train],
        config.samples_per_prompt,
        config.pairs_per_prompt,
        config.heldout_fraction,
        config.seed,
    )
    pq.write_table(pa.Table.from_pylist(rows), out / "candidates.parquet")
    write_pairs(pairs, out / "pairs.parquet")
    usage, pad_id = engine.usage, engine.pad_id
    if trunks:
        write_trunk(torch.cat(trunks), depth, out)
    elif depth:
        del engine, model
        backbone, _ = make_backbone(sft.path, strategy, lora, roles=())
        keep_trunk(load_answers(out, pad_id), backbone, out)
        usage = usage.add(backbone.usage)
    lengths = [len(r["response_ids"]) for r in rows]
    truncation = sum(r["truncated"] for r in rows) / len(rows)
    return {
        "responses": len(rows),
        "pairs": len(pairs),
        "mean_length": float(np.mean(lengths)),
        "truncated": truncation,
        USAGE: usage.add(Usage(prompts=len(train))).counted(),
    }


def make_labels(source: Feedback, gold: GoldReward, candidates_folder: Path, out: Path) -> dict[str, Any]:
    """Label the pairs by the feedback source.

    A pair whose verdict could not be read has no preference: nothing learns from it.

    Raises:
        UserError: if these are most pairs.
    """
    candidates = read_table(candidates_folder / "candidates.parquet")
    pairs = read_table(candidates_folder / "pairs.parquet")
    answers = [Answer(c["prompt"], c["response"]) for c in candidates]
    index = np.array([[p["first"], p["second"]] for p in pairs], dtype=np.int64).reshape(-1, 2)
    labels = source.label(answers, index)
    require_labels(labels)
    rows = [
        {
            "pair": pair["pair"],
            "preference": or_none(labels.preference[i]),
            "first_score": float(labels.scores[pair["first"]]),
            "second_score": float(labels.scores[pair["second"]]),
            **({} if labels.orders is None else dict(zip(ORDERS, map(or_none, labels.orders[i]), strict=True))),
            **({} if labels.source is None else {LABELLER: labels.source[i]}),
            "raw": labels.raw[i],
        }
        for i, pair in enumerate(pairs)
    ]
    pq.write_table(pa.Table.from_pylist(rows), out / "labels.parquet")
    agreement = _gold_agreement([answer.text for answer in answers], index, labels.preference, gold)
    asked = {"kept": labels.work.kept, "judge_seconds": labels.work.seconds} if "judge" in source.needs else {}
    return {
        "pairs": len(rows),
        "ties": int((labels.preference == 0.5).sum()),
        "excluded": int(np.isnan(labels.preference).sum()),
        **({} if labels.source is None else {"labelled_by": dict(Counter(labels.source))}),
        **(
            {"people_pairs": Counter(labels.source)[PEOPLE], "people_unread": labels.stood_in}
            if labels.stood_in
            else {}
        ),
        "gold_agreement": agreement,
        USAGE: labels.usage.counted(),
        COST: asked,
    }


def _gold_agreement(texts: list[str], index: Any, preference: Any, gold: Any) -> float:
    """Share of decided labels that pick the response with the higher gold."""
    logits = gold.logit(texts)
    decided = (preference != 0.5) & ~np.isnan(preference)
    agrees = (logits[index[:, 0]] > logits[index[:, 1]]) == (preference > 0.5)
    return float(agrees[decided].mean()) if decided.any() else 0.5


@torch.no_grad()
def _scores(source: Reward, seq: Sequences) -> torch.Tensor:
    """The source's own scores, in batches. Shape [len(seq)], on the CPU."""
    found = []
    for start in range(0, len(seq), BATCH):
        part = to_device(seq[slice(start, start + BATCH)], source.backbone.device)
        scores = source.score(part)
        check_scores(source, scores, len(part))
        found.append(scores.cpu())
    return torch.cat(found)


def _pair_accuracy(scores: torch.Tensor, pairs: Seq[tuple[int, int]]) -> float | None:
    """Share of pairs whose better response scores higher, equal scores as half; None if no pair has two scores.

    Args:
        scores: of all responses, [N].
        pairs: the better one and the worse one, as indices of them.
    """
    if not pairs:
        return None
    chosen, rejected = scores[torch.tensor(pairs)].unbind(1)
    known = ~(chosen.isnan() | rejected.isnan())
    right = ((chosen > rejected).float() + 0.5 * (chosen == rejected).float())[known]
    return float(right.mean()) if len(right) else None


def fit_reward(
    node: DictConfig, lora: LoraConfig, inputs: Mapping[str, Entry], strategy: Strategy, runtime: Mapping[str, Any]
) -> tuple[Standardised, Sequences, torch.Tensor]:
    """The reward source, fitted and standardised, the candidates that it was standardised on, and its scores of them.

    The scores are raw and of shape [candidates].
    """
    found: type[Reward] = target_class(node)
    config, learns = to_config(node), "labels" in found.needs
    roles = [Role.reward] if "role" in found.needs else []
    seed, reference = int(getattr(config, "seed", 0)), not roles or found.reads_reference
    backbone, _ = make_backbone(inputs["sft"].path, strategy, lora, roles, roles, seed, reference=reference)
    source = found(config, backbone, **runtime)
    folders = inputs["candidates"].path, inputs["preferences"].path
    answers = load_answers(folders[0], backbone.pad_id)
    if roles:
        answers = backbone.with_trunk(with_kept_trunk(answers, folders[0], backbone.trunk.depth))
    comparisons = load_comparisons(*folders, heldout=False) if learns else []

    def batches(prompts_per_step: int, epochs: int, seed: int) -> list[ComparisonBatch]:
        if not learns:
            raise UserError(f"reward: {found.__name__} asks for labels; declare needs = frozenset({{'labels'}})")
        return comparison_batches(comparisons, answers, prompts_per_step, epochs, seed)

    def train(module: Module, batches: Seq[ComparisonBatch]) -> None:
        fit_shared(module, batches, len(batches), "reward model", strategy)

    source.fit(Fitting(answers, {name: inputs[name].path for name in found.assets}, batches, train))
    scores = _scores(source, answers)
    return Standardised.on(source, scores), answers, scores


def make_reward_model(
    node: DictConfig,
    lora: LoraConfig,
    inputs: Mapping[str, Entry],
    strategy: Strategy,
    out: Path,
    runtime: Mapping[str, Any],
) -> dict[str, Any]:
    """Make the reward source; measure it on held-out labels and on human ratings that it never saw.

    A source that needs no labels has no training pairs (``train_pairs`` is 0) and is measured in the same way, on the
    same held-out ones.
    """
    standard, answers, scores = fit_reward(node, lora, inputs, strategy, runtime)
    usage = standard.source.backbone.usage.counted()  # what measures it is no part of making it
    standard.save(out)
    pq.write_table(pa.table({"row": range(len(scores)), "score": scores.double().tolist()}), out / SCORES_FILE)
    source, folders = standard.source, (inputs["candidates"].path, inputs["preferences"].path)
    prompt_tokens = int(answers.prompt_ids.shape[1])
    rated, human, ceiling = rated_pairs(inputs[RATINGS], source.backbone, prompt_tokens)
    if RATED_TRUNK in inputs:
        rated = with_kept_trunk(rated, inputs[RATED_TRUNK].path, source.backbone.trunk.depth)
    learned = load_comparisons(*folders, heldout=False) if "labels" in source.needs else []
    train, heldout = (
        [(one.chosen, one.rejected) for one in some] for some in (learned, load_comparisons(*folders, heldout=True))
    )
    return {
        "train_pairs": len(train),
        "train_accuracy": _pair_accuracy(scores, train),
        "heldout_pairs": len(heldout),
        "heldout_accuracy": _pair_accuracy(scores, heldout),
        "human_pairs": len(human),
        "human_accuracy": _pair_accuracy(_scores(source, rated), human),
        "human_ceiling": ceiling,
        USAGE: usage,
    }


def make_evaluation(
    config: EvaluationConfig,
    reward_node: DictConfig,
    lora: LoraConfig,
    task: Task,
    inputs: Mapping[str, Entry],
    strategy: Strategy,
    *,
    response_tokens: int,
    seed: int,
    out: Path,
    runtime: Mapping[str, Any],
    best_of: int = 1,
    judge: Callable[[], JudgedRows] | None = None,
    samples: Samples | None = None,
) -> dict[str, Any]:
    """Evaluate a policy entry on the unseen questions.

    `runtime` is what the reward source is given by its needs; `judge` makes the one that scores the answers too;
    `samples` takes some of the answers beside what is kept.
    """
    scorer = [Role.reward] if "role" in target_class(reward_node).needs else []
    backbone, engine = make_backbone(inputs["sft"].path, strategy, lora, [Role.policy, *scorer])
    reward = load_reward(inputs["reward_model"].path, reward_node, backbone, runtime)
    questions = read_table(inputs["questions"].path / "questions.parquet")
    gold = task.load_gold(inputs["gold"].path)
    share: dict[str, Any] = {"response_tokens": response_tokens, "seed": seed, "samples": samples}
    test = FinalTest(backbone, engine, questions, gold, reward, config, **share)
    if samples is not None:
        samples.ask(test)  # before the engine takes over a policy's weights
    _test_snapshots(test, inputs["policy"].path, out)
    backbone.load_role(Role.policy, load_file(inputs["policy"].path / "policy.safetensors"))
    judged = judge() if judge else None
    return test.run(out, best_of, judged) | ({} if judged is None else {COST: judged.cost})


def _test_snapshots(test: FinalTest, policy: Path, out: Path) -> None:
    """Test the snapshots that training left, if it left any, and write ``checkpoints.parquet``."""
    listed = policy / SNAPSHOTS
    points = json.loads(listed.read_text(encoding="utf-8")) if listed.exists() else []
    rows: list[dict[str, Any]] = []
    with bar("evaluation of checkpoints", len(points)) as progress:
        for number, point in enumerate(points):
            test.backbone.load_role(Role.policy, load_file(policy / point["file"]))
            where = {"checkpoint": number, "step": int(point["step"]), "fraction": float(point["fraction"])}
            rows += [where | row for row in test.checkpoint(int(point["step"]))]
            progress.advance()
    if rows:
        pq.write_table(pa.Table.from_pylist(rows), out / CHECKPOINTS_FILE)
