"""Ledger: the append-only events of one campaign, the only truth about it.

A file of records (see `records`), each of which holds an event (see `events`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from evomerge.errors import LedgerDamaged, Problem
from evomerge.ledger.events import AskedCandidate, AskedEvent, Event, event_from_json
from evomerge.ledger.history import ITEMS_FOLDER
from evomerge.ledger.item_store import ItemStore
from evomerge.ledger.records import RecordFile, read_records

GENOMES, GENOME = "genomes", "genome"
"""Name of the side file among the per-item results, and of its arrays."""


def read_events(path: str | Path, *, whole: bool = True) -> list[Event]:
    """The events of a ledger, in order, without a lock; a torn tail is left out.

    Without `whole`, genomes that lie in a side file are left empty.

    Raises:
        LedgerDamaged: E502 damage before the tail or a record that is no event, or a genome that cannot be
            read; E503 a newer format.
        FileNotFoundError: if there is no ledger.
    """
    events = _events(read_records(path), Path(path))
    return [with_genomes(event, _store(Path(path))) for event in events] if whole else events


class Ledger:
    """The ledger of one campaign, open for writing. A context manager; see `Ledger.open`.

    Attributes:
        events: those it held when it was opened, in order, as read back from its JSON. A driver folds them
            into a history and clears the list; it is not added to.
    """

    def __init__(self, file: RecordFile) -> None:
        self._file = file
        self._store = _store(file.path)
        self.events = [with_genomes(event, self._store) for event in _events(file.records, file.path)]
        file.records.clear()

    @staticmethod
    def open(path: str | Path, *, create: bool, take_over: bool = False) -> Ledger:
        """Open a ledger as its one writer, see `RecordFile.open`; `create` makes one if there is none.

        Raises:
            CampaignInUse: E501, another writer holds it; the message names its host, pid and start.
            LedgerDamaged: E502 damage before the tail or a record that is no event, E503 a newer format.
            EnvironmentFault: E403 or E408, the folder cannot be written.
            FileNotFoundError: if there is no ledger and `create` is false.
        """
        file = RecordFile.open(path, create=create, take_over=take_over)
        try:
            return Ledger(file)
        except BaseException:
            file.close()
            raise

    def append(self, event: Event) -> Event:
        """Add one event; when this returns, it is on the disk. Gives it as it was written, with its number.

        Raises:
            ValueError: a number that is not finite, or an event that was written before.
            EnvironmentFault: E403 or E408, it could not be written; the ledger is as it was before.
            CampaignInUse: E501, another driver has taken the campaign over.
            RuntimeError: if the ledger was closed, was written to by somebody else, or could not be
                put back after such a fault.
        """
        record = self._file.append(_without_genomes(event).to_json())
        return with_genomes(type(event).from_json(record), self._store)

    def close(self) -> None:
        """Close the file and let go of the lock; safe to call twice."""
        self._file.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _store(ledger: Path) -> ItemStore:
    return ItemStore(ledger.parent / ITEMS_FOLDER)


def keep_genome(candidate: AskedCandidate, store: ItemStore) -> AskedCandidate:
    """The candidate with its genome in the side file, on the disk when this returns.

    Raises:
        EnvironmentFault: as `ItemStore.append`.
    """
    values = np.array(candidate.genome, dtype=np.float64)
    return replace(candidate, values=store.append(GENOMES, {GENOME: values}))


def with_genomes(event: Event, store: ItemStore) -> Event:
    """The event with the genomes that lie in the side file.

    Raises:
        LedgerDamaged: E502, one cannot be read.
    """
    if not isinstance(event, AskedEvent) or all(each.values is None for each in event.candidates):
        return event
    candidates = [
        each
        if each.values is None
        else replace(each, genome=tuple(store.read(each.values)[GENOME].tolist()))
        for each in event.candidates
    ]
    return replace(event, candidates=tuple(candidates))


def _without_genomes(event: Event) -> Event:
    if not isinstance(event, AskedEvent):
        return event
    bare = [each if each.values is None else replace(each, genome=()) for each in event.candidates]
    return replace(event, candidates=tuple(bare))


def _events(records: Iterable[Mapping[str, Any]], path: Path) -> list[Event]:
    found = []
    for record in records:
        try:
            found.append(event_from_json(record))
        except ValueError as error:
            raise LedgerDamaged(
                Problem(
                    "E502",
                    "the ledger has a record that is no event",
                    f"record {record['n']}: {error}",
                    "use the evomerge that wrote it; `evomerge repair` copies what is sound",
                    file=str(path),
                )
            ) from None
    return found
