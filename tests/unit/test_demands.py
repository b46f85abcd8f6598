"""What a study's jobs take, first and when they go on."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from rft.config.launchers import Launch, Local
from rft.config.where import Where, where
from rft.errors import UserError
from rft.study.demands import at_once, kept_demand, with_demands
from rft.study.executors.local import LocalExecutor
from rft.study.jobs import Job
from rft.study.slots import Demand, Machine, Slots

CPU = {"accelerator": "cpu", "devices": 1, "threads": 0}
GPU = {"accelerator": "auto", "devices": 1, "threads": 0}
GIB = 2**30


@pytest.fixture(autouse=True)
def _threads_are_not_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RFT_THREADS", raising=False)


def on(machine: Machine) -> LocalExecutor:
    executor = LocalExecutor(Local(), Console(file=io.StringIO()))
    executor.slots = Slots(machine)
    return executor


def jobs(count: int, strategy: dict[str, object] = CPU, seed: int | None = 0) -> list[Job]:
    return [Job(f"job {n}", (), Path(f"runs/s/{n}"), seed=seed, strategy=strategy) for n in range(count)]


def demands(work: list[Job], machine: Machine, settings: Launch | None = None) -> list[Demand | None]:
    executor, settings = on(machine), settings or Local()
    return [job.demand for job in with_demands(work, at_once(executor, settings), executor, settings)]


@pytest.mark.parametrize("count", [1, 9])
def test_a_trials_share_does_not_depend_on_how_many_there_are(count: int) -> None:
    assert demands(jobs(count), Machine(8)) == [Demand(2)] * count


@pytest.mark.parametrize(("count", "cores"), [(1, 8), (2, 4), (9, 2)])
def test_what_trials_wait_for_has_the_machine(count: int, cores: int) -> None:
    assert demands(jobs(count, seed=None), Machine(8)) == [Demand(cores)] * count


def test_settings_say_what_each_takes() -> None:
    two = Machine(16, 64 * GIB, ("0", "1"))
    assert demands(jobs(2, GPU), two) == [Demand(8, 0, 1)] * 2
    said = Local(gpus=0.25, memory_gb=4, cores=3)
    assert demands(jobs(2, GPU), two, said) == [Demand(3, 4 * GIB, 0.25)] * 2
    assert at_once(on(two), said) == 0
    assert demands(jobs(2, {**CPU, "threads": 2, "devices": 2}), two) == [Demand(4)] * 2


def test_what_would_never_fit_is_refused() -> None:
    with pytest.raises(UserError, match=r"job 0: asks for 1 core, 0 GB, 2 GPUs, more than there is"):
        demands(jobs(1), Machine(2, 0, ("0",)), Local(gpus=2.0))


def test_more_at_once_than_cores_if_their_number_is_said() -> None:
    executor, settings = on(Machine(2)), Local(jobs=4)
    assert [job.demand for job in with_demands(jobs(5), 4, executor, settings)] == [Demand(1)] * 5
    assert (executor.slots.at_most, executor.slots.machine) == (4, Machine(4))


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ((), Demand(4, 2 * GIB, 0.5)),
        (("hydra.launcher.gpus=0", "hydra.launcher.cores=3"), Demand(3, 2 * GIB, 0.0)),
        (("hydra.launcher.memory_gb=8",), Demand(4, 8 * GIB, 0.5)),
    ],
)
def test_one_that_goes_on_takes_what_it_took_but_for_what_is_said(given: tuple[str, ...], wanted: Demand) -> None:
    at, before = where(Path("runs/s"), given), Demand(4, 2 * GIB, 0.5)
    assert kept_demand(before, on(Machine(8)), at) == wanted
    assert kept_demand(None, on(Machine(8)), at) is None


def test_one_that_goes_on_takes_no_more_cores_than_there_are() -> None:
    assert kept_demand(Demand(4), on(Machine(2)), Where()) == Demand(2)
    somebody_elses = on(Machine(2))
    somebody_elses.slots = replace(somebody_elses.slots, machine=None)
    assert kept_demand(Demand(4), somebody_elses, Where()) == Demand(4)
