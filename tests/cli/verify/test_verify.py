from __future__ import annotations

import copy
import dataclasses
import os
import shutil

import pytest

from evomerge.campaign.campaign import load_campaign
from evomerge.cli.verify.invariants import Verification, _check_baselines, examine, verify
from evomerge.export.export import export_candidate
from evomerge.export.log import ExportEvent
from evomerge.ledger.events import CampaignEvent
from evomerge.ledger.history import History
from evomerge.ledger.records import RecordFile
from evomerge.optimizers.baselines import freeze
from tests.hand_made import failed, scored
from tests.tiny_models import write_campaign
from tests.tiny_runs import events_of, finished


def _written(directory, events):
    """A campaign folder with these events, under sound checksums, and the finished campaign's items."""
    directory.mkdir(exist_ok=True)
    if not (directory / "items").exists():
        os.symlink(finished().directory / "items", directory / "items")
    with RecordFile.open(directory / "ledger.jsonl", create=True) as ledger:
        for event in events:
            ledger.append({k: v for k, v in event.items() if k not in ("n", "format")})
    return directory


@pytest.fixture
def events():
    return copy.deepcopy(events_of(finished().directory))


def _first(events, kind, **fields):
    return next(
        event
        for event in events
        if event["event"] == kind and all(event.get(k) == v for k, v in fields.items())
    )


def _text(problems):
    return "\n".join(map(str, problems))


def test_a_finished_campaign_holds():
    found = examine(finished().directory)
    assert found.problems == []
    events = events_of(finished().directory)
    assert found.checked["ledger events with sound checksums"] == len(events)
    assert found.checked["results counted against the budget"] == 18
    assert found.checked["recipes decoded again"] == len(finished().history.candidates)
    assert found.checked["generations asked again"] == len(finished().history.generations)


def test_a_soup_that_failed_is_passed_over_again(tmp_path):
    """The next one may be shown then."""
    trio = ("math", "code", "law")
    campaign = load_campaign(write_campaign(tmp_path, experts=trio, evaluators=("pets",)))
    scores = {"base": 0.1, "math": 0.6, "code": 0.9, "law": 0.7, "soup-math+code": 0.95}
    history = History.fold(
        [
            CampaignEvent(config=campaign.to_json(), identity="", versions={}),
            *(scored(name, {"pets.acc": [value]}) for name, value in scores.items()),
            failed("soup-code+law"),
        ]
    )
    known = history.candidates.items()
    metrics = {name: c.evaluations["search"].metrics for name, c in known if c.evaluations}
    parts = campaign.objectives, metrics, trio
    history.apply(freeze(*parts, failed=["soup-code+law"]))
    assert "soup-math+code" in history.baselines.shown
    assert "soup-math+code" not in freeze(*parts).shown
    result = Verification(file="")
    _check_baselines(history, result)
    assert result.problems == []


def test_every_prefix_holds(events, tmp_path):
    """A campaign may end anywhere: what a crash leaves is no fault."""
    for length in range(1, len(events), 5):
        directory = _written(tmp_path / f"{length}", events[:length])
        assert verify(directory) == [], f"after {length} events"


def test_a_changed_byte(tmp_path):
    data = bytearray((finished().directory / "ledger.jsonl").read_bytes())
    data[len(data) // 3] ^= 1
    (tmp_path / "ledger.jsonl").write_bytes(data)
    (problem,) = verify(tmp_path)
    assert problem.code == "E502"


def test_damaged_items(tmp_path):
    shutil.copytree(finished().directory, tmp_path / "run")
    path = tmp_path / "run" / "items" / "pets.bin"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    problems = verify(tmp_path / "run")
    assert {problem.code for problem in problems} == {"E502"}
    assert "pets.bin" in _text(problems)
    path.unlink()
    assert {problem.code for problem in verify(tmp_path / "run")} == {"E502"}


def _score(event):
    event["metrics"]["pets.acc"]["value"] += 0.05


def _stderr(event):
    event["metrics"]["pets.acc"]["stderr"] += 0.01


def _count(event):
    event["metrics"]["pets.acc"]["items"] -= 1


@pytest.mark.parametrize("change", [_score, _stderr, _count])
def test_a_metric_that_is_not_the_mean_of_its_items(change, events, tmp_path):
    change(_first(events, "evaluated", id="c00005"))
    text = _text(verify(_written(tmp_path / "run", events)))
    assert "E510" in text
    assert "c00005: pets.acc is not the mean of its items" in text


def test_a_changed_score_is_told_otherwise(events, tmp_path):
    """Where no items are kept, the replay still finds it."""
    for event in events:
        if event["event"] == "evaluated":
            event["items"] = {}
    _score(_first(events, "evaluated", id="c00005"))
    text = _text(verify(_written(tmp_path / "run", events)))
    assert "E505" in text
    assert "the optimizer's state is another" in text


def test_a_result_nobody_asked_for(events, tmp_path):
    event = copy.deepcopy(_first(events, "evaluated", id="c00005"))
    event |= {"id": "c09999", "key": "0" * 64}
    text = _text(verify(_written(tmp_path / "run", [*events, event])))
    assert "a result for `c09999`, which nobody asked for" in text


def test_a_parent_that_was_asked_later(events, tmp_path):
    later = next(c for e in events if e["event"] == "asked" for c in e["candidates"] if c["origin"])
    later["origin"] = {"how": "mutated", "parents": ["c00012"]}
    text = _text(verify(_written(tmp_path / "run", events)))
    assert "`c00000` descends from `c00012`, asked later" in text


def test_two_results_for_one_key(events, tmp_path):
    event = copy.deepcopy(_first(events, "evaluated", id="c00005"))
    text = _text(verify(_written(tmp_path / "run", [*events, event])))
    assert "`c00005` is scored twice on search items" in text
    assert "one evaluation key has two results" in text


def test_a_repeat_with_other_scores(events, tmp_path):
    repeats = [event for event in events if event.get("same_as")]
    assert repeats
    repeats[0]["metrics"]["pets.acc"]["value"] += 0.05
    text = _text(verify(_written(tmp_path / "run", events)))
    assert "repeats scores that" in text


def test_a_shared_key(events, tmp_path):
    _first(events, "evaluated", id="c00006")["key"] = _first(events, "evaluated", id="base")["key"]
    text = _text(verify(_written(tmp_path / "run", events)))
    assert "two recipes or splits share an evaluation key" in text


def test_a_key_of_something_else(events, tmp_path):
    for event in events:
        if event.get("id") == "c00006":
            event["key"] = "0" * 64
    text = _text(verify(_written(tmp_path / "run", events)))
    assert "c00006: an evaluation key is not that of what was evaluated" in text
    assert "two recipes" not in text


def _failure(event, **fields):
    kept = {name: event[name] for name in ("id", "recipe", "split", "key", "time", "elapsed")}
    return kept | {"event": "failed", "failure": "error", "message": "boom"} | fields


def test_failures_that_contradict_results(events, tmp_path):
    scored = _first(events, "evaluated", id="c00005", split="search")
    again = _failure(scored, elapsed=events[-1]["elapsed"])
    text = _text(verify(_written(tmp_path / "run", [*events, again])))
    assert "`c00005` failed, but its evaluation key has scores" in text
    at = events.index(scored)
    text = _text(verify(_written(tmp_path / "run2", [*events[:at], _failure(scored), *events[at:]])))
    assert "`c00005` is scored after it failed" in text
    text = _text(verify(_written(tmp_path / "run3", [*events[:at], *2 * [_failure(scored)]])))
    assert "`c00005` failed twice on search items" in text
    other = _failure(scored, recipe="0" * 64)
    text = _text(verify(_written(tmp_path / "run4", [*events[:at], other])))
    assert "`c00005` failed as another recipe than was asked" in text


def test_failures_shared_without_ground(events, tmp_path):
    scored = _first(events, "evaluated", id="c00005", split="search")
    start = events[: events.index(scored)]
    owner, sharer = _failure(scored), _failure(scored, id="c00004", same_as="c00005")
    assert "shares" not in _text(verify(_written(tmp_path / "sound", [*start, owner, sharer])))
    for number, wrong in enumerate([
        [sharer],
        [owner, sharer | {"same_as": "c00003"}],
        [owner, sharer | {"message": "another"}],
    ]):  # fmt: skip
        text = _text(verify(_written(tmp_path / f"run{number}", [*start, *wrong])))
        assert f"`c00004` shares a failure that `{wrong[-1]['same_as']}` has not" in text
    twice = [owner, _failure(scored, id="c00004")]
    text = _text(verify(_written(tmp_path / "twice", [*start, *twice])))
    assert "one evaluation key failed twice; c00005, c00004" in text


def test_a_running_time_that_goes_back(events, tmp_path):
    events[-1]["elapsed"] = 0.0
    assert "the running time goes back" in _text(verify(_written(tmp_path / "run", events)))


def test_another_genome(events, tmp_path):
    entry = _first(events, "asked", generation=1)["candidates"][0]
    entry["genome"][0] = 0.123
    text = _text(verify(_written(tmp_path / "run", events)))
    assert f"{entry['id']}: the recipe is not that of the genome" in text
    assert "generation 1 is asked otherwise" in text


def test_a_genome_off_its_grid(events, tmp_path):
    _first(events, "asked", generation=1)["candidates"][0]["genome"][0] = 0.12345
    assert "a genome cannot be decoded" in _text(verify(_written(tmp_path / "run", events)))


def test_another_recipe(events, tmp_path):
    _first(events, "evaluated", id="math", split="search")["recipe"] = "0" * 64
    text = _text(verify(_written(tmp_path / "run", events)))
    assert "math: the recipe is not that of the genome" in text


def test_another_optimizer_state(events, tmp_path):
    _first(events, "told", generation=0)["state"] = "0" * 64
    (problem,) = verify(_written(tmp_path / "run", events))
    assert problem.code == "E505"
    assert "the optimizer's state is another after generation 0" in str(problem)
    assert "pymoo" in str(problem)


def test_another_seed(events, tmp_path):
    events[0]["config"]["seed"] += 1
    text = _text(verify(_written(tmp_path / "run", events)))
    assert "the campaign's identity is not that of its configuration" in text
    assert "E505" in text


@pytest.mark.parametrize("name", ["ideal", "nadir", "single"])
def test_other_baselines(name, events, tmp_path):
    event = _first(events, "baselines")
    event[name] = "single-0.7" if name == "single" else [value - 0.01 for value in event[name]]
    text = _text(verify(_written(tmp_path / "run", events)))
    assert f"`{name}` does not follow from the baselines' scores" in text


def test_events_out_of_turn(events, tmp_path):
    told = next(i for i, event in enumerate(events) if event["event"] == "told")
    later = next(i for i, event in enumerate(events) if event["event"] == "told" and i > told)
    text = _text(verify(_written(tmp_path / "run", events[:told] + events[told + 1 : later + 1])))
    assert "a generation is asked out of turn" in text
    assert "a generation is told out of turn" in text
    text = _text(verify(_written(tmp_path / "run2", events[1:])))
    assert "a ledger begins with its `campaign` event" in text
    text = _text(verify(_written(tmp_path / "run3", [*events, events[1]])))
    assert "`prepared` stands twice" in text


def test_the_selection_names_known_candidates(events, tmp_path):
    _first(events, "selection")["ids"].append("c09999")
    _first(events, "selection")["made_for"] = "c09998"
    text = _text(verify(_written(tmp_path / "run", events)))
    assert "`c09999` is re-scored, but nobody asked for it" in text
    assert "`c09998` was made for a preference, but nobody asked for it" in text


def test_the_front_is_compared(monkeypatch):
    from evomerge.cli.verify import invariants as module

    def shorter(history, store):
        front = finished().front
        return dataclasses.replace(front, members=front.members[1:])

    monkeypatch.setattr(module, "compute_front", shorter)
    text = _text(verify(finished().directory))
    assert "the front is not what comparing every pair gives" in text
    assert finished().front.members[0].id in text


def test_the_budget_is_counted(monkeypatch):
    def miscounted(events):
        history = fold(events)
        history.budget_used -= 1
        return history

    fold = History.fold
    monkeypatch.setattr(History, "fold", staticmethod(miscounted))
    text = _text(verify(finished().directory))
    assert "the budget used comes out differently; 18 by events, 17 by candidates" in text


def test_exports(tmp_path):
    ignored = shutil.ignore_patterns("exports.jsonl*")
    shutil.copytree(finished().directory, tmp_path / "run", ignore=ignored)
    export_candidate(tmp_path / "run", "knee", tmp_path / "knee", rescore=False)
    export_candidate(tmp_path / "run", "knee", tmp_path / "knee", rescore=False, overwrite=True)
    found = examine(tmp_path / "run")
    assert found.problems == []
    assert found.checked["exports with the files of their manifest"] == 1
    (tmp_path / "knee" / "config.json").write_text("{}")
    assert "an export was changed; knee/config.json: changed" in _text(verify(tmp_path / "run"))
    shutil.rmtree(tmp_path / "knee")
    assert verify(tmp_path / "run") == []
    with RecordFile.open(tmp_path / "run" / "exports.jsonl", create=False) as log:
        event = ExportEvent(id="c09999", recipe="0" * 64, out="x", bytes=0, scores={})
        log.append(event.to_json())
    assert "an export of a recipe the campaign does not have" in _text(verify(tmp_path / "run"))
    data = bytearray((tmp_path / "run" / "exports.jsonl").read_bytes())
    data[20] ^= 1
    (tmp_path / "run" / "exports.jsonl").write_bytes(data)
    assert "E502" in _text(verify(tmp_path / "run"))
