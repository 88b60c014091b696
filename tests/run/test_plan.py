"""What `check` says of a map that will be learned: workers that wait, coefficients that it does not learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evomerge.campaign.campaign import load_campaign
from evomerge.campaign.check import check_campaign
from evomerge.run import plan
from evomerge.run.plan import plan_rows
from tests.tiny_models import write_campaign

WEIGHT = {"field": "layer", "low": 0.0, "high": 1.5}
TIES = {
    "schema": 1,
    "method": "ties",
    "coefficients": {"weight": WEIGHT, "density": {"low": 0.2, "high": 0.8}},
}
MANY_WORKERS = {"pool": "local", "count": 4}


def rows_of(folder: Path, kind: str, **parts: Any) -> dict[str, str]:
    options = parts.pop("options", {})
    file = write_campaign(folder, optimizer={"kind": kind, "options": options}, **parts)
    campaign = load_campaign(file)
    report = check_campaign(campaign)
    assert report.problems == []
    return dict(plan_rows(campaign, report))


@pytest.mark.parametrize(
    ("kind", "option"), [("auto", "step_preferences"), ("learned-front", "preferences")]
)
def test_workers_that_wait_while_a_map_is_learned(tmp_path: Path, kind: str, option: str) -> None:
    words = rows_of(tmp_path, kind, workers=MANY_WORKERS)["learning"]
    assert words == (
        f"a step of the lesson keeps 1 of 4 workers busy, the others wait; option `{option}: 4` keeps all, "
        "each with its share of the step's items"
    )
    assert (
        "keeps 2 of 4" in rows_of(tmp_path, kind, workers=MANY_WORKERS, options={option: 2})["learning"]
    )
    assert "learning" not in rows_of(tmp_path, kind, workers=MANY_WORKERS, options={option: 4})
    assert "learning" not in rows_of(tmp_path, kind)


@pytest.mark.parametrize(
    ("focus", "where"), [(None, ""), ("knee", " near the focus"), ("pets>=0.5", " in the region")]
)
def test_a_plateau_is_that_of_the_focus(tmp_path: Path, focus: str | None, where: str) -> None:
    limits = {"evaluations": 20, "plateau": 0.02}
    file = write_campaign(tmp_path, optimizer={"kind": "surrogate", "focus": focus}, budget=limits)
    campaign = load_campaign(file)
    words = dict(plan_rows(campaign, check_campaign(campaign)))["budget"]
    assert words.endswith(f"expected to add less than 2 % of the hypervolume{where}")


def test_nothing_is_said_where_nothing_is_learned(tmp_path: Path) -> None:
    karcher = {"schema": 1, "method": "karcher", "coefficients": {"weight": WEIGHT}}
    for kind, space, options in (
        ("surrogate", TIES, {}),
        ("auto", karcher, {}),
        ("auto", TIES, {"steps": 0}),
    ):
        rows = rows_of(tmp_path, kind, space=space, options=options, workers=MANY_WORKERS)
        assert not rows.keys() & {"learning", "not learned"}


def test_coefficients_that_a_map_does_not_learn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = "weights of experts alone are learned; held in mid-range: density"
    instead = "; `kind: surrogate` searches them from the start"
    assert rows_of(tmp_path, "learned-front", space=TIES)["not learned"] == held + instead
    on = ", until the search goes on from map and chart to the genes, if it does"
    assert rows_of(tmp_path, "auto", space=TIES)["not learned"] == held + on + instead
    never = rows_of(tmp_path, "auto", space=TIES, options={"beyond": "never"})
    assert never["not learned"] == held + instead
    fixed = {**TIES, "coefficients": {"weight": WEIGHT, "density": {"value": 0.5}}}
    assert "not learned" not in rows_of(tmp_path, "auto", space=fixed)
    monkeypatch.setattr(plan, "MANY", 2)
    assert rows_of(tmp_path, "auto", space=TIES)["not learned"] == held + instead


def test_a_first_stage_that_learns(tmp_path: Path) -> None:
    stages = [{"searches": "merge", "kind": "auto", "evaluations": 9}, {"searches": "path"}]
    path = {"sources": ["merged", "math"], "max_layers": 3}
    parts = {"space": {**TIES, "layer_path": path}, "stages": stages, "workers": MANY_WORKERS}
    rows = rows_of(tmp_path, "nsga2", **parts)
    assert "held in mid-range: density, until" in rows["not learned"]
    assert "option `step_preferences: 4`" in rows["learning"]
