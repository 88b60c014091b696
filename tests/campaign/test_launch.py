"""Job files: quoted, checked against the manifest's schema, and the batch script run for real."""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest
from ruamel.yaml import YAML

from evomerge.campaign.campaign import load_campaign
from evomerge.campaign.launch import place, rayjob, slurm_script, submit_command, to_yaml
from evomerge.errors import ConfigError, UsageError
from evomerge.run.pool.ray_actors import NO_WORKERS_AHEAD, SLOW_STARTS
from tests.cli.terminal import call
from tests.tiny_models import write_campaign
from tests.tiny_runs import events_of, finished, front_text

SCHEMA = json.loads((Path(__file__).parent / "rayjob_schema.json").read_text())
BIN = Path(sys.executable).parent
PATIENCE = 400.0
"""Seconds for what takes twenty on a quiet machine."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A campaign for a cluster, over the models of the tiny one."""
    for name in ("models", "evaluators"):
        (tmp_path / name).symlink_to(finished().file.parent / name)
    workers = {"pool": "ray", "address": "auto", "count": 3, "gpus": 0.5}
    return write_campaign(tmp_path, workers=workers, evaluation={"threads": 4, "device": "cuda"})


def test_each_node_has_room_for_its_share(file: Path) -> None:
    campaign = load_campaign(file)
    assert place(campaign, 1).cpus == 3 * 4 + 1
    assert place(campaign, 1).gpus == 2
    assert (place(campaign, 2).cpus, place(campaign, 2).gpus) == (2 * 4 + 1, 1)
    whole = write_campaign(
        file.parent,
        workers={"pool": "ray", "address": "auto", "count": 2, "gpus": 2.0},
        evaluation={"device": "cuda"},
    )
    assert place(load_campaign(whole), 1).gpus == 4


def test_the_manifest_fits_its_schema(file: Path) -> None:
    campaign = load_campaign(file)
    made = rayjob(campaign, file.parent / "run", nodes=2, image="registry/evomerge:1", claim="models")
    text = to_yaml(made)
    read = YAML(typ="safe", pure=True).load(text)
    assert read == made
    jsonschema.validate(read, SCHEMA)
    cluster = read["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert shlex.split(read["spec"]["entrypoint"])[:2] == ["evomerge", "run"]
    (container,) = cluster["workerGroupSpecs"][0]["template"]["spec"]["containers"]
    assert container["resources"]["limits"] == {"cpu": "9", "nvidia.com/gpu": "1"}
    assert container["volumeMounts"][0]["mountPath"] == str(file.parent)
    cluster["authOption"] = cluster.pop("authOptions")
    with pytest.raises(jsonschema.ValidationError, match="authOption"):
        jsonschema.validate(read, SCHEMA)


def test_a_folder_off_the_volume_is_refused(
    file: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("elsewhere")
    with pytest.raises(
        UsageError, match=r"E500\] --dir: the campaign folder does not lie on the volume"
    ):
        rayjob(load_campaign(file), other, nodes=1, image="x", claim="y")


def test_words_survive_the_shell(file: Path) -> None:
    odd = file.parent / "a run; $(date) 'x'"
    words = shlex.split(submit_command(load_campaign(file), odd))
    assert words[:4] == ["RAY_AUTH_MODE=token", "ray", "job", "submit"]
    assert words[words.index("--") + 1 :] == ["evomerge", "run", str(file), "--dir", str(odd)]


def test_what_cannot_run_on_a_cluster_is_refused(file: Path) -> None:
    write_campaign(file.parent, workers={"pool": "local", "count": 2})
    with pytest.raises(ConfigError, match=r"E142\] \S+campaign.yaml workers.pool: a job on a cluster"):
        place(load_campaign(file), 1)
    write_campaign(file.parent, workers={"pool": "ray", "count": 2})
    with pytest.raises(ConfigError, match=r"E142\] \S+ workers.address: the run would start a Ray"):
        place(load_campaign(file), 1)
    refused = call("launch", "pbs", file, "--dir", file.parent / "run")
    assert refused.code == 2
    assert "give slurm, rayjob, job" in refused.err


SHIMS = {
    # One machine: the step's command runs here; what `scontrol` is asked is noted.
    "srun": 'while [ "${1#--}" != "$1" ]; do shift; done\nexec "$@"\n',
    "scontrol": 'echo "$@" >> "$SHIM_LOG"\necho localhost\n',
    "hostname": "echo 127.0.0.1\n",
}
RAY_SHIM = """
import os
import sys

import ray.scripts.scripts
import psutil  # the one Ray brings

every = psutil.process_iter


def ours():
    for process in every():
        try:
            if process.environ().get("RAY_TMPDIR") == os.environ["RAY_TMPDIR"]:
                yield from (process, *process.children(recursive=True))
        except psutil.Error:
            pass


known = set(ours())
psutil.process_iter = lambda *names: (one for one in every(*names) if one in known)
sys.exit(ray.scripts.scripts.main())
"""
"""Ray's command on a machine of its own: `symmetric-run` refuses where any Ray runs, `stop` ends them all."""


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


@pytest.fixture
def ray_folder() -> Iterator[str]:
    """For the files of a Ray; sockets need a short name."""
    with tempfile.TemporaryDirectory(prefix="evomerge-", ignore_cleanup_errors=True) as folder:
        yield folder


@pytest.mark.timeout(900)
def test_the_batch_script_runs_and_asks_to_be_requeued(
    file: Path, tmp_path: Path, ray_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With real Ray from `ray symmetric-run`, token and all; only SLURM itself is played."""
    workers = {"pool": "ray", "address": "auto", "count": 1}
    write_campaign(tmp_path, workers=workers)
    directory = tmp_path / "run"
    monkeypatch.setattr("evomerge.campaign.launch.PORT", free_port())
    script = slurm_script(load_campaign(file), directory, nodes=1)
    assert "#SBATCH --gpus-per-node" not in script
    shims = tmp_path / "shims"
    shims.mkdir()
    bodies = {name: f"#!/bin/bash\n{body}" for name, body in SHIMS.items()}
    for name, body in {**bodies, "ray": f"#!{sys.executable}{RAY_SHIM}"}.items():
        (shims / name).write_text(body)
        (shims / name).chmod(0o755)
    path = tmp_path / "job.sh"
    path.write_text(script)
    home = tmp_path / "home"
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        **SLOW_STARTS,
        **NO_WORKERS_AHEAD,
        "PATH": f"{shims}:{BIN}:{os.environ['PATH']}",
        "HOME": str(home),
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "localhost",
        "SHIM_LOG": str(tmp_path / "asked.txt"),
        "RAY_TMPDIR": ray_folder,
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        # Dies like a preempted run: by SIGTERM to itself after some events.
        "EVOMERGE_FAILPOINTS": "ledger.after_fsync=stop@12",
    }
    with (tmp_path / "said.txt").open("w") as said:
        stopped = subprocess.run(
            ["bash", str(path)], env=environment, stdout=said, stderr=said, timeout=PATIENCE
        )
        text = (tmp_path / "said.txt").read_text()
        assert stopped.returncode == 75, text
        assert "requeue 7" in (tmp_path / "asked.txt").read_text()
        assert "auth" not in text.lower() or "warning" not in text, "its own cluster asks for a token"
        assert events_of(directory)[-1]["reason"] == "stopped"
        del environment["EVOMERGE_FAILPOINTS"]
        done = subprocess.run(
            ["bash", str(path)], env=environment, stdout=said, stderr=said, timeout=PATIENCE
        )
    assert done.returncode == 0, (tmp_path / "said.txt").read_text()
    assert front_text(directory) == finished().text
    assert list((home / ".ray").iterdir()) == [], "the secret is gone"
