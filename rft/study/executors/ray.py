"""Trials as tasks of a Ray cluster, which packs GPUs and shares of them; extra ``rft[ray]``."""

from __future__ import annotations

import os
import secrets
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from rich.console import Console

from rft.config.launchers import Ray
from rft.errors import UserError
from rft.study.capacity import this_machine
from rft.study.executors.base import Executor, Job
from rft.study.executors.hold import LOOK, UNSHARED, Held, Task, hold
from rft.study.slots import VISIBLE, Demand, Grant, Machine, Slots

OBJECTS = 100 * 2**20
"""Bytes of shared memory for results, which are exit codes."""
OWN_CLUSTER = {
    # Its parts are Python programs, which take longer to start beside trials than Ray waits by itself.
    "RAY_agent_register_timeout_ms": "300000",
    "RAY_raylet_start_wait_time_s": "300",
    "RAY_gcs_server_port_wait_time_s": "300",
}
WORKERS_OWN = (VISIBLE, "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "RAY_")
"""Beginnings of variables that a worker has from Ray: those of the launcher would undo its packing."""


def _prepare_own_cluster() -> None:
    """Set what Ray reads from the environment; what the user has set stays.

    Whoever reaches a cluster runs code there, so that it listens on this machine alone and asks for a token, which is
    in these processes' memory. Ray reads both when it is imported: where that has been done, it is only kept from
    writing a token into the home folder.
    """
    if "ray" not in sys.modules:
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        if "RAY_AUTH_MODE" not in os.environ:
            os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    for name, value in OWN_CLUSTER.items():
        os.environ.setdefault(name, value)


def library() -> Any:
    """Ray itself, which sends no statistics and writes no token.

    Raises:
        UserError: if it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise UserError(f"hydra/launcher=ray: {error}; install it: pip install 'rft[ray]'") from error
    return ray


@dataclass(slots=True)
class RayProcess(Held):
    """A trial whose slot a Ray task holds."""

    reference: Any = None

    def ended(self) -> int | None:
        """The trial's exit code when its task has ended."""
        ray = library()
        if not ray.wait([self.reference], timeout=0)[0]:
            return None
        try:
            return int(ray.get(self.reference))
        except ray.exceptions.TaskCancelledError:
            return -signal.SIGTERM
        except ray.exceptions.RayError as error:
            if self.unshared(error):
                return UNSHARED
            self.lost = f"the Ray task that held it ended: {str(error).strip().splitlines()[-1]}"
            return -signal.SIGKILL

    def withdraw(self) -> None:
        """Cancel the task."""
        library().cancel(self.reference)


def _machine(resources: Mapping[str, float]) -> Machine:
    gpus = tuple(map(str, range(int(resources.get("GPU", 0)))))
    return Machine(int(resources.get("CPU", 0)), int(resources.get("memory", 0)), gpus)


class RayExecutor(Executor):
    """A running cluster, or one of this machine that ends with the launcher.

    Args:
        settings: which cluster, and what it has if it is started here.
        console: where it is said that a trial waits for the cluster to grow; Ray's own output is turned off.

    Raises:
        UserError: if Ray is not installed, or no cluster answers at the address.
    """

    where: ClassVar[str] = "on Ray"

    def __init__(self, settings: Ray, console: Console) -> None:
        self.console = console
        if settings.address is None:
            _prepare_own_cluster()
        self._ray = ray = library()
        there = this_machine()
        own: dict[str, Any] = {
            "num_cpus": settings.cluster_cores or there.cores,
            "num_gpus": len(there.gpus) if settings.cluster_gpus is None else settings.cluster_gpus,
            "include_dashboard": False,
            "object_store_memory": OBJECTS,
        }
        try:
            ray.init(
                address=settings.address or "local",
                log_to_driver=False,
                logging_level="ERROR",
                **(own if settings.address is None else {}),
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            line = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"hydra.launcher.address={settings.address}: no Ray there: {line}; start one with `ray start --head`, "
                "or leave the address out"
            ) from error
        # With a number of jobs the queue is Ray's: a cluster that grows with what waits must see it.
        self.slots = Slots(self.machine) if not settings.jobs else Slots(None, settings.jobs)
        # By value: a worker needs nothing of rft, nor minds what else is called so in the folder that it starts in.
        ray.cloudpickle.register_pickle_by_value(sys.modules[hold.__module__])
        self._hold = ray.remote(hold)
        self._running: list[RayProcess] = []

    @property
    def machine(self) -> Machine:
        """All nodes together."""
        return _machine(self._ray.cluster_resources())

    def require(self, demand: Demand, whose: str) -> None:
        """Refuse what no node would hold by itself: Ray would let it wait for ever, and say nothing.

        With a number of jobs the cluster may grow by what waits, so that it is told and not refused.
        """
        super().require(demand, whose)
        nodes = [_machine(node["Resources"]) for node in self._ray.nodes() if node["Alive"]]
        if any(node.holds(demand) for node in nodes):
            return
        largest = max(nodes, key=lambda node: (len(node.gpus), node.cores, node.memory), default=Machine(0))
        told = f"{whose}: asks for {demand}, more than any of the {len(nodes)} nodes has by itself ({largest})"
        if self.slots.machine is not None:
            raise UserError(
                f"{told}; lower what a trial takes (hydra.launcher.cores, memory_gb, gpus; strategy.devices), or give "
                "hydra.launcher.jobs if the cluster grows with what waits"
            )
        line = f"warning: {told}; it waits until the cluster has grown"
        self.console.print(line, style="yellow", markup=False, highlight=False, soft_wrap=True)

    def start(self, job: Job, environment: Mapping[str, str], grant: Grant) -> RayProcess:
        """Hand a job over. Whatever becomes of it, Ray does not run it again."""
        own = {k: v for k, v in {**os.environ, **environment}.items() if not k.startswith(WORKERS_OWN)}
        task = Task.of(job, own)
        options = {
            "num_cpus": grant.demand.cores,
            "num_gpus": grant.demand.gpus or 0,
            "max_retries": 0,
            "name": job.name,
        }
        if grant.demand.memory:
            options["memory"] = grant.demand.memory
        process = RayProcess(task, reference=self._hold.options(**options).remote(task))
        self._running.append(process)
        return process

    def pause(self, seconds: float) -> None:
        """Sleep, or less if a task ends; what the cluster has may have changed after it."""
        self._running = [one for one in self._running if one.returncode is None]
        if self._running:
            self._ray.wait([one.reference for one in self._running], timeout=seconds)
        else:
            time.sleep(seconds)
        if self.slots.machine is not None:
            self.slots.machine = self.machine

    def close(self) -> None:
        """Kill what still runs, and leave the cluster; one that was started here ends."""
        for process in self._running:
            process.kill()
        deadline = time.monotonic() + 25 * LOOK
        while any(one.poll() is None for one in self._running) and time.monotonic() < deadline:
            time.sleep(LOOK)
        self._ray.shutdown()
