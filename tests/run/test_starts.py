"""Starts: a search begins with earlier fronts and stated merges, and needs their files once."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from evomerge.campaign.campaign import load_campaign
from evomerge.campaign.check_objectives import wrong_starts
from evomerge.campaign.recorded import recorded_space
from evomerge.cli.verify.invariants import verify
from evomerge.errors import ConfigError
from evomerge.front.descent import descent_text
from evomerge.front.folder import open_campaign_folder
from evomerge.ledger.events import StartsEvent
from evomerge.objectives.origin import Origin
from evomerge.run.starts import nearest, read_starts
from tests.faults.bed import RUN, session, write_toy_campaign
from tests.faults.toy import executions
from tests.tiny_runs import events_of

NSGA2 = {"kind": "nsga2", "population": 6}
SURROGATE = {"kind": "surrogate", "population": 6}
FINER = {"weight": {"field": "layer_module", "low": 0.0, "high": 1.5}}
COARSER = {"weight": {"field": "model", "low": 0.0, "high": 1.5}}


def space_of(fields: dict[str, Any]) -> dict[str, Any]:
    """A search space of task arithmetic."""
    return {"schema": 1, "method": "task_arithmetic", "coefficients": fields}


def a_campaign(folder: Path, start_from: list[str], **sections: Any) -> Path:
    """A toy campaign that starts from others."""
    folder.mkdir(exist_ok=True)
    optimizer = {**NSGA2, "start_from": start_from}
    return write_toy_campaign(folder, {"optimizer": optimizer, **sections})


def starts_of(folder: Path) -> StartsEvent:
    """What a run recorded of its starts."""
    starts = open_campaign_folder(folder / RUN).history.starts
    assert starts is not None
    return starts


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a toy campaign that has run."""
    folder = tmp_path_factory.mktemp("earlier")
    session(write_toy_campaign(folder, {"optimizer": NSGA2}))
    return folder


@pytest.mark.parametrize("optimizer", [NSGA2, SURROGATE], ids=["nsga2", "surrogate"])
def test_what_spans_the_front_is_asked_first_and_measured_no_more(
    earlier: Path, tmp_path: Path, optimizer: dict[str, Any]
) -> None:
    folder = tmp_path / "next"
    folder.mkdir()
    sections = {"optimizer": {**optimizer, "start_from": [str(earlier / RUN)]}, "seed": 11}
    history = session(write_toy_campaign(folder, sections))
    starts = starts_of(folder)
    opened = open_campaign_folder(earlier / RUN)
    own = {opened.history.candidates[m.id].genome for m in opened.front().members}
    assert 0 < len(starts.genomes) <= 6
    assert set(starts.genomes) <= own
    asked = [history.candidates[name].genome for name in history.generations[0]]
    assert asked[: len(starts.genomes)] == list(starts.genomes)
    for name in history.generations[0][: len(starts.genomes)]:
        assert history.candidates[name].origin == Origin(how="given", source=RUN)
        there = f"given to the search to begin with: from {RUN} (`start_from`)"
        assert descent_text(history, history.candidates[name]) == there
    shared = [e["id"] for e in events_of(folder / RUN) if e.get("shared") == "tiny"]
    assert set(history.generations[0][: len(starts.genomes)]) <= set(shared)
    assert len(executions(folder)) == len(
        {e["key"] for e in events_of(folder / RUN) if "key" in e}
    ) - len({e["key"] for e in events_of(folder / RUN) if e.get("shared")})
    assert verify(folder / RUN) == []


def test_a_resume_needs_no_other_folder(earlier: Path, tmp_path: Path) -> None:
    shutil.copytree(earlier / RUN, tmp_path / "gone")
    file = a_campaign(tmp_path / "next", ["../gone"], budget={"evaluations": 12})
    session(file)
    before = starts_of(tmp_path / "next")
    shutil.rmtree(tmp_path / "gone")
    a_campaign(tmp_path / "next", ["../gone"], budget={"evaluations": 18})
    history = session(file)
    assert history.budget_used == 18
    assert starts_of(tmp_path / "next") == before
    assert verify(tmp_path / "next" / RUN) == []


@pytest.mark.parametrize("fields", [FINER, COARSER], ids=["finer", "coarser"])
def test_another_space_takes_the_nearest_points(
    earlier: Path, tmp_path: Path, fields: dict[str, Any]
) -> None:
    folder = tmp_path / "next"
    folder.mkdir()
    optimizer = {**NSGA2, "start_from": [str(earlier / RUN)]}
    history = session(write_toy_campaign(folder, {"optimizer": optimizer, "space": space_of(fields)}))
    before = open_campaign_folder(earlier / RUN)
    members = [before.history.candidates[member.id] for member in before.front().members]
    genes, earlier_genes = recorded_space(history).genes, recorded_space(before.history).genes
    expected = set()
    for member in members:
        at = {
            (gene.input, place): value
            for gene, value in zip(earlier_genes, member.genome or (), strict=False)
            for place in gene.places
        }
        if at:
            means = [np.mean([at[gene.input, place] for place in gene.places]) for gene in genes]
            expected.add(tuple(g.snap(float(m)) for g, m in zip(genes, means, strict=True)))
    assert set(starts_of(folder).genomes) <= expected
    if fields is FINER:
        digests = {member.recipe for member in members}
        asked = history.generations[0][: len(starts_of(folder).genomes)]
        assert {history.candidates[name].recipe for name in asked} <= digests
    assert verify(folder / RUN) == []


def write_mergekit(file: Path, models: Path, base: str, weights: dict[str, float]) -> None:
    """A mergekit YAML over models in a folder."""
    listed = [
        {"model": str(models / name), "parameters": {"weight": weight}}
        for name, weight in weights.items()
    ]
    document = {
        "merge_method": "task_arithmetic",
        "base_model": str(models / base),
        "models": listed,
        "dtype": "float32",
    }
    file.write_text(yaml.safe_dump(document))


def test_a_mergekit_file_is_a_start(earlier: Path, tmp_path: Path) -> None:
    models = (earlier / "models").resolve()
    write_mergekit(tmp_path / "merge.yml", models, "base", {"math": 0.9, "code": 0.4})
    folder = tmp_path / "next"
    session(a_campaign(folder, ["../merge.yml"], budget={"evaluations": 6}))
    (genome,) = starts_of(folder).genomes
    assert sorted(set(genome)) == [0.4, 0.9]
    assert starts_of(folder).origins == (str(tmp_path / "merge.yml"),)


def read_alone(earlier: Path, folder: Path, start_from: list[str]) -> dict[tuple[float, ...], str]:
    """What a campaign in the space of the earlier one would begin with, without a run."""
    history = open_campaign_folder(earlier / RUN).history
    paths = {name: str((earlier / "models" / name).resolve()) for name in ("base", "math", "code")}
    campaign = load_campaign(a_campaign(folder, start_from))
    starts = read_starts(campaign, recorded_space(history), history, paths)
    return dict(zip(starts.genomes, starts.origins, strict=True))


def test_an_expert_that_a_merge_leaves_out_has_no_weight(earlier: Path, tmp_path: Path) -> None:
    write_mergekit(tmp_path / "one.yml", (earlier / "models").resolve(), "base", {"math": 0.9})
    (genome,) = read_alone(earlier, tmp_path / "next", ["../one.yml"])
    space = recorded_space(open_campaign_folder(earlier / RUN).history)
    stated = {gene.input: value for gene, value in zip(space.genes, genome, strict=True)}
    assert stated == {"math": 0.9, "code": 0.0}


def test_each_campaign_has_its_share_of_a_population(earlier: Path, tmp_path: Path) -> None:
    whole = read_alone(earlier, tmp_path / "whole", [str(earlier / RUN)])
    for name in ("one", "two", "three"):
        shutil.copytree(earlier / RUN, tmp_path / name)
    shared = read_alone(earlier, tmp_path / "shared", ["../one", "../two", "../three"])
    assert len(whole) > len(shared) == 2, "six candidates, and all three have the same front"


def test_a_merge_over_another_base_is_refused(earlier: Path, tmp_path: Path) -> None:
    models = (earlier / "models").resolve()
    write_mergekit(tmp_path / "other.yml", models, "math", {"code": 0.4})
    with pytest.raises(
        ConfigError, match=r"E153.*start_from\[0\]: nothing here is a point of the search space"
    ):
        session(a_campaign(tmp_path / "next", ["../other.yml"]))


def test_check_names_what_is_not_there(tmp_path: Path) -> None:
    file = a_campaign(tmp_path / "next", ["../nowhere"])
    (problem,) = wrong_starts(load_campaign(file))
    assert str(problem).startswith(f"error[E153] {file}")
    assert "optimizer.start_from[0]: nothing to start from; there is no" in str(problem)


def test_the_nearest_point_of_a_merge_is_the_merge(earlier: Path) -> None:
    history = open_campaign_folder(earlier / RUN).history
    space = recorded_space(history)
    names = {name: name for name in ("base", *space.experts)}
    for candidate in history.candidates.values():
        if candidate.genome is not None:
            assert nearest(space, space.decode(candidate.genome), names) == candidate.genome
