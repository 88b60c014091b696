"""Events there and back through JSON, and a ledger that every later version must read."""

from __future__ import annotations

import json
import shutil
from dataclasses import fields, replace
from pathlib import Path

import pytest

from evomerge.cli.verify.invariants import verify
from evomerge.errors import LedgerDamaged
from evomerge.evaluators import load_declaration
from evomerge.ledger.events import EVENTS, PreparedEvent, event_from_json
from evomerge.ledger.history import History
from evomerge.ledger.item_store import ItemReference
from evomerge.ledger.ledger import Ledger, read_events
from evomerge.ledger.records import RecordFile, read_records
from evomerge.objectives.origin import Origin
from evomerge.objectives.scores import Metric
from tests.hand_made import asked, begin, failed, scored
from tests.tiny_runs import front_text

GOLDEN = Path(__file__).parent / "golden"
"""The quickstart with a budget of 24, as evomerge 0.1.0 of November 2026 wrote it."""


@pytest.mark.parametrize("number", range(8))
def test_what_is_read_is_what_was_written(number, tmp_path):
    events = [*begin(), asked(0, "c00000"), failed("c00000"), scored("c00000", {"a.acc": [1.0]})]
    text = json.dumps(events[number].to_json())
    assert event_from_json(json.loads(text)) == events[number]


def test_an_origin_is_read_as_it_was_written_and_may_be_missing():
    origin = Origin(how="chart", preference=(0.25, 0.75), scale=1.1, tilt=-0.1)
    event = asked(0, "c00000")
    (candidate,) = event.candidates
    told = replace(event, candidates=(replace(candidate, origin=origin),))
    data = json.loads(json.dumps(told.to_json()))
    assert event_from_json(data) == told
    assert History.fold([*begin(), event_from_json(data)]).candidates["c00000"].origin == origin
    del data["candidates"][0]["origin"]
    assert event_from_json(data) == event


def test_the_ledger_gives_an_event_its_number(tmp_path):
    with Ledger.open(tmp_path / "ledger", create=True) as ledger:
        written = [ledger.append(event) for event in begin()]
        assert written == read_events(tmp_path / "ledger")
        assert ledger.events == []
        assert [event.n for event in written] == list(range(5))
        with pytest.raises(ValueError, match="the ledger sets n itself"):
            ledger.append(written[1])


@pytest.mark.parametrize(
    ("record", "wrong"),
    [
        ({"event": "evaluate"}, "unknown event `evaluate`"),
        ({}, "unknown event `None`"),
        ({"event": "told"}, "`told`: state: Field required"),
        ({"event": "selection", "ids": 3}, "`selection`: ids: Input should be a valid tuple"),
        (
            {"event": "failed", "id": "c0", "recipe": "r", "split": "exam"},
            "split: Input should be 'search'",
        ),
    ],
)
def test_a_record_that_is_no_event_is_named(record, wrong, tmp_path):
    path = tmp_path / "ledger.jsonl"
    with RecordFile.open(path, create=True) as file:
        file.append(begin()[0].to_json())
        file.append(record)
    with pytest.raises(LedgerDamaged, match=rf"E502.*record that is no event.*record 1.*{wrong}"):
        read_events(path)
    with pytest.raises(LedgerDamaged, match="E502"):
        Ledger.open(path, create=False)
    with RecordFile.open(path, create=False):
        pass  # the lock was let go


def test_the_golden_ledger_has_every_field_that_was_written():
    """What is read says what the file says: nothing is dropped but what is null."""
    for record in read_records(GOLDEN / "ledger.jsonl"):
        told = event_from_json(record).to_json()
        for name, value in record.items():
            if value not in (None, [], {}):
                assert _without_nulls(told[name]) == _without_nulls(value), name
        kind = EVENTS[record["event"]]
        known = {each.name for each in fields(kind)} | {"event"}
        # `problems` was always empty: a prepare job that finds any ends the run.
        assert set(record) - known <= {"problems"}


def test_the_golden_ledger_folds_and_verifies(tmp_path):
    history = History.fold(read_events(GOLDEN / "ledger.jsonl"))
    assert history.config["name"] == "quickstart"
    assert history.budget_used == 24
    assert isinstance(history.prepared, PreparedEvent)
    assert history.prepared.evaluators["math"].items["search"] == 300
    candidate = history.candidates["c00000"]
    assert candidate.genome is not None
    assert isinstance(candidate.evaluations["search"].items["math"], ItemReference)
    assert isinstance(candidate.evaluations["search"].metrics["math.acc"], Metric)
    shutil.copytree(GOLDEN, tmp_path / "run")
    assert verify(tmp_path / "run") == []
    assert front_text(tmp_path / "run") == (GOLDEN / "front.json").read_text()


def test_evaluators_still_have_the_digests_of_the_golden_ledger():
    """Otherwise a campaign from then could not be gone on with."""
    prepared = History.fold(read_events(GOLDEN / "ledger.jsonl")).prepared
    folder = Path(__file__).parents[2] / "evaluators" / "quickstart"
    found = {path.stem: load_declaration(path).digest() for path in folder.glob("*.yaml")}
    assert found == {name: each.digest for name, each in prepared.evaluators.items()}


def test_the_golden_ledger_holds_the_kinds_a_campaign_has():
    events = read_events(GOLDEN / "ledger.jsonl")
    assert {event.kind for event in events} == set(EVENTS) - {
        "granted", "raced", "failed", "starts", "slope", "refine",
    }  # fmt: skip


def _without_nulls(value):
    if isinstance(value, dict):
        return {k: _without_nulls(v) for k, v in value.items() if v is not None}
    return [_without_nulls(v) for v in value] if isinstance(value, list) else value
