"""Short jobs lie ready at a worker that runs another: who is blamed for a death, and when they are not."""

from __future__ import annotations

import pickle
import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence

import pytest

from evomerge.errors import EnvironmentFault
from evomerge.run.job import Job, JobResult
from evomerge.run.pool import slots
from evomerge.run.pool.processes import MOST_AHEAD, ProcessPool
from evomerge.run.pool.ray_actors import RayPool
from evomerge.run.pool.slots import Slot, SlotPool, WorkerLost
from tests.local_workers import forked_workers
from tests.run.pool.toy_runner import SETUP, ToyRunner, answer_of
from tests.tiny_ray import local_ray

KINDS = ("local", "ray")


@pytest.fixture(scope="module")
def pools() -> Iterator[Callable[[str], SlotPool]]:
    """One pool of each kind for all tests: a worker on Ray is two interpreters' worth of imports."""
    made: dict[str, SlotPool] = {}

    def pool_of(kind: str) -> SlotPool:
        if kind not in made and kind == "ray":
            local_ray()
            made[kind] = RayPool(SETUP, 1, runner=ToyRunner)
        elif kind not in made:
            made[kind] = ProcessPool(SETUP, 1, ToyRunner)
        return made[kind]

    yield pool_of
    for pool in made.values():
        pool.close()


@pytest.fixture(params=KINDS)
def pool(
    pools: Callable[[str], SlotPool], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[SlotPool]:
    """A pool with nothing to do, to be left with nothing to do."""
    # Whatever this machine is busy with, the jobs of these tests are short, except where they say `slow`.
    monkeypatch.setattr(slots, "SHORT", 1e9)
    with forked_workers():
        yield pools(request.param)
    assert lying(pools(request.param)) == [[]]


def job(name: str, deadline: float | None = None) -> Job:
    return Job(name, "evaluate", deadline=deadline)


def take(pool: SlotPool) -> JobResult:
    result = pool.next(60.0)
    assert result is not None
    return result


def warm(pool: SlotPool) -> None:
    """Let the worker finish a first job: nothing lies ready at one that is still loading."""
    assert pool.ahead == 0 or not pool._slots[0].fresh
    pool.submit(job("add:0"))
    assert take(pool).status == "ok"
    assert pool.ahead == 1


def lying(pool: SlotPool) -> list[list[str]]:
    """The ids that each worker was given and has not answered."""
    return [[each.id for each in slot.jobs] for slot in pool._slots]


def settle(pool: SlotPool, names: list[str]) -> tuple[dict[str, JobResult], Counter[str]]:
    """As a driver does it: lost ones are tried again, given up with the second loss."""
    todo, lost, ended = deque(names), Counter[str](), dict[str, JobResult]()
    running = 0
    while todo or running:
        while todo and running < pool.size + pool.ahead:
            pool.submit(job(todo.popleft()))
            running += 1
        result, running = take(pool), running - 1
        if result.status == "lost":
            lost[result.id] += 1
            if lost[result.id] < 2:
                todo.append(result.id)
                continue
        ended[result.id] = result
    return ended, lost


def test_results_come_one_by_one_in_order(pool: SlotPool) -> None:
    warm(pool)
    for name in ("add:1", "add:2", "add:3"):
        pool.submit(job(name))
    assert lying(pool) == [["add:1", "add:2"]]
    assert take(pool).id == "add:1"
    assert [take(pool).id, take(pool).id] == ["add:2", "add:3"]
    assert pool.next(0.1) is None


def test_only_the_one_that_kills_is_given_up(pool: SlotPool) -> None:
    """Its neighbours are answered, whichever side of it they lie."""
    warm(pool)
    names = ["add:1"] * 8
    for place in (1, 5):
        names.insert(place, f"die:{signal.SIGKILL.value}")
    ended, lost = settle(pool, [f"{name}#{place}" for place, name in enumerate(names)])
    given_up = {name for name, result in ended.items() if result.status == "lost"}
    assert given_up == {name for name in ended if name.startswith("die")}
    assert len(ended) == len(names)
    assert all(lost[name] == 2 for name in given_up)


def test_what_lay_behind_a_deadline_runs_once_alone(pool: SlotPool) -> None:
    warm(pool)
    pool.submit(job("sleep:60", deadline=0.5))
    pool.submit(job("add:2"))
    pool.submit(job("add:3"))
    assert lying(pool) == [["sleep:60", "add:2"]]
    lost = take(pool)
    assert (lost.id, lost.failure) == ("sleep:60", "deadline")
    pool._slots[0].short = True  # as if the fresh worker had already answered
    after = [take(pool), take(pool)]
    assert [result.id for result in after] == ["add:2", "add:3"]
    assert answer_of(after[0])["count"] == 1, "nothing ran before it in its worker"


def test_a_deadline_begins_when_the_job_before_has_ended(pool: SlotPool) -> None:
    warm(pool)
    begun = time.monotonic()
    pool.submit(job("sleep:1"))
    pool.submit(job("sleep:0.1", deadline=50.0))
    assert lying(pool) == [["sleep:1", "sleep:0.1"]]
    assert take(pool).status == "ok"
    assert pool._slots[0].expires() >= begun + 1.0 + 50.0
    assert take(pool).status == "ok"


def test_long_jobs_go_to_whoever_is_free(pool: SlotPool, monkeypatch: pytest.MonkeyPatch) -> None:
    warm(pool)
    monkeypatch.setattr(slots, "SHORT", 0.0)
    pool.submit(job("add:1"))
    take(pool)
    assert pool.ahead == 0
    pool.submit(job("add:2"))
    pool.submit(job("add:3"))
    assert lying(pool) == [["add:2"]]
    assert [take(pool).id, take(pool).id] == ["add:2", "add:3"]


class AtOnce(SlotPool[Slot]):
    """Workers whose results are there whenever the driver looks, as in a driver that is slower than they."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self._slots = [self._start() for _ in range(count)]
        self.served: Counter[int] = Counter()

    def _start(self) -> Slot:
        return Slot()

    def _give(self, slot: Slot, job: Job) -> None:
        pass

    def _wait(self, slots: Sequence[Slot], seconds: float) -> Sequence[Slot]:
        return slots

    def _take(self, slot: Slot) -> JobResult:
        self.served[id(slot)] += 1
        return JobResult(slot.jobs[0].id, "ok")

    def _stop(self, slot: Slot) -> None:
        pass


def test_a_slow_driver_serves_all_workers_alike() -> None:
    pool = AtOnce(3)
    for number in range(60):
        pool.submit(job(f"add:{number}"))
    for _ in range(60):
        take(pool)
    assert sorted(pool.served.values()) == [20, 20, 20]


class Failing(AtOnce):
    """Of the workers, so many end before they take a job."""

    def __init__(self, ends: int) -> None:
        self.ends = ends
        super().__init__(1)

    def _give(self, slot: Slot, job: Job) -> None:
        if self.ends:
            self.ends -= 1
            raise WorkerLost("gone")


@pytest.mark.parametrize("ends", [1, 2, slots.MAX_STILLBORN])
def test_a_job_outlives_workers_that_end_before_they_take_it(ends: int) -> None:
    pool = Failing(ends)
    pool.submit(job("add:1"))
    found = [pool.next(1.0) for _ in range(ends + 1)]
    assert [each.id for each in found if each is not None] == ["add:1"]


def test_workers_that_always_end_are_a_fault() -> None:
    pool = Failing(1_000)
    pool.submit(job("add:1"))
    with pytest.raises(EnvironmentFault, match=r"E405.*workers end before they are ready; gone"):
        [pool.next(1.0) for _ in range(slots.MAX_STILLBORN + 1)]


def test_what_lies_ready_is_given_without_a_wait() -> None:
    pool = AtOnce(3)
    for number in range(4):
        pool.submit(job(f"add:{number}"))
    assert take(pool).id == "add:0"
    beside = [pool.next(0.0) for _ in range(3)]
    assert [each and each.id for each in beside] == ["add:1", "add:2", None]
    assert take(pool).id == "add:3"


def test_a_deadline_passes_also_where_others_always_have_results(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool = AtOnce(2)
    hangs = pool._slots[0]
    hangs.fresh = False
    monkeypatch.setattr(pool, "_wait", lambda slots, seconds: [s for s in slots if s is not hangs])
    pool.submit(job("stop", deadline=0.0))
    for number in range(3):
        pool.submit(job(f"add:{number}"))
    assert [take(pool).failure for _ in range(2)] == ["deadline", ""]


@pytest.mark.parametrize("pool", ["local"], indirect=True)
def test_a_job_larger_than_the_pipe_waits_in_the_driver(pool: SlotPool) -> None:
    """A worker that hangs would not read it, and the driver would hang with it."""
    warm(pool)
    large = Job("add:2", "evaluate", recipe={"text": "x" * (1 << 20)})
    whole = Job("add:3", "evaluate", recipe={"text": "x" * (MOST_AHEAD - 1000)})
    assert len(pickle.dumps(whole)) <= MOST_AHEAD
    pool.submit(job("stop", deadline=1.0))
    pool.submit(large)
    assert lying(pool) == [["stop"]]
    assert take(pool).failure == "deadline"
    assert take(pool).id == "add:2"
    pool.submit(job("stop", deadline=1.0))
    pool.submit(whole)
    assert lying(pool) == [["stop", "add:3"]]
    assert take(pool).failure == "deadline"
    assert take(pool).id == "add:3"
