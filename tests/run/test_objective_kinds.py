"""A campaign whose objectives are no tasks: perplexity, distance, size and latency, from search to export."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from evomerge.campaign.campaign import load_campaign
from evomerge.campaign.check import check_campaign
from evomerge.cli.verify.invariants import examine
from evomerge.export.export import export_candidate
from tests.tiny_models import write_campaign, write_evaluator
from tests.tiny_runs import run_file

KINDS = {
    "words": {"kind": "perplexity", "text": "words.txt", "window": 40, "block_size": 8},
    "weights": {"kind": "distance"},
    "model": {"kind": "size"},
    "speed": {"kind": "latency", "prompt_tokens": 4, "tokens": 2, "repeats": 2},
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    folder = tmp_path / "evaluators"
    folder.mkdir()
    write_evaluator(folder, "pets")
    words = ("the cat eats a fish and the dog runs", "a red bird is not the tree", "cat and dog")
    (folder / "words.txt").write_text("\n".join(f"{n} {words[n % 3]}" for n in range(60)))
    for name, fields in KINDS.items():
        (folder / f"{name}.yaml").write_text(json.dumps({"schema": 1, "name": name, **fields}))
    path = write_campaign(
        tmp_path,
        evaluators=["pets"],
        objectives=[
            {"metric": "words.perplexity", "direction": "minimize"},
            {"metric": "weights.l1", "direction": "minimize"},
        ],
        constraints=["words.perplexity <= 5 x base", "model.parameters <= base"],
        optimizer={"population": 4, "schedule": "steady_state"},
        budget={"evaluations": 4},
        baselines={"single": [0.5]},
    )
    campaign = json.loads(path.read_text())
    campaign["evaluators"] = [f"evaluators/{name}.yaml" for name in ("pets", *KINDS)]
    path.write_text(json.dumps(campaign))
    return path


def l1(one: Path, two: Path) -> float:
    """Sum of absolute differences, tensor by tensor in float64."""
    left, right = (load_file(folder / "model.safetensors") for folder in (one, two))
    return sum(float((left[n].double() - right[n].double()).abs().sum()) for n in left)


def test_from_check_to_export(file: Path) -> None:
    models, directory = file.parent / "models", file.parent / "run"
    report = check_campaign(load_campaign(file))
    assert report.problems == report.warnings == []
    history = run_file(file, directory)
    found = {
        name: c.evaluations["search"].metrics
        for name, c in history.candidates.items()
        if "search" in c.evaluations
    }
    assert found["base"]["weights.l1"].value == 0.0
    for expert in ("math", "code"):
        expected = l1(models / expert, models / "base")
        assert found[expert]["weights.l1"].value == pytest.approx(expected, rel=1e-6)
    half = found["single-0.5"]["weights.l1"].value
    assert 0 < half < found["math"]["weights.l1"].value + found["code"]["weights.l1"].value
    sizes = {metrics["model.parameters"].value for metrics in found.values()}
    stored = load_file(models / "base" / "model.safetensors").values()
    assert sizes == {float(sum(tensor.numel() for tensor in stored))}
    assert all(metrics["speed.seconds_per_token"].value > 0 for metrics in found.values())
    assert history.prepared is not None
    evaluators = history.prepared.evaluators
    assert {n for n, e in evaluators.items() if not e.deterministic} == {"speed"}
    assert examine(directory).problems == []
    # What is exported is reloaded and scored again: all but the latency must come out the same.
    report_of_export = export_candidate(directory, "best:words.perplexity", file.parent / "out")
    assert "weights.l1" in report_of_export.scores["test"]
    assert torch.isfinite(torch.tensor(report_of_export.scores["test"]["weights.l1"].value))


def test_check_warns_of_the_clock_and_of_directions(file: Path) -> None:
    campaign = json.loads(file.read_text())
    campaign["objectives"] = [
        {"metric": "speed.seconds_per_token", "direction": "minimize"},
        {"metric": "words.perplexity", "direction": "maximize"},
    ]
    file.write_text(json.dumps(campaign))
    report = check_campaign(load_campaign(file))
    assert [(p.code, p.field) for p in report.warnings] == [("E143", "objectives[0].metric")]
    assert [(p.code, p.field) for p in report.problems] == [("E125", "objectives[1].direction")]
    assert "words.perplexity gets better the other way" in str(report.problems[0])


def test_objectives_that_cannot_race_are_found_before_anything_is_scored(file: Path) -> None:
    campaign = json.loads(file.read_text())
    campaign["objectives"] = [{"metric": "words.perplexity", "direction": "minimize"}]
    campaign["racing"] = {"threshold": 2}
    file.write_text(json.dumps(campaign))
    report = check_campaign(load_campaign(file))
    assert [(p.code, p.field) for p in report.problems] == [("E142", "objectives[0].metric")]
    assert "words.perplexity cannot race" in str(report.problems[0])
    del campaign["racing"]
    file.write_text(json.dumps(campaign))
    assert check_campaign(load_campaign(file)).problems == []
