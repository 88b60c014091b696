"""Launch: the batch script and the job command that run a campaign on a cluster, made from its file.

How many workers, GPUs and threads there are is said once, in the campaign's `workers` and `evaluation`
sections. Every value is quoted for the shell it goes through. Ray starts with token authentication: it runs
commands for whoever may talk to it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Sequence
from pathlib import Path

from evomerge.campaign.campaign import Campaign
from evomerge.campaign.changes import Change
from evomerge.campaign.placement import STORE_BYTES, Placement
from evomerge.errors import Problem, UsageError
from evomerge.ledger.events import Grant

STOPPED = 75
"""Exit code of a run that was stopped by SIGTERM and can be gone on with."""

OURS = {
    "nodes": "give --nodes before the `--`",
    "N": "give --nodes before the `--`",
    "ntasks": "each node has one task",
    "n": "each node has one task",
    "ntasks-per-node": "each node has one task",
    "cpus-per-task": "set `evaluation.threads` and `workers.count`",
    "c": "set `evaluation.threads` and `workers.count`",
    "gpus": "set `workers.gpus` and `workers.count`",
    "G": "set `workers.gpus` and `workers.count`",
    "gpus-per-node": "set `workers.gpus` and `workers.count`",
    "array": "start one job for each campaign",
    "a": "start one job for each campaign",
    "signal": "the run is stopped two minutes before the time limit",
    "wrap": "the script is the job",
}
"""Options of sbatch that the script states itself, and what to do instead."""

SCRIPT = """
set -u
umask 077
export RAY_USAGE_STATS_ENABLED=0 HF_HUB_OFFLINE=1

# Two minutes before the time limit SLURM sends SIGUSR1 to this script alone: the run stops cleanly, and the
# job goes back into the queue. SIGTERM (scancel, preemption) stops it for good, or SLURM requeues it itself.
run=''
stopping=''
again=''
stop() {
  trap '' TERM USR1
  stopping=1
  # At once: after scancel there are only seconds until SIGKILL, and nothing starts any more that needs it.
  rm -f "${RAY_AUTH_TOKEN_PATH:-}"
  if [ -n "$run" ]; then kill -TERM "$run"; fi
}
trap stop TERM
trap 'again=1; stop' USR1
# What this shell ignores by then a child would ignore as well, and nothing could end it.
begin() { (trap - TERM USR1; exec "$@") & }

# One secret for this job, readable by its owner only; Ray refuses everybody without it.
export RAY_AUTH_MODE=token
export RAY_AUTH_TOKEN_PATH="$HOME/.ray/evomerge-$SLURM_JOB_ID.token"
mkdir -p "$HOME/.ray"
head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \\n' > "$RAY_AUTH_TOKEN_PATH"

# Ports and folder are this job's own: campaigns may share a node, and so may their owners.
port=$((20000 + SLURM_JOB_ID % 12000))
folder="/tmp/evomerge-$SLURM_JOB_ID"
trap 'rm -rf "$RAY_AUTH_TOKEN_PATH" "$folder"' EXIT
start=(ray start --block --disable-usage-stats @AMOUNTS@ --dashboard-agent-listen-port 0)
@ADDRESS@
export RAY_ADDRESS="$address:$port"

begin "${start[@]}" --temp-dir "$folder" --head --node-ip-address "$address" --port "$port" \\
  --include-dashboard false
ray=$!
until [ -n "$stopping" ] || (exec 3<> "/dev/tcp/$address/$port") 2> /dev/null; do
  kill -0 "$ray" 2> /dev/null || exit 5
  sleep 1
done
code=@STOPPED@
if [ -z "$stopping" ]; then
@OTHERS@
  begin @RUN@
  run=$!
  if [ -n "$stopping" ]; then kill -TERM "$run"; fi
  wait "$run"
  code=$?
  # A signal ends the first wait; the run ends a little later.
  if [ -n "$stopping" ]; then wait "$run"; code=$?; fi
  # One that a stop met while Python started has begun nothing, and cannot say so.
  if [ -n "$stopping" ] && [ "$code" -eq 143 ]; then code=@STOPPED@; fi
fi
trap '' TERM USR1
@LEAVE@kill "$ray" 2> /dev/null
wait
if [ "$code" -eq @STOPPED@ ] && [ -n "$again" ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
"""

HEAD_ONLY = "address=127.0.0.1"
HEAD_OF_SEVERAL = """
# The first node's address as another node sees it: on the node itself its name may mean 127.0.1.1.
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
name=$(scontrol show node "$first" | sed -n 's/.*NodeAddr=\\([^ ]*\\).*/\\1/p')
address=$(srun --nodes=1 --ntasks=1 --exclude="$first" getent ahostsv4 "$name" | head -n 1 | cut -d' ' -f1)"""
OTHERS = """\
  # A node that is lost costs what ran on it; the others go on.
  begin srun --no-kill --kill-on-bad-exit=0 --nodes=@COUNT@ --ntasks=@COUNT@ --cpus-per-task=@CPUS@ \\
    --exclude="$first" bash -c 'own="$0-$SLURM_NODEID"; trap "rm -rf $own" EXIT; "$@" --temp-dir "$own"' \\
    "$folder" "${start[@]}" --address "$RAY_ADDRESS"
"""


LEAVE = """\
# Told by its number: srun would kill its processes without their cleaning up.
step=$(squeue --noheader --steps --jobs "$SLURM_JOB_ID" --format %i | grep -E '\\.[0-9]+$')
scancel --signal=TERM $step 2> /dev/null
"""


def slurm_script(
    campaign: Campaign,
    directory: Path,
    where: Placement,
    options: Sequence[str] = (),
    grants: Collection[Grant] = (),
    changes: Sequence[Change] = (),
) -> str:
    """A batch script: one Ray over all nodes, the run on the first, requeued when it was stopped.

    Args:
        campaign: what runs.
        directory: its folder.
        where: its workers.
        options: further options of sbatch, as `--time=8:00:00`; they replace those of the same name.
        grants: what its tasks are allowed.
        changes: those that `campaign` was loaded with.

    Raises:
        UsageError: E500, an option that the script must state itself, or that is none.
    """
    stated = {
        "job-name": campaign.config.name,
        "nodes": f"{where.nodes}",
        "ntasks-per-node": "1",
        "cpus-per-task": f"{where.cpus}",
        "mem": f"{where.memory_gib}G" if where.memory_gib is not None else None,
        "gpus-per-node": f"{where.gpus}" if where.gpus else None,
        "open-mode": "append",
        "requeue": "",
        "no-kill": "",
        "signal": "B:USR1@120",
    }
    given = [_scheduler_option(text) for text in options]
    replaced = {name for name, _ in given}
    if replaced & {"mem-per-cpu", "mem-per-gpu"}:
        replaced.add("mem")
    header = ["#!/bin/bash"]
    for name, value in stated.items():
        if value is not None and name not in replaced:
            header.append(f"#SBATCH --{name}={value}" if value else f"#SBATCH --{name}")
    header += [f"#SBATCH {text}" for _, text in given]
    several = where.nodes > 1
    others = OTHERS.replace("@COUNT@", f"{where.nodes - 1}").replace("@CPUS@", f"{where.cpus}")
    script = SCRIPT
    for name, text in {
        "@ADDRESS@": HEAD_OF_SEVERAL if several else HEAD_ONLY,
        "@OTHERS@": others if several else "",
        "@LEAVE@": LEAVE if several else "",
        "@STOPPED@": f"{STOPPED}",
        "@AMOUNTS@": f"--num-cpus {where.slots} --num-gpus {where.gpus} --object-store-memory {STORE_BYTES}",
        # Last: what a person wrote is not looked through.
        "@RUN@": shlex.join(run_words(campaign, directory, grants, changes)),
    }.items():
        script = script.replace(name, text)
    return "\n".join(header) + "\n" + script


def _scheduler_option(text: str) -> tuple[str, str]:
    """An option of sbatch as its name and the line's text, quoted as sbatch reads it."""
    match = re.fullmatch(r"--([a-z][a-z0-9-]*)(?:=(.*))?|-([A-Za-z])(.*)", text)
    if match is None:
        todo = "write each as one word, `--time=8:00:00`"
        raise UsageError(Problem("E500", "this is no option of sbatch", f"found {text!r}", todo))
    name = match[1] or match[3]
    if name in OURS:
        wrong = f"the script states {text.partition('=')[0]} itself"
        raise UsageError(Problem("E500", wrong, "", OURS[name]))
    value = match[2] if match[1] else match[4]
    head = f"--{name}" if match[1] else f"-{name}"
    if value is None or not value:
        return name, head
    return name, f"{head}={shlex.quote(value)}" if match[1] else f"{head} {shlex.quote(value)}"


def submit_command(
    campaign: Campaign,
    directory: Path,
    options: Sequence[str] = (),
    grants: Collection[Grant] = (),
    changes: Sequence[Change] = (),
) -> str:
    """The `ray job submit` line for a cluster that stands already and shares the campaign's file system.

    `options` are further options of `ray job submit`, `changes` those that `campaign` was loaded with.
    """
    words = ["ray", "job", "submit", "--no-wait", "--entrypoint-num-cpus", "1", *options]
    words += ["--", *run_words(campaign, directory, grants, changes)]
    return f"RAY_AUTH_MODE=token {shlex.join(words)}\n"


def run_words(
    campaign: Campaign, directory: Path, grants: Collection[Grant], changes: Sequence[Change]
) -> list[str]:
    """The command that runs a campaign, with absolute paths."""
    words = ["evomerge", "run", str(campaign.file), "--dir", str(directory.resolve())]
    words += [word for change in changes for word in ("--set", change.words)]
    return words + [f"--allow-{grant.replace('_', '-')}" for grant in sorted(grants)]
