"""One pool for several drivers: own results, faults that reach all, views that close."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from evomerge.errors import EnvironmentFault, Problem
from evomerge.run.job import Job, JobResult, Measured, WorkerSetup
from evomerge.run.pool.inline import InlinePool
from evomerge.run.pool.shared import PoolView, SharedPool

SETUP = WorkerSetup(
    sources={}, evaluators=(), methods=(), trims=(), dtype="float32", storage="bfloat16", device="cpu",
    threads=1, batch_size=1, cache="",
)  # fmt: skip


class Echo:
    """Says what it was asked."""

    def __init__(self, setup: WorkerSetup) -> None:
        self.done = 0

    def run(self, job: Job) -> JobResult:
        self.done += 1
        return JobResult(job.id, "ok", measured=Measured({}, {"number": self.done}))


def echo() -> InlinePool:
    return InlinePool(SETUP, Echo)


def results(view: PoolView, count: int) -> list[str]:
    found = []
    while len(found) < count:
        result = view.next(5.0)
        assert result is not None
        found.append(result.id)
    return found


def test_each_driver_gets_its_own_results_under_its_own_ids() -> None:
    names = [f"c{number:05d}" for number in range(50)]

    def drive(view: PoolView) -> list[str]:
        for name in names:
            view.submit(Job(name, "evaluate"))
        return results(view, len(names))

    with SharedPool(echo) as shared:
        views = [shared.view() for _ in range(4)]
        with ThreadPoolExecutor(4) as threads:
            found = list(threads.map(drive, views))
        assert all(view.size == 1 and view.waiting == view.ahead == 0 for view in views)
        assert [view.next(0.0) for view in views] == [None] * 4
    assert found == [names] * 4, "in the order in which each submitted"


def test_nothing_under_way_is_nothing_to_wait_for() -> None:
    with SharedPool(echo) as shared:
        assert shared.view().next(86_400.0) is None


def test_a_driver_that_leaves_takes_its_jobs_with_it() -> None:
    with SharedPool(echo) as shared:
        leaving, staying = shared.view(), shared.view()
        for number in range(20):
            leaving.submit(Job(f"c{number}", "evaluate"))
        leaving.close()
        staying.submit(Job("c7", "evaluate"))
        assert results(staying, 1) == ["c7"]
        assert staying.next(0.1) is None


def test_what_a_driver_that_left_had_queued_is_never_run() -> None:
    began, go_on, run = threading.Event(), threading.Event(), []

    class Gate(Echo):
        def run(self, job: Job) -> JobResult:
            began.set()
            assert go_on.wait(60.0)
            run.append(job.id)
            return super().run(job)

    with SharedPool(lambda: InlinePool(SETUP, Gate)) as shared:
        leaving, staying = shared.view(), shared.view()
        for number in range(5):
            leaving.submit(Job(f"c{number}", "evaluate"))
        assert began.wait(60.0)
        leaving.close()
        staying.submit(Job("c7", "evaluate"))
        go_on.set()
        assert results(staying, 1) == ["c7"]
    assert run == ["0/c0", "1/c7"]


def test_a_pool_that_cannot_be_opened_is_every_drivers_fault() -> None:
    def broken() -> InlinePool:
        raise EnvironmentFault(Problem("E404", "no Ray"))

    with SharedPool(broken) as shared:
        for _ in range(2):
            with pytest.raises(EnvironmentFault, match=r"E404\]: no Ray"):
                shared.view()


def test_a_pool_that_breaks_is_every_drivers_fault() -> None:
    class Breaking(InlinePool):
        def next(self, timeout: float) -> JobResult | None:
            raise EnvironmentFault(Problem("E404", "Ray is gone"))

    with SharedPool(lambda: Breaking(SETUP, Echo)) as shared:
        views = [shared.view(), shared.view()]
        for view in views:
            view.submit(Job("c", "evaluate"))
        for view in views:
            with pytest.raises(EnvironmentFault, match="Ray is gone"):
                view.next(5.0)
