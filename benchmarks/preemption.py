"""What does a preemptible fleet cost? Ray nodes go away without a word and others come, until a search ends.

A real Ray cluster on this machine (a head and nodes with one processor each), a real driver, and workers that
only sleep and draw scores, so that a minute of evaluating can be played in a second. Printed: how many nodes
went, what was lost or counted twice (nothing may be), which share of the workers' time was spent on
attempts that were lost, as the ledger and `status` have it, how many evaluations began against how many were
needed, and whether the front is the one of a search that nobody disturbed.

    python -m benchmarks.preemption --nodes 3 --evaluations 60 --seconds 1 --life 10
"""

from __future__ import annotations

import argparse
import random
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.cli.terminal import call
from tests.faults.bed import RUN, doubled_results, end_of, lost_events, session, write_toy_campaign
from tests.faults.test_cluster import cluster, drive, until
from tests.faults.test_driver_stopped import results_in
from tests.faults.toy import executions
from tests.tiny_runs import events_of


def come_and_go(
    made: Any,
    nodes: list[Any],
    driver: subprocess.Popen[bytes],
    rng: random.Random,
    life: float,
    most: int,
) -> int:
    """Take nodes away without a word and put others in their places, until a driver ends; how many.

    Args:
        made: the cluster.
        nodes: those with workers; changed in place.
        driver: whose workers run there.
        rng: chance.
        life: mean seconds between two losses.
        most: after so many it is over, and the driver is left alone.
    """
    lost = 0
    while lost < most:
        end = time.monotonic() + rng.uniform(0.5, 1.5) * life
        while time.monotonic() < end:
            if driver.poll() is not None:
                return lost
            time.sleep(0.05)
        made.remove_node(nodes.pop(rng.randrange(len(nodes))), allow_graceful=False)
        lost += 1
        nodes.append(made.add_node(num_cpus=1))
    return lost


def undisturbed(folder: Path, sections: dict[str, Any]) -> tuple[str, list[str]]:
    """The end of the same search in this process."""
    folder.mkdir()
    session(write_toy_campaign(folder, sections))
    return end_of(folder / RUN)


def measure(arguments: argparse.Namespace, scratch: Path) -> None:
    """Print what became of one search on a fleet of which a node goes every `life` seconds on average."""
    sections: dict[str, Any] = {"budget": {"evaluations": arguments.evaluations}}
    alone = undisturbed(scratch / "alone", sections)
    folder = scratch / "fleet"
    folder.mkdir()
    with cluster(arguments.nodes) as (made, nodes):
        began = time.monotonic()
        workers = {"pool": "ray", "count": arguments.nodes, "address": made.address}
        file = write_toy_campaign(folder, sections | {"workers": workers}, seconds=arguments.seconds)
        driver = drive(file)
        try:
            until(lambda: results_in(folder) >= 1, driver, file)
            rng = random.Random(arguments.seed)
            most = arguments.most
            gone = come_and_go(made, nodes, driver, rng, life=arguments.life, most=most)
            code = driver.wait(600)
            took = round(time.monotonic() - began, 1)
        finally:
            driver.kill()
            driver.wait(10)
        # While the cluster stands: Ray ends a process that has seen its head go.
        events = events_of(folder / RUN)
        told = call("status", folder / RUN, "--json").json
        needed = sum(event["event"] == "evaluated" and "same_as" not in event for event in events)
        found = {
            "exit code": code,
            "nodes lost": gone,
            "seconds on the clock": took,
            "attempts lost": told["lost"],
            "acknowledged events lost": lost_events(folder, events),
            "results doubled": doubled_results(events),
            "evaluations needed": needed,
            "evaluations begun": (begun := len(executions(folder))),
            "share of them again": round(1 - needed / begun, 4),
            "seconds of work lost": round(sum(each["seconds"] for each in told["lost_to"].values()), 2),
            "share repeated": round(told["repeated_share"] or 0.0, 4),
            "front": "the same" if end_of(folder / RUN) == alone else "ANOTHER",
        }
        for name, value in found.items():
            print(f"{name:<26}{value!s:>12}", flush=True)


def main() -> None:
    """Print one column."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--evaluations", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=1.0, help="of one evaluation")
    parser.add_argument("--life", type=float, default=10.0, help="mean seconds between two losses")
    parser.add_argument("--most", type=int, default=1000, help="losses after which it is over")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        measure(arguments, Path(scratch))


if __name__ == "__main__":
    main()
