"""Campaigns that search paths of layers: objectives of quality and size, resume, verify, export and back."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from evomerge.campaign.campaign import load_campaign
from evomerge.cli.candidate import recorded_space
from evomerge.errors import ConfigError
from evomerge.ledger.history import History
from evomerge.ledger.ledger import read_events
from evomerge.recipe.json_form import recipe_from_json
from tests.clean_process import printed_by
from tests.cli.terminal import call
from tests.report.made import page_of
from tests.tiny_models import write_campaign
from tests.tiny_runs import events_of, forked, run_file

SPACE = {
    "schema": 1,
    "method": "task_arithmetic",
    "coefficients": {"weight": {"field": "model", "low": 0.0, "high": 1.0, "outside_layers": "shared"}},
    "layer_path": {
        "sources": ["merged", "experts"],
        "max_layers": 4,
        "scale": {"low": 0.5, "high": 1.5, "step": 0.1},
    },
}

IN_A_CLEAN_PROCESS = """
import sys, torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
print([round(value, 4) for value in model(torch.arange(3, 11)[None]).logits[0, -1, :5].tolist()])
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A campaign whose run was killed, and gone on with: accuracy against parameters and latency.

    Its points are random: what another kind asks would depend on how fast this machine happens to be.
    """
    root = tmp_path_factory.mktemp("paths")
    for kind, rest in (("size", {}), ("latency", {"prompt_tokens": 4, "tokens": 2, "repeats": 1})):
        (root / f"{kind}.yaml").write_text(
            json.dumps({"schema": 1, "name": kind, "kind": kind, **rest})
        )
    file = write_campaign(
        root,
        evaluators=["pets"],
        space=SPACE,
        optimizer={"kind": "random", "population": 6},
        budget={"evaluations": 14},
    )
    config = json.loads(file.read_text())
    config["evaluators"] += ["size.yaml", "latency.yaml"]
    config["objectives"] += [
        {"metric": f"{name}", "direction": "minimize"}
        for name in ("size.parameters", "latency.seconds_per_token")
    ]
    file.write_text(json.dumps(config))
    killed = forked(lambda: run_file(file, root / "run"), "driver.before_tell=kill@2")
    assert killed == -signal.SIGKILL
    run_file(file, root / "run")
    return root


def test_paths_are_searched_and_sizes_known(root: Path) -> None:
    events = events_of(root / "run")
    asked = [c for e in events if e["event"] == "asked" for c in e["candidates"]]
    assert len({tuple(candidate["genome"]) for candidate in asked}) == len(asked) >= 14
    layers = {
        e["id"]: e["metrics"]["size.layers"]["value"]
        for e in events
        if e["event"] == "evaluated" and "metrics" in e and e["id"].startswith("c")
    }
    assert len(set(layers.values())) > 1
    assert call("verify", root / "run").code == 0


def test_a_path_is_exported_and_scores_the_same_in_a_clean_process(root: Path, tmp_path: Path) -> None:
    space = recorded_space(History.fold(read_events(root / "run" / "ledger.jsonl")))
    asked = [c for e in events_of(root / "run") if e["event"] == "asked" for c in e["candidates"]]
    paths = {c["id"]: space.decode(c["genome"]).path for c in asked}
    chosen = next(name for name, path in paths.items() if len(path) != 2)
    exported = call("export", root / "run", chosen, tmp_path / "out", "--json")
    assert exported.code == 0, exported.out + exported.err
    recipe = recipe_from_json(json.loads((tmp_path / "out" / "recipe.json").read_text()))
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert recipe.path == paths[chosen]
    assert config["num_hidden_layers"] == len(recipe.path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    ours = model(torch.arange(3, 11)[None]).logits[0, -1, :5].tolist()
    theirs = printed_by(IN_A_CLEAN_PROCESS, str(tmp_path / "out"))
    assert json.loads(theirs) == [round(value, 4) for value in ours]


def test_auto_searches_paths_and_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    (tmp_path / "size.yaml").write_text(json.dumps({"schema": 1, "name": "size", "kind": "size"}))
    file = write_campaign(
        tmp_path,
        evaluators=["pets"],
        objectives=[
            {"metric": "pets.acc", "direction": "maximize"},
            {"metric": "size.parameters", "direction": "minimize"},
        ],
        space=SPACE,
        optimizer={"kind": "auto", "population": 12},
        budget={"evaluations": 20},
    )
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"evaluators": [*config["evaluators"], "size.yaml"]}))
    run_file(file, tmp_path / "whole")
    killed = forked(lambda: run_file(file, tmp_path / "killed"), "driver.before_tell=kill@2")
    assert killed == -signal.SIGKILL
    run_file(file, tmp_path / "killed")
    whole, resumed = (
        [c for e in events_of(tmp_path / run) if e["event"] == "asked" for c in e["candidates"]]
        for run in ("whole", "killed")
    )
    assert whole == resumed
    assert len(whole) >= 20
    space = recorded_space(History.fold(read_events(tmp_path / "whole" / "ledger.jsonl")))
    assert len({len(space.decode(c["genome"]).path) for c in whole}) > 1
    assert call("verify", tmp_path / "killed").code == 0


HM3 = {
    "schema": 1,
    "method": "dare_ties",
    "coefficients": {
        "weight": {"field": "model", "low": 0.0, "high": 1.0, "outside_layers": "shared"},
        "density": {"value": 0.7},
    },
    "layer_path": {"max_layers": 3},
}


def test_hm3_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    optimizer = {"kind": "hm3", "population": 5, "options": {"episodes": 5, "epochs": 2, "hidden": 8}}
    file = write_campaign(tmp_path, space=HM3, optimizer=optimizer, budget={"evaluations": 12})
    run_file(file, tmp_path / "whole")
    killed = forked(lambda: run_file(file, tmp_path / "killed"), "driver.before_tell=kill@2")
    assert killed == -signal.SIGKILL
    run_file(file, tmp_path / "killed")

    def asked(run: str) -> list[dict[str, object]]:
        events = events_of(tmp_path / run)
        return [c for e in events if e["event"] == "asked" for c in e["candidates"]]

    assert asked("whole") == asked("killed")
    weights = {tuple(candidate["genome"][:2]) for candidate in asked("whole")}  # type: ignore[index]
    assert len(weights) > 4  # as many merges as preferences
    # The policy goes on near a preference: HM3's online search.
    before = len(events_of(tmp_path / "killed"))
    refined = call(
        "refine", tmp_path / "killed", "--prefer", "pets=0.8,birds=0.2", "--evaluations", "4"
    )
    assert refined.code == 0, refined.err
    online = events_of(tmp_path / "killed")[before:]
    assert [e["by"] for e in online if e["event"] == "refine"] == ["policy"]
    origins = [c["origin"] for e in online if e["event"] == "asked" for c in e["candidates"]]
    near = [origin["preference"][0] for origin in origins if "preference" in origin]
    assert near
    assert all(0.6 <= weight <= 0.85 for weight in near)
    assert call("verify", tmp_path / "killed").code == 0


def test_stages_share_a_ledger_and_go_on_where_they_were_killed(tmp_path: Path) -> None:
    stages = [
        {"searches": "merge", "kind": "nsga2", "evaluations": 5},
        {"searches": "path", "evaluations": 5},
        {"searches": "both", "kind": "hm3", "options": {"episodes": 4, "epochs": 1, "hidden": 4}},
    ]
    space = {**SPACE, "layer_path": {"sources": ["merged", "math"], "max_layers": 3}}
    file = write_campaign(
        tmp_path, space=space, optimizer={"population": 5}, stages=stages, budget={"evaluations": 15}
    )
    run_file(file, tmp_path / "whole")
    killed = forked(lambda: run_file(file, tmp_path / "killed"), "driver.before_tell=kill@3")
    assert killed == -signal.SIGKILL
    run_file(file, tmp_path / "killed")

    def batches(run: str) -> list[list[list[float]]]:
        events = events_of(tmp_path / run)
        return [[c["genome"] for c in e["candidates"]] for e in events if e["event"] == "asked"]

    assert batches("whole") == batches("killed")
    asked = batches("whole")
    every = [tuple(genome) for batch in asked for genome in batch]
    assert len(set(every)) == len(every)
    home = asked[0][0][2:]
    assert all(genome[2:] == home for genome in asked[0])
    # Merges of the second stage are those of the first.
    assert {tuple(genome[:2]) for genome in asked[1]} <= {tuple(genome[:2]) for genome in asked[0]}
    assert any(genome[2:] != home for genome in asked[1])
    numbers = [e["stage"] for e in events_of(tmp_path / "whole") if e["event"] == "asked"]
    assert numbers == sorted(numbers)
    assert set(numbers) == {0, 1, 2}
    bars = page_of(tmp_path / "whole").data["search"]["stages"]
    named = dict.fromkeys(bar["name"].partition(" ")[2] for bar in bars)
    assert list(named) == ["merge, nsga2", "path, nsga2", "both, hm3"]
    assert call("verify", tmp_path / "killed").code == 0


@pytest.mark.parametrize(
    ("stages", "match"),
    [
        ([{"searches": "merge"}, {"searches": "path"}], "only the last stage takes what is left"),
        ([{"searches": "merge", "kind": "hm3"}], "`hm3` cannot search a stage of merge"),
        ([{"searches": "path", "options": {"start": "never"}}], "must be one of structured, random"),
        ([{"searches": "layers"}], "E108"),
    ],
)
def test_stages_that_cannot_be(stages: list[dict[str, object]], match: str, root: Path) -> None:
    file = root / "campaign.yaml"
    other = root / "stages.yaml"
    other.write_text(json.dumps(json.loads(file.read_text()) | {"stages": stages}))
    with pytest.raises(ConfigError, match=match):
        load_campaign(other)
