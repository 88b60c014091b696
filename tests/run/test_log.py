"""The log of a campaign folder."""

from __future__ import annotations

import logging
from pathlib import Path

from evomerge.run import log
from evomerge.run.engine import Engine
from evomerge.run.job import Job, JobResult, WorkerSetup
from evomerge.run.log import LOG_FILE, run_log
from evomerge.run.worker import MOST_TRACEBACK, Worker
from tests.tiny_models import write_campaign
from tests.tiny_runs import run_file


def test_a_log_is_kept_within_bounds_and_ends_with_its_session(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(log, "MOST_BYTES", 500)
    own = logging.getLogger("evomerge.run.test")
    before = logging.getLogger().handlers[:]
    with run_log(tmp_path):
        for number in range(100):
            own.info("line %d", number)
        logging.getLogger("another").info("not ours")
        logging.getLogger("another").warning("a warning of theirs")
    own.warning("after the session")
    assert logging.getLogger().handlers == before
    files = sorted(tmp_path.iterdir())
    assert [path.name for path in files] == [LOG_FILE, *(f"{LOG_FILE}.{n}" for n in (1, 2, 3))]
    assert all(path.stat().st_size <= 500 for path in files)
    text = (tmp_path / LOG_FILE).read_text()
    assert "INFO evomerge.run.test: line 99" in text
    assert "WARNING another: a warning of theirs" in text
    assert "not ours" not in text
    assert "after the session" not in text


def test_a_log_that_cannot_be_written_disturbs_nobody(tmp_path: Path, capsys) -> None:
    with run_log(tmp_path / "gone"):
        logging.getLogger("evomerge").info("line")
    assert "Logging error" not in capsys.readouterr().err


def test_the_end_of_a_workers_traceback_comes_with_its_failure(monkeypatch) -> None:
    def fails(self: Worker, depth: int = 60) -> None:
        if depth:
            fails(self, depth - 1)
        raise RuntimeError("the end " + "x" * 200)

    setup = WorkerSetup(
        sources={}, evaluators=(), methods=(), trims=(), dtype="float32", storage="bfloat16",
        device="cpu", threads=1, batch_size=1, cache="",
    )  # fmt: skip
    worker = Worker(setup)
    monkeypatch.setattr(Worker, "_loaded", fails)
    result = worker.run(Job("c00001", "evaluate"))
    assert result.status == "failed"
    assert result.traceback.endswith("RuntimeError: the end " + "x" * 200)
    assert "in fails" in result.traceback
    assert len(result.traceback) <= MOST_TRACEBACK


def test_a_failed_candidate_is_in_the_log_with_its_traceback(tmp_path: Path, monkeypatch) -> None:
    evaluate, failed = Engine.evaluate, []

    def fails(self: Engine, job: Job) -> JobResult:
        if job.id.startswith("c0") and not failed:
            failed.append(job.id)
            raise RuntimeError("the disk is on fire")
        return evaluate(self, job)

    monkeypatch.setattr(Engine, "evaluate", fails)
    small = {"optimizer": {"population": 6}, "budget": {"evaluations": 6}, "evaluators": ("pets",)}
    history = run_file(write_campaign(tmp_path, **small), tmp_path / "run")
    text = (tmp_path / "run" / LOG_FILE).read_text()
    said = "failed on search items: error: RuntimeError: the disk is on fire (test_log.py:"
    assert f"{failed[0]} {said}" in text
    whole = history.candidates[failed[0]].traceback
    assert whole is not None
    assert whole.startswith("Traceback (most recent call last)")
    assert "in fails" in whole
    assert whole in text
