from __future__ import annotations

import json
import re

import pytest

from evomerge.campaign.campaign import campaign_from_json
from evomerge.evaluators.item_texts import item_text, item_texts
from evomerge.evaluators.items import item_id, json_lines
from evomerge.evaluators.kinds import load_declaration, open_evaluator
from evomerge.evaluators.lm_eval_declaration import task_files
from evomerge.front.front import pick
from tests.cli.terminal import call, in_terminal
from tests.tiny_runs import Finished, finished


@pytest.fixture
def campaign() -> Finished:
    return finished()


def test_two_models_item_by_item(campaign):
    knee = pick(campaign.front, "knee").id
    found = call("compare", campaign.directory, "knee", "base")
    assert found.code == 0, found.err
    assert found.out.startswith(f"{knee} against base on selection items that both answered")
    assert "P(" in found.out
    assert "mean of" in found.out
    data = call("compare", campaign.directory, "knee", "base", "--json", "--items", 3).json
    assert [task["metric"] for task in data["tasks"]] == ["pets.acc", "birds.acc"]
    arrays = {}
    for name in (knee, "base"):
        items = campaign.history.candidates[name].evaluations["selection"].items
        for task in ("pets", "birds"):
            arrays[name, task] = campaign.store.read(items[task])[f"{task}.acc"]
    for task in data["tasks"]:
        name = task["metric"].split(".")[0]
        mine, theirs = arrays[knee, name], arrays["base", name]
        assert task["won"] == [i for i in range(len(mine)) if mine[i] > theirs[i]]
        assert task["lost"] == [i for i in range(len(mine)) if mine[i] < theirs[i]]
        shown = {*task["won"][:3], *task["lost"][:3]}
        assert {int(n) for n in data["texts"].get(name, {})} == shown
    genome = call("show", campaign.directory, knee, "--json").json["genome"]
    assert {name: pair[0] for name, pair in data["genes"].items()} == genome
    assert {pair[1] for pair in data["genes"].values()} == {0.0}


@pytest.mark.parametrize("columns", [80, 100])
def test_a_comparison_fits_into_a_terminal(campaign, columns):
    code, text = in_terminal("compare", campaign.directory, "knee", "uniform", columns=columns)
    assert code == 0
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip("\r") for line in text.split("\n")]
    assert all(len(line) <= columns for line in lines), max(lines, key=len)
    assert any(line.startswith("birds.acc % ") for line in lines)


def test_texts_stand_in_the_order_of_the_results(campaign):
    """Against the evaluator's own order of item hashes."""
    for file in campaign_from_json(campaign.history.config).evaluator_files:
        declared = load_declaration(file)
        evaluator = open_evaluator(declared)
        for split in ("search", "selection"):
            task = task_files(declared)[split]
            docs = {item_id(doc): doc for path in task.data_files() for doc in json_lines(path)}
            wanted = [item_text(docs[name]) for name in evaluator.item_ids(split)]
            assert list(item_texts(declared, split)) == wanted


def test_folders_that_are_no_export_of_this_campaign(campaign, tmp_path):
    found = call("compare", campaign.directory, "base", tmp_path)
    assert found.code == 2
    assert "E506" in found.err
    assert "this folder is no export" in found.err
    (tmp_path / "evomerge.json").write_text(json.dumps({"recipe": "0" * 64}))
    found = call("compare", campaign.directory, "base", tmp_path)
    assert "this export was not scored in this campaign" in found.err
    assert "no candidate `c9`" in call("compare", campaign.directory, "base", "c9").err
