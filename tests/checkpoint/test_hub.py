"""Models in the local hub cache, whole and half-downloaded, laid out as the hub's client does it."""

import json
from pathlib import Path

import huggingface_hub.constants
import pytest

from evomerge.campaign.campaign import load_campaign
from evomerge.campaign.check import check_campaign, locate
from evomerge.campaign.checkpoint_reference import CheckpointReference
from evomerge.checkpoint.hub import cached_snapshot, missing_files
from evomerge.errors import CheckpointError
from evomerge.mergekit import read_mergekit
from tests.cli.test_hub_models import commit_of, put_into_cache, shard
from tests.tiny_models import write_campaign, write_model


@pytest.fixture
def snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The snapshot of a sharded model in a cache of its own."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    shard(write_model(tmp_path / "base"))
    put_into_cache(tmp_path / "hub", tmp_path / "base")
    return tmp_path / "hub" / "models--acme--base" / "snapshots" / commit_of("base")


def reference() -> CheckpointReference:
    return CheckpointReference(hub="acme/base", revision=commit_of("base"))


def test_a_whole_snapshot(snapshot: Path) -> None:
    assert missing_files(snapshot) == ()
    assert locate("base", reference()) == str(snapshot)


@pytest.mark.parametrize(
    ("gone", "lacks"),
    [
        (("model-00002-of-00003.safetensors",), r"1 missing: model-00002-of-00003.safetensors"),
        (("config.json",), "1 missing: config.json"),
        (("model.safetensors.index.json",), r"1 missing: model.safetensors.index.json"),
        (tuple(f"model-{n:05d}-of-00003.safetensors" for n in (1, 2, 3)), "3 missing: model-00001"),
        (("model*",), r"1 missing: model.safetensors;"),
    ],
)
def test_a_half_downloaded_snapshot(snapshot: Path, gone: tuple[str, ...], lacks: str) -> None:
    for pattern in gone:
        for link in snapshot.glob(pattern):
            link.unlink()
    # The hub's client returns it as if it were whole.
    assert cached_snapshot("acme/base", commit_of("base")) == snapshot
    with pytest.raises(CheckpointError, match=rf"E238.*base.*{lacks}.*hf download acme/base"):
        locate("base", reference())


def test_links_to_content_that_never_came(snapshot: Path) -> None:
    (snapshot / "tokenizer.json").resolve().unlink()
    with pytest.raises(CheckpointError, match=r"E238.*1 missing: tokenizer.json"):
        locate("base", reference())


def test_other_faults_keep_their_names(snapshot: Path) -> None:
    index = snapshot / "model.safetensors.index.json"
    index.resolve().write_text(json.dumps({"weight_map": {"a": "../outside.safetensors"}}))
    assert missing_files(snapshot) == ()
    index.resolve().write_text("{")
    assert missing_files(snapshot) == ()


def test_an_adapter_without_its_weights(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    assert missing_files(tmp_path) == ("adapter_model.safetensors",)
    (tmp_path / "adapter_model.bin").touch()
    assert missing_files(tmp_path) == ()


def test_a_campaign_and_a_mergekit_file_name_it(snapshot: Path, tmp_path: Path) -> None:
    (snapshot / "model-00001-of-00003.safetensors").unlink()
    hub = {"hub": "acme/base", "revision": commit_of("base"), "path": None}
    campaign = load_campaign(write_campaign(tmp_path / "c", base=hub))
    (problem,) = check_campaign(campaign).problems
    assert (problem.code, problem.field) == ("E238", "base.hub")
    file = tmp_path / "merge.yml"
    model = f"acme/base@{commit_of('base')}"
    file.write_text(f"merge_method: linear\nmodels: [{{model: {model}, parameters: {{weight: 1}}}}]\n")
    with pytest.raises(CheckpointError, match=r"E238.*:2:.*lacks 1 files: model-00001"):
        read_mergekit(file)
