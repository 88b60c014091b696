"""What a repair leaves out: everything from the first result whose per-item results are damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from evomerge.ledger.events import SlopeEvent
from evomerge.ledger.history import ITEMS_FOLDER, LEDGER_FILE
from evomerge.ledger.item_store import ItemStore
from evomerge.ledger.ledger import Ledger, read_events
from evomerge.ledger.records import RecordFile, repair
from evomerge.ledger.repair import repair_folder
from tests.hand_made import asked, begin, scored


def test_a_result_with_damaged_items_is_not_copied_nor_what_follows_it(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    store = ItemStore(tmp_path / "run" / ITEMS_FOLDER)
    names = ["c00000", "c00001", "c00002"]
    with Ledger.open(tmp_path / "run" / LEDGER_FILE, create=True) as ledger:
        for event in (*begin(), asked(0, *names)):
            ledger.append(event)
        for name in names:
            ledger.append(scored(name, {"a.acc": [1.0, 0.0], "b.acc": [1.0, 1.0]}, store=store))
    events = read_events(tmp_path / "run" / LEDGER_FILE)
    damaged = events[-2].items["b"]
    segment = store.folder / damaged.segment
    data = bytearray(segment.read_bytes())
    data[damaged.offset + damaged.length - 1] ^= 1
    segment.write_bytes(data)

    report = repair_folder(tmp_path / "run", tmp_path / "out")
    copied = read_events(tmp_path / "out" / LEDGER_FILE)
    assert copied == events[:-2]
    assert (report.events, report.damaged_items) == (len(copied), "c00001")
    assert report.evaluations == 3  # base, math and the first candidate
    kept = ItemStore(tmp_path / "out" / ITEMS_FOLDER)
    assert all(kept.read(reference) for reference in copied[-1].items.values())


def test_a_damaged_gradient_is_not_copied(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    store = ItemStore(tmp_path / "run" / ITEMS_FOLDER)
    gradients = [store.append("slopes", {"gradient": np.arange(4.0)}) for _ in range(2)]
    with Ledger.open(tmp_path / "run" / LEDGER_FILE, create=True) as ledger:
        for event in begin():
            ledger.append(event)
        for number, gradient in enumerate(gradients):
            of = {"batch": 0, "number": number, "request": "", "weights": (1.0, 1.0)}
            ledger.append(SlopeEvent(losses=(1.0, 1.0), cost=0.1, gradient=gradient, **of))
    segment = store.folder / gradients[1].segment
    data = bytearray(segment.read_bytes())
    data[-1] ^= 1
    segment.write_bytes(data)

    report = repair_folder(tmp_path / "run", tmp_path / "out")
    events = read_events(tmp_path / "run" / LEDGER_FILE)
    assert read_events(tmp_path / "out" / LEDGER_FILE) == events[:-1]
    assert report.damaged_items == "slope 1 of batch 0"


def test_events_behind_the_damage_are_told_only_where_their_own_checksum_fits(tmp_path: Path) -> None:
    with RecordFile.open(tmp_path / "ledger", create=True) as ledger:
        for number in range(7):
            ledger.append({"event": "stopped", "reason": f"number {number}"})
    lines = ledger.path.read_bytes().splitlines(keepends=True)
    for number in (1, 4):
        lines[number] = lines[number].replace(b"number", b"NUMBER")
    ledger.path.write_bytes(b"".join(lines))
    found = repair(ledger.path, tmp_path / "out")
    assert (found.kept, found.dropped_bytes) == (1, sum(map(len, lines[1:])))
    assert [event["n"] for event in found.salvaged] == [2, 3, 5, 6]
