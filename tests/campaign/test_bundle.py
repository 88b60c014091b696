"""Bundles: moved elsewhere, they check and run to the same front; nothing half-written is left."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from evomerge.campaign import bundle as bundling
from evomerge.campaign.campaign import identity_digest, load_campaign
from evomerge.campaign.inputs import inputs_of
from evomerge.errors import ConfigError
from evomerge.evaluators.kinds import load_declaration
from tests.cli.terminal import call
from tests.tiny_models import write_campaign
from tests.tiny_runs import finished, front_text, run_file


@pytest.fixture
def scattered(tmp_path: Path) -> Path:
    """A campaign whose parts lie in several folders: models by link, an evaluator beside another's tasks."""
    folder = tmp_path / "here" / "deep"
    folder.mkdir(parents=True)
    source = finished().file.parent
    shutil.copytree(source / "models", tmp_path / "models")
    (tmp_path / "models" / "math" / "pytorch_model.bin").write_bytes(b"never read")
    (folder / "models").symlink_to(tmp_path / "models")
    shutil.copytree(source / "evaluators", folder / "evaluators")
    shutil.move(folder / "evaluators" / "tasks" / "data", tmp_path / "data")
    for task in (folder / "evaluators" / "tasks").glob("*.yaml"):
        task.write_text(task.read_text().replace(": data/", ": ../../../../data/"))
    return write_campaign(folder)


def test_a_bundle_checks_and_runs_anywhere(scattered: Path, tmp_path: Path) -> None:
    scattered.write_text("# why we do this\n" + scattered.read_text())
    made = call("bundle", scattered, tmp_path / "made")
    assert made.code == 0, made.err
    assert made.err == "", "it holds all that is needed"
    before = load_campaign(scattered)
    digests = [load_declaration(path).digest() for path in before.evaluator_files]
    moved = tmp_path / "elsewhere" / "bundle"
    moved.parent.mkdir()
    shutil.move(tmp_path / "made", moved)
    for gone in ("here", "data", "models"):
        shutil.rmtree(tmp_path / gone)
    sums = subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=moved, check=False)
    assert sums.returncode == 0
    listed = {line.split("  ", 1)[1] for line in (moved / "SHA256SUMS").read_text().splitlines()}
    there = {path.relative_to(moved).as_posix() for path in moved.rglob("*") if path.is_file()}
    assert listed == there - {"SHA256SUMS"}
    assert "models/math/pytorch_model.bin" not in there
    file = moved / "campaign.yaml"
    assert file.read_text().startswith("# why we do this")
    for path in moved.rglob("*.yaml"):
        assert str(tmp_path) not in path.read_text()
    campaign = load_campaign(file)
    assert all(each.path.is_relative_to(moved) for each in inputs_of(campaign))
    assert [load_declaration(path).digest() for path in campaign.evaluator_files] == digests
    assert identity_digest(campaign.to_json()) == identity_digest(before.to_json())
    assert call("check", file).code == 0
    run_file(file, moved / "run")
    assert front_text(moved / "run") == finished().text


@pytest.mark.parametrize(("stated", "kept"), [("{}/results", "results"), ("../results", "../results")])
def test_results_of_this_machine_stay_here(
    scattered: Path, tmp_path: Path, stated: str, kept: str
) -> None:
    write_campaign(scattered.parent, results=stated.format(tmp_path))
    assert call("bundle", scattered, tmp_path / "made", "--models", "link").code == 0
    assert load_campaign(tmp_path / "made" / "campaign.yaml").config.results == kept


def test_models_may_be_linked_and_other_kinds_bring_their_items(
    scattered: Path, tmp_path: Path
) -> None:
    (scattered.parent / "text.txt").write_text("a cat sat on a mat " * 400)
    (scattered.parent / "prose.yaml").write_text(
        "schema: 1\nkind: perplexity\nname: prose\ntext: text.txt  # ours\n"
    )
    stated = json.loads(scattered.read_text())
    stated["evaluators"][1] = "prose.yaml"
    stated["objectives"][1] = {"metric": "prose.perplexity", "direction": "minimize"}
    scattered.write_text(json.dumps(stated))
    made = call("bundle", scattered, tmp_path / "made", "--models", "link", "--json")
    assert made.code == 0, made.out
    assert made.json["needs"] == []
    folder = tmp_path / "made"
    assert (folder / "models" / "base").resolve() == tmp_path / "models" / "base"
    assert "models/base/model.safetensors" in (folder / "SHA256SUMS").read_text()
    assert "text: prose/text.txt # ours" in " ".join(
        (folder / "evaluators" / "prose.yaml").read_text().split()
    )
    assert (folder / "evaluators" / "prose" / "text.txt").exists()
    assert call("check", folder / "campaign.yaml").code == 0


def test_hub_models_stay_id_and_commit(
    scattered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0123456789" * 4
    cache = tmp_path / "hub" / "models--org--math"
    (cache / "snapshots").mkdir(parents=True)
    shutil.copytree(tmp_path / "models" / "math", cache / "snapshots" / commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    stated = json.loads(scattered.read_text())
    stated["experts"]["math"] = {"hub": "org/math", "revision": commit}
    scattered.write_text(json.dumps(stated))
    by_id = call("bundle", scattered, tmp_path / "by-id", "--json")
    assert by_id.code == 0, by_id.out
    assert by_id.json["needs"] == [f"`math`: org/math at {commit} in the hub's cache"]
    assert load_campaign(tmp_path / "by-id" / "campaign.yaml").config.experts["math"].hub == "org/math"
    whole = call("bundle", scattered, tmp_path / "whole", "--with-hub", "--json")
    assert whole.json["needs"] == []
    assert (tmp_path / "whole" / "models" / "math" / "model.safetensors").is_file()
    assert load_campaign(tmp_path / "whole" / "campaign.yaml").config.experts["math"].hub is None


def test_nothing_half_written_is_left(
    scattered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(tmp_path.iterdir())
    broken = scattered.read_text().replace("pets.acc", "pets.accc")
    (scattered.parent / "broken.yaml").write_text(broken)
    assert call("bundle", scattered.parent / "broken.yaml", tmp_path / "out").code == 3
    task = next((scattered.parent / "evaluators" / "tasks").glob("*.yaml"))
    text = task.read_text()
    task.write_text(text.replace("../../../../data/", f"{tmp_path}/data/"))
    refused = call("bundle", scattered, tmp_path / "out")
    assert refused.code == 3
    assert f"E152] {task}: task {task.stem} names a file by an absolute path" in refused.err
    task.write_text(text)
    with monkeypatch.context() as patch:

        def full(source: Path, target: Path) -> str:
            raise OSError(errno.ENOSPC, "No space left on device")

        patch.setattr(bundling, "_copied", full)
        assert "E403" in call("bundle", scattered, tmp_path / "out").err
    assert sorted(tmp_path.iterdir()) == before
    (tmp_path / "out").mkdir()
    taken = call("bundle", scattered, tmp_path / "out")
    assert taken.code == 2
    assert "E601" in taken.err
    assert "give a new folder" in taken.err
    assert "--overwrite" not in taken.err  # which `bundle` does not have


def test_what_other_campaigns_found_is_not_left_out_in_silence(tmp_path: Path) -> None:
    optimizer = {"kind": "random", "population": 6, "start_from": ["elsewhere"]}
    campaign = load_campaign(write_campaign(tmp_path, optimizer=optimizer))
    with pytest.raises(ConfigError, match=r"E152.*start_from: a bundle cannot hold what other"):
        bundling.bundle(campaign, tmp_path / "out")
    assert not (tmp_path / "out").exists()
