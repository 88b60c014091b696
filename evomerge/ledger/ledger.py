"""Ledger: the append-only events of one campaign, the only truth about it.

A file of records (see `records`), each of which holds an event (see `events`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from evomerge.errors import LedgerDamaged, Problem
from evomerge.ledger.events import Event, event_from_json
from evomerge.ledger.records import RecordFile, read_records


def read_events(path: str | Path) -> list[Event]:
    """The events of a ledger, in order, without a lock; a torn tail is left out.

    Raises:
        LedgerDamaged: E502 damage before the tail or a record that is no event, E503 a newer format.
        FileNotFoundError: if there is no ledger.
    """
    return _events(read_records(path), Path(path))


class Ledger:
    """The ledger of one campaign, open for writing. A context manager; see `Ledger.open`.

    Attributes:
        events: every event in it, in order, as read back from its JSON. Not to be changed.
    """

    def __init__(self, file: RecordFile) -> None:
        self._file = file
        self.events = _events(file.records, file.path)
        file.records.clear()

    @staticmethod
    def open(path: str | Path, *, create: bool) -> Ledger:
        """Open a ledger as its one writer; `create` makes an empty one if there is none.

        Raises:
            CampaignInUse: E501, another writer holds it; the message names its host, pid and start.
            LedgerDamaged: E502 damage before the tail or a record that is no event, E503 a newer format.
            EnvironmentFault: E403 or E408, the folder cannot be written.
            FileNotFoundError: if there is no ledger and `create` is false.
        """
        file = RecordFile.open(path, create=create)
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
            RuntimeError: if the ledger was closed, was written to by somebody else, or could not be
                put back after such a fault.
        """
        written = type(event).from_json(self._file.append(event.to_json()))
        self.events.append(written)
        return written

    def close(self) -> None:
        """Close the file and let go of the lock; safe to call twice."""
        self._file.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


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
