"""What `prepare` found, there and back through JSON, and the search space over it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from evomerge.campaign.campaign import load_campaign
from evomerge.campaign.prepared import (
    layout_of,
    layout_record,
    prepared_sources,
    prepared_space,
)
from evomerge.checkpoint.folder import open_folder
from evomerge.ledger.events import PreparedEvent
from evomerge.recipe.recipe import canonical_json
from evomerge.search_space import ModelLayout
from tests.tiny_models import write_campaign
from tests.tiny_runs import finished


def test_a_layout_there_and_back() -> None:
    places = ("embed", "layers.0.attn", "final_norm")
    for active in (None, {"math": places[:2], "code": ()}):
        layout = ModelLayout(1, places, 12, active)
        event = PreparedEvent(
            checkpoints={}, storage="float32", layout=layout_record(layout), evaluators={}
        )
        text = canonical_json(event.to_json())
        assert layout_of(PreparedEvent.from_json(json.loads(text))) == layout


def test_the_space_of_a_finished_campaign() -> None:
    done = finished()
    campaign = load_campaign(done.file)
    prepared = done.history.prepared
    assert prepared is not None
    paths = {name: f"elsewhere/{name}" for name in ("base", "math", "code")}
    space = prepared_space(campaign, prepared, paths)
    assert len(space.genes) == 10
    assert space.sources == prepared_sources(campaign, prepared, paths)
    assert space.sources["math"].path == "elsewhere/math"
    assert len(space.sources["math"].digest) == 64
    # Recorded genomes decode to the recorded recipes, wherever the models lie today.
    for candidate in done.history.candidates.values():
        if candidate.genome is not None:
            assert space.decode(candidate.genome).digest == candidate.recipe


def test_rows_of_a_ledger_from_before_are_all_its_own(tmp_path: Path) -> None:
    """There `outside_layers: shared` was not heeded: its genomes have a gene for each row."""
    weight = {"field": "row", "outside_layers": "shared"}
    space = {"schema": 1, "method": "task_arithmetic", "coefficients": {"weight": weight}}
    campaign = load_campaign(write_campaign(tmp_path, space=space))
    layout = open_folder(tmp_path / "models" / "base", "base").row_layout
    recorded = finished().history.prepared
    assert recorded is not None
    now = replace(recorded, layout=layout_record(layout))
    assert now.shares_rows
    data = json.loads(canonical_json(now.to_json()))
    del data["shares_rows"]
    paths = dict.fromkeys(("base", "math", "code"), "")
    events = (now, PreparedEvent.from_json(data))
    shared, own = (len(prepared_space(campaign, each, paths).genes) for each in events)
    assert own == 2 * len(layout.leaves)
    outside = [leaf for leaf in layout.leaves if not leaf.startswith("layers.")]
    assert shared == own - 2 * len(outside)


def test_rows_of_mixtures_of_a_ledger_from_before_are_what_they_were(tmp_path: Path) -> None:
    weight = {"field": "row", "outside_layers": "shared"}
    space = {"schema": 1, "method": "task_arithmetic", "coefficients": {"weight": weight}}
    campaign = load_campaign(write_campaign(tmp_path, space=space))
    recorded = finished().history.prepared
    assert recorded is not None
    places = ("layers.0.mlp.mlp.gate", "layers.0.mlp.mlp.experts.w1")
    rows = dict.fromkeys(places, 2)
    now = replace(recorded, layout=layout_record(ModelLayout(1, places, 8, rows=rows)))
    assert now.mixture_rows
    data = json.loads(canonical_json(now.to_json()))
    del data["mixture_rows"]
    paths = dict.fromkeys(("base", "math", "code"), "")
    spaces = [prepared_space(campaign, e, paths) for e in (now, PreparedEvent.from_json(data))]
    whole = [0.5] * len(spaces[0].genes)
    for place, differ in zip(places, (False, True), strict=True):
        index = next(i for i, gene in enumerate(spaces[0].genes) if gene.matrix == place)
        genome = spaces[0].snap([*whole[:index], 0.25, *whole[index + 1 :]])
        (table,), (before,) = (each.decode(genome).row_tables for each in spaces)
        assert (table.of_mixtures, before.of_mixtures) == (differ, False)
        assert (table.digest != before.digest) == differ


def test_a_ledger_from_before_decodes_as_it_did() -> None:
    """Where a grid has no point for the average, its candidates keep the recipes that it recorded."""
    done = finished()
    campaign, prepared = load_campaign(done.file), done.history.prepared
    assert prepared is not None
    data = json.loads(canonical_json(prepared.to_json()))
    assert data.pop("one_with_baselines") is True
    before = PreparedEvent.from_json(data)
    paths = dict.fromkeys(("base", "math", "code"), "")
    now, then = (prepared_space(campaign, each, paths) for each in (prepared, before))
    assert (now.one_with_baselines, then.one_with_baselines) == (True, False)
    # What lies on the grid has always been one with its baseline.
    for weights in ((0.0, 0.0), (1.0, 0.0), (0.5, 0.5)):
        genome = now.uniform(dict(zip(("math", "code"), weights, strict=True)))
        assert now.decode(genome).digest == then.decode(genome).digest
