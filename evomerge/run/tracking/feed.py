"""A tracker in a thread of its own, behind a bounded queue: whatever it does, the campaign goes on."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping

from evomerge.run.tracking.record import About, Record, Tracker

logger = logging.getLogger(__name__)

MOST_WAITING = 1000
"""Records that may wait for a slow tracker."""

PATIENCE = 60.0
"""Seconds after which a call that has not come back is taken to hang."""

GRACE = 20.0
"""Seconds that the end of a run waits for what is still to be sent."""


class Feed:
    """Hands records to a tracker without ever waiting for it.

    A tracker that raises, falls `MOST_WAITING` records behind or does not come back is dropped: one warning
    says so, and nothing more is sent to it. Its thread is a daemon and keeps no process alive.
    """

    def __init__(
        self,
        name: str,
        open_tracker: Callable[[], Tracker],
        about: About,
        *,
        folder: str = "DIR",
        most: int = MOST_WAITING,
        patience: float = PATIENCE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name, self.dropped = name, ""
        self._open, self._about, self._folder = open_tracker, about, folder
        self._patience, self._clock = patience, clock
        self._records: queue.Queue[Record | None] = queue.Queue(most)
        self._summary: Mapping[str, float] = {}
        self._since: float | None = None
        self._thread = threading.Thread(target=self._work, name=f"tracker-{name}", daemon=True)
        self._thread.start()

    def put(self, record: Record) -> None:
        """Hand over a record; never blocks, never raises."""
        if self.dropped:
            return
        since = self._since
        if since is not None and self._clock() - since > self._patience:
            self._drop(f"it has not answered for {self._patience:.0f} s")
            return
        try:
            self._records.put_nowait(record)
        except queue.Full:
            self._drop(f"it is {self._records.maxsize} records behind")

    def close(self, summary: Mapping[str, float], grace: float = GRACE) -> None:
        """End the run; waits at most `grace` seconds for what is still to be sent."""
        if self.dropped:
            return
        self._summary = summary
        try:
            self._records.put_nowait(None)
        except queue.Full:
            self._drop(f"it is {self._records.maxsize} records behind")
            return
        self._thread.join(grace)
        if self._thread.is_alive():
            self._drop(f"it was not done {grace:.0f} s after the end")

    def _work(self) -> None:
        try:
            self._since = self._clock()
            tracker = self._open()
            tracker.start(self._about)
            self._since = None
            while (record := self._records.get()) is not None and not self.dropped:
                self._since = self._clock()
                tracker.log(record)
                self._since = None
            if not self.dropped:
                self._since = self._clock()
                tracker.finish(self._summary)
                self._since = None
        except BaseException as error:
            self._drop(f"{type(error).__name__}: {error}".splitlines()[0])

    def _drop(self, why: str) -> None:
        if self.dropped:
            return
        self.dropped = why
        later = f"`evomerge sync {self._folder} {self.name}` sends later what it lacks"
        logger.warning("tracking with %s is given up: %s; %s", self.name, why, later)
