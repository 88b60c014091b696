"""One local Ray for the whole test process, and Rays that cost less."""

from __future__ import annotations

import atexit
import contextlib
import functools
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from evomerge.run.pool.ray_actors import NO_WORKERS_AHEAD

AGENT = Path(__file__).with_name("ray_agent.py")
WORKER = Path(__file__).with_name("ray_worker.py")


@contextlib.contextmanager
def lean_ray() -> Iterator[None]:
    """Nodes that this process starts come without what no test asks: dashboard, autoscaler, reader of logs.

    Their workers are one interpreter each instead of two (`ray_worker.py`), and of a node's two agents one is
    a toy (`ray_agent.py`). A Ray takes 1.3 s of processor time instead of 4.4, a worker 1.2 instead of 1.6.
    `campaign/test_launch`, F3 of `faults/test_cluster` and one of `run/pool/test_ray_actors` start as ever.
    """
    import ray
    from ray._private import services
    from ray._private.node import Node

    plain, plain_process = Node.__init__, services.start_ray_process
    agent = str(Path(ray.__file__).parent / "dashboard" / "agent.py")

    def start(node: Any, ray_params: Any, **options: Any) -> None:
        ray_params.no_monitor = True
        ray_params.include_log_monitor = False
        ray_params.setup_worker_path = str(WORKER)
        plain(node, ray_params, **options)

    def start_process(command: list[Any], *others: Any, **options: Any) -> Any:
        words = [str(word).replace(agent, str(AGENT)) for word in command]
        return plain_process(words, *others, **options)

    with (
        mock.patch.object(services, "start_ray_process", start_process),
        mock.patch.object(Node, "__init__", start),
        mock.patch.object(Node, "start_api_server", return_value=None),
    ):
        yield


@functools.cache
def local_ray() -> None:
    """Start Ray on the loopback address, once; it ends with the process.

    Its 8 CPUs and 2 GPUs are numbers that Ray counts with: what it places, it does not look for.
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

    with lean_ray():
        ray.init(
            address="local",
            num_cpus=8,
            num_gpus=2,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=100_000_000,
        )
    atexit.register(ray.shutdown)
