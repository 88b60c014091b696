"""An exported recipe as a start: a candidate of one campaign is the first of the next, on real models."""

from __future__ import annotations

from pathlib import Path

from evomerge.cli.verify.invariants import verify
from evomerge.front.descent import descent_text
from evomerge.front.folder import open_campaign_folder
from evomerge.objectives.origin import Origin
from tests.cli.terminal import call
from tests.tiny_models import write_campaign
from tests.tiny_runs import finished


def test_an_exported_recipe_is_asked_first_and_is_the_same_merge(tmp_path: Path) -> None:
    earlier = finished()
    member = next(m for m in earlier.front.members if not m.equals)
    exported = call("export", earlier.directory, member.id, tmp_path / "model", "--json")
    assert exported.code == 0, exported.err
    # Copies of the models, which the digests in the recipe tell to be the same.
    optimizer = {"kind": "random", "population": 4, "start_from": ["../model/recipe.json"]}
    file = write_campaign(tmp_path / "next", optimizer=optimizer, budget={"evaluations": 4}, seed=8)
    checked = call("check", file)
    assert checked.code == 0, checked.err
    assert "at most 1 points are asked first: 1 of recipe.json" in " ".join(checked.out.split())
    ran = call("run", file, "--dir", tmp_path / "next" / "run")
    assert ran.code == 0, ran.err
    history = open_campaign_folder(tmp_path / "next" / "run").history
    first = history.candidates[history.generations[0][0]]
    before = earlier.history.candidates[member.id]
    assert (first.genome, first.recipe) == (before.genome, before.recipe)
    assert first.evaluations["search"].metrics == before.evaluations["search"].metrics
    assert first.origin == Origin(how="given", source="recipe.json")
    assert descent_text(history, first).endswith("from recipe.json (`start_from`)")
    assert verify(tmp_path / "next" / "run") == []
