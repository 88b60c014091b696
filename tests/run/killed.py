"""Campaigns that learn and are killed: what two runs of one must have in common."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

from evomerge.ledger.events import AskedCandidate, AskedEvent
from evomerge.ledger.history import ITEMS_FOLDER
from evomerge.ledger.item_store import ItemReference, ItemStore
from evomerge.ledger.ledger import read_events
from tests.tiny_runs import events_of, forked, front_text, run_file


def slopes(directory: Path) -> list[dict[str, Any]]:
    return [event for event in events_of(directory) if event["event"] == "slope"]


def plain(event: dict[str, Any]) -> dict[str, Any]:
    """An event without what the clock and the place of a record say."""
    return {k: v for k, v in event.items() if k not in ("n", "time", "elapsed", "seconds", "gradient")}


def gradients(directory: Path) -> list[list[float]]:
    """As they are on record, in the order of the requests."""
    store = ItemStore(directory / ITEMS_FOLDER)
    places = [event["gradient"] for event in slopes(directory) if "gradient" in event]
    return [store.read(ItemReference(**place))["gradient"].tolist() for place in places]


def asked(directory: Path) -> list[AskedCandidate]:
    """Every candidate, its genome whole also where that lies beside the ledger."""
    events = read_events(directory / "ledger.jsonl")
    return [c for event in events if isinstance(event, AskedEvent) for c in event.candidates]


def told_states(directory: Path) -> list[str]:
    """Digests of the optimizer's state after each tell, in order."""
    return [event["state"] for event in events_of(directory) if event["event"] == "told"]


def come_to_the_same(directory: Path, undisturbed: Path) -> None:
    """Two runs have the same slopes, gradients, candidates, states and front."""
    assert list(map(plain, slopes(directory))) == list(map(plain, slopes(undisturbed)))
    assert gradients(directory) == gradients(undisturbed)
    found, expected = (
        [(each.id, each.genome, each.recipe, each.note, each.origin) for each in asked(run)]
        for run in (directory, undisturbed)
    )
    assert found == expected
    assert told_states(directory) == told_states(undisturbed) != []
    assert front_text(directory) == front_text(undisturbed)


def is_killed_and_comes_to_the_same(
    file: Path, directory: Path, undisturbed: Path, moment: str
) -> None:
    """Killed among its slopes, it goes on: slopes, gradients, states and front are those of another run."""
    assert forked(lambda: run_file(file, directory), moment) == -signal.SIGKILL
    assert 0 < len(slopes(directory)) < len(slopes(undisturbed))
    assert not told_states(directory)
    run_file(file, directory)
    come_to_the_same(directory, undisturbed)
