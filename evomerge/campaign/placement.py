"""Placement: workers over the machines of a cluster, and what each machine must have for its share."""

from __future__ import annotations

import math
from dataclasses import dataclass

from evomerge.campaign.campaign import Campaign
from evomerge.campaign.check import CheckReport
from evomerge.campaign.estimates import memory_bytes
from evomerge.errors import ConfigError, Problem, UsageError

STORE_BYTES = 200_000_000
"""Ray's object store on each machine: jobs and results are a few kilobytes each."""

RAY_BYTES = 1_500_000_000
"""Ray's own processes on a machine, and the driver, which lives on one of them."""

SPARE = 1.2
"""Factor on memory: what allocators, caches and batches take beside what is counted."""

GIB = 2**30


@dataclass(frozen=True)
class Placement:
    """Workers on `nodes` machines, as many on each.

    Attributes:
        nodes: machines with workers.
        share: workers on each.
        threads: processor cores of a worker.
        gpus_of_worker: devices of a worker, or its share of one.
        cpus: cores of a machine: its workers' and one for Ray and the driver.
        gpus: whole devices of a machine.
        memory_gib: memory of a machine in GiB; None where nothing tells (without `check`).
    """

    nodes: int
    share: int
    threads: int
    gpus_of_worker: float
    cpus: int
    gpus: int
    memory_gib: int | None

    @property
    def slots(self) -> int:
        """Cores that Ray may give away on a machine: no worker more than its share fits."""
        return self.share * self.threads

    @property
    def words(self) -> str:
        """The arithmetic in one line."""
        devices = f"{self.gpus_of_worker:g} GPU and " if self.gpus_of_worker else ""
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        workers = "1 worker" if self.share == 1 else f"{self.share} workers"
        nodes = "1 node" if self.nodes == 1 else f"{self.nodes} nodes"
        each = [f"{self.cpus} CPUs ({self.slots} and 1 for Ray and the driver)"]
        if self.gpus:
            each.append("1 GPU" if self.gpus == 1 else f"{self.gpus} GPUs")
        memory = "memory not known" if self.memory_gib is None else f"{self.memory_gib} GiB of memory"
        each.append(memory)
        return f"{nodes} of {workers}, {devices}{threads} each: a node has {', '.join(each)}"


def check_pool(campaign: Campaign) -> None:
    """See that a campaign's workers are on a Ray that it joins.

    Raises:
        ConfigError: E142.
    """
    workers = campaign.config.workers
    if workers.pool != "ray":
        wrong = "a job on a cluster needs workers on Ray"
        todo = "write `workers: {pool: ray, address: auto, ...}`"
        found = f"found {workers.pool!r}"
        raise ConfigError(campaign.fault(("workers", "pool"), "E142", wrong, found, todo))
    if workers.address is None:
        wrong, todo = (
            "the run would start a Ray of its own beside the cluster's",
            "write `address: auto`",
        )
        raise ConfigError(campaign.fault(("workers", "address"), "E142", wrong, "", todo))


def place(
    campaign: Campaign, nodes: int, report: CheckReport | None = None, memory_gib: int | None = None
) -> Placement:
    """A campaign's workers on `nodes` machines.

    Args:
        campaign: its `workers` and `evaluation` say how many there are and with what.
        nodes: machines with workers.
        report: what `check` found, from which memory is told.
        memory_gib: memory of a machine, instead.

    Raises:
        ConfigError: E142, as `check_pool`.
        UsageError: E500, where workers do not come out even over the machines.
    """
    check_pool(campaign)
    workers, threads = campaign.config.workers, campaign.config.evaluation.threads
    if nodes < 1:
        raise UsageError(_fault("a cluster has at least one node", f"found {nodes}", ""))
    if nodes > workers.count:
        wrong = f"{workers.count} workers leave {nodes - workers.count} of {nodes} nodes idle"
        todo = f"give --nodes {workers.count} or fewer, or raise `workers.count`"
        raise UsageError(_fault(wrong, "", todo))
    share, over = divmod(workers.count, nodes)
    if over:
        wrong = f"{workers.count} workers do not come out even over {nodes} nodes, which are all alike"
        even = [n for n in range(1, workers.count + 1) if workers.count % n == 0]
        near = sorted(sorted(even, key=lambda n: abs(n - nodes))[:2])
        todo = f"give --nodes {' or '.join(map(str, near))}, or `workers.count` {share * nodes}"
        raise UsageError(_fault(wrong, "", f"{todo} or {(share + 1) * nodes}"))
    if memory_gib is None and report is not None and report.layout is not None:
        # On the cluster there may be devices, but what is copied to them passes through memory.
        held = sum(report.estimates.get(f"{what}_bytes", 0.0) for what in ("calibration", "mixture"))
        needed = memory_bytes(campaign, report.layout, report.storage, share, int(held))
        memory_gib = math.ceil((SPARE * (needed + RAY_BYTES) + STORE_BYTES) / GIB)
    return Placement(
        nodes,
        share,
        threads,
        workers.gpus,
        share * threads + 1,
        _devices(share, workers.gpus),
        memory_gib,
    )


def _devices(share: int, gpus: float) -> int:
    """Whole devices for so many workers; a worker's share of a device never lies on two."""
    if gpus == 0:
        return 0
    if gpus >= 1:
        return share * math.ceil(gpus)
    return math.ceil(share / math.floor(1 / gpus + 1e-9))


def _fault(wrong: str, found: str, todo: str) -> Problem:
    return Problem("E500", wrong, found, todo, field="--nodes")
