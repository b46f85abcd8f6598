"""Slots: threads, memory, shares of GPUs, whole GPUs; never more than fits, in order, without starving anyone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rft import runtime
from rft.errors import UserError
from rft.study.capacity import gpus, memory
from rft.study.slots import WHOLE, Demand, Grant, Machine, Slots, demand_of, share

GB = 2**30


def start(slots: Slots, *demands: Demand) -> list[Grant | None]:
    """Offer demands together until nothing fits; the grant of each, None if it waits."""
    waiting, found = dict(enumerate(demands)), dict.fromkeys(range(len(demands)))
    while taken := slots.fitting(list(waiting.items())):
        key, grant = taken
        assert isinstance(key, int)
        found[key] = grant  # type: ignore[assignment]
        del waiting[key]
    return list(found.values())


def names(grants: list[Grant | None]) -> list[str | None]:
    return [None if grant is None else ",".join(grant.gpus or ()) for grant in grants]


def test_as_many_run_as_there_are_cores() -> None:
    slots = Slots(Machine(8))
    grants = start(slots, *[Demand(3)] * 4)
    assert [grant is not None for grant in grants] == [True, True, False, False]
    assert grants[0] is not None
    assert grants[0].environment == {
        "RFT_THREADS": "3", "OMP_NUM_THREADS": "3", "MKL_NUM_THREADS": "3", "CUDA_VISIBLE_DEVICES": "",
    }  # fmt: skip
    slots.give_back(grants[0])
    assert len(slots.running) == 1
    assert start(slots, Demand(3), Demand(3)) == [Grant(Demand(3), ()), None]


def test_memory_is_counted_where_it_is_known() -> None:
    demands = [Demand(1, 5 * GB)] * 3
    assert [x is not None for x in start(Slots(Machine(9, 12 * GB)), *demands)] == [True, True, False]
    assert None not in start(Slots(Machine(9, 0)), *demands)


def test_at_most_bounds_what_would_fit() -> None:
    assert sum(x is not None for x in start(Slots(Machine(9), at_most=2), *[Demand(1)] * 5)) == 2


def test_shares_fill_one_gpu_before_the_next() -> None:
    quarters = start(Slots(Machine(99, 0, ("0", "1"))), *[Demand(1, 0, 0.25)] * 9)
    assert names(quarters) == ["0"] * 4 + ["1"] * 4 + [None]


def test_a_share_goes_where_least_is_left() -> None:
    slots = Slots(Machine(99, 0, ("0", "1")))
    assert names(start(slots, Demand(1, 0, 0.6), Demand(1, 0, 0.7))) == ["0", "1"]
    assert names(start(slots, Demand(1, 0, 0.3), Demand(1, 0, 0.4))) == ["1", "0"]


def test_thirds_and_tenths_are_exact() -> None:
    assert None not in start(Slots(Machine(99, 0, ("0",))), *[Demand(1, 0, 1 / 3)] * 3)
    tenths = start(Slots(Machine(99, 0, ("0",))), *[Demand(1, 0, 0.1)] * 11)
    assert names(tenths) == ["0"] * 10 + [None]


def test_whole_gpus_are_shared_with_nobody() -> None:
    slots = Slots(Machine(99, 0, ("3", "GPU-7", "5")))
    grants = start(slots, Demand(1, 0, 0.5), Demand(1, 0, 2), Demand(1, 0, 0.6), Demand(1, 0, 0))
    assert names(grants) == ["3", "GPU-7,5", None, ""]
    assert grants[1] is not None
    assert grants[1].environment["CUDA_VISIBLE_DEVICES"] == "GPU-7,5"
    assert names(start(slots, Demand(1, 0, 1))) == [None]
    slots.give_back(grants[1])
    assert names(start(slots, Demand(1, 0, 1))) == ["GPU-7"]


@pytest.mark.parametrize("bad", [{"gpus": 1.5}, {"cores": 0}, {"memory": -1}, {"gpus": -0.5}])
def test_demands_that_mean_nothing_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"whole number|at least"):
        Demand(**bad)


@pytest.mark.parametrize("demand", [Demand(5), Demand(1, 9 * GB), Demand(1, 0, 2)])
def test_what_never_fits_is_refused_with_what_there_is(demand: Demand) -> None:
    slots = Slots(Machine(4, 8 * GB, ("0",)))
    with pytest.raises(UserError, match=r"ppo: asks for .* more than there is \(4 cores, 8 GB, 1 GPU\)"):
        slots.require(demand, "ppo")
    slots.require(Demand(4, 8 * GB, 1), "ppo")
    Slots(None).require(demand, "ppo")


def test_small_ones_pass_a_large_one_only_beside_it() -> None:
    slots = Slots(Machine(4))
    (first,) = start(slots, Demand(2))
    assert first is not None
    # The large one waits for 3 cores: of the 2 free ones a small trial may have 1, for ever.
    queue: list[tuple[str, Demand]] = [("large", Demand(3)), ("a", Demand(1)), ("b", Demand(1)), ("c", Demand(1))]
    key, small = slots.fitting(queue) or ("", None)
    assert key == "a"
    queue = [one for one in queue if one[0] != "a"]
    assert slots.fitting(queue) is None
    slots.give_back(first)
    assert (slots.fitting(queue) or ("",))[0] == "large"
    assert small in slots.running


def test_a_whole_gpu_is_kept_for_one_that_waits() -> None:
    slots = Slots(Machine(99, 0, ("0", "1")))
    (held,) = start(slots, Demand(1, 0, 0.5))
    assert held is not None
    both = ("both", Demand(1, 0, 2))
    # A half of either would be in the way of the one that waits for both.
    assert slots.fitting([both, ("half", Demand(1, 0, 0.5))]) is None
    assert slots.fitting([both, ("none", Demand(1))]) == ("none", Grant(Demand(1), ()))
    slots.give_back(held)
    assert (slots.fitting([both]) or ("",))[0] == "both"


demands = st.builds(
    Demand,
    cores=st.integers(1, 8),
    memory=st.integers(0, 8).map(lambda x: x * GB),
    gpus=st.sampled_from([0.0, 0.1, 0.25, 1 / 3, 0.5, 0.9, 1.0, 2.0, 3.0]),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(demands, min_size=1, max_size=25), st.randoms(use_true_random=False), st.integers(0, 4))
def test_never_more_than_fits_and_all_get_their_turn(wanted: list[Demand], random: Any, at_most: int) -> None:
    machine = Machine(8, 8 * GB, ("0", "1", "2"))
    slots, waiting, running = Slots(machine, at_most), list(enumerate(wanted)), {}
    order: list[int] = []
    while waiting or running:
        while taken := slots.fitting(waiting):
            key, grant = taken
            assert isinstance(key, int)
            running[key] = grant
            order.append(key)
            waiting = [one for one in waiting if one[0] != key]
        held = list(running.values())
        assert held  # something always runs, or those that wait would for ever
        assert sum(x.demand.cores for x in held) <= machine.cores
        assert sum(x.demand.memory for x in held) <= machine.memory
        assert not at_most or len(held) <= at_most
        used: Counter[str] = Counter()
        for grant in held:
            assert len(grant.gpus or ()) == (1 if 0 < grant.demand.gpus < 1 else grant.demand.gpus)
            for gpu in grant.gpus or ():
                used[gpu] += grant.demand.parts or WHOLE
        assert set(used) <= set(machine.gpus)
        assert all(parts <= WHOLE for parts in used.values())
        slots.give_back(running.pop(random.choice(sorted(running))))
    assert sorted(order) == list(range(len(wanted)))


def test_a_stream_of_small_ones_does_not_starve_a_large_one() -> None:
    slots = Slots(Machine(4))
    queue: list[tuple[int, Demand]] = [(i, Demand(1)) for i in range(4)]
    running: list[tuple[int, Grant]] = []
    started: list[int] = []
    # Four run when the large one comes; a small one comes every turn and runs for two.
    for turn in range(30):
        queue += [(-1, Demand(4))] if turn == 1 else []
        queue.append((100 + turn, Demand(1)))
        while taken := slots.fitting(queue):
            key, grant = taken
            assert isinstance(key, int)
            started.append(key)
            running.append((turn + 1, grant))
            queue = [one for one in queue if one[0] != key]
        for end, grant in [one for one in running if one[0] == turn]:
            slots.give_back(grant)
            running.remove((end, grant))
    assert started[:6] == [0, 1, 2, 3, 100, -1]
    assert started[6:] == sorted(started[6:])


def test_a_share_of_cores_does_not_depend_on_how_many_wait() -> None:
    assert [share(Machine(n)) for n in (1, 2, 4, 10, 64)] == [1, 1, 1, 2, 16]
    assert share(Machine(64), jobs=8) == 8
    assert share(Machine(64, 0, tuple("01234567")), gpus=1) == 8
    assert share(Machine(64, 0, tuple("01234567")), gpus=0.25) == 2
    assert share(Machine(64, 0, tuple("01234567")), gpus=2) == 16
    assert share(Machine(2), jobs=5) == 1


def test_what_a_trial_takes_follows_from_its_strategy() -> None:
    cpu, two = Machine(8), Machine(8, 0, ("0", "1"))
    assert demand_of({"accelerator": "auto", "devices": 1, "threads": 0}, cpu) == Demand(2, 0, 0)
    assert demand_of({"accelerator": "auto", "devices": 2, "threads": 3}, two) == Demand(6, 0, 2)
    assert demand_of({"accelerator": "cpu", "devices": 2}, two) == Demand(2, 0, 0)
    assert demand_of({"accelerator": "gpu", "devices": 1}, cpu).gpus == 1  # then refused: there is none
    assert demand_of({}, two, cores=5, memory_gb=1.5, gpus=0.5) == Demand(5, 3 * GB // 2, 0.5)


def test_gpus_are_those_that_may_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    for said, found in {"": (), "-1": (), "2,0": ("2", "0"), "GPU-1a, MIG-2": ("GPU-1a", "MIG-2")}.items():
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", said)
        assert gpus() == found


def test_memory_is_at_most_the_machines() -> None:
    import os

    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < memory() <= physical


@pytest.mark.parametrize(
    ("said", "wanted"),
    [("150000 100000", 2), ("50000 100000", 1), ("6400000 100000", 4), ("max 100000", 4), ("", 4), (None, 4)],
)
def test_cores_are_those_of_the_container(
    said: str | None, wanted: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime.os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    monkeypatch.setattr(runtime, "QUOTA", tmp_path / "cpu.max")
    if said is not None:
        (tmp_path / "cpu.max").write_text(said, encoding="ascii")
    assert runtime.cores() == wanted
