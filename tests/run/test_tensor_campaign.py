"""A campaign with a gene for each weight matrix, from its first line to its export and back."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from evomerge.checkpoint.folder import open_folder
from tests.cli.terminal import call
from tests.tiny_models import EXPERTS, write_campaign
from tests.tiny_runs import events_of, forked, run_file

SPACE = {
    "schema": 1,
    "method": "task_arithmetic",
    "coefficients": {"weight": {"field": "tensor", "low": 0.0, "high": 1.5}},
}


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A campaign folder whose run was killed among its candidates, and gone on with."""
    root = tmp_path_factory.mktemp("tensors")
    file = write_campaign(root, evaluators=("pets",), space=SPACE, budget={"evaluations": 6})
    killed = forked(lambda: run_file(file, root / "run"), "ledger.after_fsync=kill@11")
    assert killed == -signal.SIGKILL
    run_file(file, root / "run")
    return root


def test_genes_are_those_of_the_finest_layout(campaign: Path) -> None:
    (prepared,) = [e for e in events_of(campaign / "run") if e["event"] == "prepared"]
    layout = open_folder(campaign / "models" / "base", "base").tensor_layout
    assert tuple(prepared["layout"]["places"]) == layout.places
    for name in EXPERTS:
        assert tuple(prepared["layout"]["active"][name]) == layout.places
    assert set(prepared["task_vectors"]["gram"]) == {"", *layout.places}
    checked = call("check", campaign / "campaign.yaml", "--json")
    genes = len(EXPERTS) * len(layout.places)
    assert checked.json["genes"] == genes == 2 * (2 * 8 + 3)
    asked = [c for e in events_of(campaign / "run") if e["event"] == "asked" for c in e["candidates"]]
    assert {len(candidate["genome"]) for candidate in asked} == {genes}
    assert len(asked) >= 6


def test_it_verifies_and_its_export_is_what_mergekit_is_told(campaign: Path, tmp_path: Path) -> None:
    verified = call("verify", campaign / "run", "--json")
    assert verified.code == 0, verified.out
    # Not one of the front, which may hold baselines: their weights are the same in all matrices.
    asked = [e for e in events_of(campaign / "run") if e["event"] == "asked"]
    varied = next(
        candidate["id"]
        for event in asked
        for candidate in event["candidates"]
        if len(set(candidate["genome"])) > 20
    )
    exported = call("export", campaign / "run", varied, tmp_path / "ours", "--json")
    assert exported.code == 0, exported.out + exported.err
    merged = call("merge", tmp_path / "ours" / "mergekit_config.yml", tmp_path / "theirs")
    assert merged.code == 0, merged.out + merged.err
    ours, theirs = (load_file(tmp_path / n / "model.safetensors") for n in ("ours", "theirs"))
    assert all(torch.equal(theirs[name], tensor) for name, tensor in ours.items())
    assert set(ours) == set(theirs)
