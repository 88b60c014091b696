"""Watch: keeps the standing of a campaign that is running, for whatever displays it."""

from __future__ import annotations

import time
from collections import deque

from evomerge.ledger.history import History
from evomerge.run.pace import PACE_WINDOW, pace_of
from evomerge.run.progress import Progress
from evomerge.run.standing import Standing, search_hypervolume, standing

MOST_VOLUMES = 2000
"""Hypervolumes of a session that are kept for its display."""


class Watch:
    """Turns what the driver tells its observer into a `Standing`, cheaply."""

    def __init__(self) -> None:
        self.times: deque[float] = deque(maxlen=PACE_WINDOW)
        self.done = 0
        self.seen = -1
        self.volume: float | None = None
        self.volumes: tuple[float, ...] = ()
        self.busy_seconds = 0.0
        self.worker_seconds = 0.0
        self._last: Progress | None = None

    def __call__(self, history: History, progress: Progress) -> Standing:
        """Where things stand now. The hypervolume is computed again only after a new score."""
        if (new := progress.done_in_session - self.done) > 0:
            # Results that arrive together are told of at once.
            self.done += new
            self.times.extend([time.monotonic()] * new)
        searched = len(history.searched())
        if searched != self.seen:
            self.seen = searched
            self.volume = search_hypervolume(history)
            if self.volume is not None:
                self.volumes = (*self.volumes[-MOST_VOLUMES:], self.volume)
        self._count_busy(progress)
        return standing(
            history,
            budget=progress.budget,
            phase=progress.phase,
            pace=pace_of(self.times),
            known_hypervolume=self.volume,
        )

    def _count_busy(self, progress: Progress) -> None:
        """Add up how long how many workers had something to do."""
        before, self._last = self._last, progress
        if before is None or not before.workers:
            return
        passed = max(0.0, progress.seconds_in_session - before.seconds_in_session)
        self.busy_seconds += passed * min(len(before.running), before.workers)
        self.worker_seconds += passed * before.workers

    @property
    def busy(self) -> float | None:
        """The share of the session's worker time in which there was work; None before any has passed."""
        return self.busy_seconds / self.worker_seconds if self.worker_seconds else None
