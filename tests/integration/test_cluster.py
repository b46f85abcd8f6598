"""Ray on several nodes, which are raylets of this machine."""

from __future__ import annotations

import pytest
from rich.console import Console

from rft.config.launchers import Ray
from rft.errors import UserError
from rft.study.slots import Demand, Slots
from tests.integration.harness import wait_until

pytestmark = pytest.mark.slow


def test_what_fits_no_node_by_itself_is_refused_or_told(capsys: pytest.CaptureFixture[str]) -> None:
    """Two nodes of 2 GPUs each hold no trial of 3."""
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    from ray.cluster_utils import Cluster

    from rft.study.executors.ray import RayExecutor

    node = {"num_cpus": 2, "num_gpus": 2, "object_store_memory": 100 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    try:
        cluster.add_node(**node)
        executor = RayExecutor(Ray(address=cluster.address), Console(stderr=True, width=300))
        wait_until(lambda: len(executor.machine.gpus) == 4)
        executor.require(Demand(1, 0, 2), "small")
        for demand in (Demand(1, 0, 3), Demand(3, 0, 0)):
            with pytest.raises(
                UserError, match=r"big: asks for .* more than any of the 2 nodes has by itself \(2 cores, "
            ):
                executor.require(demand, "big")
        executor.slots = Slots(None, 1)  # a number of jobs was given: the cluster may grow
        executor.require(Demand(1, 0, 3), "big")
        assert "big: asks for 1 core, 0 GB, 3 GPUs, more than any of the 2 nodes" in capsys.readouterr().err
        executor.close()
    finally:
        cluster.shutdown()
