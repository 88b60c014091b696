from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import re
import socket

import pytest

from evomerge.front.descent import descent_text
from evomerge.front.front import Front, pick
from evomerge.front.tables import front_csv, mean, safe_cell
from evomerge.front.terminal import title_lines
from evomerge.front.uncertainty import FrontUncertainty
from evomerge.ledger.records import RecordFile
from evomerge.recipe.json_form import recipe_from_json
from tests.cli.terminal import call, in_terminal
from tests.tiny_runs import Finished, events_of, finished


@pytest.fixture
def campaign() -> Finished:
    return finished()


def _renamed(front: Front, name: str) -> Front:
    first = dataclasses.replace(front.members[0], id=name)
    return dataclasses.replace(front, members=(first, *front.members[1:]))


def test_front_table(campaign):
    found = call("front", campaign.directory, "--all")
    assert found.code == 0
    assert found.err == ""
    lines = found.out.splitlines()
    items = campaign.front.members[0].metrics["selection"]["pets.acc"].items
    assert lines[0].startswith(f"tiny: front of {len(campaign.front.members)} model")
    assert f"hypervolume {campaign.front.hypervolume['selection']:.4f}" in lines[0]
    assert lines[1].startswith(f"scores and front on selection items, {items} of each task")
    # The second table says how much the search's scores flatter.
    assert lines[2].startswith(f"all {len(campaign.front.members)} members, ordered by the mean")
    lines, believed = lines[: lines.index("", 5)], lines[lines.index("", 5) :]
    assert re.match(r"optimism of .* on search items +search − selection", believed[1])
    rows = [line for line in believed if line.startswith(("pets.acc %", "birds.acc %", "mean %"))]
    assert len(rows) == 3
    assert all(re.search(r"%( +[+-]\d+\.\d \[[+-]\d+\.\d, [+-]\d+\.\d\]){2}$", row) for row in rows)
    assert believed[-1] == "the search was ended by its budget of evaluations"
    assert any(
        line.startswith("rank correlation of smooth and reported values: pets.acc ")
        for line in believed
    )
    ids = [line.split()[0] for line in lines[6:] if line.strip("─ ")]
    assert ids == [m.id for m in (*campaign.front.members, *campaign.front.references)]
    rules = [index for index, line in enumerate(lines) if line.startswith("─")]
    assert rules == [6, 7 + len(campaign.front.members)]
    first = campaign.front.members[0]
    row = next(line for line in lines if line.startswith(first.id))
    for metric in first.metrics["selection"].values():
        assert f"{100 * metric.value:.1f} ± {100 * metric.stderr:.1f}" in row
    assert f"{100 * mean(campaign.front, first):.1f}" in row
    assert sum("knee" in line for line in lines) == 1
    assert "best:pets.acc" in found.out
    assert all("knee" not in line for line in lines[rules[1] :])


@pytest.mark.parametrize("columns", [80, 100])
def test_a_front_can_be_read_and_its_picks_typed_again_in_any_terminal(campaign, columns):
    code, text = in_terminal("front", campaign.directory, columns=columns)
    assert code == 0
    shown = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert "…" not in shown
    assert "best:pets.acc" in shown
    assert all(len(line) <= columns for line in shown.splitlines() if line.startswith("c0"))


def test_front_json_is_the_front_and_stable(campaign):
    first, second = (
        call("front", campaign.directory, "--json"),
        call("front", campaign.directory, "--json"),
    )
    assert first.out == second.out
    found = first.json
    statistics, decision = found.pop("statistics"), found.pop("decision")
    assert [card["pick"] for card in decision["cards"]] == ["knee", "best:mean", "best:worst"]
    assert set(decision["dominates"]) == {member["id"] for member in found["members"]}
    assert found.pop("ended_by") == "budget"
    assert found.pop("refinement_ended_by") is None
    assert found == json.loads(json.dumps(campaign.front.to_json()))
    assert set(statistics["hypervolume"]) == {"search", "selection"}
    for split, interval in statistics["hypervolume"].items():
        assert interval["value"] == pytest.approx(campaign.front.hypervolume[split], abs=1e-6)
    assert set(statistics["optimism"]["objectives"]) == {"pets.acc", "birds.acc"}
    assert first.out == json.dumps(first.json, sort_keys=True, indent=1) + "\n"


def test_front_csv_has_plain_numbers(campaign):
    rows = list(csv.DictReader(io.StringIO(call("front", campaign.directory, "--csv").out)))
    every = (*campaign.front.members, *campaign.front.references)
    assert [row["id"] for row in rows] == [member.id for member in every]
    assert [row["kind"] for row in rows].count("baseline") == len(campaign.front.references)
    for row, member in zip(rows, every, strict=True):
        assert float(row["pets.acc"]) == member.metrics["selection"]["pets.acc"].value
        assert float(row["mean"]) == mean(campaign.front, member)


@pytest.mark.parametrize("name", ["=1+1", "+x", "-x", "@x"])
def test_csv_names_are_no_formulas(campaign, name):
    text = front_csv(_renamed(campaign.front, name))
    assert next(csv.DictReader(io.StringIO(text)))["id"] == f"'{name}"
    assert safe_cell("c00001") == "c00001"


def test_a_front_of_a_few_and_by_wish(campaign):
    members = campaign.front.members
    found = call("front", campaign.directory, members[1].id)
    assert f"\n{members[1].id} " in found.out
    assert f"\n{members[0].id} " not in found.out
    assert f"{len(members) - 1} more members" in found.out
    assert call("front", campaign.directory, "--min", "pets=1").code == 0
    assert "E506" in call("front", campaign.directory, "--min", "speed=2").err
    refused = call("front", campaign.directory, "--json", "--all")
    assert refused.code == 2
    assert "--json and --csv hold every member" in refused.json["errors"][0]["wrong"]


@pytest.mark.parametrize("columns", [60, 100])
def test_two_objectives_are_drawn_where_the_terminal_has_room(campaign, columns):
    _, text = in_terminal("front", campaign.directory, columns=columns)
    assert ("K knee" in text) == (columns == 100)


def test_an_unfinished_front_says_so(campaign, tmp_path):
    kept = [e for e in events_of(campaign.directory) if e["event"] != "selection"]
    kept = [e for e in kept if e.get("split") != "selection" and e["event"] != "stopped"]
    _copy(campaign, tmp_path / "run", kept)
    assert (
        "not final: scores and front on the search's own items" in call("front", tmp_path / "run").out
    )
    baselines = next(i for i, e in enumerate(kept) if e["event"] == "baselines")
    _copy(campaign, tmp_path / "early", kept[:baselines])
    found = call("front", tmp_path / "early")
    assert found.code == 2
    assert "E507" in found.err


def _copy(campaign, directory, events):
    directory.mkdir()
    os.symlink(campaign.directory / "items", directory / "items")
    with RecordFile.open(directory / "ledger.jsonl", create=True) as ledger:
        for event in events:
            ledger.append({k: v for k, v in event.items() if k not in ("n", "format")})


@pytest.mark.parametrize("last", ["prepared", "baselines"])
def test_before_the_first_candidate_there_is_no_study(campaign, tmp_path, last):
    """Told as `history` tells it; a study of no trials looks like an empty search."""
    events = events_of(campaign.directory)
    end = next(number for number, event in enumerate(events) if event["event"] == last)
    _copy(campaign, tmp_path / "run", events[:end])
    found = call("optuna", tmp_path / "run", "-o", tmp_path / "study.db")
    assert found.code == 2
    words = "there are no trials yet; nothing is searched; go on with `evomerge run`"
    assert f"error[E507]: {words}" in found.err
    assert not (tmp_path / "study.db").exists()


def test_title_counts_differing_items(campaign):
    front = campaign.front
    first = front.members[0]
    metrics = dict(first.metrics["selection"])
    metrics["pets.acc"] = dataclasses.replace(metrics["pets.acc"], items=7)
    member = dataclasses.replace(first, metrics={**first.metrics, "selection": metrics})
    unknown = FrontUncertainty({}, (), None, None, front.objectives)
    title = title_lines(dataclasses.replace(front, members=(member,)), unknown, 250)[0:2]
    title = "\n".join(title)
    assert "7 of pets.acc" in title
    assert "front of 1 model," in title


def test_status(campaign):
    found = call("status", campaign.directory)
    assert found.code == 0
    rows = dict(line.split(maxsplit=1) for line in found.out.splitlines() if line[:5] != "best ")
    assert rows["phase"].startswith("done, ")
    assert rows["evaluations"].startswith("18 of 18, and 6 of 6 baselines")
    assert rows["failed"] == "none"
    assert "none running" in rows["driver"]
    assert "pets.acc" in found.out
    data = call("status", campaign.directory, "--json").json
    assert data["phase"] == "done"
    assert data["evaluations"] == 18
    assert data["driver"] is None
    assert data["forecast"] is None, "without a model none is made"
    assert "forecast" not in rows
    assert data["hypervolume"] == campaign.front.hypervolume["search"]
    assert {best["metric"] for best in data["best"]} == {"pets.acc", "birds.acc", "mean"}


def test_status_of_several_campaigns(campaign, tmp_path):
    _copy(campaign, tmp_path / "run", events_of(campaign.directory)[:3])
    found = call("status", campaign.directory, tmp_path / "run")
    header, done, begun = (line.split() for line in found.out.splitlines())
    assert header[:2] == ["folder", "phase"]
    assert done[:5] == [str(campaign.directory), "done", "18", "of", "18"]
    assert begun[0] == str(tmp_path / "run")
    both = call("status", campaign.directory, tmp_path / "run", "--json").json["campaigns"]
    assert [one["folder"] for one in both] == [str(campaign.directory), str(tmp_path / "run")]
    assert "give one" in call("status", campaign.directory, tmp_path / "run", "--failed").err


def test_status_does_not_claim_a_budget_that_was_raised(campaign, tmp_path):
    events = events_of(campaign.directory)
    events[0]["config"]["budget"]["evaluations"] = 12
    _copy(campaign, tmp_path / "run", events)
    data = call("status", tmp_path / "run", "--json").json
    assert (data["evaluations"], data["budget"]) == (18, None)


@pytest.mark.parametrize(
    ("signed", "text"),
    [
        ({"host": socket.gethostname(), "pid": os.getpid()}, "running, pid"),
        ({"host": socket.gethostname(), "pid": 2**22 + 1}, "ended without signing off"),
        ({"host": "elsewhere", "pid": 1}, "another host"),
        ({"nonsense": 1}, "none running"),
    ],
)
def test_status_names_the_driver(campaign, tmp_path, signed, text):
    _copy(campaign, tmp_path / "run", events_of(campaign.directory)[:3])
    lock = tmp_path / "run" / "ledger.jsonl.lock"
    lock.write_text(json.dumps({"since": "2026-01-01T00:00:00Z", **signed}))
    assert text in call("status", tmp_path / "run").out


def test_show_a_candidate(campaign):
    name = campaign.front.members[0].id
    candidate = campaign.history.candidates[name]
    found = call("show", campaign.directory, name)
    assert found.code == 0
    assert f"{name}: candidate of generation {candidate.generation}" in found.out
    assert candidate.recipe in found.out
    assert f"origin: {descent_text(campaign.history, candidate)}\n" in found.out
    assert "weight.math.layers.0" in found.out
    for value in candidate.genome:
        assert f"{value:g}" in found.out
    data = call("show", campaign.directory, name, "--json").json
    table = [line.split() for line in found.out.splitlines() if line.startswith("weight.")]
    assert [float(value) for _, value in table] == list(candidate.genome)
    assert data["genome"] == {gene: float(value) for gene, value in table}
    assert set(data["scores"]) == {"search", "selection"}
    assert data["origin"] == candidate.origin.to_json()
    members = call("front", campaign.directory, "--json").json["members"]
    assert next(m for m in members if m["id"] == name)["origin"] == data["origin"]

    assert recipe_from_json(data["recipe"]).digest == candidate.recipe == data["digest"]


def test_many_genes_are_told_in_a_few_lines(campaign, monkeypatch):
    name = campaign.front.members[0].id
    whole = call("show", campaign.directory, name)
    monkeypatch.setattr("evomerge.cli.candidate.MOST_GENES", 9)
    found = call("show", campaign.directory, name)
    rows = [line.split() for line in found.out.splitlines() if line.startswith("weight.")]
    genome = campaign.history.candidates[name].genome
    for row, own in zip(rows, (genome[:5], genome[5:]), strict=True):
        assert row[1] == "5"
        assert [float(n) for n in row[2:]] == pytest.approx([sum(own) / 5, min(own), max(own)], 1e-3)
    assert [row[0] for row in rows] == ["weight.math", "weight.code"]
    assert found.out.endswith("\n10 genes; --genes prints each, --json has them all\n")
    assert call("show", campaign.directory, name, "--genes").out == whole.out


@pytest.mark.parametrize("name", ["base", "math", "uniform", "single-0.4"])
def test_show_a_baseline(campaign, name):
    data = call("show", campaign.directory, name, "--json").json
    assert data["kind"] == "baseline"
    assert "genome" not in data
    assert data["digest"] == campaign.history.candidates[name].recipe
    assert f"{name}: baseline" in call("show", campaign.directory, name).out


def test_show_a_failure(campaign, tmp_path):
    events = events_of(campaign.directory)
    asked = next(i for i, event in enumerate(events) if event["event"] == "asked")
    name = events[asked]["candidates"][0]["id"]
    failure = {"event": "failed", "id": name, "split": "search", "failure": "nonfinite_weights"}
    failure |= {"recipe": events[asked]["candidates"][0]["recipe"], "key": "0", "message": "7 NaN"}
    failure |= {"time": 1.0}
    _copy(campaign, tmp_path / "run", [*events[: asked + 1], failure])
    assert "failed: nonfinite_weights: 7 NaN" in call("show", tmp_path / "run", name).out
    found = call("show", tmp_path / "run", name, "--json").json
    assert found["failure"] == {"class": "nonfinite_weights", "message": "7 NaN"}
    assert "1 nonfinite_weights" in call("status", tmp_path / "run").out
    trace = 'Traceback (most recent call last):\n  File "mine.py", line 7, in score\nValueError: [no]'
    _copy(campaign, tmp_path / "two", [*events[: asked + 1], failure | {"traceback": trace}])
    listed = call("status", "--failed", tmp_path / "two").out
    assert "nonfinite_weights: 7 NaN\n  1: " + name in listed
    assert "ValueError: [no]" in listed
    (failed,) = call("status", tmp_path / "two", "--failed", "--json").json["failed"]
    assert (failed["id"], failed["class"], failed["message"]) == (name, "nonfinite_weights", "7 NaN")
    assert failed["traceback"] == trace
    assert "no candidate has failed" in call("status", "--failed", campaign.directory).out
    assert trace in call("show", tmp_path / "two", name).out
    assert call("show", tmp_path / "two", name, "--json").json["failure"]["traceback"] == trace


@pytest.mark.parametrize(
    ("name", "near"), [("c1", "c00001"), ("00001", "c00001"), ("unifrm", "uniform")]
)
def test_show_an_unknown_id(campaign, name, near):
    found = call("show", campaign.directory, name)
    assert found.code == 2
    assert "error[E506]" in found.err
    assert (
        f"did you mean {near}? give an id, knee, best:METRIC, best:mean, best:worst, prefer:"
        in found.err
    )


@pytest.mark.parametrize("choice", ["knee", "best:pets", "prefer:pets=1,birds=2", "pets.acc>=0"])
def test_show_takes_every_pick(campaign, choice):
    wanted = pick(campaign.front, choice).id
    assert call("show", campaign.directory, choice, "--json").json["id"] == wanted
    assert call("show", campaign.directory, choice).out.startswith(f"{wanted}: candidate")


def test_show_names_the_objectives_where_a_pick_names_none(campaign):
    found = call("show", campaign.directory, "best:speed")
    assert found.code == 2
    assert "`speed` is no objective; objectives: pets.acc, birds.acc" in found.err


@pytest.mark.parametrize("verb", [("front",), ("status",), ("show", "c00001"), ("verify",)])
def test_no_campaign_there(verb, tmp_path):
    word, *rest = verb
    for folder, found in ((tmp_path / "none", "no such folder"), (tmp_path, "it has no ledger.jsonl")):
        result = call(word, folder, *rest)
        assert result.code == 2
        assert "error[E509]" in result.err
        assert found in result.err
    file = tmp_path / "campaign.yaml"
    file.touch()
    assert "this is a file; give the folder" in call(word, file, *rest).err
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "ledger.jsonl").touch()
    assert f"did you mean {tmp_path / 'run'}?" in call(word, tmp_path, *rest).err
    (tmp_path / "ledger.jsonl").touch()
    assert "has not begun" in call(word, tmp_path, *rest).err


@pytest.mark.parametrize("verb", [("front",), ("status",), ("show", "c00001"), ("verify",)])
def test_a_damaged_ledger(verb, campaign, tmp_path):
    data = bytearray((campaign.directory / "ledger.jsonl").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "ledger.jsonl").write_bytes(data)
    word, *rest = verb
    found = call(word, tmp_path, *rest)
    assert found.code == 7
    assert "error[E502]" in found.err


def test_verify(campaign):
    found = call("verify", campaign.directory)
    assert found.code == 0
    assert found.out.endswith("everything holds\n")
    checked = call("verify", campaign.directory, "--json").json
    assert checked["problems"] == []
    assert checked["checked"]["results counted against the budget"] == 18


def test_verify_lists_every_problem(campaign, tmp_path):
    events = events_of(campaign.directory)
    wrong = [e for e in events if e["event"] == "evaluated"]
    for event in wrong[:2]:
        event["metrics"]["pets.acc"]["value"] = 0.123
    _copy(campaign, tmp_path / "run", events)
    found = call("verify", tmp_path / "run")
    assert found.code == 7
    assert found.err.count("pets.acc is not the mean of its items") >= 2
    assert call("verify", tmp_path / "run", "--json").json["errors"][0]["code"] == "E510"
