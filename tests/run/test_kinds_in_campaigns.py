"""Kinds of searches that meet in one campaign: a focus, races, paths, stages; and refinements of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.cli.terminal import call
from tests.tiny_models import write_campaign
from tests.tiny_runs import events_of

PATHS = {
    "schema": 1,
    "method": "task_arithmetic",
    "coefficients": {"weight": {"field": "model", "low": 0.0, "high": 1.0, "outside_layers": "shared"}},
    "layer_path": {"sources": ["merged", "math"], "max_layers": 3},
}

QUICK = {"generations": 2, "inner_population": 8}

CAMPAIGNS: dict[str, dict[str, Any]] = {
    "mmmo": {"optimizer": {"kind": "mmmo", "population": 4, "options": {"start": 6}}},
    "a focus of auto, with races": {
        "optimizer": {
            "kind": "auto",
            "population": 4,
            "focus": {"pets": 0.7, "birds": 0.3},
            "options": {"steps": 2, "items": 4, "preferences": 4, **QUICK},
        },
        "racing": {"threshold": 1.0},
    },
    "paths": {"space": PATHS, "optimizer": {"kind": "auto", "population": 4}},
    "stages": {
        "space": PATHS,
        "optimizer": {"population": 4},
        "stages": [
            {"searches": "merge", "evaluations": 6, "options": {"start": 4, **QUICK}},
            {"searches": "path"},
        ],
    },
}


@pytest.mark.parametrize("name", CAMPAIGNS)
def test_a_campaign_runs_is_refined_and_verified(name: str, tmp_path: Path) -> None:
    file = write_campaign(tmp_path, budget={"evaluations": 14}, **CAMPAIGNS[name])
    run = tmp_path / "run"
    done = call("run", file, "--dir", run)
    assert done.code == 0, done.err
    before = events_of(run)
    refined = call("refine", run, "--prefer", "pets=0.7,birds=0.3", "--evaluations", "3")
    assert refined.code == 0, refined.err
    asked = [e for e in events_of(run)[len(before) :] if e["event"] == "asked"]
    assert {event["refinement"] for event in asked} == {0}
    # Every optimizer says how it came to each candidate; parents are named by ids that were asked before.
    assert all("origin" in c for e in events_of(run) if e["event"] == "asked" for c in e["candidates"])
    assert call("status", run, "--json").json["ended_by"] == "budget"
    verified = call("verify", run)
    assert verified.code == 0, verified.out + verified.err
    if name == "mmmo":
        genomes = {tuple(c["genome"]) for e in before if e["event"] == "asked" for c in e["candidates"]}
        assert len(genomes) >= 14
    if "focus" in name:
        forecasts = [e.get("forecast", {}).get("by") for e in before if e["event"] == "asked"]
        assert set(forecasts[1:]) <= {"map", "chart"}
