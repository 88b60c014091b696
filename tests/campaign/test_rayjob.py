"""Kubernetes manifests: against KubeRay's own definition, and with all a campaign reads mounted."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ruamel.yaml import YAML

from evomerge.campaign.campaign import load_campaign
from evomerge.campaign.placement import place
from evomerge.campaign.rayjob import Values, rayjob, read_values, to_yaml
from evomerge.errors import ConfigError, UsageError
from tests.campaign.test_launch import a_campaign
from tests.cli.terminal import call
from tests.tiny_runs import finished

SCHEMA = json.loads((Path(__file__).parent / "rayjob_schema.json").read_text())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A campaign with all that it reads in its folder."""
    for name in ("models", "evaluators"):
        shutil.copytree(finished().file.parent / name, tmp_path / name)
    return a_campaign(tmp_path, gpus=0.5)


def manifest(file: Path, **values: Any) -> dict[str, Any]:
    campaign = load_campaign(file)
    known = Values(image="registry/evomerge:1", mounts={"models": str(file.parent)}, **values)
    return rayjob(campaign, file.parent / "run", place(campaign, 2, memory_gib=9), known)


def test_the_manifest_fits_kuberays_definition(file: Path) -> None:
    made = manifest(
        file,
        tolerations=[{"key": "spot", "operator": "Exists"}],
        node_selector={"gpu": "a100"},
        image_pull_secrets=["registry"],
        service_account="runner",
        labels={"queue": "team"},
    )
    text = to_yaml(made)
    read = YAML(typ="safe", pure=True).load(text)
    assert read == made
    assert list(read) == ["apiVersion", "kind", "metadata", "spec"]
    assert "&id" not in text, "no anchors: a person edits this"
    jsonschema.validate(read, SCHEMA)
    assert read["metadata"] == {"generateName": "tiny-", "labels": {"queue": "team"}}
    cluster = read["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    pod = cluster["workerGroupSpecs"][0]["template"]["spec"]
    (container,) = pod["containers"]
    amounts = {"cpu": "9", "memory": "10Gi", "nvidia.com/gpu": "1"}
    assert container["resources"] == {"limits": amounts, "requests": amounts}
    assert [mount["mountPath"] for mount in container["volumeMounts"]] == [str(file.parent), "/dev/shm"]
    assert pod["nodeSelector"] == {"gpu": "a100"}
    assert [one["key"] for one in pod["tolerations"]] == ["spot", "nvidia.com/gpu"]
    assert pod["imagePullSecrets"] == [{"name": "registry"}]
    assert pod["securityContext"]["runAsNonRoot"]
    head = cluster["headGroupSpec"]["template"]["spec"]
    assert "nodeSelector" not in head
    cluster["authOption"] = cluster.pop("authOptions")
    with pytest.raises(jsonschema.ValidationError, match="authOption"):
        jsonschema.validate(read, SCHEMA)


@pytest.mark.parametrize(("code", "stopped"), [(0, False), (3, True), (5, False), (75, False)])
def test_a_fault_that_would_come_again_is_not_tried_again(
    file: Path, tmp_path: Path, code: int, stopped: bool
) -> None:
    """A job that is stopped ends in `Complete`; one that fails is tried `backoffLimit` times."""
    words = shlex.split(manifest(file)["spec"]["entrypoint"])
    assert words[:2] == ["bash", "-c"]
    shims = tmp_path / "shims"
    shims.mkdir()
    for name, body in {
        "evomerge": f"exit {code}",
        "ray": 'echo "$@" > "$(dirname "$0")/asked"',
        "sleep": ":",
    }.items():
        (shims / name).write_text(f"#!/bin/bash\n{body}\n")
        (shims / name).chmod(0o755)
    job = json.dumps({"metadata": {"job_submission_id": "tiny-x7"}})
    path = f"{shims}:/usr/bin:/bin"
    (shims / "python").symlink_to(shutil.which("python3") or "python3")
    ended = subprocess.run(
        words, env={"PATH": path, "RAY_JOB_CONFIG_JSON_ENV_VAR": job}, capture_output=True
    )
    assert ended.returncode == code
    asked = shims / "asked"
    assert asked.exists() == stopped
    if stopped:
        assert asked.read_text().split() == [
            "job",
            "stop",
            "--address",
            "http://127.0.0.1:8265",
            "tiny-x7",
        ]


def test_what_is_not_mounted_is_refused_by_name(tmp_path: Path) -> None:
    """The models and evaluators of this one are links to another folder."""
    file = a_campaign(tmp_path / "campaign", gpus=0.5)
    shared = finished().file.parent
    words = ["launch", "rayjob", file, "--dir", tmp_path / "run", "--image", "registry/evomerge:1"]
    refused = call(*words, "--mount", f"models:{file.parent}")
    assert (refused.code, refused.out) == (2, "")
    lines = refused.err.splitlines()
    for line in (
        f"experts.math: expert `math` lies in no mounted folder; found {shared}/models/math; "
        f"give --mount CLAIM:{shared}/models/math",
        f"include_path: what `pets` reads lies in no mounted folder; found {shared}/evaluators/tasks",
        f"--dir: the campaign folder lies in no mounted folder; found {tmp_path}/run; "
        f"choose one below {file.parent}",
    ):
        assert any(line in one for one in lines), (line, refused.err)
    words[4] = file.parent / "run"
    both = call(*words, "--mount", f"mine:{file.parent}", "--mount", f"models:{shared}")
    assert both.code == 0, both.err
    assert "mountPath: " + str(shared) in both.out


def test_shared_results_must_be_mounted_too(tmp_path: Path) -> None:
    """A pod could write them nowhere."""
    file = a_campaign(tmp_path / "campaign")
    models = ["--mount", f"models:{finished().file.parent}", "--mount", f"runs:{file.parent}"]
    words = ["launch", "rayjob", file, "--dir", file.parent / "run", "--image", "evomerge:1", *models]
    refused = call(*words, "--set", "results=../results")
    assert (refused.code, refused.out) == (2, "")
    found = f"results: the folder of shared results lies in no mounted folder; found {tmp_path}/results"
    assert f"{found}; give --mount CLAIM:{tmp_path}, or" in refused.err
    assert call(*words, "--set", "results=results").code == 0


def test_a_claim_has_one_folder(file: Path) -> None:
    words = ["launch", "rayjob", file, "--dir", file.parent / "run", "--image", "evomerge:1"]
    refused = call(*words, "--mount", "data:/a", "--mount", "data:/b")
    assert (refused.code, refused.out) == (2, "")
    assert "error[E500]: claim `data` is mounted twice; name a folder above both" in refused.err


def test_a_relative_folder_is_where_one_stands(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    words = ["launch", "rayjob", "campaign.yaml", "--dir", "../" + file.parent.name + "/run"]
    made = call(*words, "--image", "x", "--mount", "models:.")
    assert made.code == 0, made.err
    assert f"--dir {file.parent}/run" in made.out


def test_values_come_from_a_file_and_from_flags(file: Path, tmp_path: Path) -> None:
    values = tmp_path / "values.yaml"
    values.write_text("image: a\nmounts: {models: /data}\nttl_seconds: 60\n")
    read = read_values(values, {"image": "b", "mounts": {"more": "/more"}, "memory_gib": None})
    assert (read.image, read.ttl_seconds) == ("b", 60)
    assert read.mounts == {"models": "/data", "more": "/more"}
    values.write_text("image: a\nmounts: {models: data}\ntolerance: []\n")
    with pytest.raises(ConfigError, match="claim `models` needs an absolute folder") as refused:
        read_values(values, {})
    assert "tolerance" in str(refused.value)
    with pytest.raises(UsageError, match="--image: a manifest needs --image") as missing:
        read_values(None, {})
    assert "--mount: a manifest needs --mount" in str(missing.value)
    unknown = call("launch", "rayjob", file, "--dir", file.parent / "run", "--no-check",
                   "--image", "x", "--mount", f"m:{file.parent}")  # fmt: skip
    assert "--memory: nothing tells how much memory a pod needs" in unknown.err
    odd = call("launch", "slurm", file, "--dir", file.parent / "run", "--image", "x")
    assert "--image, --mount and --values are those of a rayjob" in odd.err
