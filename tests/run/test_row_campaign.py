"""A campaign with a gene for each row, from its first line to its export and back."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from evomerge.checkpoint import folder
from evomerge.checkpoint.folder import open_folder
from evomerge.front.folder import open_campaign_folder
from evomerge.recipe.recipe import canonical_json
from tests.cli.terminal import call
from tests.run.killed import asked, come_to_the_same
from tests.tiny_models import EXPERTS, write_campaign
from tests.tiny_runs import events_of, finished, forked, forward_passes_once, run_file

SPACE = {
    "schema": 1,
    "method": "task_arithmetic",
    "coefficients": {"weight": {"field": "row", "low": 0.0, "high": 1.5}},
}


OPTIMIZER = {
    "kind": "learned-front",
    "population": 4,
    "options": {"steps": 2, "items": 4, "preferences": 2, "look_from": 2, "look_every": 2},
}


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A campaign folder whose run was killed among its slopes, and gone on with."""
    root = tmp_path_factory.mktemp("rows")
    file = write_campaign(root, space=SPACE, optimizer=OPTIMIZER, budget={"evaluations": 12})
    assert (
        forked(lambda: run_file(file, root / "run"), "slopes.before_record=kill@3") == -signal.SIGKILL
    )
    run_file(file, root / "run")
    return root


def varied(run: Path) -> str:
    """A candidate whose rows differ: the baselines are among the candidates."""
    return next(candidate.id for candidate in asked(run) if len(set(candidate.genome)) > 200)


def test_genomes_lie_beside_the_ledger(campaign: Path) -> None:
    events = events_of(campaign / "run")
    (prepared,) = [e for e in events if e["event"] == "prepared"]
    layout = open_folder(campaign / "models" / "base", "base").row_layout
    assert prepared["layout"]["rows"] == layout.rows
    assert tuple(prepared["layout"]["places"]) == layout.places
    genes = len(EXPERTS) * len(layout.leaves)
    assert call("check", campaign / "campaign.yaml", "--json").json["genes"] == genes > 1000
    recorded = [c for e in events if e["event"] == "asked" for c in e["candidates"]]
    assert all(c["genome"] == [] and c["values"]["segment"] == "genomes.bin" for c in recorded)
    assert max(len(canonical_json(e)) for e in events if e["event"] == "asked") < 3000
    assert {len(candidate.genome) for candidate in asked(campaign / "run")} == {genes}
    shown = call("show", campaign / "run", varied(campaign / "run"))
    assert f"\n{genes} genes; --genes prints each, --json has them all\n" in shown.out
    verified = call("verify", campaign / "run", "--json")
    assert verified.code == 0, verified.out


def test_it_came_to_the_same_as_one_that_nobody_killed(campaign: Path, tmp_path: Path) -> None:
    """Genomes of rows and their gradients too, which lie beside the ledger."""
    run_file(campaign / "campaign.yaml", tmp_path / "undisturbed")
    come_to_the_same(campaign / "run", tmp_path / "undisturbed")


def test_an_export_has_its_rows_beside_it_and_is_made_again_from_them(
    campaign: Path, tmp_path: Path
) -> None:
    exported = call("export", campaign / "run", varied(campaign / "run"), tmp_path / "ours", "--json")
    assert exported.code == 0, exported.out + exported.err
    (rows,) = (tmp_path / "ours").glob("rows-*.bin")
    assert rows.name in exported.json["files"]
    assert not (tmp_path / "ours" / "mergekit_config.yml").exists()
    card = (tmp_path / "ours" / "README.md").read_text()
    assert "mergekit has no word for this merge: its weights differ by output row" in card
    assert f"`{rows.name}`; the tables here have their means" in card
    recipe = tmp_path / "ours" / "recipe.json"
    merged = call("merge", recipe, tmp_path / "again", "--json")
    assert merged.code == 0, merged.out + merged.err
    assert merged.json["recipe"] == exported.json["recipe"]
    ours, again = (load_file(tmp_path / n / "model.safetensors") for n in ("ours", "again"))
    assert all(torch.equal(again[name], tensor) for name, tensor in ours.items())
    assert (tmp_path / "again" / rows.name).read_bytes() == rows.read_bytes()
    rows.write_bytes(rows.read_bytes()[:-2])
    damaged = call("merge", recipe, tmp_path / "third")
    assert damaged.code == 3
    assert f"error[E150] {rows} sources.merged.rows: the row weights are not those" in damaged.err
    rows.unlink()
    missing = call("merge", recipe, tmp_path / "third")
    assert missing.code == 3
    assert "the row weights that the recipe names are not beside it" in missing.err
    assert not (tmp_path / "third").exists()


def test_damaged_genomes_are_found_and_what_is_sound_is_kept(campaign: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(campaign / "run", run)
    segment = run / "items" / "genomes.bin"
    # What was exported may be lost.
    (run / "exports.jsonl").unlink(missing_ok=True)
    reference = asked(run)[3].values
    assert reference is not None
    content = bytearray(segment.read_bytes())
    content[reference.offset + 500] ^= 1
    segment.write_bytes(content)
    for words in (("verify", run), ("front", run)):
        found = call(*words)
        assert found.code == 7
        assert f"error[E502] {segment}" in found.out + found.err
    repaired = call("repair", run, tmp_path / "sound", "--json")
    assert repaired.code == 0, repaired.out + repaired.err
    assert call("verify", tmp_path / "sound").code == 0


def test_rows_start_from_rows_and_from_coarser_merges(campaign: Path, tmp_path: Path) -> None:
    run = campaign / "run"
    exported = call("export", run, varied(run), tmp_path / "rows", "--json")
    assert exported.code == 0, exported.err
    layers = finished()
    coarse = next(member.id for member in layers.front.members if not member.equals)
    assert call("export", layers.directory, coarse, tmp_path / "layers", "--json").code == 0
    files = ["../rows/recipe.json", "../layers/recipe.json", str(run)]
    optimizer = {"kind": "random-global", "population": 6, "start_from": files}
    file = write_campaign(
        tmp_path / "next", space=SPACE, optimizer=optimizer, budget={"evaluations": 6}
    )
    checked = call("check", file, "--json")
    assert checked.code == 0, checked.err
    assert checked.json["starts"][str(run)] == 4
    assert sum(checked.json["starts"].values()) == 6
    went = call("run", file, "--dir", tmp_path / "next" / "run")
    assert went.code == 0, went.err
    opened = open_campaign_folder(tmp_path / "next" / "run")
    starts, candidates = opened.history.starts, opened.history.candidates
    assert starts is not None
    (recorded,) = [e for e in events_of(opened.path) if e["event"] == "starts"]
    assert not any(recorded["genomes"])
    assert {each["segment"] for each in recorded["values"]} == {"genomes.bin"}
    # The same merges: by row to the last digit, and a coefficient of a layer in all of its rows.
    earlier = open_campaign_folder(run)
    genome = earlier.history.candidates[varied(run)].genome
    assert starts.genomes[0] == genome
    first, second = opened.history.generations[0][:2]
    assert candidates[first].recipe == earlier.history.candidates[varied(run)].recipe
    assert candidates[second].recipe == layers.history.candidates[coarse].recipe
    front = {earlier.history.candidates[member.id].genome for member in earlier.front().members}
    assert set(starts.genomes[2:]) <= front
    verified = call("verify", opened.path, "--json")
    assert verified.code == 0, verified.out


def test_it_goes_on_with_the_rows_it_began_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An earlier version told rows apart by another rule."""
    file = write_campaign(tmp_path, space=SPACE, optimizer=OPTIMIZER, budget={"evaluations": 12})
    rule = folder.rows_by_place

    def earlier(*given: Any) -> dict[str, int]:
        return rule(*given) | {"embed": 1}

    def begun() -> None:
        monkeypatch.setattr(folder, "rows_by_place", earlier)
        run_file(file, tmp_path / "run")

    assert forked(begun, "slopes.before_record=kill@1") == -signal.SIGKILL
    history = run_file(file, tmp_path / "run")
    assert history.stopped == "budget"
    assert history.prepared is not None
    rows = history.prepared.layout.rows or {}
    assert len(rows) > 1
    assert "embed" not in rows
    assert any(slope.gradient for batch in history.slopes for slope in batch.values())
    assert call("verify", tmp_path / "run").code == 0


def test_a_study_goes_on_with_the_rows_it_began_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its campaigns share workers, which are told of the record all the same."""
    file = write_campaign(tmp_path, space=SPACE, optimizer=OPTIMIZER, budget={"evaluations": 12})
    words = ["study", "run", file, "--dir", tmp_path / "study", "--seeds", 1]
    rule = folder.rows_by_place

    def begun() -> None:
        monkeypatch.setattr(folder, "rows_by_place", lambda *given: rule(*given) | {"embed": 1})
        call(*words)

    with forward_passes_once():
        assert forked(begun, "slopes.before_record=kill@1") == -signal.SIGKILL
        done = call(*words)
    assert done.code == 0, done.err
    (run,) = (tmp_path / "study" / "runs").iterdir()
    (prepared,) = [e for e in events_of(run) if e["event"] == "prepared"]
    assert "embed" not in prepared["layout"]["rows"]
    assert call("verify", run).code == 0
