"""What each of a study's jobs takes: what it took before, else by its strategy and by where it runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from rft.config.launchers import Launch
from rft.config.where import Where
from rft.runtime import asked_threads
from rft.study.executors.base import Executor
from rft.study.slots import SIDE_BY_SIDE, Demand, Machine, demand_of, share

if TYPE_CHECKING:
    from rft.study.jobs import Job


def at_once(executor: Executor, settings: Launch) -> int:
    """Trials of a study side by side; 0: as many as fit. Where nothing tells what one takes, one a core, at most 4."""
    told = settings.cores or settings.memory_gb or settings.gpus or executor.machine.gpus
    return settings.jobs or (0 if told or not executor.here else min(SIDE_BY_SIDE, executor.machine.cores))


def with_demands(jobs: Sequence[Job], side_by_side: int, executor: Executor, settings: Launch) -> list[Job]:
    """Jobs with what each takes; those that have it already keep it.

    Args:
        jobs: what is to run.
        side_by_side: how many; 0: as many as fit.
        executor: where.
        settings: what is said of all.

    Raises:
        UserError: if one takes more than there is.
    """
    slots, machine = executor.slots, executor.machine
    slots.at_most = min(side_by_side, len(jobs))
    found = [
        job if job.demand else replace(job, demand=_of(job, jobs, side_by_side, machine, settings)) for job in jobs
    ]
    if slots.machine is not None and not any(job.demand for job in jobs):
        # So many were asked for by their number, also where there are fewer cores.
        least = min(job.demand.cores for job in found if job.demand)
        slots.machine = replace(slots.machine, cores=max(slots.machine.cores, slots.at_most * least))
    for job in found:
        assert job.demand is not None
        executor.require(job.demand, job.name)
    return found


def kept_demand(before: Demand | None, executor: Executor, where: Where) -> Demand | None:
    """What a trial that was started before takes now: the same, but for what is said; never more cores than there are.

    Args:
        before: what it took; None: not known.
        executor: where it goes on.
        where: what is said.
    """
    if before is None:
        return None
    there, settings = executor.slots.machine, where.settings
    return Demand(
        settings.cores or min(before.cores, max(1, there.cores) if there else before.cores),
        round(settings.memory_gb * 2**30) if where.says("memory_gb") else before.memory,
        settings.gpus if where.says("gpus") and settings.gpus is not None else before.gpus,
    )


def _of(job: Job, jobs: Sequence[Job], side_by_side: int, machine: Machine, settings: Launch) -> Demand:
    """A trial's share does not depend on how many there are, that of what they wait for does."""
    if job.strategy is None:
        return Demand(share(machine, min(side_by_side, len(jobs))), gpus=None)
    shared = job.seed is None
    return demand_of(
        job.strategy,
        machine,
        jobs=min(side_by_side or SIDE_BY_SIDE, len(jobs)) if shared else side_by_side,
        cores=min(asked_threads(), max(1, machine.cores)) or settings.cores,
        memory_gb=settings.memory_gb,
        gpus=settings.gpus,
    )
