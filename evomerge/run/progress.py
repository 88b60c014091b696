"""Progress: what a run tells those who watch it, and how it is asked to stop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from evomerge.errors import EvomergeError
from evomerge.ledger.history import History


@dataclass(frozen=True)
class Progress:
    """What is going on right now, for a live display.

    `phase` is one of prepare, baselines, learning, search, selection, done; `running` the ids under way;
    `workers` how many jobs run side by side.
    """

    phase: str
    running: tuple[str, ...]
    budget: int | None
    done_in_session: int
    seconds_in_session: float
    workers: int = 0


Observer = Callable[[History, Progress], None]
StopRequest = Callable[[], EvomergeError | None]


class Display(Protocol):
    """What shows a run: an observer that is also a context manager."""

    def __call__(self, history: History, progress: Progress) -> None:
        """Take in where things stand."""

    def __enter__(self) -> Display:
        """Begin to show."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the last state on the screen."""
