"""Starts: a search begins with earlier fronts and stated merges, and needs their files once."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from evomerge.campaign.campaign import load_campaign
from evomerge.campaign.check import CheckReport, check_campaign
from evomerge.campaign.prepared import prepared_space
from evomerge.campaign.recorded import recorded_recipe, recorded_space
from evomerge.cli.verify.invariants import verify
from evomerge.errors import ConfigError
from evomerge.front.descent import descent_text
from evomerge.front.folder import open_campaign_folder
from evomerge.ledger.events import StartsEvent
from evomerge.ledger.history import LEDGER_FILE
from evomerge.objectives.origin import Origin
from evomerge.recipe.json_form import recipe_from_json
from evomerge.run.check_starts import check_starts
from evomerge.run.nearest import nearest
from evomerge.run.plan import plan_rows
from evomerge.run.starts import read_starts
from tests.cli.terminal import call
from tests.faults.bed import RUN, run_command, session, write_toy_campaign
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
    count = len(starts.sources)
    assert 0 < count <= 6
    assert set(starts.sources) <= own
    asked = [history.candidates[name].genome for name in history.generations[0]]
    assert asked[:count] == list(starts.sources)
    for name in history.generations[0][:count]:
        assert history.candidates[name].origin == Origin(how="given", source=RUN)
        there = f"given to the search to begin with: from {RUN} (`start_from`)"
        assert descent_text(history, history.candidates[name]) == there
    shared = [e["id"] for e in events_of(folder / RUN) if e.get("shared") == "tiny"]
    assert set(history.generations[0][:count]) <= set(shared)
    words = " ".join(call("status", folder / RUN).out.split())
    assert f"starts {count} points of `start_from`, asked first" in words
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
    starts = starts_of(folder)
    assert set(starts.genomes[: len(starts.genomes) - starts.besides]) <= expected
    assert all(starts.measured[len(starts.genomes) - starts.besides :])
    if fields is FINER:
        digests = {member.recipe for member in members}
        asked = history.generations[0][: len(starts.genomes) - starts.besides]
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


def read_alone(
    earlier: Path, folder: Path, start_from: list[str], **sections: Any
) -> dict[tuple[float, ...], str]:
    """What a campaign over the models of the earlier one would begin with, without a run."""
    history = open_campaign_folder(earlier / RUN).history
    paths = {name: str((earlier / "models" / name).resolve()) for name in ("base", "math", "code")}
    campaign = load_campaign(a_campaign(folder, start_from, **sections))
    assert history.prepared is not None
    space = prepared_space(campaign, history.prepared, paths)
    starts = read_starts(campaign, space, history, paths)
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
    write_mergekit(tmp_path / "merge.yml", (earlier / "models").resolve(), "base", {"code": 0.4})
    beside = read_alone(earlier, tmp_path / "beside", ["../one", *["../merge.yml"] * 3])
    assert list(beside.values()).count(str(tmp_path / "one")) <= 3, "stated merges take three of six"


def test_a_merge_over_another_base_is_refused(earlier: Path, tmp_path: Path) -> None:
    models = (earlier / "models").resolve()
    write_mergekit(tmp_path / "other.yml", models, "math", {"code": 0.4})
    wrong = r"E153.*start_from\[0\]: nothing here is a point of the search space; .*over another base"
    with pytest.raises(ConfigError, match=wrong):
        session(a_campaign(tmp_path / "next", ["../other.yml"]))
    assert executions(tmp_path / "next") == [], "no baseline is evaluated before"


def test_the_nearest_point_of_a_merge_is_the_merge(earlier: Path) -> None:
    history = open_campaign_folder(earlier / RUN).history
    space = recorded_space(history)
    names = {name: name for name in ("base", *space.experts)}
    for candidate in history.candidates.values():
        if candidate.genome is not None:
            assert nearest(space, space.decode(candidate.genome), names) == candidate.genome


def found_in(file: Path, directory: Path | None = None) -> CheckReport:
    """What `check` says of the starts alone of a campaign."""
    campaign = load_campaign(file)
    checked = check_campaign(campaign)
    report = check_starts(campaign, checked, directory)
    return replace(report, problems=report.problems[len(checked.problems) :])


def write_recipe(file: Path, earlier: Path, **changes: Any) -> Path:
    """A recipe file of a candidate of the earlier campaign, with other top-level fields."""
    opened = open_campaign_folder(earlier / RUN)
    candidate = next(c for c in opened.history.candidates.values() if len(set(c.genome or ())) > 2)
    data = recorded_recipe(opened.history, candidate).to_json()
    file.write_text(json.dumps(data | changes))
    return file


SLERP = """
merge_method: slerp
base_model: {models}/math
models: [{model: {models}/math}, {model: {models}/code}]
parameters: {t: 0.3}
dtype: float32
"""
TURNED = """
merge_method: passthrough
slices:
  - sources: [{model: {models}/math, layer_range: [1, 2]}]
  - sources: [{model: {models}/math, layer_range: [0, 1]}]
dtype: float32
"""


@pytest.mark.parametrize(
    ("name", "content", "code", "words"),
    [
        ("README.md", "# My models\n", "E102", r"a recipe is a JSON file; .*README\.md: .*mergekit YAML"),
        ("recipe.json", "{", "E102", r"a recipe is a JSON file; .*give a recipe in JSON"),
        ("recipe.json", "{}", "E103", r"missing field; .*recipe\.json sources; add `sources`"),
        ("merge.yml", "merge_method: tis\n", "E137", r"unsupported .*merge\.yml:1:1 merge_method: found"),
        ("merge.yml", SLERP, "E153", "slerp has no weight, which is what this campaign searches"),
        ("merge.yml", TURNED, "E153", "its layers are not those of one merge, in order"),
        ("gone", None, "E153", "nothing to start from; there is no .*gone; name a campaign folder"),
        ("folder/", None, "E153", r"no campaign folder: it has no ledger\.jsonl; .*folder; name a camp"),
        ("folder/run/", None, "E153", r"it has no ledger\.jsonl; .*did you mean .*folder/run\?"),
        ("export/recipe.json", "{}", "E153", r"did you mean .*export/recipe\.json\?"),
    ],
)  # fmt: skip
def test_check_reads_what_it_starts_from(
    earlier: Path, tmp_path: Path, name: str, content: str | None, code: str, words: str
) -> None:
    path, named = tmp_path / name, name.partition("/")[0]
    if name.endswith("/"):
        path.mkdir(parents=True)
        if name.endswith("run/"):
            (path / LEDGER_FILE).touch()
    elif content is not None:
        path.parent.mkdir(exist_ok=True)
        path.write_text(content.replace("{models}", str((earlier / "models").resolve())))
    file = a_campaign(tmp_path / "next", [f"../{named}"])
    problems = found_in(file).problems
    text = "\n".join(map(str, problems))
    where = rf"error\[{code}\] {file}:\d+:\d+ optimizer\.start_from\[0\]: "
    assert re.search(where + f".*{words}", text), text
    assert all("optimizer.start_from[0]: " in str(problem) for problem in problems)


def test_a_run_with_such_a_fault_begins_nothing(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# My models\n")
    file = a_campaign(tmp_path / "next", ["../README.md", "../gone"])
    found = call("run", file, "--dir", tmp_path / "run")
    assert found.code == 3
    assert re.search(r"E102.*start_from\[0\].*E153.*start_from\[1\]: nothing", found.err, re.DOTALL)
    assert not (tmp_path / "run").exists()


def test_check_sees_another_base_without_its_digest(earlier: Path, tmp_path: Path) -> None:
    write_recipe(tmp_path / "recipe.json", earlier)
    write_mergekit(tmp_path / "merge.yml", (earlier / "models").resolve(), "base", {"code": 0.4})
    given = [str(earlier / RUN), "../recipe.json", "../merge.yml"]
    assert found_in(a_campaign(tmp_path / "same", given)).problems == []
    other = {"base": {"path": "models/math"}, "experts": ["code"]}
    file = a_campaign(tmp_path / "other", given, **other)
    problems = found_in(file).problems
    assert [problem.field for problem in problems] == [f"optimizer.start_from[{i}]" for i in range(3)]
    for problem in problems:
        wrong = "nothing here is a point of the search space; .*: it is over another base; take one"
        assert re.search(f"E153.*{wrong} over the same base", str(problem))
    # The same weights somewhere else: of a recipe and a campaign digests decide, when they are known.
    shutil.copytree(earlier / "models" / "base", tmp_path / "moved")
    file = a_campaign(tmp_path / "third", given, base={"path": str(tmp_path / "moved")})
    assert [problem.field for problem in found_in(file).problems] == ["optimizer.start_from[2]"]


def test_check_reads_a_ledger_as_far_as_needed(earlier: Path, tmp_path: Path) -> None:
    shutil.copytree(earlier / RUN, tmp_path / "damaged")
    ledger = tmp_path / "damaged" / LEDGER_FILE
    lines = ledger.read_bytes().splitlines(keepends=True)
    file = a_campaign(tmp_path / "next", ["../damaged"])
    ledger.write_bytes(b"".join([*lines[:-2], b"damage\n", lines[-1]]))
    assert found_in(file).problems == []
    ledger.write_bytes(b"".join([b"damage\n", *lines[1:]]))
    (problem,) = found_in(file).problems
    assert re.search(r"E502.*start_from\[0\]: the ledger is damaged; .*record 0", str(problem))


@pytest.mark.parametrize(
    ("last", "words"),
    [("prepared", "this campaign has no front yet"), ("asked", "it has evaluated no candidate yet")],
)
def test_a_campaign_that_has_just_begun_is_no_start(
    earlier: Path, tmp_path: Path, last: str, words: str
) -> None:
    shutil.copytree(earlier / RUN, tmp_path / "begun")
    ledger = tmp_path / "begun" / LEDGER_FILE
    lines = ledger.read_text().splitlines(keepends=True)
    end = next(n for n, line in enumerate(lines) if f'"event":"{last}"' in line)
    ledger.write_text("".join(lines[: end + 1]))
    (problem,) = found_in(a_campaign(tmp_path / "next", ["../begun"])).problems
    assert re.search(rf"E153.*start_from\[0\]: .*{words}", str(problem))


def test_a_run_that_has_its_starts_needs_their_files_no_more(earlier: Path, tmp_path: Path) -> None:
    shutil.copytree(earlier / RUN, tmp_path / "gone")
    file = a_campaign(tmp_path / "next", ["../gone"])
    assert run_command(file) == 0
    shutil.rmtree(tmp_path / "gone")
    a_campaign(tmp_path / "next", ["../gone"], budget={"evaluations": 24})
    assert [problem.code for problem in found_in(file).problems] == ["E153"]
    assert found_in(file, tmp_path / "next" / RUN).problems == []
    assert run_command(file) == 0
    assert verify(tmp_path / "next" / RUN) == []


def test_the_plan_says_how_many_points_are_taken(earlier: Path, tmp_path: Path) -> None:
    write_mergekit(tmp_path / "merge.yml", (earlier / "models").resolve(), "base", {"code": 0.4})
    file = a_campaign(tmp_path / "next", [str(earlier / RUN), "../merge.yml"])
    campaign = load_campaign(file)
    rows = dict(plan_rows(campaign, check_starts(campaign, check_campaign(campaign))))
    words = "at most 6 points are asked first: 5 of run, 1 of merge.yml"
    assert rows["starts"] == f"{words}; what a campaign measured as this one would costs nothing"
    taken = {str(earlier / RUN): 5, str(tmp_path / "merge.yml"): 1}
    assert call("check", file, "--json").json["starts"] == taken


LINEAR = """
merge_method: linear
models:
  - {model: {models}/math, parameters: {weight: 3}}
  - {model: {models}/code, parameters: {weight: 1}}
dtype: float32
"""


def test_shares_are_divided_and_need_no_base(earlier: Path, tmp_path: Path) -> None:
    models = str((earlier / "models").resolve())
    (tmp_path / "linear.yml").write_text(LINEAR.replace("{models}", models))
    (genome,) = read_alone(earlier, tmp_path / "next", ["../linear.yml"])
    space = recorded_space(open_campaign_folder(earlier / RUN).history)
    stated = {gene.input: value for gene, value in zip(space.genes, genome, strict=True)}
    assert stated == {"math": 0.75, "code": 0.25}


def test_a_recipe_is_the_same_start_by_any_names(earlier: Path, tmp_path: Path) -> None:
    data = json.loads(write_recipe(tmp_path / "ours.json", earlier).read_text())
    text = json.dumps(data).replace('"math"', '"m"').replace('"code"', '"c"')
    (tmp_path / "theirs.json").write_text(text)
    ours = read_alone(earlier, tmp_path / "one", ["../ours.json"])
    assert set(read_alone(earlier, tmp_path / "two", ["../theirs.json"])) == set(ours)
    space = recorded_space(open_campaign_folder(earlier / RUN).history)
    assert {space.decode(genome).digest for genome in ours} == {recipe_from_json(data).digest}


PATHS = {**space_of(COARSER), "layer_path": {"sources": ["merged", "experts"], "outer": "math"}}


def test_a_path_is_taken_as_it_is_or_not_at_all(earlier: Path, tmp_path: Path) -> None:
    models = (earlier / "models").resolve()
    (tmp_path / "turned.yml").write_text(TURNED.replace("{models}", str(models)))
    (genome,) = read_alone(earlier, tmp_path / "next", ["../turned.yml"], space=PATHS)
    campaign = load_campaign(tmp_path / "next" / "campaign.yaml")
    prepared = open_campaign_folder(earlier / RUN).history.prepared
    assert prepared is not None
    paths = {name: str(models / name) for name in ("base", "math", "code")}
    recipe = prepared_space(campaign, prepared, paths).decode(genome)
    assert [(step.source, step.layer) for step in recipe.path] == [("math", 1), ("math", 0)]
    write_mergekit(tmp_path / "odd.yml", models, "base", {"math": 0.1234, "code": 0.4})
    assert found_in(tmp_path / "next" / "campaign.yaml").problems == []
    with pytest.raises(ConfigError, match=r"E153.*takes only what is one of its points"):
        read_alone(earlier, tmp_path / "odd", ["../odd.yml"], space=PATHS)
