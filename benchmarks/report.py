"""Seconds and size of a report over many candidates: those of a finished campaign, again and again.

    python -m benchmarks.report runs/quickstart --candidates 2000

Copies are asked in further batches under new ids, with the same genes and slightly worse search scores, so
that the front stays as it is.
"""

from __future__ import annotations

import argparse
import copy
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from evomerge.ledger.history import ITEMS_FOLDER, LEDGER_FILE
from evomerge.ledger.records import RecordFile, read_records
from evomerge.report.write import write_report

Record = dict[str, Any]
OWN = ("n", "time", "elapsed", "format")
"""Fields that a ledger gives an event itself."""


def copied(records: list[Record], candidates: int) -> Iterator[Record]:
    """The events before the selection with copies of the search behind them, then the selection."""
    begins = next(k for k, record in enumerate(records) if record["event"] == "selection")
    ahead, behind = records[:begins], records[begins:]
    yield from ahead
    count = sum(len(record["candidates"]) for record in ahead if record["event"] == "asked")
    batches = sum(record["event"] == "asked" for record in ahead)
    search = [r for r in ahead if r["event"] == "asked" or str(r.get("id", "")).startswith("c0")]
    for round_ in range(1, -(-candidates // count)):
        for record in copy.deepcopy(search):
            names = record.get("candidates", [record])
            for each in names:
                each["id"] = f"c{int(each['id'][1:]) + round_ * count:05d}"
                each["recipe"] = f"{round_:04x}{each['recipe'][4:]}"
            if record["event"] == "asked":
                record["generation"] += round_ * batches
            for metric in record.get("metrics", {}).values():
                metric["value"] -= 0.02 + 0.001 * round_
            if "key" in record:
                record["key"] = f"{round_:04x}{record['key'][4:]}"
            yield record
    yield from behind


def main() -> None:
    """Write the folder, make its report, print both figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("campaign", type=Path)
    parser.add_argument("--candidates", type=int, default=2000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "run"
        folder.mkdir()
        shutil.copytree(options.campaign / ITEMS_FOLDER, folder / ITEMS_FOLDER)
        with RecordFile.open(folder / LEDGER_FILE, create=True) as ledger:
            for record in copied(read_records(options.campaign / LEDGER_FILE), options.candidates):
                ledger.append({name: value for name, value in record.items() if name not in OWN})
        wall, cpu = time.perf_counter(), time.process_time()
        page = write_report(folder, Path(scratch) / "report.html")
        seconds = f"{time.process_time() - cpu:.1f} CPU seconds ({time.perf_counter() - wall:.1f} s)"
        print(f"{options.candidates} candidates: {page.stat().st_size / 1e6:.2f} MB in {seconds}")


if __name__ == "__main__":
    main()
