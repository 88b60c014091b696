"""Campaigns over models that differ in head or rotary positions: the file says what their merges have."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from evomerge.campaign.campaign import load_campaign
from evomerge.campaign.check import check_campaign
from evomerge.checkpoint.folder import open_folder
from evomerge.checkpoint.model_form import with_positions
from evomerge.cli.verify.invariants import verify
from evomerge.errors import ConfigError
from evomerge.export.export import export_candidate
from evomerge.merge.skeleton import build_skeleton
from tests.tiny_models import write_campaign
from tests.tiny_runs import run_file

SMALL = {"optimizer": {"population": 4}, "budget": {"evaluations": 4}, "baselines": {"single": [0.4]}}
EXPERTS = {
    "math": {"path": "models/math", "allow": ["rope"]},
    "code": {"path": "models/code"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tied base, an expert with another base frequency, and one with a head of its own."""
    root = tmp_path_factory.mktemp("forms")
    write_campaign(root, model={"tie_word_embeddings": True}, **SMALL)
    path = root / "models" / "math" / "config.json"
    rope = {"rope_type": "default", "rope_theta": 1e6}
    stated = {"rope_parameters": rope, "max_position_embeddings": 4096}
    path.write_text(json.dumps({**json.loads(path.read_text()), **stated}))
    path = root / "models" / "code" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "tie_word_embeddings": False}))
    weights = root / "models" / "code" / "model.safetensors"
    tensors = load_file(weights)
    head = tensors["model.embed_tokens.weight"].flip(0).contiguous()
    save_file({**tensors, "lm_head.weight": head}, weights, metadata={"format": "pt"})
    return root


def test_what_differs_is_refused_by_what_allows_it(folder: Path) -> None:
    found = check_campaign(load_campaign(write_campaign(folder, **SMALL)))
    assert {problem.code for problem in found.problems} == {"E229", "E245"}
    assert any("`heads: untie` in a campaign" in problem.todo for problem in found.problems)
    with pytest.raises(ConfigError, match=r"E133.*rope: no such source.*'other'.*base, math, code"):
        load_campaign(write_campaign(folder, rope="other", **SMALL))


def test_what_was_scored_in_a_stated_form_is_what_is_exported(folder: Path) -> None:
    file = write_campaign(folder, experts=EXPERTS, heads="untie", rope="math", **SMALL)
    data = json.loads(file.read_text())
    file.write_text(json.dumps({**data, "experts": EXPERTS}))
    found = check_campaign(load_campaign(file))
    assert found.problems == []
    assert [w.todo for w in found.warnings if w.code == "E245"] == [
        "allowed: merges have those of math"
    ]
    assert found.layout is not None
    assert "head" in found.layout.places
    history = run_file(file, folder / "run")
    candidates = history.candidates.values()
    assert all(c.failure is None for c in candidates)
    assert verify(folder / "run") == []
    merged = [c.id for c in candidates if not c.is_baseline and "search" in c.evaluations]
    base = load_file(folder / "models" / "base" / "model.safetensors")["model.embed_tokens.weight"]
    for choice in (merged[-1], "base"):
        # Rescored from its files: other scores than those on record are an error.
        assert export_candidate(folder / "run", choice, folder / choice).scores
        config = json.loads((folder / choice / "config.json").read_text())
        assert config["rope_parameters"]["rope_theta"] == config["rope_theta"] == 1e6
        assert config["max_position_embeddings"] == 4096
        assert config["tie_word_embeddings"] is False
        written = load_file(folder / choice / "model.safetensors")
        same = torch.equal(written["lm_head.weight"], written["model.embed_tokens.weight"])
        assert same == (choice == "base")
    assert torch.equal(written["lm_head.weight"], base)


def test_a_live_model_has_the_positions_that_were_chosen(folder: Path) -> None:
    folders = {name: open_folder(folder / "models" / name, name) for name in ("base", "math")}
    own, changed = (
        build_skeleton(each["base"], torch.float32).config.rope_parameters["rope_theta"]
        for each in (folders, with_positions(folders, "math"))
    )
    assert (own, changed) == (10_000.0, 1e6)
