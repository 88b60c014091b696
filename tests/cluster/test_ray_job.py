"""The entrypoint that `launch rayjob` writes, given to the job server of a local Ray, as KubeRay does."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from evomerge.run.pool.ray_actors import NO_WORKERS_AHEAD, SLOW_STARTS
from tests.cli.terminal import call
from tests.faults.bed import RUN, judge, write_toy_campaign
from tests.tiny_runs import finished

PORT = 8265
"""Of the job server; the entrypoint names it, and so does Ray where nothing else is said."""

SERVER = ("aiohttp", "aiohttp_cors", "colorful", "opencensus", "prometheus_client", "smart_open")
"""What `ray[default]` has for it beside Ray."""

ASKED = os.environ.get("EVOMERGE_CLUSTER") == "1"
LACKING = [name for name in SERVER if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.skipif(not ASKED, reason="minutes long; `make cluster` runs it"),
    pytest.mark.skipif(bool(LACKING), reason=f"ray[default] is not installed: {', '.join(LACKING)}"),
    pytest.mark.timeout(1200),
]
REPOSITORY = Path(__file__).parents[2]
PROGRAMS = Path(sys.executable).parent
TOY = f'#!/bin/bash\nexec {sys.executable} -m tests.faults.sessions "$@"\n'
"""`evomerge` with workers that need no model, and that note what was acknowledged."""

PATIENCE = 400.0
"""Seconds for a start that takes ten on a quiet machine."""


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """What commands need to find a running Ray with a job server and token authentication."""
    with contextlib.closing(socket.socket()) as probe:
        if probe.connect_ex(("127.0.0.1", PORT)) == 0:
            pytest.skip(f"port {PORT} is taken by another job server")
    shims = tmp_path / "shims"
    shims.mkdir()
    (shims / "evomerge").write_text(TOY)
    (shims / "evomerge").chmod(0o755)
    paths = [str(REPOSITORY), os.environ.get("PYTHONPATH", "")]
    for name, value in {
        **SLOW_STARTS,
        **NO_WORKERS_AHEAD,
        "PATH": f"{shims}:{PROGRAMS}:{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
    }.items():
        monkeypatch.setenv(name, value)
    words = ["start", "--head", "--block", "--port=0", "--num-cpus=3", "--node-ip-address=127.0.0.1"]
    words += ["--dashboard-host=127.0.0.1", f"--dashboard-port={PORT}", "--include-dashboard=true"]
    with (
        tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder,
        (tmp_path / "ray.log").open("wb") as log,
    ):
        command = [PROGRAMS / "ray", *words, f"--temp-dir={folder}"]
        head = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            _wait_for_server(head, tmp_path / "ray.log")
            yield dict(os.environ)
        finally:
            head.terminate()
            head.wait(60)


def _wait_for_server(head: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + PATIENCE
    asked = urllib.request.Request(
        f"http://127.0.0.1:{PORT}/api/version",
        headers={"Authorization": f"Bearer {os.environ['RAY_AUTH_TOKEN']}"},
    )
    while True:
        assert head.poll() is None, log.read_text(errors="replace")
        with contextlib.suppress(OSError):
            urllib.request.urlopen(asked, timeout=10).close()
            return
        assert time.monotonic() < end, log.read_text(errors="replace")
        time.sleep(0.5)


def entrypoint(file: Path, folder: Path) -> str:
    """What the manifest of a campaign has KubeRay's operator submit."""
    models = finished().file.parent.resolve()
    mounts = ["--mount", f"runs:{folder}", "--mount", f"models:{models}"]
    made = call("launch", "rayjob", file, "--dir", folder / RUN, "--image", "evomerge:1", *mounts)
    assert made.code == 0, made.err
    found = YAML(typ="safe").load(made.out)["spec"]["entrypoint"]
    assert isinstance(found, str)
    return found


def submit(script: str, environment: dict[str, str], log: Path) -> str:
    """`ray job submit`, as the operator does over HTTP; all that it said when the job had ended."""
    server = f"http://127.0.0.1:{PORT}"
    said = log.with_suffix(".said")
    with said.open("wb") as out:
        # The server gives the text to a shell, and `ray job submit` joins words with blanks.
        code = f"""
import sys, time
from ray.job_submission import JobStatus, JobSubmissionClient
client = JobSubmissionClient({server!r})
job = client.submit_job(entrypoint={script!r})
while not (status := client.get_job_status(job)).is_terminal():
    time.sleep(0.5)
print(client.get_job_logs(job))
print("ended as", status.value)
"""
        ran = subprocess.run(
            [sys.executable, "-c", code], env=environment, stdout=out, stderr=out, check=False
        )
    text = said.read_text(errors="replace")
    assert ran.returncode == 0, (text, log.read_text(errors="replace"))
    return text


def test_the_job_server_runs_what_the_manifest_says(
    environment: dict[str, str], tmp_path: Path
) -> None:
    """The front is that of a run without Ray; a fault that would come again is stopped, and not retried."""
    workers = {"workers": {"pool": "ray", "address": "auto", "count": 2}}
    file = write_toy_campaign(tmp_path, workers, seconds=0.2)
    script = entrypoint(file, tmp_path)
    text = submit(script, environment, tmp_path / "ray.log")
    assert "ended as SUCCEEDED" in text, text
    tally = judge(tmp_path, 0)
    assert tally.sound, tally

    file.rename(tmp_path / "elsewhere.yaml")
    text = submit(script, environment, tmp_path / "ray.log")
    assert "E101" in text
    assert "exit code 3: this fault is not tried again" in text
    assert "ended as STOPPED" in text
