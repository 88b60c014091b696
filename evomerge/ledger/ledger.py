"""Ledger: the append-only events of one campaign, the only truth about it.

A file of records (see `records`), each of which holds an event (see `events`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from evomerge.errors import LedgerDamaged, Problem
from evomerge.ledger.events import AskedCandidate, AskedEvent, Event, StartsEvent, event_from_json
from evomerge.ledger.history import ITEMS_FOLDER, History
from evomerge.ledger.item_store import ItemReference, ItemStore
from evomerge.ledger.records import RecordFile, take_records

GENOMES, GENOME = "genomes", "genome"
"""Name of the side file among the per-item results, and of its arrays."""


def take_events(path: str | Path, take: Callable[[Event], object], *, whole: bool = True) -> None:
    """Hand on the events of a ledger, in order and one by one, without a lock; a torn tail is left out.

    Without `whole`, genomes that lie in a side file are left empty.

    Raises:
        LedgerDamaged: E502 damage before the tail or a record that is no event, or a genome that cannot be
            read, behind the events that were handed on; E503 a newer format.
        FileNotFoundError: if there is no ledger.
    """
    store = _store(Path(path)) if whole else None
    take_records(path, lambda record: take(_event(record, Path(path), store)))


def read_events(path: str | Path, *, whole: bool = True) -> list[Event]:
    """The events of a ledger as a list; see `take_events`."""
    found: list[Event] = []
    take_events(path, found.append, whole=whole)
    return found


def read_history(path: str | Path) -> History:
    """What the events of a ledger amount to; see `take_events`. No event is kept beside it."""
    history = History()
    take_events(path, history.apply)
    return history


class _Enough(Exception):
    """No more of a ledger is wanted."""


def read_history_until(path: str | Path, enough: Callable[[History], bool]) -> History:
    """As `read_history`, but no further than `enough` says of what was read, asked after each event.

    What stands behind is not looked at, so that damage there is not found.
    """
    history = History()

    def take(event: Event) -> None:
        history.apply(event)
        if enough(history):
            raise _Enough

    with contextlib.suppress(_Enough):
        take_events(path, take)
    return history


class Ledger:
    """The ledger of one campaign, open for writing. A context manager; see `Ledger.open`.

    Attributes:
        events: those it held when it was opened, in order, as read back from its JSON; not added to, and
            empty where `open` handed them on.
    """

    def __init__(self, file: RecordFile, events: list[Event]) -> None:
        self._file = file
        self._store = _store(file.path)
        self.events = events

    @staticmethod
    def open(
        path: str | Path,
        *,
        create: bool,
        take_over: bool = False,
        take: Callable[[Event], object] | None = None,
    ) -> Ledger:
        """Open a ledger as its one writer, see `RecordFile.open`; `create` makes one if there is none.

        `take`: given the events that are there one by one, so that none is kept but what it makes of them.

        Raises:
            CampaignInUse: E501, another writer holds it; the message names its host, pid and start.
            LedgerDamaged: E502 damage before the tail or a record that is no event, E503 a newer format.
            EnvironmentFault: E403 or E408, the folder cannot be written.
            FileNotFoundError: if there is no ledger and `create` is false.
        """
        path, events = Path(path), list[Event]()
        store, keep = _store(path), events.append if take is None else take
        file = RecordFile.open(
            path,
            create=create,
            take_over=take_over,
            take=lambda record: keep(_event(record, path, store)),
        )
        return Ledger(file, events)

    def append(self, event: Event) -> Event:
        """Add one event; see `append_all`."""
        return self.append_all([event])[0]

    def append_all(self, events: Sequence[Event]) -> list[Event]:
        """Add events; when this returns, all are on the disk, by one sync.

        Gives them as they were written, with their numbers.

        Raises:
            ValueError: a number that is not finite, or an event that was written before.
            EnvironmentFault: E403 or E408, they could not be written; the ledger is as it was before.
            CampaignInUse: E501, another driver has taken the campaign over.
            RuntimeError: if the ledger was closed, was written to by somebody else, or could not be
                put back after such a fault.
        """
        records = self._file.append_all([_without_genomes(event).to_json() for event in events])
        written = [type(event).from_json(r) for event, r in zip(events, records, strict=True)]
        return [with_genomes(event, self._store) for event in written]

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


def keep_starts(event: StartsEvent, store: ItemStore) -> StartsEvent:
    """The starts with their genomes in the side file; see `keep_genome`."""
    arrays = [np.array(genome, dtype=np.float64) for genome in event.genomes]
    return replace(event, values=tuple(store.append(GENOMES, {GENOME: array}) for array in arrays))


def with_genomes(event: Event, store: ItemStore) -> Event:
    """The event with the genomes that lie in the side file.

    Raises:
        LedgerDamaged: E502, one cannot be read.
    """
    if isinstance(event, StartsEvent) and event.values is not None:
        return replace(event, genomes=tuple(_genome(values, store) for values in event.values))
    if not isinstance(event, AskedEvent) or all(each.values is None for each in event.candidates):
        return event
    candidates = [
        each if each.values is None else replace(each, genome=_genome(each.values, store))
        for each in event.candidates
    ]
    return replace(event, candidates=tuple(candidates))


def _genome(values: ItemReference, store: ItemStore) -> tuple[float, ...]:
    return tuple(store.read(values)[GENOME].tolist())


def _without_genomes(event: Event) -> Event:
    if isinstance(event, StartsEvent) and event.values is not None:
        return replace(event, genomes=((),) * len(event.genomes))
    if not isinstance(event, AskedEvent):
        return event
    bare = [each if each.values is None else replace(each, genome=()) for each in event.candidates]
    return replace(event, candidates=tuple(bare))


def _event(record: Mapping[str, Any], path: Path, store: ItemStore | None) -> Event:
    """The event of a record, with the genomes that `store` holds."""
    try:
        event = event_from_json(record)
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
    return event if store is None else with_genomes(event, store)
