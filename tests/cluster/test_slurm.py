"""The batch script of `launch slurm` under a real SLURM: nodes lost, a stop, a requeue, a cancelled job."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from evomerge.run.pool.ray_actors import NO_WORKERS_AHEAD, SLOW_STARTS
from tests.cli.terminal import call
from tests.cluster.slurm import Slurm, missing, slurm
from tests.faults.bed import RUN, judge, write_toy_campaign
from tests.faults.test_driver_stopped import results_in

ASKED = os.environ.get("EVOMERGE_CLUSTER") == "1"
pytestmark = [
    pytest.mark.skipif(not ASKED, reason="minutes long; `make cluster` runs it"),
    pytest.mark.skipif(bool(missing()), reason=f"not installed: {', '.join(missing())}"),
    pytest.mark.timeout(1800),
]
REPOSITORY = Path(__file__).parents[2]
TOY = f'#!/bin/bash\nexec {sys.executable} -m tests.faults.sessions "$@"\n'
"""`evomerge` with workers that need no model, and that note what was acknowledged."""


@pytest.fixture
def running() -> Iterator[Slurm]:
    """Three nodes; sockets need a short name."""
    with (
        tempfile.TemporaryDirectory(prefix="slurm-", ignore_cleanup_errors=True) as folder,
        slurm(Path(folder), ["n1", "n2", "n3"]) as made,
    ):
        yield made


def test_a_campaign_outlives_its_nodes_and_jobs(
    running: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node is lost, the job is stopped and requeued, cancelled and submitted again: the same front."""
    workers = {"workers": {"pool": "ray", "address": "auto", "count": 3}}
    file = write_toy_campaign(tmp_path, workers, seconds=2.0)
    said, script, shims = tmp_path / "said.txt", tmp_path / "job.sh", tmp_path / "shims"
    shims.mkdir()
    (shims / "evomerge").write_text(TOY)
    (shims / "evomerge").chmod(0o755)
    (tmp_path / "home").mkdir()
    for name, value in {
        **SLOW_STARTS,
        **NO_WORKERS_AHEAD,
        "PATH": f"{shims}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
        "HOME": str(tmp_path / "home"),
    }.items():
        monkeypatch.setenv(name, value)
    options = ["--", "--time=60:00", f"--output={said}", f"--chdir={tmp_path}"]
    made = call("launch", "slurm", file, "--dir", tmp_path / RUN, "--nodes", 3, *options)
    assert made.code == 0, made.err
    script.write_text(made.out)

    job = running.ask("sbatch", "--parsable", str(script)).strip()
    running.wait_for(lambda: results_in(tmp_path) >= 6, said, "six results")
    assert running.job(job)["NumNodes"] == "3"
    running.lose("n3")
    running.wait_for(lambda: results_in(tmp_path) >= 12, said, "twelve results on two nodes")
    assert running.job(job)["JobState"] == "RUNNING", "a lost node is done without"

    # As SLURM does two minutes before the time limit (`--signal=B:USR1@120`).
    running.ask("scancel", "--batch", "--signal=USR1", job)
    running.wait_for(lambda: running.job(job)["JobState"] == "PENDING", said, "back in the queue")
    assert running.job(job)["Restarts"] == "1"
    assert "can be gone on with" in said.read_text() or "go on with" in said.read_text()
    running.start("n3")
    before = results_in(tmp_path)
    running.ask("scontrol", "update", f"JobId={job}", "StartTime=now")
    running.wait_for(lambda: results_in(tmp_path) >= before + 3, said, "more results after a requeue")
    running.ask("scancel", job)
    running.wait_for(lambda: running.job(job)["JobState"] == "CANCELLED", said, "cancelled")

    job = running.ask("sbatch", "--parsable", str(script)).strip()
    running.wait_for(
        lambda: running.job(job)["JobState"] not in ("PENDING", "RUNNING", "COMPLETING"), said, "an end"
    )
    ended = running.job(job)
    assert (ended["JobState"], ended["ExitCode"]) == ("COMPLETED", "0:0"), said.read_text()
    tally = judge(tmp_path, 4)
    assert tally.sound, tally
    assert [*(tmp_path / "home" / ".ray").iterdir()] == [], "the secrets are gone"
