"""Workers die, hang, run out of memory: F11, F12, F18, F20, F21, F31."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from evomerge.campaign.campaign import load_campaign
from evomerge.campaign.prepared import prepared_space
from evomerge.evaluators.lm_eval_tasks import LmEvalTasks
from evomerge.ledger.history import History
from evomerge.run import driver
from evomerge.run.job import Job, WorkerSetup
from evomerge.run.pool.inline import InlinePool
from evomerge.run.pool.processes import ProcessPool
from evomerge.run.progress import Progress
from evomerge.run.worker import Worker
from evomerge.run.worker_setup import worker_setup
from tests.faults.bed import (
    RUN,
    end_of,
    evaluated_ids,
    judge,
    session,
    write_toy_campaign,
)
from tests.faults.harness import Tally, Trial, row
from tests.faults.toy import executions
from tests.local_workers import local_workers
from tests.tiny_models import write_campaign
from tests.tiny_runs import events_of, finished, front_text, run_file

TWO_WORKERS = {"workers": {"pool": "local", "count": 2}}
ONE_WORKER = {"workers": {"pool": "local", "count": 1}}


def lost(folder: Path) -> list[tuple[str, str]]:
    """(id, failure) of every lost attempt in a trial's ledger."""
    events = events_of(folder / RUN)
    return [(event["id"], event["failure"]) for event in events if event["event"] == "lost"]


@row("F11", "SIGKILL of a random worker", quick=2, t1=20, t2=200)
def test_f11_a_random_worker_killed(trial: Trial) -> Tally:
    """Its candidate is tried again, nobody else notices; no more evaluations than kills are repeated."""
    file = write_toy_campaign(trial.folder, TWO_WORKERS, seconds=0.1)
    rng, kills = trial.rng, [0]

    def kill(history: History, progress: Progress) -> None:
        # A candidate that lost two workers is given up as poison, and that would be another row.
        unlucky = any(
            history.candidates[name].attempts_lost
            for name in progress.running
            if name in history.candidates
        )
        if progress.phase != "search" or not progress.running or unlucky or rng.random() < 0.5:
            return
        workers = local_workers()
        if workers and len(lost(trial.folder)) >= kills[0] and kills[0] < 4:
            kills[0] += 1
            rng.choice(workers).kill()

    session(file, observer=kill)
    evaluations = [name for name, split, _ in executions(trial.folder) if split == "search"]
    assert len(evaluations) - len(set(evaluations)) <= kills[0]
    assert {failure for _, failure in lost(trial.folder)} <= {"worker_died"}
    return judge(trial.folder, kills[0])


DEATHS = ("segfault", "exit", "leave", "raise", "unpicklable", "memory")


@row("F12", "workers that die of a segfault, exit, exception, ...", quick=6, t1=24, t2=120)
def test_f12_every_kind_of_death(trial: Trial) -> Tally:
    """Once each, on different candidates: classified, tried again, and the campaign ends as ever."""
    names = evaluated_ids()[: 2 * len(DEATHS) : 2]
    faults = {name: f"{death} once" for name, death in zip(names, DEATHS, strict=True)}
    file = write_toy_campaign(trial.folder, TWO_WORKERS, faults=faults)
    history = session(file)
    expected = dict.fromkeys(names, "worker_died") | {names[-1]: "out_of_memory"}
    assert dict(lost(trial.folder)) == expected
    assert len(lost(trial.folder)) == len(DEATHS)
    assert history.failures() == {}
    return judge(trial.folder, len(DEATHS))


HANGS = ("sleep", "hold", "stop", "stubborn")


@row("F18", "a candidate that hangs: sleep, GIL held, SIGSTOP, deaf", quick=4, t1=20, t2=80)
def test_f18_every_kind_of_hanging(trial: Trial) -> Tally:
    """Killed at its deadline, whatever it does; the place serves again."""
    names = evaluated_ids()[:8:2]
    faults = {name: f"{hang} once" for name, hang in zip(names, HANGS, strict=True)}
    workers = {"workers": {"pool": "local", "count": 1, "deadline": 4.0}}
    file = write_toy_campaign(trial.folder, workers, faults=faults)
    # What a worker may take to start is no part of what is looked at here.
    with mock.patch("evomerge.run.pool.slots.START_GRACE", 60.0):
        session(file)
    assert sorted(lost(trial.folder)) == sorted((name, "deadline") for name in names)
    return judge(trial.folder, len(HANGS))


@row("F21", "a candidate that kills every worker", quick=1, t1=5, t2=20)
def test_f21_a_poisonous_candidate(trial: Trial) -> Tally:
    """Given up after two workers; the campaign ends as if it had failed by itself."""
    name = trial.rng.choice(evaluated_ids())
    file = write_toy_campaign(trial.folder, TWO_WORKERS, faults={name: "die:9"})
    history = session(file)
    assert lost(trial.folder) == [(name, "worker_died")] * 2
    assert history.failures() == {"worker_died": 1}
    assert history.candidates[name].failure == "worker_died"
    plain = trial.folder / "plain"
    plain.mkdir()
    session(write_toy_campaign(plain, faults={name: "fail:worker_died"}))
    found = judge(trial.folder, 1)
    different = int(end_of(trial.folder / RUN) != end_of(plain / RUN))
    return Tally(1, found.lost, found.doubled, 1, different)


@row("F20", "out of memory: simulated, and a host whose memory ends", quick=3, t1=12, t2=20)
def test_f20_out_of_memory(trial: Trial) -> Tally:
    """One more try in a fresh worker at the same batch size, then a failure; nobody else is touched."""
    if trial.index % 2:
        name = trial.rng.choice(evaluated_ids())
        file = write_toy_campaign(trial.folder, TWO_WORKERS, faults={name: "hog once"})
        assert session(file).failures() == {}
        assert lost(trial.folder) == [(name, "out_of_memory")]
        pids = [pid for id_, split, pid in executions(trial.folder) if (id_, split) == (name, "search")]
        assert len(set(pids)) == len(pids) == 2, "the second try is in another process"
        return judge(trial.folder, 1)
    return out_of_device_memory(trial)


def out_of_device_memory(trial: Trial) -> Tally:
    """A real worker whose evaluator meets torch's own error: once, and twice at another candidate."""
    for name in ("models", "evaluators"):
        (trial.folder / name).symlink_to(finished().file.parent / name)
    file = write_campaign(trial.folder, optimizer={"population": 4}, budget={"evaluations": 8})
    plain, made, sizes = LmEvalTasks.evaluate, [], []
    calls = {"once": 13, "twice": (19, 20)}
    count = [0]

    class Counted(Worker):
        def __init__(self, setup: WorkerSetup) -> None:
            made.append(setup)
            super().__init__(setup)

    def evaluate(self: LmEvalTasks, subject: Any, *rest: Any) -> Any:
        count[0] += 1
        sizes.append(subject.batch_size)
        if count[0] == calls["once"] or count[0] in calls["twice"]:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return plain(self, subject, *rest)

    def pool(workers: Any, setup: WorkerSetup) -> Any:
        return InlinePool(setup, Counted)

    with (
        mock.patch.object(LmEvalTasks, "evaluate", evaluate),
        mock.patch.object(driver, "open_pool", pool),
    ):
        history = run_file(file, trial.folder / RUN)
    assert history.failures() == {"out_of_memory": 1}
    assert [failure for _, failure in lost(trial.folder)] == ["out_of_memory"] * 3
    assert len(made) == 1 + 3, "a fresh worker after each"
    assert len(set(sizes)) == 1
    return Tally(injections=2)


@row("F31", "the same candidate on two workers and after a restart", quick=2, t1=10, t2=10)
def test_f31_the_same_scores_everywhere(trial: Trial) -> Tally:
    """Bit for bit, items too, on real workers in processes of their own."""
    source = finished()
    campaign = load_campaign(source.file)
    paths = {name: str(reference.path) for name, reference in campaign.references().items()}
    setup = worker_setup(campaign, paths, "bfloat16", trial.folder / "cache", False)

    assert source.history.prepared is not None
    space = prepared_space(campaign, source.history.prepared, paths)
    candidates = [c for c in source.history.searched() if c.evaluations["search"].same_as is None]
    chosen = trial.rng.sample(candidates, 2)
    different = 0
    pool = ProcessPool(setup, 2)
    try:
        for candidate in chosen:
            assert candidate.genome is not None
            recipe = space.decode(candidate.genome).to_json()
            for twice in ("one", "two"):
                pool.submit(Job(twice, "evaluate", recipe))
            recorded = candidate.evaluations["search"].metrics
            items = source.store
            for _ in range(2):
                result = pool.next(200.0)
                assert result is not None
                assert result.status == "ok", result.message
                known = {}
                for reference in candidate.evaluations["search"].items.values():
                    known |= items.read(reference)
                assert result.measured is not None
                same = result.measured.metrics == recorded and all(
                    (result.items[name] == values).all() for name, values in known.items()
                )
                different += not same
    finally:
        pool.close()
    return Tally(injections=2, fronts=4, differing=different)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="F20: needs a CUDA device to run out of")
def test_f20_a_real_device_out_of_memory(tmp_path: Path) -> None:
    """A batch that no device holds: the candidate fails as out_of_memory, the campaign goes on."""
    for name in ("models", "evaluators"):
        (tmp_path / name).symlink_to(finished().file.parent / name)
    torch.cuda.set_per_process_memory_fraction(1e-4)
    file = write_campaign(tmp_path, evaluation={"device": "cuda"})
    try:
        with pytest.raises(Exception, match="out_of_memory"):
            run_file(file, tmp_path / RUN)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="F31: needs a CUDA device")
def test_f31_the_same_scores_on_a_device(tmp_path: Path) -> None:
    """Two sessions on one device come to the same front."""
    for name in ("models", "evaluators"):
        (tmp_path / name).symlink_to(finished().file.parent / name)
    file = write_campaign(tmp_path, evaluation={"device": "cuda"})
    run_file(file, tmp_path / "one")
    run_file(file, tmp_path / "two")
    assert front_text(tmp_path / "one") == front_text(tmp_path / "two")
