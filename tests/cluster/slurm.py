"""A SLURM of one's own: munge, a controller and several `slurmd`, on the loopback address, in one folder."""

from __future__ import annotations

import contextlib
import getpass
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "scancel")
PATIENCE = 400.0
"""Seconds for what takes thirty on a quiet machine."""

CONFIGURATION = """
ClusterName=tests
SlurmctldHost=localhost(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
SlurmctldPort={port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
ReturnToService=2
SlurmdTimeout=10
KillWait=20
NodeName=DEFAULT CPUs=4 RealMemory=8000
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE
"""


def missing() -> list[str]:
    """The programs that are not installed."""
    return [name for name in PROGRAMS if _program(name) is None]


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")


@dataclass
class Slurm:
    """A running SLURM; `nodes` are its `slurmd` by name."""

    folder: Path
    nodes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """For commands that shall find it."""
        return {**os.environ, "SLURM_CONF": str(self.folder / "slurm.conf")}

    def ask(self, *words: str) -> str:
        """What one of SLURM's commands says.

        Raises:
            AssertionError: if it fails.
        """
        ran = subprocess.run(
            words, env=self.environment, capture_output=True, text=True, cwd=self.folder, check=False
        )
        assert ran.returncode == 0, (words, ran.stdout, ran.stderr)
        return ran.stdout

    def job(self, number: str) -> dict[str, str]:
        """All that `scontrol` says of a job."""
        words = self.ask("scontrol", "show", "job", number).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait_for(self, happened: Callable[[], bool], said: Path, what: str) -> None:
        """Wait until something is so; the text of `said` goes into the complaint if it never is."""
        end = time.monotonic() + PATIENCE
        while not happened():
            text = said.read_text(errors="replace")[-4000:] if said.exists() else ""
            assert time.monotonic() < end, f"never {what}: {text}"
            time.sleep(0.2)

    def start(self, name: str) -> None:
        """Start (again) the `slurmd` of a node."""
        (self.folder / f"spool-{name}").mkdir(exist_ok=True)
        self.nodes[name] = _daemon(self, "slurmd", "-D", "-N", name)

    def lose(self, name: str) -> None:
        """Kill a node: its `slurmd` and all that runs there, at once and without a word."""
        daemon = self.nodes.pop(name)
        daemon.kill()
        daemon.wait(20)
        there = [process for process in psutil.process_iter() if _node_of(process) == name]
        for process in [*there, *(one.parent() for one in there)]:
            with contextlib.suppress(psutil.Error):
                if process is not None and (process in there or "slurmstepd" in process.name()):
                    process.kill()


def _node_of(process: psutil.Process) -> str | None:
    try:
        return process.environ().get("SLURMD_NODENAME")
    except psutil.Error:
        return None


def _daemon(slurm: Slurm, name: str, *words: str) -> subprocess.Popen[bytes]:
    program = _program(name)
    assert program is not None
    with (slurm.folder / f"{name}.log").open("ab") as log:
        return subprocess.Popen([program, *words], env=slurm.environment, stdout=log, stderr=log)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        free = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in free]


@contextlib.contextmanager
def slurm(folder: Path, names: list[str]) -> Iterator[Slurm]:
    """Start a SLURM with nodes of these names, and end it with all that runs under it."""
    made = Slurm(folder)
    (folder / "munge").mkdir(mode=0o755)
    (folder / "state").mkdir()
    key = folder / "munge" / "key"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o400)
    port, *ports = _free_ports(1 + len(names))
    nodes = [
        f"NodeName={name} NodeHostname=localhost NodeAddr=127.0.0.1 Port={own}"
        for name, own in zip(names, ports, strict=True)
    ]
    text = CONFIGURATION.format(
        user=getpass.getuser(), folder=folder, port=port, nodes="\n".join(nodes)
    )
    (folder / "slurm.conf").write_text(text)
    place = folder / "munge"
    files = {"key": key, "socket": place / "socket", "pid": place / "pid", "log": place / "log"}
    words = [f"--{n}{'' if n == 'socket' else '-file'}={path}" for n, path in files.items()]
    daemons = [_daemon(made, "munged", "--foreground", "--force", *words, f"--seed-file={place}/seed")]
    try:
        said = folder / "slurmctld.log"
        made.wait_for(files["socket"].exists, folder / "munged.log", "a munge")
        daemons.append(_daemon(made, "slurmctld", "-D"))
        for name in names:
            made.start(name)
        made.wait_for(lambda: _idle(made) == len(names), said, "all nodes idle")
        yield made
    finally:
        with contextlib.suppress(AssertionError):
            made.ask("scancel", "--user", getpass.getuser())
            made.wait_for(lambda: not made.ask("squeue", "--noheader"), said, "an empty queue")
        for daemon in (*made.nodes.values(), *reversed(daemons)):
            daemon.terminate()
            daemon.wait(20)


def _idle(made: Slurm) -> int:
    words = ["sinfo", "--noheader", "--Node", "--format", "%t"]
    ran = subprocess.run(words, env=made.environment, capture_output=True, text=True, check=False)
    return ran.stdout.split().count("idle")
