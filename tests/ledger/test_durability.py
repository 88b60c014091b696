"""What the ledger and the item store have acknowledged outlives the machine, not only the process."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from evomerge.errors import EnvironmentFault
from evomerge.ledger.item_store import ItemStore
from evomerge.ledger.lock import LedgerLock
from evomerge.ledger.records import RecordFile, read_records, repair
from tests.durability import ENDS, Disk, End, write

EVENTS = [{"event": "stopped", "reason": f"number {number}"} for number in range(4)]
LIKE = {"acc": np.linspace(0.0, 1.0, 7)}


def whole_ledger(path: Path) -> bytes:
    with RecordFile.open(path, create=True) as ledger:
        for event in EVENTS:
            ledger.append(event)
    return path.read_bytes()


@pytest.mark.parametrize("end", ENDS)
def test_an_event_is_on_the_disk_when_append_returns(tmp_path: Path, end: End) -> None:
    path = tmp_path / "ledger"
    with Disk(tmp_path) as disk, RecordFile.open(path, create=True) as ledger:
        assert disk.left(end)["ledger"] == b""
        for event in EVENTS:
            ledger.append(event)
            assert disk.left(end)["ledger"] == path.read_bytes()


@pytest.mark.parametrize("end", ENDS)
def test_a_ledger_cut_by_power_loss_goes_on_with_all_it_acknowledged(tmp_path: Path, end: End) -> None:
    path, acknowledged = tmp_path / "disk" / "ledger", 0
    lefts = []
    path.parent.mkdir()
    with (
        Disk(path.parent, lambda disk: lefts.append((acknowledged, disk.left(end)))),
        RecordFile.open(path, create=True) as ledger,
    ):
        for event in EVENTS:
            ledger.append(event)
            acknowledged += 1
    assert len(lefts) >= 2 * len(EVENTS)
    for number, (count, left) in enumerate(lefts):
        again = tmp_path / f"{number}"
        write(left, again)
        with RecordFile.open(again / "ledger", create=True) as ledger:
            assert ledger.count in (count, count + 1)
            ledger.append(EVENTS[0])


def test_what_is_read_at_the_start_is_made_durable_first(tmp_path: Path) -> None:
    """Its writer may have died before its fsync, and the machine may die after this session's first tell."""
    data = whole_ledger(tmp_path / "whole")
    with Disk(tmp_path) as disk:
        (tmp_path / "ledger").write_bytes(data)
        assert "ledger" not in disk.left("late")
        with RecordFile.open(tmp_path / "ledger", create=False):
            assert disk.left("late")["ledger"] == data


def test_a_record_that_was_taken_back_does_not_come_again(tmp_path: Path) -> None:
    """Where fsync fails, the bytes may have reached the disk all the same."""
    with Disk(tmp_path) as disk, RecordFile.open(tmp_path / "ledger", create=True) as ledger:
        ledger.append(EVENTS[0])
        before = ledger.path.read_bytes()
        sound, calls = os.fsync, []

        def fails_once(descriptor: int) -> None:
            sound(descriptor)
            calls.append(descriptor)
            if len(calls) == 1:
                raise OSError(errno.EIO, "Input/output error")

        fault = pytest.raises(EnvironmentFault, match=r"E408.*Input/output error")
        with mock.patch.object(os, "fsync", fails_once), fault:
            ledger.append(EVENTS[1])
        assert disk.left("late")["ledger"] == before
        ledger.append(EVENTS[2])
    assert [event["reason"] for event in read_records(ledger.path)] == ["number 0", "number 2"]


def test_who_holds_a_ledger_is_on_the_disk(tmp_path: Path) -> None:
    with Disk(tmp_path) as disk:
        lock = LedgerLock.acquire(tmp_path / "ledger.lock")
        held = (tmp_path / "ledger.lock").read_bytes()
        assert b'"pid"' in held
        assert disk.left("early")["ledger.lock"] == held
        lock.release()


@pytest.mark.parametrize("end", ENDS)
def test_a_record_is_on_the_disk_when_its_reference_is_given(tmp_path: Path, end: End) -> None:
    with Disk(tmp_path) as disk:
        store = ItemStore(tmp_path / "run" / "items")
        references = []
        for number in range(6):
            if number == 4:  # another session
                store = ItemStore(tmp_path / "run" / "items")
            references.append(store.append(f"task{number % 2}", LIKE))
            left = tmp_path.with_name(f"{tmp_path.name}-{number}")
            write(disk.left(end), left)
            for reference in references:
                found = ItemStore(left / "run" / "items").read(reference)
                assert found["acc"].tobytes() == LIKE["acc"].tobytes()


def test_the_name_of_a_segment_is_made_durable_although_its_file_exists(tmp_path: Path) -> None:
    """Its creator may have died between the two."""
    with Disk(tmp_path) as disk:
        (tmp_path / "items").mkdir()
        (tmp_path / "items" / "task.bin").touch()
        ItemStore(tmp_path / "items").append("task", LIKE)
        assert disk.left("late")["items/task.bin"] == (tmp_path / "items" / "task.bin").read_bytes()


@pytest.mark.parametrize("end", ENDS)
def test_a_repaired_ledger_is_on_the_disk(tmp_path: Path, end: End) -> None:
    data = whole_ledger(tmp_path / "ledger")
    with Disk(tmp_path) as disk:
        repair(tmp_path / "ledger", tmp_path / "out", keep=2)
        assert disk.left(end)["out"] == b"".join(data.splitlines(keepends=True)[:2])
