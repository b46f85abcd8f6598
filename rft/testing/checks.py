"""The conformance checks of an algorithm, but for those of its optimum and of ranks.

Dimensions: ``B`` rows, ``R`` tokens.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from rft.models.backbone import Role
from rft.ops.kl import sequence_kl
from rft.testing.clip import clip_direction
from rft.testing.ratio import first_ratio
from rft.testing.subject import NUDGE, SAME, Check, Found, NotApplicableError, Subject, trains
from rft.testing.world import VOCABULARY, World
from rft.types import OnPolicyBatch, PreferenceBatch, Rollouts, Sequences, UnpairedBatch


def _on_policy(subject: Subject) -> None:
    if subject.algorithm.data_kind != "on_policy":
        raise NotApplicableError("it makes no rollouts")


def kl_sign(subject: Subject) -> Found:
    """What an algorithm reports as KL is 0 at the reference and, away from it, not negative in expectation."""
    trains(subject)
    at_start = subject.world()
    start = {k: float(v) for k, v in _kl_metrics(at_start).items()}
    for name, value in start.items():
        if abs(value) > 1e-12:
            return Found(
                False, f"metric {name} is {value:.2g} while the policy is the reference; wanted 0", subject.loses
            )
    moved = subject.world(nudge=NUDGE)
    for name, away in _kl_metrics(moved).items():
        if float(away) < 0:
            return Found(
                False,
                f"metric {name} is {float(away):.2g} away from the reference; KL is not negative: log π − log π_ref, "
                "on the policy's own samples",
                subject.loses,
            )
    reported = f"{', '.join(start)} 0 at first" if start else ""
    if subject.algorithm.data_kind != "on_policy" or "reference" not in subject.algorithm.needs:
        return Found(True, reported or "reports none")
    first = _rollout_kl(at_start)
    if bool(first.ne(0).any()):
        off = float(first.abs().max())
        told = (
            f"rollouts of the untouched policy are up to {off:.2g} nats from the reference; wanted 0: what changed it?"
        )
        return Found(False, told, subject.at("__init__"))
    kl = float(_rollout_kl(moved).mean())
    measured = f"rollouts 0 nats from the reference, {kl:.3f} once moved"
    return Found(kl > 0, f"{reported}; {measured}" if reported else measured, subject.learns)


def _rollout_kl(world: World) -> Tensor:
    """log π − log π_ref of fresh rollouts. Shape [B]."""
    rollouts = world.rollouts()
    assert rollouts.ref_logprobs is not None
    return sequence_kl(rollouts.logprobs, rollouts.ref_logprobs, rollouts.sequences.response_mask)


def _kl_metrics(world: World) -> dict[str, Tensor]:
    metrics = world.algorithm.checked_loss(world.batch()).metrics
    return {name: value for name, value in metrics.items() if name == "kl" or name.endswith("_kl")}


def _longer(seq: Sequences, more: int) -> Sequences:
    """More columns after every response, filled with tokens that must not count."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, VOCABULARY, (len(seq), more), generator=generator)
    return replace(
        seq,
        response_ids=torch.cat([seq.response_ids, ids], 1),
        response_mask=pad(seq.response_mask, (0, more), value=False),
    )


def padded(data: Any, more: int = 3) -> Any:
    """Rollouts or a labelled batch with more columns after every response."""
    if isinstance(data, Rollouts):
        per_token: dict[str, Any] = {
            name: pad(x, (0, more))
            for name, x in (("logprobs", data.logprobs), ("ref_logprobs", data.ref_logprobs), ("values", data.values))
            if x is not None
        }
        return replace(data, sequences=_longer(data.sequences, more), **per_token)
    if isinstance(data, PreferenceBatch):
        return replace(data, chosen=_longer(data.chosen, more), rejected=_longer(data.rejected, more))
    assert isinstance(data, UnpairedBatch)
    return replace(data, sequences=_longer(data.sequences, more), mismatched=_longer(data.mismatched, more))


def _apart(got: Tensor, wanted: Tensor) -> float:
    """Largest difference, relative to the largest entry."""
    return float((got - wanted).abs().max() / wanted.abs().max().clamp(min=1e-12))


def padding(subject: Subject) -> Found:
    """A response padded further gives the same gradient."""
    trains(subject)
    world = subject.world(NUDGE, torch.float32)
    if subject.algorithm.data_kind == "on_policy":
        rollouts = world.rollouts()
        plain, wide = (world.clone().algorithm.assign_credit(r) for r in (rollouts, padded(rollouts)))
        if isinstance(plain, OnPolicyBatch) and isinstance(wide, OnPolicyBatch):
            width = plain.advantages.shape[1]
            gap = _apart(wide.advantages[:, :width], plain.advantages)
            if gap > SAME:
                return Found(
                    False,
                    f"three more columns of padding change the advantages by {gap:.1e}; reduce over response_mask only",
                    subject.prepares,
                )
    else:
        data = world.labelled()
        plain, wide = (world.algorithm.prepare_step(d) for d in (data, padded(data)))
    gap = _apart(world.gradient([wide]), world.gradient([plain]))
    detail = f"gradient {gap:.1e} apart with three more columns"
    return Found(gap <= SAME, f"{detail}; reduce over response_mask only" if gap > SAME else detail, subject.loses)


def microbatches(subject: Subject) -> Found:
    """A minibatch in one piece, in two and in four accumulated ones gives the same gradient."""
    trains(subject)
    whole = subject.world(NUDGE, torch.float32)
    wanted = whole.gradient(whole.microbatches(1))
    worst = 0.0
    for parts in (2, 4):
        world = subject.world(NUDGE, torch.float32)
        worst = max(worst, _apart(world.gradient(world.microbatches(parts), parts), wanted))
    detail = f"gradient {worst:.1e} apart in 2 and 4 microbatches"
    mend = "; the loss must be a mean over what loss_count counts and know no other rows: assign credit in prepare"
    return Found(worst <= SAME, detail if worst <= SAME else detail + mend, subject.loses)


def metrics(subject: Subject) -> Found:
    """Every metric's weighted mean over two and four microbatches is its value over one."""
    trains(subject)
    wanted = _mean_metrics(subject, 1)
    worst = 0.0
    for parts in (2, 4):
        found = _mean_metrics(subject, parts)
        if set(found) != set(wanted):
            names = ", ".join(sorted(set(found) ^ set(wanted)))
            return Found(False, f"metric {names} comes with some microbatches only; report the same", subject.loses)
        for name, value in wanted.items():
            gap = abs(found[name] - value) / max(abs(value), 1e-6)
            if not gap <= SAME:
                return Found(
                    False,
                    f"metric {name} is {found[name]:.6g} in {parts} microbatches and {value:.6g} in one; metrics are "
                    "weighted as the loss is: take a mean over what loss_count counts",
                    subject.loses,
                )
            worst = max(worst, gap)
    return Found(True, f"{worst:.1e} apart in 2 and 4 microbatches" if wanted else "reports none")


def _mean_metrics(subject: Subject, parts: int) -> dict[str, float]:
    """As training logs them, on a policy that has moved since credit was assigned."""
    world = subject.world(nudge=NUDGE)
    batches = list(world.microbatches(parts))
    world.nudge(NUDGE)
    total: dict[str, float] = {}
    for batch in batches:
        for name, value in world.algorithm.checked_loss(batch).metrics.items():
            total[name] = total.get(name, 0.0) + float(value.detach()) * batch.weight / parts
    return total


ENDINGS = {
    "of one token": "do not divide by length − 1",
    "cut off": "do not divide by what complete responses alone have",
    "with EOS": "do not divide by what cut-off responses alone have",
}


def endings(subject: Subject) -> Found:
    """EOS counts, what follows it does not; responses of one token and cut-off ones give finite numbers."""
    trains(subject)
    world = subject.world(nudge=NUDGE)
    batch = world.batch()
    seq = batch.chosen if isinstance(batch, PreferenceBatch) else batch.sequences
    cut = seq.truncated(world.backbone.eos_id)
    kinds = dict(zip(ENDINGS, (seq.lengths == 1, cut, ~cut), strict=True))
    if isinstance(batch, OnPolicyBatch):
        rollouts = world.rollouts()
        ended = ~rollouts.truncated
        if len(rollouts) == len(batch):
            lost = rollouts.sequences.response_mask[ended] & ~seq.response_mask[ended]
            if bool(lost.any()):
                return Found(
                    False,
                    "tokens of complete responses no longer count; EOS is the last counted token",
                    subject.prepares,
                )
    for kind, rows in kinds.items():
        if not bool(rows.any()):
            return Found(
                False, f"no responses {kind} come out of prepare; they are to be learned from", subject.prepares
            )
        gradient = world.any_gradient([batch[rows]])
        if not bool(torch.isfinite(gradient).all()):
            return Found(False, f"responses {kind}: the gradient is not finite; {ENDINGS[kind]}", subject.loses)
    return Found(True, f"{int(kinds['of one token'].sum())} of one token, {int(kinds['cut off'].sum())} cut off")


def finite_differences(subject: Subject) -> Found:
    """The gradient agrees with differences of the loss, in float64, in three directions.

    At the policy that the batch was drawn from, and where it has moved since, so that clips are at work.
    """
    trains(subject)
    world = subject.world(nudge=NUDGE)
    batch = world.batch()
    at_first = _slope_error(world, batch)
    world.nudge(NUDGE)
    moved = _slope_error(world, batch)
    worst = max(at_first, moved)
    if worst < 1e-4:
        return Found(True, f"slope {worst:.1e} apart")
    where = "" if at_first >= 1e-4 else " once the policy has moved from the batch's"
    return Found(
        False, f"slope {worst:.1e} apart{where}; something in the loss is detached, or changed in place", subject.loses
    )


def _slope_error(world: World, batch: Any) -> float:
    """The largest relative difference between slopes of the loss and those that its gradient claims."""
    gradient = world.gradient([batch])
    parameters = world.parameters()
    generator = torch.Generator().manual_seed(2)
    worst, step = 0.0, 1e-6
    for _ in range(3):
        direction = torch.randn(gradient.shape, generator=generator, dtype=gradient.dtype)
        direction /= direction.norm()
        ends = []
        for sign in (1, -1):
            _move(parameters, direction * (sign * step))
            ends.append(float(world.algorithm.loss(batch).loss.detach()))
            _move(parameters, direction * (-sign * step))
        slope, claimed = (ends[0] - ends[1]) / (2 * step), float(gradient @ direction)
        worst = max(worst, abs(slope - claimed) / max(abs(slope), abs(claimed), 1e-6))
    return worst


def _move(parameters: list[torch.nn.Parameter], by: Tensor) -> None:
    start = 0
    with torch.no_grad():
        for p in parameters:
            p.add_(by[start : start + p.numel()].view_as(p))
            start += p.numel()


def same_bits(subject: Subject) -> Found:
    """Three steps from the same seed end with the same bits, wherever torch's own generator stands."""
    trains(subject)
    ends = []
    for state in (1, 2):
        torch.manual_seed(state)
        world = subject.world()
        optimizer = torch.optim.SGD(world.parameters(), lr=0.05)
        for _ in range(3):
            optimizer.zero_grad()
            for batch in world.microbatches(1):
                (world.algorithm.checked_loss(batch).loss * batch.weight).backward()
            optimizer.step()
        ends.append(torch.cat([p.detach().flatten() for p in world.parameters()]))
    same = torch.equal(*ends)
    mend = f"weights {float((ends[0] - ends[1]).abs().max()):.1e} apart; draw nothing at random, or from the seed alone"
    return Found(same, "equal" if same else mend, subject.prepares)


def no_credit_no_update(subject: Subject) -> Found:
    """A batch without advantages, or of ties alone, leaves the policy where it is."""
    trains(subject)
    world, where = subject.world(), subject.loses
    if subject.algorithm.data_kind == "on_policy":
        batch = world.batch()
        if isinstance(batch, OnPolicyBatch):
            batch = replace(batch, advantages=torch.zeros_like(batch.advantages))
        else:
            rollouts = world.rollouts()
            ties = None if rollouts.preferences is None else torch.full_like(rollouts.preferences, 0.5)
            even = replace(rollouts, rewards=torch.ones_like(rollouts.rewards), preferences=ties)
            batch = world.algorithm.assign_credit(even)
            where = subject.learns
        what = "zero advantages"
    else:
        batch = world.labelled()
        if not isinstance(batch, PreferenceBatch):
            raise NotApplicableError("single responses have no ties")
        batch = replace(batch, preference=torch.full_like(batch.preference, 0.5))
        what = "ties alone"
    world.gradient([batch])
    size = max(float(p.grad.abs().max()) for p in world.backbone.parameters_of(Role.policy) if p.grad is not None)
    return Found(
        size < 1e-12,
        f"{what}: largest entry of the policy's gradient {size:.1e}"
        + ("" if size < 1e-12 else "; wanted 0: multiply by the advantages, average over `batch.decided` pairs"),
        where,
    )


def batch_unchanged(subject: Subject) -> Found:
    """Neither ``prepare`` nor ``loss`` changes what it is given."""
    trains(subject)
    world = subject.world(nudge=NUDGE)
    given = world.rollouts() if subject.algorithm.data_kind == "on_policy" else world.labelled()
    before = _tensors(given)
    batch = (
        world.algorithm.assign_credit(given)
        if subject.algorithm.data_kind == "on_policy"
        else world.algorithm.prepare_step(given)
    )
    if name := _changed(before, _tensors(given)):
        return Found(
            False, f"{name} of what prepare is given was changed in place; make a new tensor", subject.prepares
        )
    before = _tensors(batch)
    world.gradient([batch])
    if name := _changed(before, _tensors(batch)):
        return Found(False, f"{name} of the batch was changed in place; make a new tensor", subject.loses)
    return Found(True, "inputs untouched")


def _tensors(data: Any, name: str = "") -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for field in data.__dataclass_fields__:
        value = getattr(data, field)
        if isinstance(value, Tensor):
            found[f"{name}{field}"] = value.clone()
        elif hasattr(value, "__dataclass_fields__"):
            found |= _tensors(value, f"{name}{field}.")
    return found


def _changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> str | None:
    return next((name for name, x in before.items() if not torch.equal(x, after[name])), None)


CHECKS: dict[str, Check] = {
    "ratio": first_ratio,
    "clip": clip_direction,
    "kl": kl_sign,
    "padding": padding,
    "microbatches": microbatches,
    "metrics": metrics,
    "endings": endings,
    "gradient": finite_differences,
    "bits": same_bits,
    "inputs": batch_unchanged,
}
