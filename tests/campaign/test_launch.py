"""Job files: checked first, quoted, and the batch script run for real; `tests/cluster` has a real SLURM."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from evomerge.campaign.campaign import load_campaign
from evomerge.campaign.check import check_campaign
from evomerge.campaign.inputs import inputs_of
from evomerge.campaign.launch import slurm_script, submit_command
from evomerge.campaign.placement import place
from evomerge.errors import ConfigError, UsageError
from evomerge.run.pool.ray_actors import NO_WORKERS_AHEAD, SLOW_STARTS
from tests.cli.terminal import call
from tests.tiny_models import write_campaign
from tests.tiny_runs import events_of, finished, front_text, run_file

BIN = Path(sys.executable).parent
PATIENCE = 900.0
"""Seconds for what takes twenty on a quiet machine."""


def a_campaign(folder: Path, **workers: Any) -> Path:
    """A campaign for a cluster, over the models of the tiny one."""
    folder.mkdir(exist_ok=True)
    for name in ("models", "evaluators"):
        if not (folder / name).exists():
            (folder / name).symlink_to(finished().file.parent / name)
    on_ray = {"pool": "ray", "address": "auto", "count": 4, **workers}
    evaluation = {"threads": 4, "device": "cuda" if on_ray.get("gpus") else "cpu"}
    return write_campaign(folder, workers=on_ray, evaluation=evaluation)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Four workers with half a device and four threads each."""
    return a_campaign(tmp_path, gpus=0.5)


@pytest.mark.parametrize(
    ("workers", "nodes", "share", "cpus", "gpus"),
    [
        ({"count": 4, "gpus": 0.5}, 1, 4, 17, 2),
        ({"count": 4, "gpus": 0.5}, 2, 2, 9, 1),
        ({"count": 2, "gpus": 2.0}, 1, 2, 9, 4),
        ({"count": 5, "gpus": 0.4}, 1, 5, 21, 3),  # two fit on a device, and no worker lies on two
        ({"count": 3}, 3, 1, 5, 0),
    ],
)
def test_each_node_has_room_for_its_share(
    tmp_path: Path, workers: dict[str, Any], nodes: int, share: int, cpus: int, gpus: int
) -> None:
    where = place(load_campaign(a_campaign(tmp_path, **workers)), nodes)
    assert (where.share, where.cpus, where.gpus) == (share, cpus, gpus)
    assert where.slots == share * 4, "Ray gives away what the workers need and no more"
    assert where.memory_gib is None


def test_memory_grows_with_the_workers_of_a_node(file: Path) -> None:
    campaign = load_campaign(file)
    report = check_campaign(campaign)
    one, four = (place(campaign, nodes, report).memory_gib for nodes in (4, 1))
    assert one is not None
    assert four is not None
    # 450 MB for each worker's libraries and 1.5 GB for Ray, a fifth more, and the object store.
    assert (one, four) == (3, 4)
    assert place(campaign, 4, report, memory_gib=64).memory_gib == 64
    assert (
        "4 nodes of 1 worker, 0.5 GPU and 4 threads each: a node has 5 CPUs" in place(campaign, 4).words
    )


@pytest.mark.parametrize(
    ("count", "nodes", "words"),
    [
        (5, 9, r"5 workers leave 4 of 9 nodes idle; give --nodes 5 or fewer"),
        (5, 2, r"5 workers do not come out even over 2 nodes, .*; give --nodes 1 or 5, or .* 4 or 6"),
        (4, 0, r"a cluster has at least one node; found 0"),
    ],
)
def test_what_does_not_come_out_is_refused(tmp_path: Path, count: int, nodes: int, words: str) -> None:
    with pytest.raises(UsageError, match=rf"E500\] --nodes: {words}"):
        place(load_campaign(a_campaign(tmp_path, count=count)), nodes)


def test_what_cannot_run_on_a_cluster_is_refused(file: Path) -> None:
    write_campaign(file.parent, workers={"pool": "local", "count": 2})
    with pytest.raises(
        ConfigError, match=r"E142\] \S+campaign.yaml:\d+:\d+ workers.pool: a job on a cl"
    ):
        place(load_campaign(file), 1)
    write_campaign(file.parent, workers={"pool": "ray", "count": 2})
    with pytest.raises(ConfigError, match=r"E142\] \S+ workers.*: the run would start a Ray"):
        place(load_campaign(file), 1)
    refused = call("launch", "pbs", file, "--dir", file.parent / "run")
    assert refused.code == 2
    assert "'slurm', 'rayjob', 'job'" in refused.err


def test_faults_are_found_before_anything_waits_in_a_queue(file: Path) -> None:
    (file.parent / "evaluators").unlink()
    write_campaign(file.parent, workers={"pool": "ray", "address": "auto"})
    text = file.read_text()
    file.write_text(text.replace("pets.acc", "pets.acccc").replace("models/math", "models/mth"))
    words = ["launch", "slurm", file, "--dir", file.parent / "run"]
    refused = call(*words)
    assert (refused.code, refused.out) == (3, "")
    assert "E201" in refused.err, refused.err
    assert "pets.acccc" in refused.err, refused.err
    trusted = call(*words, "--no-check")
    assert trusted.code == 0
    assert "#SBATCH --mem" not in trusted.out, "nothing tells it"
    assert "#SBATCH --mem=7G" in call(*words, "--no-check", "--memory", 7).out


def test_inputs_are_all_that_a_campaign_reads(file: Path) -> None:
    shared = finished().file.parent
    found = {each.path: each.what for each in inputs_of(load_campaign(file))}
    assert found == {
        file: "the campaign file",
        file.parent / "space.yaml": "the search space",
        shared / "models" / "base": "the base",
        shared / "models" / "math": "expert `math`",
        shared / "models" / "code": "expert `code`",
        shared / "evaluators" / "pets.yaml": "an evaluator",
        shared / "evaluators" / "birds.yaml": "an evaluator",
        shared / "evaluators" / "tasks": "what `pets` reads",
    }


def test_words_survive_the_shell(file: Path) -> None:
    odd = file.parent / "a run; $(date) 'x'"
    campaign = load_campaign(file)
    words = shlex.split(submit_command(campaign, odd, ["--working-dir=a b"], ["task_code"]))
    assert words[:4] == ["RAY_AUTH_MODE=token", "ray", "job", "submit"]
    assert "--working-dir=a b" in words[: words.index("--")]
    run = ["evomerge", "run", str(file), "--dir", str(odd), "--allow-task-code"]
    assert words[words.index("--") + 1 :] == run
    script = slurm_script(
        campaign, odd, place(campaign, 1), ["--comment=it's $(date)", "-A", "-pgpu x"]
    )
    assert shlex.join(run[:-1]) in script
    assert [line for line in script.splitlines() if line.startswith("#SBATCH")][-3:] == [
        "#SBATCH --comment='it'\"'\"'s $(date)'",
        "#SBATCH -A",
        "#SBATCH -p 'gpu x'",
    ]


@pytest.mark.parametrize("kind", ["job", "slurm"])
def test_changes_go_with_the_job(file: Path, kind: str) -> None:
    write_campaign(file.parent, workers={"pool": "ray", "address": "auto"})
    words = ["launch", kind, file, "--dir", file.parent / "run", "--no-check"]
    made = call(*words, "--seed", 21, "--set", "optimizer.options={eta_crossover: 12.0}")
    assert made.code == 0, made.err
    run = f"evomerge run {file} --dir {file.parent / 'run'} --set seed=21"
    assert f"{run} --set 'optimizer.options={{eta_crossover: 12.0}}'" in made.out
    refused = call(*words, "--set", "optimizer.popultion=8")
    assert (refused.code, refused.out) == (3, "")


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--nodes=3", "the script states --nodes itself; give --nodes before the `--`"),
        ("--signal=USR1", "the script states --signal itself"),
        ("--array=1-3", "start one job for each campaign"),
        ("8:00:00", "this is no option of sbatch; found '8:00:00'; write each as one word"),
        ("--time=1\necho", "this is no option of sbatch"),
    ],
)
def test_options_that_would_break_the_script_are_refused(file: Path, option: str, words: str) -> None:
    campaign = load_campaign(file)
    with pytest.raises(UsageError, match="E500") as refused:
        slurm_script(campaign, file.parent / "run", place(campaign, 1), [option])
    assert words in str(refused.value)


def test_options_of_the_scheduler_take_the_place_of_ours(file: Path) -> None:
    words = ["launch", "slurm", file, "--dir", file.parent / "run", "--nodes", 2]
    made = call(*words, "--", "--time=8:00:00", "--mem=64G", "--job-name=mine")
    assert made.code == 0, made.err
    stated = [line[len("#SBATCH ") :] for line in made.out.splitlines() if line.startswith("#SBATCH")]
    assert {"--time=8:00:00", "--mem=64G", "--job-name=mine", "--gpus-per-node=1"} <= {*stated}
    assert not {"--mem=3G", "--job-name=tiny"} & {*stated}
    assert "2 nodes of 2 workers, 0.5 GPU and 4 threads each: a node has 9 CPUs" in made.err
    assert "1 GPU, 3 GiB of memory" in made.err


SCONTROL = '#!/bin/bash\necho "$@" >> "$SHIM_LOG"\n'

HEAD = f"""\
#!{sys.executable}
import os, pathlib, socket, sys, time
pathlib.Path(os.environ["BEGUN"], "ray").touch()
if os.environ["IN"] == "run":
    port = int(sys.argv[sys.argv.index("--port") + 1])
    server = socket.create_server(("127.0.0.1", port))
time.sleep(600)
"""
RUN = '#!/bin/bash\ntouch "$BEGUN/run"\nexec sleep 600\n'
"""A run that has no handler yet: its Python is still loading what it needs."""


@pytest.mark.parametrize("sent", [signal.SIGUSR1, signal.SIGTERM])
@pytest.mark.parametrize("start", ["ray", "run"])
def test_a_stop_that_comes_while_something_starts_is_a_stop(
    file: Path, start: str, sent: signal.Signals
) -> None:
    """Nothing begins after it, all that began ends, and only SIGUSR1 asks for a place in the queue."""
    folder = file.parent
    campaign = load_campaign(a_campaign(folder, count=1))
    (folder / "job.sh").write_text(slurm_script(campaign, folder / "run", place(campaign, 1)))
    for name, text in {"scontrol": SCONTROL, "ray": HEAD, "evomerge": RUN}.items():
        (folder / "shims").mkdir(exist_ok=True)
        (folder / "shims" / name).write_text(text)
        (folder / "shims" / name).chmod(0o755)
    begun, asked, job = folder / "begun", folder / "asked.txt", str(os.getpid())
    begun.mkdir()
    environment = {
        **os.environ,
        "PATH": f"{folder / 'shims'}:{os.environ['PATH']}",
        "HOME": str(folder / "home"),
        "SLURM_JOB_ID": job,
        "SHIM_LOG": str(asked),
        "BEGUN": str(begun),
        "IN": start,
    }
    batch = subprocess.Popen(["bash", str(folder / "job.sh")], env=environment)
    try:
        end = time.monotonic() + PATIENCE
        while not (begun / start).exists():
            assert batch.poll() is None
            assert time.monotonic() < end
            time.sleep(0.05)
        batch.send_signal(sent)
        assert batch.wait(60) == 75
    finally:
        batch.kill()
        batch.wait(10)
    assert (begun / "run").exists() == (start == "run")
    assert asked.exists() == (sent == signal.SIGUSR1)
    assert [*(folder / "home" / ".ray").iterdir()] == []


@pytest.mark.timeout(2000)
def test_the_batch_script_stops_cleanly_and_asks_to_be_requeued(tmp_path: Path) -> None:
    """With a real Ray, token and all; SLURM's SIGUSR1 goes to the script alone, as `B:USR1` says."""
    file = a_campaign(tmp_path, count=1)
    write_campaign(tmp_path, workers={"pool": "ray", "address": "auto"}, evaluation={"threads": 1})
    directory, said = tmp_path / "run", tmp_path / "said.txt"
    campaign = load_campaign(file)
    script = slurm_script(campaign, directory, place(campaign, 1))
    assert "#SBATCH --gpus-per-node" not in script
    path, home, shims = tmp_path / "job.sh", tmp_path / "home", tmp_path / "shims"
    path.write_text(script)
    shims.mkdir()
    (shims / "scontrol").write_text(SCONTROL)
    (shims / "scontrol").chmod(0o755)
    job = str(os.getpid())
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        **SLOW_STARTS,
        **NO_WORKERS_AHEAD,
        "PATH": f"{shims}:{BIN}:{os.environ['PATH']}",
        "HOME": str(home),
        "SLURM_JOB_ID": job,
        "SHIM_LOG": str(tmp_path / "asked.txt"),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    }
    with said.open("w") as out:
        batch = subprocess.Popen(["bash", str(path)], env=environment, stdout=out, stderr=out)
        try:
            end = time.monotonic() + PATIENCE
            while not (directory / "ledger.jsonl").exists() or len(events_of(directory)) < 12:
                assert batch.poll() is None, said.read_text()
                assert time.monotonic() < end, said.read_text()
                time.sleep(0.1)
            batch.send_signal(signal.SIGUSR1)
            assert batch.wait(PATIENCE) == 75, said.read_text()
        finally:
            batch.kill()
            batch.wait(10)
    text = said.read_text()
    assert (tmp_path / "asked.txt").read_text() == f"requeue {job}\n"
    assert "auth" not in text.lower() or "warning" not in text, "its own cluster asks for a token"
    assert events_of(directory)[-1]["reason"] == "stopped"
    assert [*(home / ".ray").iterdir()] == [], "the secret is gone"
    assert not Path(f"/tmp/evomerge-{job}").exists()
    run_file(write_campaign(tmp_path), directory)
    assert front_text(directory) == finished().text
