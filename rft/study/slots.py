"""What fits: the cores, memory and GPUs of a machine, shared out to trials. Nothing here starts or asks anything."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rft.errors import UserError

WHOLE = 10_000
"""Parts of a GPU. Shares are whole numbers of them, as Ray counts: three times 0.3333 fit on one, and no rounding of
sums lets a fourth in."""
SIDE_BY_SIDE = 4
"""Trials at once on a machine where nobody says how many: more would compute a model's memory many times over."""
VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True, slots=True)
class Machine:
    """What there is to share out."""

    cores: int
    memory: int = 0
    """Bytes; 0: not known, so not counted."""
    gpus: tuple[str, ...] = ()
    """As ``CUDA_VISIBLE_DEVICES`` names them."""

    def __str__(self) -> str:
        return str(Demand(max(1, self.cores), self.memory, len(self.gpus)))

    def holds(self, demand: Demand) -> bool:
        """Whether it would have room if it were idle."""
        return _Free.of(self, ()).place(demand) is not None


@dataclass(frozen=True, slots=True)
class Demand:
    """What one trial takes while it runs.

    Raises:
        UserError: for a number of GPUs above 1 that is not whole, or anything below 0.
    """

    cores: int = 1
    """At least 1; also its threads, over all its processes."""
    memory: int = 0
    """Bytes; 0: not counted."""
    gpus: float | None = 0.0
    """A fraction of one, which others may share, or a whole number of whole ones. None: not counted; it sees what its
    launcher sees."""

    def __post_init__(self) -> None:
        gpus = self.gpus or 0.0
        if self.cores < 1 or self.memory < 0 or gpus < 0:
            raise UserError(f"{self}: of cores a trial takes at least 1, of memory and GPUs at least 0; correct it")
        if gpus > 1 and gpus != int(gpus):
            raise UserError(
                f"gpus={gpus}: a trial takes a fraction of one GPU or a whole number of them; give {int(gpus)} or "
                f"{int(gpus) + 1}"
            )

    def __str__(self) -> str:
        cores, gpus = f"{self.cores} core{'s' * (self.cores != 1)}", self.gpus or 0
        return f"{cores}, {self.memory / 2**30:.3g} GB, {gpus:g} GPU{'s' * (gpus != 1)}"

    @property
    def parts(self) -> int:
        """Of one GPU, if it shares one; else 0."""
        return max(1, round(self.gpus * WHOLE)) if self.gpus and self.gpus < 1 else 0


@dataclass(frozen=True, slots=True)
class Grant:
    """What a started trial was given."""

    demand: Demand
    gpus: tuple[str, ...] | None = None
    """Which it may use; None: whoever runs it decides."""

    @property
    def environment(self) -> dict[str, str]:
        """Variables that keep the trial to it. A trial that was given no GPU sees none."""
        threads = str(self.demand.cores)
        own = {"RFT_THREADS": threads, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        return own if self.gpus is None else own | {VISIBLE: ",".join(self.gpus)}


@dataclass(slots=True)
class _Free:
    """What of a machine is not taken."""

    cores: int
    memory: int | None
    parts: dict[str, int]
    """Of each GPU, out of WHOLE."""

    @classmethod
    def of(cls, machine: Machine, taken: Iterable[Grant]) -> _Free:
        free = cls(machine.cores, machine.memory or None, dict.fromkeys(machine.gpus, WHOLE))
        for grant in taken:
            free.take(grant)
        return free

    def take(self, grant: Grant) -> None:
        self.cores -= grant.demand.cores
        if self.memory is not None:
            self.memory -= grant.demand.memory
        for gpu in grant.gpus or ():
            if gpu in self.parts:  # else the machine has lost it since
                self.parts[gpu] -= grant.demand.parts or WHOLE

    def place(self, demand: Demand) -> Grant | None:
        """Where a demand fits. A share goes to the fullest GPU that has room, so that whole ones stay whole."""
        if demand.cores > self.cores or (self.memory is not None and demand.memory > self.memory):
            return None
        if demand.gpus is None:
            return Grant(demand)
        if demand.parts:
            roomy = [gpu for gpu, left in self.parts.items() if left >= demand.parts]
            return Grant(demand, (min(roomy, key=self.parts.__getitem__),)) if roomy else None
        whole = [gpu for gpu, left in self.parts.items() if left == WHOLE][: int(demand.gpus)]
        return Grant(demand, tuple(whole)) if len(whole) == int(demand.gpus) else None


@dataclass(slots=True)
class Slots:
    """Shares a machine out: never more than there is, first come first served.

    One that does not fit yet lets later ones pass only if it would still fit beside all that passed it, once those have
    ended that ran before it. So it waits for these alone, however many small ones come, and what it cannot use anyway
    is used.
    """

    machine: Machine | None
    """None: somebody else's queue decides what fits, and every demand is granted."""
    at_most: int = 0
    """Trials at once; 0: as many as fit."""
    running: list[Grant] = field(default_factory=list)
    _head: Hashable = None
    _passed: list[Grant] = field(default_factory=list)
    """Started while the head waited, and still running."""

    def require(self, demand: Demand, whose: str) -> None:
        """Refuse what would never fit.

        Raises:
            UserError: with what there is.
        """
        if self.machine is not None and not self.machine.holds(demand):
            raise UserError(
                f"{whose}: asks for {demand}, more than there is ({self.machine}); lower what a trial takes "
                "(hydra.launcher.cores, memory_gb, gpus; strategy.devices)"
            )

    def fitting(self, waiting: Sequence[tuple[Hashable, Demand]]) -> tuple[Hashable, Grant] | None:
        """Take what the next trial that may start now needs; None if none may.

        Args:
            waiting: in the order they came, by a key that stays the same from call to call.

        Returns:
            Its key, and what it was given; that goes back through :meth:`give_back` when it has ended.
        """
        if not waiting or (self.at_most and len(self.running) >= self.at_most):
            return None
        if waiting[0][0] != self._head:
            self._head, self._passed = waiting[0][0], []
        in_vain: set[Demand] = set()  # thousands may wait, and ask for the same few things
        for key, demand in waiting:
            grant = None if demand in in_vain else self._place(demand)
            if grant is None or (key != self._head and not self._head_fits_beside(waiting[0][1], grant)):
                in_vain.add(demand)
                continue
            self.running.append(grant)
            if key != self._head:
                self._passed.append(grant)
            return key, grant
        return None

    def _place(self, demand: Demand) -> Grant | None:
        return Grant(demand) if self.machine is None else _Free.of(self.machine, self.running).place(demand)

    def _head_fits_beside(self, head: Demand, grant: Grant) -> bool:
        passed = [*self._passed, grant]
        if self.at_most and len(passed) >= self.at_most:
            return False
        return self.machine is None or _Free.of(self.machine, passed).place(head) is not None

    def give_back(self, grant: Grant) -> None:
        """What a trial that has ended was given is free again."""
        for held in (self.running, self._passed):
            at = next((i for i, other in enumerate(held) if other is grant), None)
            if at is not None:
                del held[at]


def share(machine: Machine, jobs: int = 0, gpus: float = 0.0) -> int:
    """Cores of a trial that says nothing: the same however many there are, as threads decide the last bits of results.

    Args:
        machine: what is shared out.
        jobs: trials at once; 0: as many as have GPUs if they take some, else one a core, at most 4.
        gpus: of a trial.
    """
    by_gpu = int(len(machine.gpus) / gpus + 1e-9) if gpus else 0
    return max(1, machine.cores // (jobs or by_gpu or min(SIDE_BY_SIDE, machine.cores)))


def demand_of(
    strategy: Mapping[str, Any],
    machine: Machine,
    *,
    jobs: int = 0,
    cores: int = 0,
    memory_gb: float = 0.0,
    gpus: float | None = None,
) -> Demand:
    """What a trial with these settings takes.

    Args:
        strategy: the trial's: its processes, their threads, whether they compute on GPUs.
        machine: where it would run.
        jobs: trials at once; 0: as many as fit.
        cores: asked for each trial; 0: by ``strategy.threads`` but no more than there are, else its share.
        memory_gb: asked for each trial, in 2³⁰ bytes; 0: not counted.
        gpus: asked for each trial; None: one a process, unless it computes on the CPU.
    """
    processes = max(1, int(strategy.get("devices", 1)))
    if gpus is None:
        kind = str(getattr(strategy.get("accelerator"), "value", strategy.get("accelerator", "auto")))
        gpus = processes if kind == "gpu" or (kind == "auto" and machine.gpus) else 0
    threads = min(int(strategy.get("threads", 0)) * processes, max(1, machine.cores))
    return Demand(cores or threads or share(machine, jobs, gpus), round(memory_gb * 2**30), float(gpus))
