"""RayJob: the KubeRay manifest that runs a campaign on Kubernetes, as plain data.

What the campaign does not say (image, volumes, which nodes) stands in `Values`, from a small file and from
flags. Nothing is a template: every value is data, and YAML is written at the end.
"""

from __future__ import annotations

import io
import re
import shlex
from collections.abc import Collection, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, field_validator
from ruamel.yaml import YAML
from ruamel.yaml.representer import SafeRepresenter

from evomerge.campaign.campaign import Campaign
from evomerge.campaign.changes import Change
from evomerge.campaign.inputs import Input, inputs_of
from evomerge.campaign.launch import run_words
from evomerge.campaign.placement import GIB, STORE_BYTES, Placement
from evomerge.errors import Problem, UsageError
from evomerge.files.yaml_file import load_yaml, validate
from evomerge.ledger.events import Grant

NOT_TO_BE_RETRIED = (2, 3, 4, 6, 7, 8, 9)
"""Exit codes of faults that another cluster would meet again (see `evomerge.errors`)."""

GPU = "nvidia.com/gpu"
HEAD_GIB = 4
"""Memory of the head: Ray's own processes, the driver and the campaign's history."""

SHARED_MEMORY_GIB = 1
"""`/dev/shm`: Ray's object store, and what torch puts there."""

ENTRYPOINT = f"""{{run}}
code=$?
case "$code" in {"|".join(map(str, NOT_TO_BE_RETRIED))})
  # Another try would meet the same fault: a job that is stopped is not tried again, one that fails is.
  id=$(python -c 'import json, os
print(json.loads(os.environ["RAY_JOB_CONFIG_JSON_ENV_VAR"])["metadata"]["job_submission_id"])')
  echo "exit code $code: this fault is not tried again" >&2
  ray job stop --address http://127.0.0.1:8265 "$id" && sleep 30;;
esac
exit "$code"
"""


class Values(BaseModel):
    """What a cluster's owner says of it.

    Attributes:
        image: with evomerge, and with Ray of the version that is installed here.
        mounts: volume claim to the folder in which it is mounted, here and in every pod.
        env: variables of every container; `HF_HOME` for example.
        gpu: name of the resource that is one device.
        memory_gib: memory of a pod with workers, instead of what `check` tells.
        node_selector: labels of the nodes for workers, `head_selector` for the head.
        tolerations: of the pods with workers, as Kubernetes writes them; the one of `gpu` is added.
        image_pull_secrets: names of secrets of the image's registry.
        service_account: of all pods.
        labels, annotations: of the RayJob (a queue, say).
        user: number of the user in the image; files are made in his name.
        ttl_seconds: how long the RayJob is kept when it has ended.
        retries: how often the whole cluster is tried again; the run goes on where it was.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    image: Annotated[str, Field(min_length=1)]
    mounts: Annotated[dict[str, str], Field(min_length=1)]
    env: dict[str, str] = {}
    gpu: str = GPU
    memory_gib: PositiveInt | None = None
    node_selector: dict[str, str] = {}
    head_selector: dict[str, str] = {}
    tolerations: list[dict[str, str | int]] = []
    image_pull_secrets: list[str] = []
    service_account: str | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    user: PositiveInt = 1000
    ttl_seconds: NonNegativeInt = 86_400
    retries: NonNegativeInt = 3

    @field_validator("mounts")
    @classmethod
    def _absolute(cls, value: dict[str, str]) -> dict[str, str]:
        for claim, folder in value.items():
            if not Path(folder).is_absolute() or Path(folder) == Path("/"):
                raise ValueError("E108", f"claim `{claim}` needs an absolute folder, not `{folder}`")
        return {claim: str(Path(folder).resolve()) for claim, folder in value.items()}


def read_values(file: Path | None, flags: Mapping[str, Any]) -> Values:
    """The values of a file, and of flags that stand over them; `mounts` of both.

    Raises:
        ConfigError: with every fault of the file.
        UsageError: E500, where an image or a mount is missing.
    """
    data: dict[str, Any] = {}
    positions: Any = {}
    if file is not None:
        data, positions = load_yaml(file)
    mounts = data.get("mounts")
    given = {name: value for name, value in flags.items() if value}
    merged = {**data, **given}
    if isinstance(mounts, dict) and "mounts" in given:
        merged["mounts"] = {**mounts, **given["mounts"]}
    wanted = {
        "image": (
            "--image",
            "give --image REGISTRY/NAME:TAG; the Dockerfile of the checkout makes one",
        ),
        "mounts": ("--mount", "give --mount CLAIM:FOLDER, the folder that holds the campaign"),
    }
    missing = [
        Problem("E500", f"a manifest needs {option}", "", todo, field=option)
        for name, (option, todo) in wanted.items()
        if not merged.get(name)
    ]
    if missing:
        raise UsageError(missing)
    return validate(Values, merged, positions, str(file or ""))


def unmounted(campaign: Campaign, directory: Path, values: Values) -> list[Problem]:
    """What a campaign reads and writes that lies in no mounted folder, each by name with the remedy."""
    folders = [Path(folder) for folder in values.mounts.values()]
    run = Input("the campaign folder", directory.resolve(), campaign.file, "--dir")
    places = [*inputs_of(campaign), run]
    if campaign.results is not None:
        places.append(Input("the folder of shared results", campaign.results, campaign.file, "results"))
    problems = []
    for each in places:
        if any(each.path.is_relative_to(folder) for folder in folders):
            continue
        place = each.path if each.path.is_dir() else each.path.parent
        todo = (
            f"give --mount CLAIM:{place}, or copy all it reads into one folder with `evomerge bundle`"
        )
        if each is run:
            todo = f"choose one below {' or '.join(map(str, folders))}"
        wrong = f"{each.what} lies in no mounted folder"
        file = "" if each is run else str(each.file)
        problems.append(Problem("E500", wrong, f"found {each.path}", todo, file, field=each.field))
    return problems


def rayjob(
    campaign: Campaign,
    directory: Path,
    where: Placement,
    values: Values,
    grants: Collection[Grant] = (),
    changes: Sequence[Change] = (),
) -> dict[str, Any]:
    """A KubeRay `RayJob` (ray.io/v1).

    Args:
        campaign: what runs.
        directory: the campaign folder.
        where: its workers; a pod for each node, beside the head.
        values: what the campaign does not say.
        grants: what its tasks are allowed.
        changes: those that `campaign` was loaded with.

    Raises:
        UsageError: E500 for all that is not mounted, or where no memory is known.
    """
    if problems := unmounted(campaign, directory, values):
        raise UsageError(problems)
    memory = values.memory_gib or where.memory_gib
    if memory is None:
        wrong, todo = (
            "nothing tells how much memory a pod needs",
            "give --memory GIB, or leave out --no-check",
        )
        raise UsageError(Problem("E500", wrong, "", todo, field="--memory"))
    name = _kubernetes_name(campaign.config.name)
    head = _pod(values, 2, HEAD_GIB, 0, values.head_selector, _environment(campaign, values))
    worker = _pod(
        values,
        where.cpus,
        memory + SHARED_MEMORY_GIB,
        where.gpus,
        values.node_selector,
        _environment(campaign, values),
    )
    store = {"object-store-memory": str(STORE_BYTES)}
    about = {"generateName": f"{name}-", "labels": values.labels, "annotations": values.annotations}
    run = shlex.join(run_words(campaign, directory, grants, changes))
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        # Each `kubectl create` makes a job of its own.
        "metadata": {key: value for key, value in about.items() if value},
        "spec": {
            "entrypoint": shlex.join(["bash", "-c", ENTRYPOINT.replace("{run}", run)]),
            # No pod beside the cluster's: the operator submits, and pods need not pull twice.
            "submissionMode": "HTTPMode",
            # A run goes on where the ledger stands: a lost cluster costs what was under way.
            "backoffLimit": values.retries,
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": values.ttl_seconds,
            "rayClusterSpec": {
                "rayVersion": metadata.version("ray"),
                "authOptions": {"mode": "token"},
                "headGroupSpec": {"rayStartParams": {"num-cpus": "0", **store}, "template": head},
                "workerGroupSpecs": [
                    {
                        "groupName": "workers",
                        "replicas": where.nodes,
                        "minReplicas": 0,
                        "maxReplicas": where.nodes,
                        "rayStartParams": {"num-cpus": f"{where.slots}", **store},
                        "template": worker,
                    }
                ],
            },
        },
    }


def _environment(campaign: Campaign, values: Values) -> dict[str, str]:
    stated = {"RAY_USAGE_STATS_ENABLED": "0", "HF_HUB_OFFLINE": "1", "HOME": "/tmp"}
    caches = {each.path.parent for each in inputs_of(campaign) if each.hub}
    if len(caches) == 1:
        stated["HF_HUB_CACHE"] = str(caches.pop())
    return stated | values.env


def _pod(
    values: Values,
    cpus: int,
    memory: int,
    gpus: int,
    selector: Mapping[str, str],
    env: Mapping[str, str],
) -> dict[str, Any]:
    """A pod's template: requests are limits, nothing runs as root, volumes where they are here."""
    amounts = {"cpu": f"{cpus}", "memory": f"{memory}Gi"} | ({values.gpu: f"{gpus}"} if gpus else {})
    claims = list(values.mounts.items())
    container = {
        "name": "ray",
        "image": values.image,
        "env": [{"name": name, "value": value} for name, value in env.items()],
        "resources": {"limits": dict(amounts), "requests": dict(amounts)},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            *({"name": f"claim-{n}", "mountPath": folder} for n, (_, folder) in enumerate(claims)),
            {"name": "shared-memory", "mountPath": "/dev/shm"},
        ],
    }
    spec: dict[str, Any] = {
        "containers": [container],
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": values.user,
            "fsGroup": values.user,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumes": [
            *(
                {"name": f"claim-{n}", "persistentVolumeClaim": {"claimName": claim}}
                for n, (claim, _) in enumerate(claims)
            ),
            {
                "name": "shared-memory",
                "emptyDir": {"medium": "Memory", "sizeLimit": f"{SHARED_MEMORY_GIB * GIB}"},
            },
        ],
    }
    gpu_taint = [{"key": values.gpu, "operator": "Exists", "effect": "NoSchedule"}] if gpus else []
    optional = {
        "nodeSelector": dict(selector),
        "tolerations": [*map(dict, values.tolerations), *gpu_taint],
        "imagePullSecrets": [{"name": name} for name in values.image_pull_secrets],
        "serviceAccountName": values.service_account,
    }
    return {"spec": spec | {name: value for name, value in optional.items() if value}}


class _NoAnchors(SafeRepresenter):
    """Equal parts are written out each time."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def to_yaml(data: dict[str, Any]) -> str:
    """Plain data as YAML text, in the order of its fields."""
    yaml = YAML(typ="safe", pure=True)
    yaml.Representer = _NoAnchors
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.width = 10_000
    text = io.StringIO()
    yaml.dump(data, text)
    return text.getvalue()


def _kubernetes_name(name: str) -> str:
    """A campaign's name as a DNS label, as Kubernetes wants it; short enough for KubeRay's suffixes."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:36].strip("-") or "campaign"
