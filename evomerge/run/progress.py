"""Progress: what a run tells those who watch it, and how it is asked to stop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Self

from evomerge.errors import EvomergeError
from evomerge.ledger.history import History
from evomerge.run.pool.pool import WorkerState


@dataclass(frozen=True)
class Progress:
    """What is going on right now, for a live display.

    `phase` is one of prepare, baselines, learning, search, selection, done; `running` the ids under way;
    `workers` how many jobs run side by side, `look` tells what each worker does.
    """

    phase: str
    running: tuple[str, ...]
    budget: int | None
    done_in_session: int
    seconds_in_session: float
    workers: int = 0
    look: Callable[[], tuple[WorkerState, ...]] = field(default=tuple, compare=False)


Observer = Callable[[History, Progress], None]
StopRequest = Callable[[], EvomergeError | None]


class Display:
    """What shows a run: an observer, and a context manager around the run it shows."""

    def __call__(self, history: History, progress: Progress) -> None:
        """Take in where things stand."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the last state on the screen."""


class Displays(Display):
    """Several displays of one run; they begin in the order given and end in the reverse."""

    def __init__(self, displays: Sequence[Display]) -> None:
        self._displays = displays
        self._open = ExitStack()

    def __call__(self, history: History, progress: Progress) -> None:
        """Take in where things stand, in each of them."""
        for display in self._displays:
            display(history, progress)

    def __enter__(self) -> Self:
        with ExitStack() as opened:
            for display in self._displays:
                opened.enter_context(display)
            self._open = opened.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()
