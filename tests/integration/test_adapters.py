"""The way of the default study, on a small model: adapters on frozen lower layers, in bf16."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rft.budget.stages import usage_of
from rft.config import compose
from rft.data.offline import load_answers, reference_logprobs
from rft.models.backbone import Backbone
from rft.rollout import engine
from rft.rollout.structure import UnknownStructureError
from rft.store import Store
from rft.study.fixed_answers import read_reference, with_kept_trunk
from rft.study.pipeline import Pipeline
from rft.study.training import make_backbone
from rft.types import Sequences
from tests.integration.harness import LORA, OF, TINY, Warm

# The first of the group to run waits for the sweep that all share.
pytestmark = [pytest.mark.assets, pytest.mark.xdist_group(__name__), pytest.mark.timeout(900)]


def digests(store: Path) -> dict[str, str]:
    """What is in each entry of a store but the assets."""
    manifests = {path.parent.relative_to(store): path for path in store.glob("*/*/manifest.json")}
    return {
        str(name): json.loads(path.read_text(encoding="utf-8"))["digest"]
        for name, path in manifests.items()
        if name.parts[0] != "asset"
    }


@pytest.mark.slow
def test_two_stores_come_to_the_same_bits_from_the_start_policy_on(
    adapted: Path, shared: Path, warm: Warm, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    # One store has the shared stages of these settings; in the other they are made anew, by two other processes.
    for store in (adapted, shared):
        for name in ("ppo", "dpo"):
            command = ["run", *OF[name], "until=policy", "tracker=none", *TINY, *LORA]
            outcome = warm(command, tmp_path, store)
            assert outcome.code == 0, outcome.stderr
    again = digests(shared)
    assert again.items() <= digests(adapted).items()
    policies = [shared / name for name in again if name.startswith("policy/")]
    assert len(policies) == 2
    for policy in policies:
        trained = load_file(policy / "policy.safetensors")
        # Of the two layers the upper one alone is adapted.
        assert trained
        assert all(".layers.1." in name and ".lora_" in name for name in trained)
        assert any(bool(weight.ne(0).any()) for name, weight in trained.items() if ".lora_B." in name)


def test_the_first_minibatch_changes_no_ratio_in_half_precision_from_the_trunk(
    adapted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from rft.config import compose
    from rft.data.on_policy import RolloutStream
    from rft.store import Store
    from rft.study.pipeline import Pipeline
    from rft.types import Rollouts

    trunks: list[torch.Tensor | None] = []
    collect = RolloutStream.collect

    def collect_and_note(self: RolloutStream, iteration: int) -> Rollouts:
        rollouts = collect(self, iteration)
        trunks.append(rollouts.sequences.trunk)
        return rollouts

    monkeypatch.setattr(RolloutStream, "collect", collect_and_note)
    # One pass of one minibatch an iteration: each row of the history is a first minibatch.
    one = ["algorithm=ppo", "algorithm.minibatches=1", "algorithm.iterations=3"]
    entry = Pipeline(compose([*one, *TINY, *LORA]), Store(adapted), tmp_path).policy

    assert entry is not None
    assert len(trunks) == 3
    assert all(trunk is not None and trunk.dtype is torch.bfloat16 for trunk in trunks)
    rows = json.loads((entry.path / "history.json").read_text(encoding="utf-8"))
    assert len(rows) == 3
    for row in rows:
        assert row["train/ratio"] == 1.0
        assert row["train/clip_fraction"] == 0.0
        assert row["train/update_kl"] == 0.0
    # The adapters start as nothing and then do something.
    assert rows[0]["rollout/kl"] == 0.0
    assert all(row["rollout/kl"] != 0.0 for row in rows[1:])


def apart(kept: torch.Tensor, wanted: torch.Tensor) -> float:
    """How far states are from others, in the size of these."""
    return float((kept - wanted).double().norm() / wanted.double().norm())


@pytest.mark.parametrize("at_once", [None, 12])
def test_what_the_frozen_layers_gave_while_the_answers_were_sampled_is_kept(
    adapted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int | None
) -> None:
    settings = ["algorithm=dpo", "tracker=none", *TINY, *LORA]
    if at_once is not None:  # in several parts
        monkeypatch.setattr("rft.study.shared.rows_at_once", lambda _: at_once)
        settings.append("candidates.seed=12")
    pipeline = Pipeline(compose(settings), Store(adapted), tmp_path)
    backbone, _ = make_backbone(pipeline.sft.path, pipeline.strategy, pipeline.lora, roles=())
    answers, depth = load_answers(pipeline.candidates.path, backbone.pad_id), backbone.trunk.depth
    kept = with_kept_trunk(answers, pipeline.candidates.path, depth).trunk
    wanted = backbone.with_trunk(answers).trunk
    assert kept is not None
    assert wanted is not None
    assert kept.dtype is wanted.dtype is torch.bfloat16
    counted = answers.counted
    assert apart(kept[counted], wanted[counted]) < 0.005
    ids = torch.cat([answers.prompt_ids, answers.response_ids], 1)  # what comes into the first layer is far from it
    assert apart(backbone.base.get_input_embeddings()(ids)[counted], wanted[counted]) > 0.02
    assert bool((kept[~counted] == 0).all())
    assert with_kept_trunk(answers, pipeline.candidates.path, depth + 1).trunk is None


def test_what_is_too_large_to_keep_is_not_kept(adapted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("shared", "fixed_answers"):
        monkeypatch.setattr(f"rft.study.{module}.KEPT_BYTES", 4096)
    settings = ["algorithm=dpo", "tracker=none", *TINY, *LORA, "candidates.seed=13"]
    made = Pipeline(compose(settings), Store(adapted), tmp_path).candidates
    assert (made.path / "candidates.parquet").exists()
    assert not list(made.path.glob("trunk*"))


def test_nobody_who_learns_from_the_fixed_answers_passes_them_through_the_frozen_layers(
    adapted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed: list[int] = []
    own = Backbone.with_trunk

    def counted(self: Backbone, seq: Sequences, *rest: int) -> Sequences:
        passed.append(len(seq) if seq.trunk is None else 0)
        return own(self, seq, *rest)

    settings = ["algorithm=dpo", "tracker=none", *TINY, *LORA]
    pipeline = Pipeline(compose([*settings, "reward.seed=11", "seed=11"]), Store(adapted), tmp_path)
    _ = pipeline.reward_inputs
    with monkeypatch.context() as patch:
        patch.setattr(Backbone, "with_trunk", counted)
        made = [pipeline.reward_model, pipeline.policy]
    assert {one.key for one in made if one is not None} <= set(pipeline.store.computed)
    assert set(passed) == {0}
    # The reference passes the upper layers alone, and its log-probs, of some 70 nats, are those of a whole pass.
    backbone, _ = make_backbone(pipeline.sft.path, pipeline.strategy, pipeline.lora, roles=())
    answers = load_answers(pipeline.candidates.path, backbone.pad_id)
    kept = with_kept_trunk(answers, pipeline.candidates.path, backbone.trunk.depth)
    before = backbone.usage.flops
    again, own_logprobs = reference_logprobs(kept, backbone), read_reference(pipeline.reference)
    assert own_logprobs is not None
    assert torch.equal(own_logprobs, again)
    assert usage_of(pipeline.reference["reference"]).flops == backbone.usage.flops - before
    whole = make_backbone(pipeline.sft.path, pipeline.strategy, replace(pipeline.lora, enabled=False), roles=())[0]
    torch.testing.assert_close(own_logprobs, reference_logprobs(answers, whole), rtol=0, atol=1e-2)
    assert whole.usage.flops > 1.2 * (backbone.usage.flops - before)
    # Without adapters there is nothing to keep.
    plain = Pipeline(compose(["algorithm=dpo", *TINY]), Store(adapted), tmp_path).candidates
    assert not list(plain.path.glob("trunk*"))


def test_a_model_that_is_decoded_by_its_own_forward_pass_keeps_it_too(
    adapted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(_: object) -> None:
        raise UnknownStructureError("planted")

    monkeypatch.setattr(engine, "known_structure", unknown)
    pipeline = Pipeline(compose(["tracker=none", *TINY, *LORA, "candidates.seed=11"]), Store(adapted), tmp_path)
    backbone, _ = make_backbone(pipeline.sft.path, pipeline.strategy, pipeline.lora, roles=())
    answers = load_answers(pipeline.candidates.path, backbone.pad_id)
    before = backbone.usage.flops
    kept = with_kept_trunk(answers, pipeline.candidates.path, backbone.trunk.depth).trunk
    wanted = backbone.with_trunk(answers).trunk
    assert kept is not None
    assert wanted is not None
    assert torch.equal(kept[answers.counted], wanted[answers.counted])
    sampling = backbone.flops.decoding(answers.prompt_mask.sum(-1), answers.lengths)
    assert usage_of(pipeline.candidates).flops == pytest.approx(sampling + backbone.usage.flops - before, rel=1e-9)


def test_the_frozen_layers_pass_over_the_human_ratings_once_for_all_reward_models(
    adapted: Path, tmp_path: Path
) -> None:
    import torch

    from rft.config import compose
    from rft.store import Store
    from rft.study.fixed_answers import with_kept_trunk
    from rft.study.pipeline import Pipeline
    from rft.study.rated import RATED_TRUNK, RATINGS, rated_inputs, rated_pairs
    from rft.study.training import make_backbone

    settings = ["algorithm=ppo", "tracker=none", *TINY, *LORA]
    pipeline = Pipeline(compose(settings), Store(adapted), tmp_path)
    other = Pipeline(compose([*settings, "reward.seed=7"]), Store(adapted), tmp_path)
    inputs = rated_inputs(pipeline)
    # What the lowest layers gave is read, not made again: to another trunk another reward model would be measured.
    found = [one.reward_model for one in (pipeline, other)]
    assert {one.inputs[RATED_TRUNK] for one in found} == {inputs[RATED_TRUNK].key}
    assert found[0].key != found[1].key
    backbone, _ = make_backbone(pipeline.sft.path, pipeline.strategy, pipeline.lora, roles=())
    for prompt_tokens in (3, 8):  # it is the same wherever a prompt ends
        snippets, pairs, _ = rated_pairs(inputs[RATINGS], backbone, prompt_tokens)
        assert len(pairs) == 400
        kept = with_kept_trunk(snippets, inputs[RATED_TRUNK].path, backbone.trunk.depth).trunk
        wanted = backbone.with_trunk(snippets).trunk
        assert kept is not None
        assert wanted is not None
        counted = snippets.counted
        torch.testing.assert_close(kept[counted], wanted[counted], rtol=0.02, atol=0.02)
    # It measures and is charged to nobody; a source that passes no layers asks for none.
    assert RATED_TRUNK not in {entry.stage for entry in pipeline.charged}
    rule = Pipeline(compose(["algorithm=ppo", "reward=lexicon", *TINY, *LORA]), Store(adapted), tmp_path)
    assert rated_inputs(rule).keys() == {RATINGS}


@pytest.mark.parametrize("reads", [True, False])
def test_a_source_that_passes_the_reference_is_fitted_beside_it(
    reads: bool, adapted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from rft.config import compose
    from rft.models.backbone import Role
    from rft.rewards.base import Fitting
    from rft.rewards.learned import LearnedReward
    from rft.store import Store
    from rft.study.pipeline import Pipeline
    from rft.study.shared import fit_reward

    found: list[torch.Tensor] = []

    def fit(self: LearnedReward, fitting: Fitting) -> None:
        with torch.no_grad():
            found.append(self.backbone.logprobs(Role.reference, fitting.candidates[slice(0, 2)]))

    monkeypatch.setattr(LearnedReward, "fit", fit)
    monkeypatch.setattr(LearnedReward, "reads_reference", reads)
    settings = ["algorithm=ppo", "tracker=none", *TINY, *LORA]
    pipeline = Pipeline(compose(settings), Store(adapted), tmp_path)
    whole = replace(pipeline.lora, enabled=False)
    inputs = pipeline.reward_inputs
    if reads:
        fit_reward(pipeline.cfg.reward, whole, inputs, pipeline.strategy, {})
        assert torch.isfinite(found[0]).all()
    else:
        with pytest.raises(RuntimeError, match="reads_reference"):
            fit_reward(pipeline.cfg.reward, whole, inputs, pipeline.strategy, {})
