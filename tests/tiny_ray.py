"""One local Ray for the whole test process."""

from __future__ import annotations

import atexit
import functools
import logging
import os
from pathlib import Path

from evomerge.run.pool.ray_actors import NO_WORKERS_AHEAD


@functools.cache
def local_ray() -> None:
    """Start Ray on the loopback address, once; it ends with the process.

    Its 4 CPUs and 2 GPUs are numbers that Ray counts with: what it places, it does not look for.
    """
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.update(NO_WORKERS_AHEAD)
    # Actors import test modules by name.
    repository = str(Path(__file__).parents[1])
    os.environ["PYTHONPATH"] = os.pathsep.join(
        filter(None, [repository, os.environ.get("PYTHONPATH", "")])
    )
    import ray

    ray.init(
        address="local",
        num_cpus=4,
        num_gpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=100_000_000,
    )
    atexit.register(ray.shutdown)
