"""Steady state: told in order of arrival, replayed from the ledger to the same state, whatever happens."""

from __future__ import annotations

import random

import numpy as np
import pytest

from evomerge.cli.verify.invariants import verify
from evomerge.errors import LedgerDamaged, TooManyFailures
from evomerge.ledger.records import RecordFile
from evomerge.objectives.objective import Complete, Failed
from evomerge.objectives.pareto import hypervolume
from evomerge.optimizers.kinds import make_optimizer, optimizer_settings
from evomerge.optimizers.schedule import follow
from evomerge.run.job import JobResult
from evomerge.run.pool.inline import InlinePool
from evomerge.testing.optimizers import OBJECTIVES, example_genes, example_outcome
from tests.hand_made import fold_records
from tests.local_workers import forked_workers
from tests.tiny_models import write_campaign
from tests.tiny_runs import events_of, forked, run_file

BUDGET = 10
STEADY = {
    "optimizer": {"kind": "nsga2", "population": 4, "schedule": "steady_state"},
    "budget": {"evaluations": BUDGET},
    "baselines": {"single": [0.5]},
    "counts": (10, 8, 8),
}


class Desk:
    """A campaign in memory: `workers` side by side, results in an order that a seed shuffles."""

    def __init__(self, optimizer, workers, budget, seed=0, outcome=example_outcome):
        self.optimizer, self.workers, self.budget, self.outcome = optimizer, workers, budget, outcome
        self.chance = random.Random(seed)
        self.genomes = []
        self.under_way = []
        self.log = []
        self.idle_seen = []

    def untold(self):
        return []

    def spent(self):
        done = sum(kind == "told" for kind, _ in self.log)
        return "budget" if done + len(self.under_way) >= self.budget else None

    def idle(self):
        return self.workers - len(self.under_way)

    def asked(self, genomes):
        first = len(self.genomes)
        self.genomes += genomes
        self.log.append(("asked", list(range(first, len(self.genomes)))))
        return self.log[-1][1]

    def start(self, numbers):
        self.under_way += numbers

    def arrived(self):
        if not self.under_way:
            return None
        self.idle_seen.append(self.workers - len(self.under_way))
        return [self.under_way.pop(self.chance.randrange(len(self.under_way)))]

    def tell(self, numbers):
        self.log.append(("told", list(numbers)))
        self.optimizer.tell([self.outcome(self.genomes[n]) for n in numbers], numbers)


def steady(kind="nsga2", population=10, genes=None, **options):
    return make_optimizer(
        kind,
        genes or example_genes(),
        OBJECTIVES,
        population=population,
        seed=3,
        settings=optimizer_settings(kind, options),
        schedule="steady_state",
    )


@pytest.mark.parametrize("kind", ["nsga2", "random"])
def test_no_worker_waits_while_there_is_budget(kind):
    desk = Desk(steady(kind), workers=7, budget=60)
    assert follow("steady_state", desk.optimizer, desk) == "budget"
    assert len(desk.genomes) == len(set(desk.genomes)) == 60
    assert desk.idle_seen[:54] == [0] * 54  # only the last six leave workers without work
    assert all(len(numbers) == 1 for _, numbers in desk.log)


@pytest.mark.parametrize("kind", ["nsga2", "random"])
def test_the_log_of_asks_and_tells_restores_the_state(kind):
    def outcome(genome):
        return Failed("deadline") if genome[0] > 1.2 else example_outcome(genome)

    desk = Desk(steady(kind), workers=5, budget=80, outcome=outcome)
    follow("steady_state", desk.optimizer, desk)
    again = steady(kind)
    for what, numbers in desk.log:
        if what == "asked":
            assert again.ask() == [desk.genomes[n] for n in numbers]
        else:
            again.tell([outcome(desk.genomes[n]) for n in numbers], numbers)
    assert again.state_digest() == desk.optimizer.state_digest()
    assert again.ask() == desk.optimizer.ask()


def test_another_order_of_arrival_is_another_state_but_the_same_start():
    asked = []
    for seed in (0, 1):
        desk = Desk(steady(), workers=5, budget=60, seed=seed)
        follow("steady_state", desk.optimizer, desk)
        asked.append(desk.genomes)
    assert asked[0][:10] == asked[1][:10]
    assert asked[0] != asked[1]


def test_a_small_space_is_asked_to_its_last_point():
    desk = Desk(steady(genes=example_genes(layers=0, step=0.9)), workers=4, budget=10**6)
    assert follow("steady_state", desk.optimizer, desk) == "exhausted"
    points = np.prod([round((g.high - g.low) // g.step) + 1 for g in example_genes(0, 0.9)])
    assert len(desk.genomes) == len(set(desk.genomes)) == points


def test_steady_state_finds_about_as_much_as_generations_do():
    volumes = {}
    for schedule in ("generational", "steady_state"):
        optimizer = make_optimizer(
            "nsga2", example_genes(), OBJECTIVES, population=10, seed=3, schedule=schedule
        )
        desk = Desk(optimizer, workers=10, budget=300)
        follow(schedule, optimizer, desk)
        values = np.array([example_outcome(genome).values for genome in desk.genomes])
        volumes[schedule] = hypervolume(values / 20.0, 1.0)
    assert volumes["steady_state"] > 0.97 * volumes["generational"]


def test_members_are_the_non_dominated_and_the_least_crowded():
    optimizer = steady(population=4)
    values = [(0.0, 9.0), (9.0, 0.0), (4.0, 4.0), (8.0, 8.0), (4.1, 3.9), (20.0, 20.0)]
    asked = [optimizer.ask()[0] for _ in values]
    optimizer.tell([Complete(v, (0.0, 0.0)) for v in values], range(len(values)))
    # (8, 8) is dominated and left when (4.1, 3.9) came; (20, 20) never stayed.
    kept = {tuple(optimizer._members.genome(i)) for i in range(4)}
    assert kept == {asked[i] for i in (0, 1, 2, 4)}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A campaign file, and its folder after a run to the end. Not to be changed."""
    folder = tmp_path_factory.mktemp("steady")
    file = write_campaign(folder, **STEADY)
    run_file(file, folder / "run")
    return file, folder / "run"


def test_a_campaign_in_steady_state_runs_and_holds(undisturbed):
    _, run = undisturbed
    history = fold_records(events_of(run))
    assert history.stopped == "budget"
    assert history.budget_used == BUDGET
    assert verify(run) == []
    turns = [e for e in events_of(run) if e["event"] in ("asked", "told")]
    assert all(len(e["candidates"]) == 1 for e in turns if e["event"] == "asked")
    assert history.tells == history.asked


def states(directory):
    return [e["state"] for e in events_of(directory) if e["event"] == "told"]


def test_local_workers_fill_the_budget_exactly(tmp_path):
    file = write_campaign(tmp_path, **STEADY, workers={"pool": "local", "count": 2})
    with forked_workers():
        history = run_file(file, tmp_path / "run")
    assert history.budget_used == BUDGET
    assert verify(tmp_path / "run") == []
    assert {len(turn.ids) for turn in history.turns} == {1}


PLACES = [
    ("driver.before_tell", 1),
    ("driver.before_tell", 7),
    ("ledger.after_fsync", 14),
    ("ledger.mid_append", 21),
    ("ledger.after_fsync", 28),
    ("dispatch.after_items", 9),
]


@pytest.mark.parametrize(("place", "hit"), PLACES, ids=str)
def test_a_killed_session_goes_on_to_the_same_end(tmp_path, undisturbed, place, hit):
    file, clean = undisturbed
    run = tmp_path / "run"
    assert forked(lambda: run_file(file, run), f"{place}=kill@{hit}") != 0
    before = states(run)
    history = run_file(file, run)
    # One worker: results arrive in ask order, so the end is that of the undisturbed run.
    assert states(run)[: len(before)] == before
    assert states(run) == states(clean)
    assert history.budget_used == BUDGET
    assert verify(run) == []


class ThreeAtOnce:
    """Three workers in one: real results in some order; raises after `limit` of them."""

    size = 3
    waiting = 0
    ahead = 0
    workers = tuple

    def __init__(self, setup, limit):
        self._inner, self._jobs, self._left = InlinePool(setup), [], limit
        self._chance = random.Random(0)

    def submit(self, job):
        self._jobs.append(job)

    def next(self, timeout):
        if not self._jobs:
            return None
        if self._left == 0:
            raise KeyboardInterrupt("enough")
        self._left -= 1
        self._inner.submit(self._jobs.pop(self._chance.randrange(len(self._jobs))))
        return self._inner.next(timeout)

    def close(self):
        self._jobs.clear()


def test_pending_candidates_are_evaluated_again_in_ask_order(tmp_path, undisturbed, monkeypatch):
    file, _ = undisturbed
    run = tmp_path / "run"
    pools = []

    def open_pool(workers, setup):
        pools.append(ThreeAtOnce(setup, 9 if not pools else -1))
        return pools[-1]

    monkeypatch.setattr("evomerge.run.driver.open_pool", open_pool)
    with pytest.raises(KeyboardInterrupt, match="enough"):
        run_file(file, run)
    killed = events_of(run)
    told = [e["id"] for e in killed if e["event"] == "told"]
    asked = [c["id"] for e in killed if e["event"] == "asked" for c in e["candidates"]]
    assert told != sorted(told)  # arrival order is not ask order
    pending = [name for name in asked if name not in told]
    assert len(pending) == 3
    submitted = []
    original = ThreeAtOnce.submit
    monkeypatch.setattr(
        ThreeAtOnce, "submit", lambda pool, job: (submitted.append(job.id), original(pool, job))
    )
    history = run_file(file, run)
    assert submitted[1:4] == pending  # after `prepare`
    assert history.budget_used == BUDGET
    assert events_of(run)[: len(killed)] == killed
    assert verify(run) == []


def test_a_tampered_order_of_tells_is_refused(tmp_path, undisturbed):
    file, clean = undisturbed
    events = [{k: v for k, v in e.items() if k not in ("n", "format")} for e in events_of(clean)]
    first, second = [i for i, e in enumerate(events) if e["event"] == "told"][4:6]
    events[first]["id"], events[second]["id"] = events[second]["id"], events[first]["id"]
    (tmp_path / "run").mkdir()
    with RecordFile.open(tmp_path / "run" / "ledger.jsonl", create=True) as ledger:
        for event in events:
            ledger.append(event)
    with pytest.raises(LedgerDamaged, match=r"E505.*cannot be replayed.*c0000\d is told"):
        run_file(file, tmp_path / "run")


def test_a_larger_budget_goes_on_from_the_same_state(tmp_path, undisturbed):
    _, clean = undisturbed
    short = write_campaign(tmp_path, **STEADY | {"budget": {"evaluations": 5}})
    run_file(short, tmp_path / "run")
    assert states(tmp_path / "run") == states(clean)[: len(states(tmp_path / "run"))]
    long = write_campaign(tmp_path, **STEADY)
    assert run_file(long, tmp_path / "run").budget_used == BUDGET
    assert states(tmp_path / "run") == states(clean)


class Failing(InlinePool):
    """Every third candidate fails by itself; every fifth loses its worker once."""

    def __init__(self, setup):
        super().__init__(setup)
        self._lost = set()

    def next(self, timeout):
        job = self._queue[0] if self._queue else None
        if job is not None and job.id[1:].isdigit():
            number = int(job.id[1:])
            if number % 5 == 4 and number not in self._lost:
                self._lost.add(number)
                self._queue.popleft()
                return JobResult(job.id, "lost", "worker_died", "")
            if number % 3 == 2:
                self._queue.popleft()
                return JobResult(job.id, "failed", "nonfinite_weights", "")
        return super().next(timeout)


def test_failures_are_told_and_lost_jobs_tried_again(tmp_path, undisturbed, monkeypatch):
    file, _ = undisturbed
    monkeypatch.setattr("evomerge.run.driver.open_pool", lambda workers, setup: Failing(setup))
    history = run_file(file, tmp_path / "run")
    assert history.budget_used == BUDGET
    assert set(history.failures()) == {"nonfinite_weights"}
    assert sum(c.attempts_lost for c in history.candidates.values()) >= 2
    assert history.tells == history.asked
    assert fold_records(events_of(tmp_path / "run")).turns == history.turns
    assert verify(tmp_path / "run") == []


def test_the_breaker_stops_steady_state_too(tmp_path, undisturbed, monkeypatch):
    class AllFail(InlinePool):
        def next(self, timeout):
            if self._queue and self._queue[0].id[1:].isdigit():
                return JobResult(self._queue.popleft().id, "failed", "nonfinite_weights", "x")
            return super().next(timeout)

    file, _ = undisturbed
    monkeypatch.setattr("evomerge.run.driver.open_pool", lambda workers, setup: AllFail(setup))
    with pytest.raises(TooManyFailures, match=r"E508.*nonfinite_weights"):
        run_file(file, tmp_path / "run")
    assert fold_records(events_of(tmp_path / "run")).budget_used <= 8
