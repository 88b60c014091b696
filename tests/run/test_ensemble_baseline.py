"""The logit ensemble of the experts beside a front: its scores, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evomerge.campaign.campaign import load_campaign
from evomerge.campaign.check import check_campaign
from evomerge.run.scoring import score_checkpoint
from tests.cli.terminal import call
from tests.tiny_models import write_campaign
from tests.tiny_runs import events_of, run_file


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("ensemble")
    file = write_campaign(
        root,
        optimizer={"population": 4},
        budget={"evaluations": 4},
        baselines={"single": [0.4], "ensemble": True},
    )
    run_file(file, root / "run")
    return root


def test_experts_answer_together_as_score_has_them(root: Path) -> None:
    found = [e for e in events_of(root / "run") if e["event"] == "evaluated" and e["id"] == "ensemble"]
    recorded = {event["split"]: event["metrics"] for event in found}
    assert set(recorded) == {"search", "selection"}
    names = json.loads((root / "campaign.yaml").read_text())["experts"]
    first, *others = (root / "models" / name for name in names)
    for split, metrics in recorded.items():
        scores = score_checkpoint(
            first,
            root / "evaluators" / "pets.yaml",
            split=split,
            dtype="float32",
            batch_size=8,
            device="cpu",
            ensemble=others,
        )
        assert metrics["pets.acc"]["value"] == scores.metrics["pets.acc"].value
    frozen = next(e for e in events_of(root / "run") if e["event"] == "baselines")
    assert frozen["shown"][-1] == "ensemble"
    assert call("verify", root / "run").code == 0


def test_it_stands_in_the_table_and_is_not_exported(root: Path, tmp_path: Path) -> None:
    shown = call("front", root / "run")
    line = next(line for line in shown.out.splitlines() if line.startswith("ensemble"))
    assert "cannot be exported" in line
    refused = call("export", root / "run", "ensemble", tmp_path / "out")
    assert refused.code != 0
    assert "E507" in refused.err
    assert "is no model" in refused.err
    path = {"path": [["base", n] for n in range(2)], "outer": {}, "ensemble": ["base", "one"]}
    sources = {"base": "base", "one": "math"}
    stated = {name: {"path": str(root / "models" / own)} for name, own in sources.items()}
    (tmp_path / "recipe.json").write_text(json.dumps({"sources": stated, **path}))
    refused = call("merge", tmp_path / "recipe.json", tmp_path / "out")
    assert "E142" in refused.err
    assert not (tmp_path / "out").exists()


def test_what_has_no_likelihoods_has_no_ensemble(root: Path) -> None:
    other = json.loads((root / "campaign.yaml").read_text())
    (root / "size.yaml").write_text('{"schema": 1, "name": "size", "kind": "size"}')
    other["evaluators"] += ["size.yaml"]
    (root / "other.yaml").write_text(json.dumps(other))
    (found,) = check_campaign(load_campaign(root / "other.yaml")).problems
    assert found.code == "E142"
    assert "`size` does not go by log-likelihoods" in found.words
