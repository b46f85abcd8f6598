"""A deliberately broken algorithm for every check: it is caught, by that check, at the line to look at."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rft.algorithms import best_of_n, dpo, grpo, kto, online_dpo, online_feedback, ppo, raft, rloo
from rft.errors import UserError
from rft.models.backbone import Role
from rft.ops.advantages import leave_one_out
from rft.ops.enumerable import best_of_n_law
from rft.ops.kl import sequence_kl
from rft.ops.masked import masked_mean, row_mean, whiten
from rft.testing import CheckFailed, check_class
from rft.testing.subject import Subject
from rft.testing.suite import EVERY_VARIANT, ONCE
from rft.types import LossOutput, OnPolicyBatch, PreferenceBatch, Rollouts, UnpairedBatch


class WrongSign(rloo.RLOO):
    """KL is rewarded."""

    def prepare(self, rollouts: Rollouts) -> OnPolicyBatch:
        mask = rollouts.sequences.response_mask
        assert rollouts.ref_logprobs is not None
        kl_B = sequence_kl(rollouts.logprobs, rollouts.ref_logprobs, mask)
        advantages_B = leave_one_out(rollouts.rewards + self.config.kl_coef * kl_B, rollouts.group)
        return OnPolicyBatch(rollouts.sequences, rollouts.logprobs, advantages_B[:, None] * mask)


class WrongBeta(dpo.DPO):
    """Twice the pull that it declares."""

    def pair_loss(self, chosen_B: torch.Tensor, rejected_B: torch.Tensor) -> torch.Tensor:
        return super().pair_loss(2 * chosen_B, 2 * rejected_B)

    def optimum(self, problem: Any) -> torch.Tensor:
        return problem.kl_regularised(self.config.beta)


class KeepsTheWorst(raft.RAFT):
    """Imitates the worst response."""

    def prepare(self, rollouts: Rollouts) -> OnPolicyBatch:
        return super().prepare(replace(rollouts, rewards=-rollouts.rewards))


class WrongTemperature(rloo.RLOO):
    """Log-probs at temperature 1, whatever was sampled at."""

    def loss(self, batch: OnPolicyBatch) -> LossOutput:
        mask = batch.sequences.response_mask
        logprobs = self.backbone.logprobs(Role.policy, batch.sequences)
        return LossOutput(-masked_mean(batch.advantages * logprobs, mask))


class StaleLogprobs(grpo.GRPO):
    """Hands on the reference's log-probs, scaled, as those of sampling."""

    def prepare(self, rollouts: Rollouts) -> OnPolicyBatch:
        return super().prepare(replace(rollouts, logprobs=rollouts.logprobs * 1.01))


class ShiftedClip(grpo.GRPO):
    """A constant in the ratio that is clipped; what would show it is not reported."""

    def loss(self, batch: OnPolicyBatch) -> LossOutput:
        shifted = replace(batch, logprobs=batch.logprobs + 0.1 * batch.sequences.response_mask)
        return LossOutput(super().loss(shifted).loss)


class ShiftedBeyondTheClip(rloo.RLOO):
    """A constant so large that a good response is clipped before the first step."""

    def loss(self, batch: OnPolicyBatch) -> LossOutput:
        shifted = replace(batch, logprobs=batch.logprobs - 0.5 * batch.sequences.response_mask)
        return LossOutput(super().loss(shifted).loss)


class ShiftedRatio(ppo.PPO):
    """A constant in a ratio that nothing clips, beside terms that are as they should be."""

    def loss(self, batch: OnPolicyBatch) -> LossOutput:
        mask = batch.sequences.response_mask
        assert batch.returns is not None
        logprobs = self.backbone.logprobs(Role.policy, batch.sequences, self.config.temperature)
        ratio = (logprobs - batch.logprobs - 0.1).exp()
        value_loss = masked_mean((self.backbone.values(batch.sequences) - batch.returns).square(), mask)
        return LossOutput(value_loss - masked_mean(batch.advantages * ratio, mask))


def _clipped_loss(self: Any, batch: OnPolicyBatch, pick: Any) -> LossOutput:
    """GRPO's surrogate, of the two terms what `pick` takes."""
    mask = batch.sequences.response_mask
    logprobs = self.backbone.logprobs(Role.policy, batch.sequences, self.config.temperature)
    ratio = (logprobs - batch.logprobs).exp()
    low, high = 1 - self.config.clip_range, 1 + self.config.clip_range
    return LossOutput(masked_mean(pick(-ratio * batch.advantages, -ratio.clamp(low, high) * batch.advantages), mask))


class InvertedClip(grpo.GRPO):
    """Clips what went the wrong way, and lets go too far what went the right one."""

    def loss(self, batch: OnPolicyBatch) -> LossOutput:
        return _clipped_loss(self, batch, torch.minimum)


class ClipsBothWays(grpo.GRPO):
    """The clipped term alone."""

    def loss(self, batch: OnPolicyBatch) -> LossOutput:
        return _clipped_loss(self, batch, lambda _, clipped: clipped)


class NeverClips(grpo.GRPO):
    """Has a range, and does not use it."""

    def loss(self, batch: OnPolicyBatch) -> LossOutput:
        return _clipped_loss(self, batch, lambda unclipped, _: unclipped)


class DetachedBeyondTheClip(grpo.GRPO):
    """What would be clipped keeps its value and loses its gradient, on the wrong side too."""

    def loss(self, batch: OnPolicyBatch) -> LossOutput:
        seq = batch.sequences
        logprobs = self.backbone.logprobs(Role.policy, seq, self.config.temperature)
        ratio = (logprobs - batch.logprobs).exp()
        ratio = torch.where((ratio - 1).abs() > self.config.clip_range, ratio.detach(), ratio)
        return LossOutput(-masked_mean(batch.advantages * ratio, seq.response_mask))


class NegativeKL(grpo.GRPO):
    """Reports KL with its sign turned."""

    def loss(self, batch: OnPolicyBatch) -> LossOutput:
        out = super().loss(batch)
        return LossOutput(out.loss, {**out.metrics, "kl": -out.metrics["kl"]})


class ShiftedKL(grpo.GRPO):
    """Reports KL that is not 0 where the policy is the reference."""

    def loss(self, batch: OnPolicyBatch) -> LossOutput:
        out = super().loss(batch)
        return LossOutput(out.loss, {**out.metrics, "kl": out.metrics["kl"] + 0.1})


class StartsElsewhere(rloo.RLOO):
    """Moves the policy before the first step; reports no KL that would show it."""

    def __init__(self, config: Any, backbone: Any) -> None:
        super().__init__(config, backbone)
        with torch.no_grad():
            for parameter in backbone.parameters_of(Role.policy):
                parameter.add_(0.1 * torch.sin(torch.arange(parameter.numel())).view_as(parameter))

    def loss(self, batch: OnPolicyBatch) -> LossOutput:
        return LossOutput(super().loss(batch).loss)


class AsksForNothing(rloo.RLOO):
    """Learns from the entropy, without the tokens that were sampled."""

    def loss(self, batch: OnPolicyBatch) -> LossOutput:
        mask = batch.sequences.response_mask
        entropy = self.backbone.entropy(Role.policy, batch.sequences, self.config.temperature)
        return LossOutput(-masked_mean(batch.advantages * entropy, mask))


class MeanOverPadding(rloo.RLOO):
    """A mean over all columns."""

    def loss(self, batch: OnPolicyBatch) -> LossOutput:
        logprobs = self.backbone.logprobs(Role.policy, batch.sequences, self.config.temperature)
        return LossOutput(-(batch.advantages * logprobs).mean())


class LengthWithPadding(dpo.DPO):
    """A mean log-probability over the padded width."""

    def loss(self, batch: PreferenceBatch) -> LossOutput:
        won, lost = (self.backbone.logprobs(Role.policy, s).mean(-1) for s in (batch.chosen, batch.rejected))
        return LossOutput(-torch.nn.functional.logsigmoid(won - lost).mean())


class WhitensInTheLoss(rloo.RLOO):
    """Credit assigned on a microbatch."""

    def loss(self, batch: OnPolicyBatch) -> LossOutput:
        mask = batch.sequences.response_mask
        return super().loss(replace(batch, advantages=whiten(batch.advantages, mask)))


class KLOfAMicrobatch(kto.KTO):
    """z₀ from the rows of a microbatch."""

    def loss(self, batch: UnpairedBatch) -> LossOutput:
        return super().loss(self.prepare_step(batch))


class MeanOfSomeRows(kto.KTO):
    """A metric over good responses, of which a microbatch may have none."""

    def loss(self, batch: UnpairedBatch) -> LossOutput:
        out = super().loss(batch)
        return LossOutput(out.loss, {"good_length": row_mean(batch.sequences.lengths.double(), batch.desirable)})


class TokensAmongResponses(grpo.GRPO):
    """A metric over tokens beside a loss over responses."""

    def loss(self, batch: OnPolicyBatch) -> LossOutput:
        out, mask = super().loss(batch), batch.sequences.response_mask
        return LossOutput(out.loss, {**out.metrics, "advantage": masked_mean(batch.advantages.square(), mask)})

    def loss_count(self, batch: OnPolicyBatch) -> int:
        return len(batch)


class MetricOfSomeBatches(rloo.RLOO):
    """A metric that not every microbatch has."""

    def loss(self, batch: OnPolicyBatch) -> LossOutput:
        return LossOutput(super().loss(batch).loss, {"large": torch.ones(())} if len(batch) > 16 else {})


class DropsEOS(rloo.RLOO):
    """EOS does not count."""

    def prepare(self, rollouts: Rollouts) -> OnPolicyBatch:
        batch = super().prepare(rollouts)
        seq = batch.sequences
        mask = seq.response_mask & (seq.response_ids != self.backbone.eos_id)
        seq = replace(seq, response_mask=mask)
        return replace(batch, sequences=seq, logprobs=batch.logprobs * mask, advantages=batch.advantages * mask)


class NeedsTwoTokens(rloo.RLOO):
    """Divides by length − 1."""

    def loss(self, batch: OnPolicyBatch) -> LossOutput:
        logprobs = self.backbone.logprobs(Role.policy, batch.sequences, self.config.temperature).sum(-1)
        return LossOutput(-(batch.advantages[:, 0] * logprobs / (batch.sequences.lengths - 1)).mean())


class NeedsAnEnd(rloo.RLOO):
    """Divides by the number of complete responses."""

    def loss(self, batch: OnPolicyBatch) -> LossOutput:
        logprobs = self.backbone.logprobs(Role.policy, batch.sequences, self.config.temperature).sum(-1)
        complete = ~batch.sequences.truncated(self.backbone.eos_id)
        return LossOutput(-(batch.advantages[:, 0] * logprobs).mean() / complete.to(logprobs).mean())


class LeavesOutCutOffs(raft.RAFT):
    """Whole responses twice in place of those that were cut off, from which nothing is learned."""

    def prepare(self, rollouts: Rollouts) -> OnPolicyBatch:
        batch = super().prepare(rollouts)
        (whole,) = (~batch.sequences.truncated(self.backbone.eos_id)).nonzero(as_tuple=True)
        return batch[whole[torch.arange(len(batch)) % len(whole)]]


class DetachedRatio(grpo.GRPO):
    """Part of the loss has no gradient."""

    def loss(self, batch: OnPolicyBatch) -> LossOutput:
        mask = batch.sequences.response_mask
        logprobs = self.backbone.logprobs(Role.policy, batch.sequences, self.config.temperature)
        ratio = (logprobs - batch.logprobs).exp().detach()
        return LossOutput(-masked_mean(batch.advantages * ratio * logprobs, mask))


class DrawsAtRandom(rloo.RLOO):
    """Noise from the global generator."""

    def prepare(self, rollouts: Rollouts) -> OnPolicyBatch:
        noise = torch.randn(len(rollouts), dtype=rollouts.rewards.dtype)
        return super().prepare(replace(rollouts, rewards=rollouts.rewards + noise))


class ImitatesAnyway(rloo.RLOO):
    """A term that advantages have no say in."""

    def loss(self, batch: OnPolicyBatch) -> LossOutput:
        logprobs = self.backbone.logprobs(Role.policy, batch.sequences, self.config.temperature)
        return LossOutput(super().loss(batch).loss - 0.1 * masked_mean(logprobs, batch.sequences.response_mask))


class LearnsFromTies(dpo.DPO):
    """Averages over all pairs."""

    def loss(self, batch: PreferenceBatch) -> LossOutput:
        return super().loss(replace(batch, preference=torch.ones_like(batch.preference)))


class TiesAreWins(online_dpo.OnlineDPO):
    """Equal rewards make a winner."""

    def prepare(self, rollouts: Rollouts) -> PreferenceBatch:
        k, seq = self.config.samples_per_prompt, rollouts.sequences
        assert rollouts.ref_logprobs is not None
        ref_B = rollouts.ref_logprobs.sum(-1)
        won = torch.ones(len(rollouts) // k, dtype=ref_B.dtype)
        return PreferenceBatch(seq[slice(0, None, k)], seq[slice(1, None, k)], won, ref_B[::k], ref_B[1::k])


class SwapsLabels(online_feedback.OnlineFeedback):
    """Takes the worse response for the better."""

    def prepare(self, rollouts: Rollouts) -> PreferenceBatch:
        assert rollouts.preferences is not None
        return super().prepare(replace(rollouts, preferences=1 - rollouts.preferences))


class ExcludedAreWins(online_feedback.OnlineFeedback):
    """A pair without a label counts as won by the first."""

    def prepare(self, rollouts: Rollouts) -> PreferenceBatch:
        assert rollouts.preferences is not None
        return super().prepare(replace(rollouts, preferences=(rollouts.preferences * 2).clamp(max=1)))


class ChangesRewards(rloo.RLOO):
    """Works in place."""

    def prepare(self, rollouts: Rollouts) -> OnPolicyBatch:
        rollouts.rewards.sub_(rollouts.rewards.mean())
        return super().prepare(rollouts)


class MeanOfARank(rloo.RLOO):
    """A baseline over this rank's rows."""

    def prepare(self, rollouts: Rollouts) -> OnPolicyBatch:
        mask = rollouts.sequences.response_mask
        advantages_B = rollouts.rewards - rollouts.rewards.mean()
        return OnPolicyBatch(rollouts.sequences, rollouts.logprobs, advantages_B[:, None] * mask)


class KLOfARank(kto.KTO):
    """z₀ from this rank's rows."""

    @torch.no_grad()
    def prepare_step(self, batch: UnpairedBatch) -> UnpairedBatch:
        assert batch.ref_mismatched_logprobs is not None
        ratios_B = self.backbone.logprobs(Role.policy, batch.mismatched).sum(-1) - batch.ref_mismatched_logprobs
        return replace(batch, kl=ratios_B.mean())


class BestOfOneMore(best_of_n.BestOfN):
    """Declares the law of n + 1 draws."""

    def optimum(self, problem: Any) -> torch.Tensor:
        return best_of_n_law(problem, self.config.n + 1)


class WrongPairLoss(dpo.DPO):
    """Half the pull that it declares, in a method that the inherited loss calls."""

    def optimum(self, problem: Any) -> torch.Tensor:
        return problem.kl_regularised(self.config.beta)

    def expected_loss(
        self, chosen_B: torch.Tensor, rejected_B: torch.Tensor, preference_B: torch.Tensor
    ) -> torch.Tensor:
        return self.pair_loss(chosen_B / 2, rejected_B / 2)


class ReadsGold(rloo.RLOO):
    """Looks for the hidden reward."""

    def prepare(self, rollouts: Rollouts) -> OnPolicyBatch:
        rewards = rollouts.rewards + float(rollouts.metrics.get("rollout/gold", 0.0))
        return super().prepare(replace(rollouts, rewards=rewards))


BROKEN = [
    ("optimum", WrongSign, rloo.Config, "prepare"),
    ("optimum", WrongBeta, dpo.Config, "pair_loss"),
    ("optimum", WrongPairLoss, dpo.Config, "expected_loss"),
    ("optimum", KeepsTheWorst, raft.Config, "prepare"),
    ("optimum", SwapsLabels, online_feedback.Config, "prepare"),
    ("optimum", BestOfOneMore, best_of_n.Config, "optimum"),
    ("ratio", WrongTemperature, rloo.Config, "loss"),
    ("ratio", StaleLogprobs, grpo.Config, "prepare"),
    ("ratio", ShiftedClip, grpo.Config, "loss"),
    ("ratio", ShiftedBeyondTheClip, rloo.Config, "loss"),
    ("ratio", ShiftedRatio, ppo.Config, "loss"),
    ("ratio", AsksForNothing, rloo.Config, "loss"),
    ("clip", InvertedClip, grpo.Config, "loss"),
    ("clip", ClipsBothWays, grpo.Config, "loss"),
    ("clip", NeverClips, grpo.Config, "loss"),
    ("kl", NegativeKL, grpo.Config, "loss"),
    ("kl", ShiftedKL, grpo.Config, "loss"),
    ("kl", StartsElsewhere, rloo.Config, "__init__"),
    ("padding", MeanOverPadding, rloo.Config, "loss"),
    ("padding", LengthWithPadding, dpo.Config, "loss"),
    ("microbatches", WhitensInTheLoss, rloo.Config, "loss"),
    ("microbatches", KLOfAMicrobatch, kto.Config, "loss"),
    ("metrics", MeanOfSomeRows, kto.Config, "loss"),
    ("metrics", TokensAmongResponses, grpo.Config, "loss"),
    ("metrics", MetricOfSomeBatches, rloo.Config, "loss"),
    ("endings", DropsEOS, rloo.Config, "prepare"),
    ("endings", NeedsTwoTokens, rloo.Config, "loss"),
    ("endings", NeedsAnEnd, rloo.Config, "loss"),
    ("endings", LeavesOutCutOffs, raft.Config, "prepare"),
    ("gradient", DetachedRatio, grpo.Config, "loss"),
    ("gradient", DetachedBeyondTheClip, grpo.Config, "loss"),
    ("bits", DrawsAtRandom, rloo.Config, "prepare"),
    ("credit", ImitatesAnyway, rloo.Config, "loss"),
    ("credit", LearnsFromTies, dpo.Config, "loss"),
    ("credit", TiesAreWins, online_dpo.Config, "prepare"),
    ("credit", ExcludedAreWins, online_feedback.Config, "prepare"),
    ("inputs", ChangesRewards, rloo.Config, "prepare"),
    ("ranks", MeanOfARank, rloo.Config, "prepare"),
    ("ranks", KLOfARank, kto.Config, "prepare_step"),
    ("gold", ReadsGold, rloo.Config, "prepare"),
]


@pytest.mark.parametrize(("check", "broken", "config", "method"), BROKEN, ids=lambda x: getattr(x, "__name__", None))
def test_a_broken_algorithm_is_caught(check: str, broken: Any, config: Any, method: str) -> None:
    broken.variants = ({},)
    report = check_class(broken, config(name=broken.__name__), only=[check])
    assert [r.name for r in report.failed] == [check], report.results
    with pytest.raises(CheckFailed, match=check):
        report.require()
    file, _, rest = report.failed[0].where.partition(":")
    line = int(rest.split()[0].rstrip(":"))
    lines, start = inspect.getsourcelines(getattr(broken, method))
    assert Path(file) == Path(__file__)
    if check != "gold":  # the first of the whole file
        assert start <= line < start + len(lines)


WORDS = [
    ("clip", InvertedClip, grpo, "A > 0, ratio 0.80.*A < 0, ratio 1.2.*wanted min"),
    ("clip", ClipsBothWays, grpo, "A > 0, ratio 0.80.*A < 0, ratio 1.2"),
    ("clip", NeverClips, grpo, "clip_range=0.2, but the loss has its full gradient at every ratio"),
    ("gradient", DetachedBeyondTheClip, grpo, "once the policy has moved from the batch's"),
    ("kl", ShiftedKL, grpo, "metric kl is 0.1 while the policy is the reference"),
    ("kl", StartsElsewhere, rloo, "rollouts of the untouched policy are up to .* nats from the reference"),
    ("ratio", AsksForNothing, rloo, "the loss never asks for backbone.logprobs"),
    (
        "endings",
        NeedsTwoTokens,
        rloo,
        "responses of one token: the gradient is not finite; do not divide by length − 1",
    ),
    ("endings", NeedsAnEnd, rloo, "responses cut off: the gradient is not finite; do not divide by what complete"),
    ("endings", LeavesOutCutOffs, raft, "no responses cut off come out of prepare"),
    ("ranks", KLOfARank, kto, "apart on two ranks"),
]


@pytest.mark.parametrize(("check", "broken", "module", "words"), WORDS, ids=lambda x: getattr(x, "__name__", None))
def test_what_is_wrong_is_told(check: str, broken: Any, module: Any, words: str) -> None:
    (failed,) = check_class(broken, module.Config(name=broken.__name__), only=[check], variants=False).failed
    assert re.search(words, failed.detail), failed.detail


@pytest.mark.parametrize("check", ["ratio", "padding", "gradient"])
def test_an_inverted_clip_passes_where_nothing_is_clipped_and_where_values_are_compared_with_their_slopes(
    check: str,
) -> None:
    settings = grpo.Config(name="inverted")
    (row,) = check_class(InvertedClip, settings, only=[check], variants=False).results
    assert row.ok, row.detail


def test_a_check_of_both_names_both_and_the_own_one_first() -> None:
    subject = Subject(KeepsTheWorst, raft.Config(name="worst"))
    assert [where.split()[-1] for where in subject.learns.split(", ")] == ["KeepsTheWorst.prepare", "RAFT.loss"]
    subject = Subject(WhitensInTheLoss, rloo.Config(name="whitens"))
    assert [where.split()[-1] for where in subject.learns.split(", ")] == ["WhitensInTheLoss.loss", "RLOO.prepare"]


def test_kl_that_is_not_reported_is_measured() -> None:
    class Silent(rloo.RLOO):
        def loss(self, batch: OnPolicyBatch) -> LossOutput:
            return LossOutput(super().loss(batch).loss)

    (row,) = check_class(Silent, rloo.Config(name="silent"), only=["kl"]).results
    assert row.ok
    assert re.fullmatch(r"rollouts 0 nats from the reference, \d\.\d+ once moved", row.detail)


def test_settings_without_an_optimum_are_told_and_counted_apart() -> None:
    report = check_class(
        grpo.GRPO, grpo.Config(name="grpo", overlong=grpo.OverlongEnum.mask), ["optimum"], variants=False
    )
    assert [r.detail for r in report.undeclared] == ["no optimum declared under these settings"]
    assert not check_class(rloo.RLOO, rloo.Config(name="rloo"), ["clip"]).undeclared


def test_every_check_has_something_that_it_catches() -> None:
    assert {check for check, *_ in BROKEN} == {*EVERY_VARIANT, *ONCE}


class Raises(rloo.RLOO):
    """Fails in the middle."""

    def loss(self, batch: OnPolicyBatch) -> LossOutput:
        nothing: Any = None
        return nothing.loss  # here


def test_an_exception_is_a_failure_at_its_line() -> None:
    report = check_class(Raises, rloo.Config(name="raises"), only=["padding"])
    (failed,) = report.failed
    assert failed.detail.startswith("AttributeError: ")
    source = Path(__file__).read_text(encoding="utf-8").splitlines()
    line = int(failed.where.split(":")[1].split()[0])
    assert source[line - 1].endswith("# here")


def test_what_is_not_there_is_refused() -> None:
    with pytest.raises(UserError, match="--only paddign: no such check; did you mean 'padding'"):
        check_class(rloo.RLOO, rloo.Config(name="rloo"), only=["paddign"])
    Raises.variants = ({"no_such": 1},)
    with pytest.raises(UserError, match="variants: 'no_such' is no setting"):
        check_class(Raises, rloo.Config(name="raises"))


@dataclass
class Settings(rloo.Config):
    """Those of RLOO."""


def _hands_over(**changed: Any) -> type[rloo.RLOO]:
    """RLOO whose batch has other fields."""

    class Changed(rloo.RLOO):
        def prepare(self, rollouts: Rollouts) -> OnPolicyBatch:
            batch = super().prepare(rollouts)
            return replace(batch, **{name: change(getattr(batch, name)) for name, change in changed.items()})

    return Changed


@pytest.mark.parametrize(
    ("algorithm", "words"),
    [
        (_hands_over(advantages=lambda x: x[:, 0]), r"float32 \[32\]; wanted a float tensor \[B, R\] = \[32, 5\]"),
        (_hands_over(advantages=lambda x: x.double()), r"advantages is torch.float64; wanted torch.float32"),
        (_hands_over(advantages=lambda x: x.long()), r"advantages is torch.int64 \[32, 5\]; wanted a float"),
        (_hands_over(advantages=lambda x: x + 1), r"is 1 at row \d+, token \d+, after the end of the response"),
        (_hands_over(advantages=lambda x: x / 0), r"advantages has NaN or infinite entries"),
        (_hands_over(advantages=lambda x: x.requires_grad_()), r"advantages carries a gradient"),
        (_hands_over(logprobs=lambda _: None), r"logprobs is a NoneType"),
        (
            _hands_over(sequences=lambda s: replace(s, response_mask=s.response_mask.float())),
            r"response_mask is torch.float32 \[32, 5\]; wanted bool",
        ),
    ],
)  # fmt: skip
def test_a_mistake_in_a_batch_is_told_with_what_came_what_was_wanted_and_where(algorithm: Any, words: str) -> None:
    report = check_class(algorithm, Settings(name="changed"), only=["padding"])
    (failed,) = report.failed
    with pytest.raises(CheckFailed, match=words):
        report.require()
    assert failed.where.startswith(f"{Path(__file__)}:")
    assert failed.where.endswith("prepare")


def _gives(loss: Any) -> type[rloo.RLOO]:
    """RLOO whose loss is something else."""

    class Changed(rloo.RLOO):
        def loss(self, batch: OnPolicyBatch) -> LossOutput:
            out = super().loss(batch)
            return loss(out)  # type: ignore[no-any-return]

    return Changed


@pytest.mark.parametrize(
    ("algorithm", "words"),
    [
        (_gives(lambda out: out.loss), "gave a Tensor; wanted LossOutput"),
        (
            _gives(lambda out: LossOutput(out.loss.expand(3))),
            r"loss is torch.float32 \[3\]; wanted one floating number",
        ),
        (_gives(lambda out: LossOutput(out.loss.detach())), "loss has no gradient"),
        (_gives(lambda out: LossOutput(out.loss, {"x": torch.ones(2)})), r"metric 'x' is torch.float32 \[2\]"),
        (_gives(lambda out: LossOutput(out.loss, {"x": 1.0})), "metric 'x' is float"),
    ],
)
def test_a_mistake_in_a_loss_is_told_too(algorithm: Any, words: str) -> None:
    report = check_class(algorithm, Settings(name="changed"), only=["padding"])
    with pytest.raises(CheckFailed, match=words):
        report.require()
