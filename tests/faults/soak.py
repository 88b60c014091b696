"""The fault matrix with larger counts: `python -m tests.faults.soak --tier T1 --dir runs/soak`; one table.

Trials run in batches, each in a process of its own (a leak or a crash of one costs one batch). What a batch
found is appended to `progress.jsonl` in the folder; the same command goes on where that ends, so that a soak
can be run in parts (`--minutes`). Several rows run side by side (`--jobs`): most of their time is waiting,
for workers to start and for processes to notice that others are gone.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import multiprocessing
import os
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tests.faults.harness import MODULES, ROWS, Row, Tally, Trial

PROGRESS = "progress.jsonl"
BATCH_SECONDS = 60.0
"""A batch begins no trial after this many seconds."""

PATIENCE = 900.0
"""Seconds after which a batch is taken for hanging."""

EXAMPLES = {"T1": 50, "T2": 250}


def load_rows() -> list[Row]:
    """Every row of the matrix, in order."""
    for module in MODULES:
        importlib.import_module(f"tests.faults.{module}")
    return sorted(ROWS.values(), key=lambda row: int(row.id[1:]))


def recorded(folder: Path) -> list[dict[str, Any]]:
    """What batches before this one found."""
    path = folder / PROGRESS
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def total(found: Sequence[dict[str, Any]], row: str) -> tuple[Tally, int, list[str]]:
    """A row's tally so far, the number of its next trial, and what went wrong."""
    tally, trials, errors = Tally(), 0, []
    for record in found:
        if record["row"] == row:
            tally += Tally(**record["tally"])
            trials = max(trials, record["next"])
            errors += record["errors"]
    return tally, trials, errors


def _batch(pipe: Connection, name: str, start: int, wanted: int, folder: str, end: float) -> None:
    """Trials of one row, from number `start`, until `wanted` faults are injected or time is up."""
    load_rows()
    tally, index, errors = Tally(), start, []
    place = Path(folder) / f"work-{name}"
    # Nobody reads what thousands of runs print, and a file of it would fall under the limits some rows set.
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    while tally.injections < wanted and not errors and (index == start or time.time() < end):
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        try:
            tally += ROWS[name].inject(Trial(name, index, place))
        except BaseException:
            errors.append(f"trial {index}: {traceback.format_exc()}")
        index += 1
    pipe.send((dataclasses.asdict(tally), index, errors))
    sys.stdout.flush()
    os._exit(0)  # no waiting for what a trial left in this process


def run_batch(row: Row, start: int, wanted: int, folder: Path) -> dict[str, Any]:
    """One batch in a process of its own."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    end = time.time() + BATCH_SECONDS
    arguments = (theirs, row.id, start, wanted, str(folder), end)
    process = context.Process(target=_batch, args=arguments)
    process.start()
    theirs.close()
    try:
        if not ours.poll(PATIENCE):
            raise EOFError
        tally, index, errors = ours.recv()
    except EOFError:
        tally, index = dataclasses.asdict(Tally()), start + 1
        errors = [f"trial {start} or a later one of its batch: the process hung or died"]
    process.kill()
    process.join()
    return {"row": row.id, "tally": tally, "next": index, "errors": errors}


def table(rows: Sequence[Row], found: Sequence[dict[str, Any]], tier: str) -> str:
    """Fault, injections, lost, double-counted, fronts differing; `-` where nothing could be."""
    lines = [
        f"{'':4} {'fault':<66} {'injections':>12} {'lost':>6} {'double':>7} {'fronts':>7} {'differ':>7}"
    ]
    for row in rows:
        tally, _, errors = total(found, row.id)
        of = f"{tally.injections}/{row.count(tier)}"
        judged: list[Any] = [tally.lost, tally.doubled, tally.fronts, tally.differing]
        lost, doubled, fronts, differing = judged if tally.fronts else ["-"] * 4
        failed = f"  {len(errors)} FAILED" if errors else ""
        lines.append(
            f"{row.id:4} {row.title:<66} {of:>12} {lost:>6} {doubled:>7} {fronts:>7} {differing:>7}{failed}"
        )
    everything = Tally()
    for row in rows:
        everything += total(found, row.id)[0]
    lines.append(
        f"{'':4} {'all':<66} {everything.injections:>12} {everything.lost:>6} {everything.doubled:>7} "
        f"{everything.fronts:>7} {everything.differing:>7}"
    )
    return "\n".join(lines)


def main() -> int:
    """Run what is missing, print the table; 1 if something was lost, counted twice, changed or failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tier", choices=("quick", "T1", "T2"), default="T1")
    parser.add_argument("--dir", type=Path, required=True, help="where progress is kept")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after these")
    parser.add_argument("--rows", nargs="*", default=None, help="for example F1 F25")
    parser.add_argument("--jobs", type=int, default=3, help="rows that run side by side")
    given = parser.parse_args()
    folder: Path = given.dir.absolute() / given.tier
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["EVOMERGE_EXAMPLES"] = str(EXAMPLES.get(given.tier, 6))
    rows = [row for row in load_rows() if not given.rows or row.id in given.rows]
    until = time.monotonic() + 60 * given.minutes
    lock = threading.Lock()

    def soak(row: Row) -> None:
        while time.monotonic() < until:
            with lock:
                tally, start, errors = total(recorded(folder), row.id)
            missing = row.count(given.tier) - tally.injections
            if missing <= 0 or len(errors) >= 3:
                break
            found = run_batch(row, start, missing, folder)
            done = tally.injections + found["tally"]["injections"]
            with lock:
                with (folder / PROGRESS).open("a") as progress:
                    progress.write(json.dumps(found) + "\n")
                for error in found["errors"]:
                    print(f"{row.id}: {error}", file=sys.stderr, flush=True)
                print(f"{row.id}: {done}/{row.count(given.tier)}", file=sys.stderr, flush=True)

    with ThreadPoolExecutor(given.jobs) as pool:
        list(pool.map(soak, rows))
    found = recorded(folder)
    print(table(rows, found, given.tier))
    sums = [total(found, row.id) for row in rows]
    whole = all(
        tally.injections >= r.count(given.tier) for r, (tally, _, _) in zip(rows, sums, strict=True)
    )
    if not whole:
        print("not complete: run the same command again", file=sys.stderr)
    return int(not whole or any(errors or not tally.sound for tally, _, errors in sums))


if __name__ == "__main__":
    sys.exit(main())
