"""A whole campaign with constraints: bounds frozen, kept by the front, told in every look."""

from __future__ import annotations

from pathlib import Path

from evomerge.cli.verify.invariants import examine
from evomerge.ledger.bounds import feasible
from tests.cli.terminal import call
from tests.tiny_models import write_campaign
from tests.tiny_runs import events_of, run_file

TEXTS = ["birds.acc >= 0.6 x code", "pets.acc <= 0.99"]


def test_a_constrained_campaign(tmp_path: Path) -> None:
    file = write_campaign(
        tmp_path,
        constraints=TEXTS,
        optimizer={"population": 4, "schedule": "steady_state"},
        budget={"evaluations": 8},
        baselines={"single": [0.5]},
    )
    directory = tmp_path / "run"
    history = run_file(file, directory)
    code = history.candidates["code"].evaluations["search"].metrics["birds.acc"].value
    event = next(e for e in events_of(directory) if e["event"] == "baselines")
    assert event["bounds"] == [
        {"metric": "birds.acc", "relation": ">=", "value": 0.6 * code},
        {"metric": "pets.acc", "relation": "<=", "value": 0.99},
    ]
    # The expert for pets breaks the first constraint; it seeds the search, and cannot be on the front.
    kept = {c.id for c in feasible(history, history.searched())}
    rows = {c.id: c.evaluations["search"].metrics for c in history.searched()}
    assert kept == {
        name
        for name, metrics in rows.items()
        if metrics["birds.acc"].value >= 0.6 * code and metrics["pets.acc"].value <= 0.99
    }
    assert 0 < len(kept) < len(rows)
    assert set(history.selection or ()) <= kept
    assert examine(directory).problems == []

    front = call("front", directory, "--json").json
    found = {b["metric"]: b for b in front["constraints"]}
    held_out = history.candidates["code"].evaluations["selection"].metrics["birds.acc"].value
    assert found["birds.acc"]["value"] == 0.6 * held_out
    assert all(
        member["metrics"]["selection"]["birds.acc"]["value"] >= 0.6 * held_out
        for member in front["members"]
    )
    assert "all members keep birds.acc >= " in call("front", directory).out
    assert call("status", directory, "--json").json["feasible"] == [len(kept), len(rows)]
    assert f"{len(kept)} of {len(rows)} keep all constraints" in call("status", directory).out
    shown = call("show", directory, "math", "--json").json["constraints"]["search"]
    metrics = history.candidates["math"].evaluations["search"].metrics
    assert [entry["measured"] for entry in shown] == [
        metrics["birds.acc"].value,
        metrics["pets.acc"].value,
    ]
    assert [entry["kept"] for entry in shown] == [metrics["birds.acc"].value >= 0.6 * code, True]
    assert "search: keeps pets.acc <= 0.99" in call("show", directory, "math").out

    before = len(events_of(directory))
    run_file(file, directory)
    assert len(events_of(directory)) == before
