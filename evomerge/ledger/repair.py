"""Repair: copy what is sound of a damaged campaign folder to a new one. The damaged one is only read.

A ledger is a chain: what stands behind a damaged record cannot be shown to follow from what stands before
it, so the copy ends there, and `run` computes the rest again. With a deterministic evaluator it comes to
the same front.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from evomerge.errors import LedgerDamaged, Problem, UsageError
from evomerge.failpoint import failpoint
from evomerge.files.staging import staged_folder
from evomerge.ledger.events import AskedEvent, Event, ScoredEvent, SlopeEvent, StartsEvent
from evomerge.ledger.history import EXPORTS_FILE, ITEMS_FOLDER, LEDGER_FILE
from evomerge.ledger.item_store import ItemReference, ItemStore
from evomerge.ledger.ledger import read_events
from evomerge.ledger.records import Repair, repair


@dataclass(frozen=True)
class RepairReport:
    """What a repair copied.

    Attributes:
        events: ledger events copied; `evaluations` of them are results.
        lost_events: sound events behind the damage, which the copy cannot hold.
        lost_bytes: bytes of the ledger that were not copied.
        damaged_items: the first damaged item record, as the id of its model, or what it is of in words; ""
            if all are sound.
        exports: events of the export log copied; `lost_exports` bytes of it that were not.
    """

    events: int
    evaluations: int
    lost_events: int
    lost_bytes: int
    damaged_items: str = ""
    exports: int = 0
    lost_exports: int = 0


def repair_folder(directory: Path, out: Path) -> RepairReport:
    """Copy the sound part of a campaign folder to `out`, a new folder that `run` can go on with.

    Copied are the ledger's records up to the first damaged one (or up to the first whose per-item
    results, genome or gradient are damaged), all per-item results, and the sound part of the export log.
    The cache is made again when it is needed.

    Raises:
        UsageError: E509 no campaign in `directory`, E601 `out` exists.
        LedgerDamaged: E502 not one sound record, E503 a newer format.
        EnvironmentFault: E403, E408 `out` cannot be written.
    """
    path = directory / LEDGER_FILE
    if not path.is_file():
        found = "this is a file" if directory.exists() else "there is no such folder"
        found = f"it has no {LEDGER_FILE}" if directory.is_dir() else found
        raise UsageError(Problem("E509", "no campaign here", found, file=str(directory)))
    if out.exists():
        raise UsageError(Problem("E601", "the target exists", "", "give a new folder", str(out)))
    with staged_folder(out) as staged:
        items = directory / ITEMS_FOLDER
        if items.is_dir():
            shutil.copytree(items, staged / ITEMS_FOLDER)
        failpoint("repair.items")
        whole = staged / f"{LEDGER_FILE}.whole"
        copied = repair(path, whole)
        events = read_events(whole, whole=False)
        if not events:
            wrong = "the ledger holds not one sound record"
            raise LedgerDamaged(Problem("E502", wrong, "", "start a new campaign", str(path)))
        broken = _first_damaged(events, ItemStore(staged / ITEMS_FOLDER))
        whole.unlink()
        copied = repair(path, staged / LEDGER_FILE, keep=broken)
        exports = Repair(0, 0, ())
        if (directory / EXPORTS_FILE).is_file():
            exports = repair(directory / EXPORTS_FILE, staged / EXPORTS_FILE)
    kept = events[: copied.kept]
    return RepairReport(
        events=copied.kept,
        evaluations=sum(isinstance(event, ScoredEvent) for event in kept),
        lost_events=len(copied.salvaged),
        lost_bytes=copied.dropped_bytes,
        damaged_items="" if broken is None else _owner(events[broken]),
        exports=exports.kept,
        lost_exports=exports.dropped_bytes,
    )


def _references(event: Event) -> list[ItemReference]:
    if isinstance(event, AskedEvent):
        return [each.values for each in event.candidates if each.values is not None]
    if isinstance(event, StartsEvent):
        return list(event.values or ())
    if isinstance(event, SlopeEvent):
        return [] if event.gradient is None else [event.gradient]
    return list(event.items.values()) if isinstance(event, ScoredEvent) else []


def _owner(event: Event) -> str:
    """Whose the side files of an event are."""
    if isinstance(event, SlopeEvent):
        return f"slope {event.number} of batch {event.batch}"
    if isinstance(event, AskedEvent):
        return f"batch {event.generation}"
    return "the starts" if isinstance(event, StartsEvent) else str(getattr(event, "id", ""))


def _first_damaged(events: Iterable[Event], store: ItemStore) -> int | None:
    """Number of the first event whose side files are not what it says; None if all are."""
    for number, event in enumerate(events):
        for reference in _references(event):
            try:
                store.read(reference)
            except LedgerDamaged:
                return number
    return None
