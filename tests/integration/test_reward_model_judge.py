"""A reward model that one study learned judges for another."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rft.config import compose
from rft.data.offline import read_table, to_sequences
from rft.errors import UserError
from rft.models.backbone import Role
from rft.store import Store
from rft.store.names import LABELLER
from rft.study.checking import SMALL
from rft.study.final_judge import FinalJudge
from rft.study.pipeline import Pipeline
from rft.study.training import load_reward, make_backbone

pytestmark = [pytest.mark.assets]


def pipeline(folder: Path, store: Path, *overrides: str) -> Pipeline:
    return Pipeline(compose(["algorithm=sft", "model=tiny", "tracker=none", *SMALL, *overrides]), Store(store), folder)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, store_root: Path) -> Pipeline:
    made = pipeline(tmp_path_factory.mktemp("teacher"), store_root)
    _ = made.reward_model
    return made


def judged(tmp_path: Path, store: Path, entry: str, *more: str) -> Pipeline:
    return pipeline(tmp_path, store, "feedback=ai", "judge=reward_model", f"judge.entry={entry}", *more)


def test_its_labels_are_those_of_the_reward_model(tmp_path: Path, store_root: Path, teacher: Pipeline) -> None:
    key = teacher.reward_model.key
    pupil = judged(tmp_path, store_root, key[:10])
    labels, pairs = (read_table(pupil.preferences.path / "labels.parquet"), pupil.candidates.path / "pairs.parquet")
    backbone, _ = make_backbone(teacher.sft.path, teacher.strategy, teacher.lora, [Role.reward])
    reward = load_reward(teacher.reward_model.path, teacher.cfg.reward, backbone, {})
    said = read_table(pupil.candidates.path / "candidates.parquet")

    def tokens(text: str) -> list[int]:
        return list(backbone.tokenizer.encode(text, add_special_tokens=False))

    sequences = to_sequences(
        [tokens(s["prompt"]) for s in said], [[*tokens(s["response"]), backbone.eos_id] for s in said], backbone.pad_id
    )
    scores = reward.source.score(sequences).double().numpy()
    for label, pair in zip(labels, read_table(pairs), strict=True):
        first, second = scores[pair["first"]], scores[pair["second"]]
        assert label["first_score"] == pytest.approx(first, abs=1e-4)
        assert label["preference"] == pytest.approx(1 / (1 + np.exp(second - first)), abs=1e-4)
    assert np.ptp(scores) > 0.01
    assert pupil.preferences.inputs["judge_model"] == key
    assert "entry" not in pupil.preferences.manifest["config"]["judge"]


def test_the_policys_own_reward_model_does_not_test_it(tmp_path: Path, store_root: Path, teacher: Pipeline) -> None:
    """Whoever gave its labels, simulated people here; said before the policy is trained."""
    own = ("algorithm=ppo", "eval_judge=reward_model", f"eval_judge.entry={teacher.reward_model.key[:12]}")
    words = r"learns from that very reward model, .* evaluation\.same_judge=reward_model"
    with pytest.raises(UserError, match=words):
        pipeline(tmp_path, store_root, *own).run("evaluation")
    allowed = pipeline(tmp_path, store_root, *own, "evaluation.same_judge=reward_model")
    assert allowed.run("reward_model") is not None
    assert FinalJudge(allowed).is_reward(allowed.reward_model)
    pairs_alone = pipeline(tmp_path, store_root, "algorithm=dpo", *own[1:])
    assert pairs_alone.run("reward_model") is not None
    assert not FinalJudge(pairs_alone).is_reward(None)


def test_the_whole_key_and_its_beginning_are_one_address(tmp_path: Path, store_root: Path, teacher: Pipeline) -> None:
    key = teacher.reward_model.key
    assert judged(tmp_path, store_root, key).preferences.key == judged(tmp_path, store_root, key[:8]).preferences.key


def test_an_entry_that_is_not_there_is_refused_before_anything_is_computed(tmp_path: Path, teacher: Pipeline) -> None:
    empty = tmp_path / "empty"
    with pytest.raises(UserError, match=r"judge\.entry=0123: no reward model in .* has this key; there are: none"):
        judged(tmp_path, empty, "0123").run("evaluation")
    assert not (empty / "sft").exists()
    with pytest.raises(UserError, match=teacher.reward_model.key[:12]):
        judged(tmp_path, teacher.store.root, "z").run("evaluation")


def test_mixed_labels_say_who_gave_them(tmp_path: Path, store_root: Path) -> None:
    mixed = pipeline(tmp_path, store_root, "feedback=mixed", "judge=simulated", "feedback.human_share=0.5")
    labels = read_table(mixed.preferences.path / "labels.parquet")
    people = [row for row in labels if row[LABELLER] == "people"]
    metrics = mixed.preferences.metrics
    assert metrics["labelled_by"] == {"ai": len(labels) - len(people), "people": len(people)}
    assert len(people) == round(0.5 * len(labels))
    assert metrics["usage"]["human_labels"] == 3 * len(people)
