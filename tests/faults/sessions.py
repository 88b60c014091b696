"""Drivers whose workers are toys: torch-free, so that one can be started in a process of its own.

`python -m tests.faults.sessions run FILE --dir DIR` is `evomerge run` with toy workers.
"""

from __future__ import annotations

import contextlib
import os
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from unittest import mock

from evomerge.campaign.file import WorkersSection
from evomerge.cli.app import main
from evomerge.ledger.records import RecordFile
from evomerge.recipe.recipe import canonical_json
from evomerge.run import driver, safeguards
from evomerge.run.job import WorkerSetup
from evomerge.run.pool import ray_actors
from evomerge.run.pool.inline import InlinePool
from evomerge.run.pool.pool import Pool
from evomerge.run.pool.processes import ProcessPool
from tests.faults.toy import ToyWorker

ACKNOWLEDGED = "acknowledged.txt"


def toy_pool(workers: WorkersSection, setup: WorkerSetup) -> Pool:
    """The pool a campaign names, with toy workers."""
    if workers.pool == "inline":
        return InlinePool(setup, ToyWorker)
    if workers.pool == "local":
        return ProcessPool(setup, workers.count, ToyWorker)
    return ray_actors.RayPool(
        setup, workers.count, address=workers.address, gpus=workers.gpus, runner=ToyWorker
    )


@contextlib.contextmanager
def toys() -> Iterator[None]:
    """Drivers in this process (and in its forks) take toy workers, and note what they acknowledged.

    They say sooner that they wait for machines, and look more often whether Ray's head is there.
    """
    plain = RecordFile.append_all

    def append_all(file: RecordFile, records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        written = plain(file, records)
        # What stands here was acknowledged: whoever called it has gone on.
        folder = file.path.parent.parent
        with (folder / ACKNOWLEDGED).open("a") as log:
            log.writelines(f"{each['n']} {checksum(each)}\n" for each in written)
        return written

    noted = mock.patch.object(RecordFile, "append_all", append_all)
    soon = mock.patch.multiple(ray_actors, HEAD_SECONDS=1.0)
    told = mock.patch.multiple(safeguards, CAPACITY_NOTICE=10.0)
    with mock.patch.object(driver, "open_pool", toy_pool), noted, soon, told:
        yield


def checksum(event: Mapping[str, Any]) -> int:
    """CRC-32 of an event's canonical JSON."""
    return zlib.crc32(canonical_json(event).encode())


def command(*words: str | os.PathLike[str]) -> int:
    """One command line with toy workers; gives its exit code."""
    with toys():
        return main([os.fspath(word) for word in words])


if __name__ == "__main__":
    sys.exit(command(*sys.argv[1:]))
