"""Campaigns that search mixtures of experts: active parameters as an objective, resume, verify, export."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from evomerge.campaign.campaign import load_campaign
from evomerge.campaign.check import check_campaign
from evomerge.cli.candidate import recorded_space
from evomerge.ledger.history import History
from evomerge.ledger.ledger import read_events
from evomerge.recipe.json_form import recipe_from_json
from tests.clean_process import printed_by
from tests.cli.terminal import call
from tests.tiny_models import write_campaign
from tests.tiny_runs import events_of, forked, run_file

SPACE = {
    "schema": 1,
    "method": "task_arithmetic",
    "coefficients": {"weight": {"field": "model", "low": 0.0, "high": 1.0, "outside_layers": "shared"}},
    "mixture": {"temperature": {"low": 0.5, "high": 2.0, "step": 0.5}, "rank": 4},
}

IN_A_CLEAN_PROCESS = """
import sys, torch
from transformers import AutoModelForCausalLM
model, found = AutoModelForCausalLM.from_pretrained(
    sys.argv[1], dtype=torch.float32, output_loading_info=True
)
assert not found["missing_keys"] and not found["unexpected_keys"], found
print([round(value, 4) for value in model(torch.arange(3, 11)[None]).logits[0, -1, :5].tolist()])
"""


def with_size(file: Path) -> Path:
    (file.parent / "size.yaml").write_text(json.dumps({"schema": 1, "name": "size", "kind": "size"}))
    config = json.loads(file.read_text())
    config["evaluators"] += ["size.yaml"]
    config["objectives"] += [{"metric": "size.active_parameters", "direction": "minimize"}]
    file.write_text(json.dumps(config))
    return file


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A campaign whose run was killed, and gone on with: accuracy against active parameters."""
    root = tmp_path_factory.mktemp("mixtures")
    file = write_campaign(
        root,
        evaluators=["pets"],
        space=SPACE,
        optimizer={"kind": "auto", "population": 6},
        budget={"evaluations": 12},
    )
    with_size(file)
    killed = forked(lambda: run_file(file, root / "run"), "driver.before_tell=kill@2")
    assert killed == -signal.SIGKILL
    run_file(file, root / "run")
    return root


def test_mixtures_are_searched_and_their_active_parameters_known(root: Path) -> None:
    events = events_of(root / "run")
    space = recorded_space(History.fold(read_events(root / "run" / "ledger.jsonl")))
    asked = {c["id"]: c["genome"] for e in events if e["event"] == "asked" for c in e["candidates"]}
    assert len(asked) >= 12
    base = next(e["metrics"] for e in events if e["event"] == "evaluated" and e["id"] == "base")
    dense, every = (base[f"size.{name}parameters"]["value"] for name in ("active_", ""))
    assert dense == every
    seen = 0
    for event in events:
        if event["event"] != "evaluated" or event["id"] not in asked or "metrics" not in event:
            continue
        mixture = space.decode(asked[event["id"]]).mixture
        active, parameters = (
            event["metrics"][f"size.{name}parameters"]["value"] for name in ("active_", "")
        )
        if mixture is None:
            assert active == parameters == dense
            continue
        seen += 1
        assert parameters > active
        assert active > dense or mixture.per_token == 1
    assert seen > 1
    whole = [n for n, genome in asked.items() if tuple(genome[:6]) == (0.0, 0.0, 1.0, 1.0, 1.0, 1.0)]
    (parameters,) = {
        e["metrics"]["size.parameters"]["value"]
        for e in events
        if e["event"] == "evaluated" and e["id"] in whole and e["split"] == "search"
    }
    found = check_campaign(load_campaign(root / "campaign.yaml")).estimates
    # Routers are not counted beforehand.
    assert 0.95 * parameters < found["mixture_bytes"] / 4 < parameters
    assert call("verify", root / "run").code == 0


def test_a_mixture_is_exported_and_scores_the_same_in_a_clean_process(
    root: Path, tmp_path: Path
) -> None:
    space = recorded_space(History.fold(read_events(root / "run" / "ledger.jsonl")))
    asked = [c for e in events_of(root / "run") if e["event"] == "asked" for c in e["candidates"]]
    found = {c["id"]: space.decode(c["genome"]) for c in asked}
    layers = {name: len(r.mixture.layers) for name, r in found.items() if r.mixture is not None}
    chosen = min(layers, key=lambda name: layers[name])
    # Export scores what it wrote, and fails where the recorded scores do not come out again.
    exported = call("export", root / "run", chosen, tmp_path / "out", "--json")
    assert exported.code == 0, exported.out + exported.err
    recipe = recipe_from_json(json.loads((tmp_path / "out" / "recipe.json").read_text()))
    assert recipe.mixture == found[chosen].mixture
    card = (tmp_path / "out" / "README.md").read_text()
    assert "experts of the mixture" in card
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architectures"] == [
        "MixtralForCausalLM" if layers[chosen] == 2 else "Qwen2MoeForCausalLM"
    ]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    ours = model(torch.arange(3, 11)[None]).logits[0, -1, :5].tolist()
    theirs = printed_by(IN_A_CLEAN_PROCESS, str(tmp_path / "out"))
    assert json.loads(theirs) == [round(value, 4) for value in ours]
    again = call("merge", tmp_path / "out" / "recipe.json", tmp_path / "again")
    assert again.code == 0, again.err
    name = "model.safetensors"
    assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


def test_identical_experts_are_the_dense_model(root: Path, tmp_path: Path) -> None:
    sources = {name: {"path": str(root / "models" / "math")} for name in ("base", "one", "two")}
    path = [["base", layer] for layer in range(2)]
    outer = dict.fromkeys(("embed", "final_norm", "head"), "base")
    recipe = {"sources": sources, "path": path, "outer": outer, "dtype": "float32"}
    probe = torch.arange(3, 11)[None]
    dense = AutoModelForCausalLM.from_pretrained(root / "models" / "math", dtype=torch.float32)
    expected = dense(probe).logits
    for layers, gate in (([0, 1], "random"), ([1], "arrow")):
        mixture = {"experts": ["one", "two"], "layers": layers, "per_token": 2, "gate": gate}
        (tmp_path / "recipe.json").write_text(json.dumps({**recipe, "mixture": mixture}))
        made = call("merge", tmp_path / "recipe.json", tmp_path / "out", "--overwrite")
        assert made.code == 0, made.err
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
        torch.testing.assert_close(model(probe).logits, expected, rtol=1e-4, atol=1e-5)


def test_what_a_mixture_does_not_go_with(root: Path, tmp_path: Path) -> None:
    other = json.loads((root / "campaign.yaml").read_text())
    (root / "distance.yaml").write_text('{"schema": 1, "name": "far", "kind": "distance"}')
    other["evaluators"] += ["distance.yaml"]
    other["rope"] = "math"
    other["optimizer"]["kind"] = "learned-front"
    (root / "other.yaml").write_text(json.dumps(other))
    found = [p.words for p in check_campaign(load_campaign(root / "other.yaml")).problems]
    assert any("`far` measures a distance to the base, which a mixture has not" in w for w in found)
    assert any("models of one vocabulary, head and rotary positions" in w for w in found)
    assert any("mixtures of experts have no gradient here" in w for w in found)
    layers = {"experts": ["one", "two"], "layers": [7], "per_token": 3}
    sources = {name: {"path": str(root / "models" / "math")} for name in ("base", "one", "two")}
    recipe = {"sources": sources, "path": [["base", 1]], "outer": {}, "mixture": layers}
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    refused = call("merge", tmp_path / "recipe.json", tmp_path / "out")
    assert refused.code == 3
    assert "mixture.per_token: must be from 1 to the number of experts" in refused.err
