"""The pool that a campaign asks for. Ray itself is loaded only when its pool is opened."""

from __future__ import annotations

from evomerge.campaign.file import WorkersSection
from evomerge.run.job import WorkerSetup
from evomerge.run.pool.inline import InlinePool
from evomerge.run.pool.pool import Pool
from evomerge.run.pool.processes import ProcessPool
from evomerge.run.pool.ray_actors import RayPool


def open_pool(workers: WorkersSection, setup: WorkerSetup) -> Pool:
    """The pool a campaign asks for.

    Raises:
        EnvironmentFault: if Ray cannot be reached or started.
    """
    if workers.pool == "inline":
        return InlinePool(setup)
    if workers.pool == "local":
        return ProcessPool(setup, workers.count)
    return RayPool(setup, workers.count, address=workers.address, gpus=workers.gpus)
