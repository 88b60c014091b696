"""Launch: the job file that runs a campaign on a cluster, made from the campaign itself.

How many workers, GPUs and threads there are is said once, in the campaign's `workers` and `evaluation`
sections. Every value is quoted for the shell it goes through; the manifest is data and no template. Ray
starts with token authentication: its job interface runs commands for whoever may talk to it.
"""

from __future__ import annotations

import io
import math
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from evomerge.campaign.campaign import Campaign
from evomerge.errors import ConfigError, Problem, UsageError

PORT = 6379
KINDS = ("slurm", "rayjob", "job")
STOPPED = 75
"""Exit code of a run that was stopped by SIGTERM and can be gone on with."""


@dataclass(frozen=True)
class Placement:
    """Where workers go: `nodes` machines, each with `cpus` cores and `gpus` devices for its share."""

    nodes: int
    cpus: int
    gpus: int


def place(campaign: Campaign, nodes: int) -> Placement:
    """Resources of each node, so that all workers of a campaign fit on `nodes` of them.

    Raises:
        ConfigError: E142, its workers are not on Ray, or would start a Ray of their own.
        UsageError: E500, fewer than one node.
    """
    workers, file = campaign.config.workers, str(campaign.file)
    if nodes < 1:
        raise UsageError(Problem("E500", "a cluster has at least one node", f"found {nodes}"))
    if workers.pool != "ray":
        wrong = "a job on a cluster needs workers on Ray"
        todo = "write `workers: {pool: ray, address: auto, ...}`"
        found = f"found {workers.pool!r}"
        raise ConfigError(Problem("E142", wrong, found, todo, file, field="workers.pool"))
    if workers.address is None:
        wrong = "the run would start a Ray of its own beside the cluster's"
        raise ConfigError(
            Problem("E142", wrong, "", "write `address: auto`", file, field="workers.address")
        )
    share = math.ceil(workers.count / nodes)
    cpus = share * campaign.config.evaluation.threads + 1  # and one for the driver
    # A worker with 1.5 or more devices has whole ones; smaller shares may lie on one device together.
    gpus = share * math.ceil(workers.gpus) if workers.gpus > 1 else math.ceil(share * workers.gpus)
    return Placement(nodes, cpus, gpus)


def slurm_script(campaign: Campaign, directory: Path, *, nodes: int) -> str:
    """A batch script: one Ray over all nodes, the run on the first, requeued when it is preempted.

    Raises:
        ConfigError, UsageError: as `place`.
    """
    where = place(campaign, nodes)
    run = _run_words(campaign, directory)
    lines = [
        "#!/bin/bash",
        f"#SBATCH --job-name={campaign.config.name}",
        f"#SBATCH --nodes={where.nodes}",
        "#SBATCH --ntasks-per-node=1",
        f"#SBATCH --cpus-per-task={where.cpus}",
    ]
    if where.gpus:
        lines.append(f"#SBATCH --gpus-per-node={where.gpus}")
    lines += [
        "#SBATCH --open-mode=append",
        "#SBATCH --requeue",
        "# SIGTERM two minutes before the time limit: the run stops cleanly and can be gone on with.",
        "#SBATCH --signal=TERM@120",
        "",
        "set -u",
        "# One secret for this job, readable by its owner only; Ray refuses everybody without it.",
        "export RAY_AUTH_MODE=token",
        'export RAY_AUTH_TOKEN_PATH="$HOME/.ray/evomerge-$SLURM_JOB_ID.token"',
        'mkdir -p "$HOME/.ray"',
        '(umask 077; head -c 32 /dev/urandom | od -An -v -tx1 | tr -d " \\n" > "$RAY_AUTH_TOKEN_PATH")',
        "trap 'rm -f \"$RAY_AUTH_TOKEN_PATH\"' EXIT",
        "export RAY_USAGE_STATS_ENABLED=0 HF_HUB_OFFLINE=1",
        "",
        'head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
        'address=$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address | cut -d" " -f1)',
        "# SIGTERM reaches every process of a step; only the run may act on it, so that Ray outlives it.",
        'srun bash -c \'trap "" TERM; exec "$@"\' bash ray symmetric-run \\',
        f'  --address "$address:{PORT}" --min-nodes {where.nodes} \\',
        f"  --num-cpus {where.cpus} --num-gpus {where.gpus} \\",
        f"  -- {shlex.join(run)}",
        "code=$?",
        "",
        f'if [ "$code" -eq {STOPPED} ]; then',
        '  scontrol requeue "$SLURM_JOB_ID"',
        "fi",
        'exit "$code"',
    ]
    return "\n".join(lines) + "\n"


def rayjob(
    campaign: Campaign, directory: Path, *, nodes: int, image: str, claim: str
) -> dict[str, Any]:
    """A KubeRay `RayJob` (ray.io/v1) as data.

    Args:
        campaign: its files and `directory` lie on the volume.
        directory: the campaign folder.
        nodes: pods with workers, beside the head.
        image: a container image with evomerge, and with Ray of this version.
        claim: the persistent volume claim, mounted where the campaign file lies.

    Raises:
        ConfigError, UsageError: as `place`.
    """
    from importlib import metadata

    where = place(campaign, nodes)
    mount = str(campaign.file.parent)
    if not directory.absolute().is_relative_to(mount):
        wrong = "the campaign folder does not lie on the volume"
        todo = f"choose one below {mount}, where the claim is mounted"
        raise UsageError(Problem("E500", wrong, f"found {directory}", todo, field="--dir"))

    def pod(cpus: int, gpus: int) -> dict[str, Any]:
        amounts: dict[str, Any] = {"cpu": str(cpus)}
        if gpus:
            amounts["nvidia.com/gpu"] = str(gpus)
        container = {
            "name": "ray",
            "image": image,
            "env": [
                {"name": "RAY_USAGE_STATS_ENABLED", "value": "0"},
                {"name": "HF_HUB_OFFLINE", "value": "1"},
            ],
            "resources": {"limits": amounts, "requests": amounts},
            "volumeMounts": [{"name": "campaign", "mountPath": mount}],
        }
        volume = {"name": "campaign", "persistentVolumeClaim": {"claimName": claim}}
        # A clean stop takes up to 10 s; the default grace of 30 s holds it.
        return {"spec": {"containers": [container], "volumes": [volume]}}

    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": _kubernetes_name(campaign.config.name)},
        "spec": {
            "entrypoint": shlex.join(_run_words(campaign, directory)),
            # A run goes on where the ledger stands: a lost cluster costs what was under way.
            "backoffLimit": 3,
            "shutdownAfterJobFinishes": True,
            "rayClusterSpec": {
                "rayVersion": metadata.version("ray"),
                "authOptions": {"mode": "token"},
                "headGroupSpec": {
                    "rayStartParams": {"num-cpus": "0"},
                    "template": pod(2, 0),
                },
                "workerGroupSpecs": [
                    {
                        "groupName": "workers",
                        "replicas": where.nodes,
                        "minReplicas": 0,
                        "maxReplicas": where.nodes,
                        "rayStartParams": {},
                        "template": pod(where.cpus, where.gpus),
                    }
                ],
            },
        },
    }


def to_yaml(data: dict[str, Any]) -> str:
    """Plain data as YAML text."""
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.width = 10_000
    text = io.StringIO()
    yaml.dump(data, text)
    return text.getvalue()


def submit_command(campaign: Campaign, directory: Path) -> str:
    """The `ray job submit` line for a cluster that stands already and shares the campaign's file system.

    Raises:
        ConfigError: as `place`.
    """
    place(campaign, 1)
    words = ["ray", "job", "submit", "--no-wait", "--entrypoint-num-cpus", "1"]
    return f"RAY_AUTH_MODE=token {shlex.join([*words, '--', *_run_words(campaign, directory)])}\n"


def _run_words(campaign: Campaign, directory: Path) -> list[str]:
    return ["evomerge", "run", str(campaign.file), "--dir", str(directory.absolute())]


def _kubernetes_name(name: str) -> str:
    """A campaign's name as a DNS label, as Kubernetes wants it; short enough for KubeRay's suffixes."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40].strip("-") or "campaign"
