"""The power fails while a campaign runs: nothing that was announced is lost, and it goes on from there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from evomerge.ledger.history import ITEMS_FOLDER, LEDGER_FILE
from evomerge.ledger.repair import repair_folder
from evomerge.run import search
from tests.durability import ENDS, Disk, Left, below, content, write
from tests.faults.bed import RUN, SCHEDULES, judge, session, write_toy_campaign
from tests.faults.sessions import ACKNOWLEDGED
from tests.tiny_runs import finished

MOMENTS = 5
"""At how many moments of a session the power fails, each time with both ends."""


def events(ledger: bytes) -> list[dict[str, Any]]:
    """The events of a ledger's bytes, up to one that is not whole."""
    found = []
    for line in ledger.split(b"\n")[:-1]:
        if not line.strip(b"\0"):
            break
        found.append(json.loads(line[9:]))
    return found


def has_items(left: Left, event: Mapping[str, Any]) -> bool:
    """Whether the per-item results that an event refers to are on the disk."""
    for at in event.get("items", {}).values():
        segment = left.get(f"{RUN}/{ITEMS_FOLDER}/{at['segment']}", b"")
        record = segment[at["offset"] : at["offset"] + at["length"]]
        if hashlib.sha256(record).hexdigest() != at["digest"]:
            return False
    return True


@pytest.mark.parametrize("schedule", [0, 1])
def test_what_is_announced_is_on_the_disk(
    tmp_path: Path, schedule: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_toy_campaign(tmp_path, SCHEDULES[schedule])
    ledger = file.parent / RUN / LEDGER_FILE
    shown, told = [], []
    make = search.campaign_optimizer

    def on_disk(disk: Disk) -> list[Left]:
        return [disk.left(end) for end in ENDS]

    def written_refers_to_what_is_there(disk: Disk) -> None:
        # A line may reach the disk before its own fsync, so its items must be there already.
        last = events(ledger.read_bytes())[-1:] if ledger.exists() else []
        assert all(has_items(left, event) for left in on_disk(disk) for event in last)

    def optimizer(*words: Any) -> Any:
        made = make(*words)
        tell = made.tell

        def watched(outcomes: Sequence[Any], numbers: Sequence[int]) -> None:
            for left in on_disk(disk) if disk.syncs else ():
                settled = {
                    e["id"] for e in events(left[f"{RUN}/{LEDGER_FILE}"]) if e["event"] == "evaluated"
                }
                assert {f"c{number:05d}" for number in numbers} <= settled
            told.extend(numbers)
            tell(outcomes, numbers)

        made.tell = watched
        return made

    monkeypatch.setattr(search, "campaign_optimizer", optimizer)
    with Disk(tmp_path, written_refers_to_what_is_there) as disk:

        def observer(history: Any, progress: Any) -> None:
            for left in on_disk(disk):
                assert left[f"{RUN}/{LEDGER_FILE}"] == ledger.read_bytes()
                shown.append(len(events(left[f"{RUN}/{LEDGER_FILE}"])))

        session(file, observer=observer)
    assert len(told) >= 18
    assert max(shown) == len(events(ledger.read_bytes()))


@pytest.mark.parametrize("schedule", [0, 1])
def test_a_campaign_goes_on_after_the_power_failed(tmp_path: Path, schedule: int) -> None:
    root = tmp_path / "disk"
    root.mkdir()
    file = write_toy_campaign(root, SCHEDULES[schedule])
    moments: list[tuple[Left, str]] = []

    def power_fails(disk: Disk) -> None:
        log = root / ACKNOWLEDGED
        known = log.read_text() if log.exists() else ""
        moments.extend((disk.left(end), known) for end in ENDS)

    with Disk(root, power_fails):
        session(file)
    chosen = {
        number: moments[number] for number in range(7, len(moments), len(moments) // (2 * MOMENTS))
    }
    assert len({json.dumps(sorted(map(str, left.items()))) for left, _ in chosen.values()}) >= MOMENTS
    for number, (left, known) in chosen.items():
        again = tmp_path / str(number)
        again.mkdir()
        other = write_toy_campaign(again, SCHEDULES[schedule])
        write(below(left, RUN), again / RUN)
        (again / ACKNOWLEDGED).write_text(known)
        session(other)
        assert judge(again, 1, schedule).sound


def test_a_repaired_folder_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    seen = []

    def look(disk: Disk) -> None:
        seen.extend(disk.left(end) for end in ENDS)

    with Disk(tmp_path, look) as disk:
        repair_folder(finished().directory, tmp_path / "new" / "out")
        whole = content(tmp_path / "new" / "out")
        assert {LEDGER_FILE, f"{ITEMS_FOLDER}/"} <= set(whole)
        for end in ENDS:
            assert below(disk.left(end), "new/out") == whole
    there = [left for left in seen if "new/out/" in left]
    assert there
    assert all(below(left, "new/out") == whole for left in there)
