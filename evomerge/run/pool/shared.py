"""One pool for several drivers, each in a thread of its own: workers are started once and seldom idle.

The pool belongs to a thread of its own, the keeper; drivers hand it jobs and wait for theirs to come back.
A job's id is its driver's, so the pool is given one with the driver's number before it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from evomerge.run.job import Job, JobResult
from evomerge.run.pool.pool import Pool, WorkerState

TICK = 0.02
"""Seconds for which the keeper waits for a result before it looks for new jobs: what a job may be late."""

LOOK = 0.5
"""Seconds between looks at what the workers do."""


class SharedPool:
    """Keeps a pool that drivers share; `view` gives each its part. A context manager.

    `open_pool` makes the pool, in the keeper's thread.
    """

    def __init__(self, open_pool: Callable[[], Pool]) -> None:
        self._open_pool = open_pool
        self._changed = threading.Condition()
        self._inbox: deque[Job] = deque()
        self._views: dict[int, PoolView] = {}
        self._views_made = 0
        self._closing = False
        self._error: BaseException | None = None
        self._pool: Pool | None = None
        self._workers: tuple[WorkerState, ...] = ()
        self._keeper = threading.Thread(target=self._keep, name="pool-keeper", daemon=True)
        self._keeper.start()

    def view(self) -> PoolView:
        """A pool for one driver; closing it leaves the workers to the others.

        Raises:
            EnvironmentFault: what opening the pool raised.
        """
        with self._changed:
            while self._pool is None and self._error is None:
                self._changed.wait()
            if self._pool is None:
                assert self._error is not None
                raise self._error
            made = PoolView(self, self._pool, self._views_made)
            self._views[self._views_made] = made
            self._views_made += 1
            return made

    def close(self) -> None:
        """Stop all workers; jobs under way are dropped."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._keeper.join()

    def __enter__(self) -> SharedPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _keep(self) -> None:
        """What the keeper does, until `close` or a fault of the pool, which each driver meets."""
        try:
            pool = self._open_pool()
        except BaseException as error:
            self._fail(error)
            return
        with self._changed:
            self._pool = pool
            self._changed.notify_all()
        under_way, due = 0, 0.0
        try:
            while True:
                with self._changed:
                    while not (self._inbox or under_way or self._closing):
                        self._changed.wait()
                    if self._closing:
                        return
                    jobs = [self._inbox.popleft() for _ in range(self._room(pool, under_way))]
                for job in jobs:
                    pool.submit(job)
                under_way += len(jobs)
                result = pool.next(TICK)
                if time.monotonic() >= due:
                    self._workers, due = pool.workers(), time.monotonic() + LOOK
                if result is not None:
                    under_way -= 1
                    self._deliver(result)
        except BaseException as error:
            self._fail(error)
        finally:
            pool.close()

    def _room(self, pool: Pool, under_way: int) -> int:
        """How many of the waiting jobs the pool is given; the others can be taken back by `PoolView.close`.

        Nothing lies ready at a worker while others are about to have none, as in `Dispatcher`.
        """
        waiting = len(self._inbox)
        most = pool.size + (pool.ahead if waiting > pool.size else 0)
        return min(waiting, max(0, most - under_way))

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            self._error = error
            self._changed.notify_all()

    def _deliver(self, result: JobResult) -> None:
        number, _, name = result.id.partition("/")
        with self._changed:
            view = self._views.get(int(number))
            if view is not None:
                view.arrived.append(replace(result, id=name))
                self._changed.notify_all()


class PoolView:
    """One driver's part of a shared pool; a `Pool`."""

    def __init__(self, shared: SharedPool, pool: Pool, number: int) -> None:
        self._shared, self._pool, self._number = shared, pool, number
        self._open = 0
        self.arrived: deque[JobResult] = deque()

    @property
    def size(self) -> int:
        """How many jobs run side by side, of all drivers together."""
        return self._pool.size

    @property
    def waiting(self) -> int:
        """Workers for which there is no room now."""
        return self._pool.waiting

    @property
    def ahead(self) -> int:
        """Jobs beyond `size` that can lie ready at workers."""
        return self._pool.ahead

    def workers(self) -> tuple[WorkerState, ...]:
        """What each worker did a moment ago; of another driver's job it is not said which."""
        own = f"{self._number}/"
        return tuple(
            replace(each, job=each.job.removeprefix(own) if each.job.startswith(own) else None)
            if each.job is not None
            else each
            for each in self._shared._workers
        )

    def submit(self, job: Job) -> None:
        """Queue a job behind those of all drivers."""
        with self._shared._changed:
            self._shared._inbox.append(replace(job, id=f"{self._number}/{job.id}"))
            self._open += 1
            self._shared._changed.notify_all()

    def next(self, timeout: float) -> JobResult | None:
        """The next result of a job of this driver.

        Raises:
            EnvironmentFault: what the pool raised.
        """
        end = time.monotonic() + timeout
        with self._shared._changed:
            while self._open and not self.arrived:
                left = end - time.monotonic()
                if self._shared._error is not None:
                    raise self._shared._error
                if left <= 0 or self._shared._closing:
                    return None
                self._shared._changed.wait(left)
            if not self.arrived:
                return None
            self._open -= 1
            return self.arrived.popleft()

    def close(self) -> None:
        """Drop what waits; what runs for this driver runs on, and its result is dropped."""
        own = f"{self._number}/"
        with self._shared._changed:
            self._shared._views.pop(self._number, None)
            kept = [job for job in self._shared._inbox if not job.id.startswith(own)]
            self._shared._inbox.clear()
            self._shared._inbox.extend(kept)
