"""Verify: recompute every invariant of a campaign folder from what it holds.

Nothing is taken from the driver's bookkeeping: counts, dominance and keys are worked out again by plainer
means, so that a fault in the code that wrote a folder shows as well as a damaged file. No model is loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from evomerge.campaign.campaign import campaign_from_json
from evomerge.cli.verify.exports import check_exports
from evomerge.cli.verify.order import check_clock, check_order
from evomerge.cli.verify.races import check_races
from evomerge.cli.verify.replay import check_recipes
from evomerge.cli.verify.report import Verification
from evomerge.cli.verify.results import check_failures, check_items, check_keys, check_results
from evomerge.errors import LedgerDamaged, Problem
from evomerge.front.compute import compute_front
from evomerge.ledger.bounds import bounds_of
from evomerge.ledger.events import (
    AskedEvent,
    EvaluatedEvent,
    Event,
    FailedEvent,
    ScoredEvent,
    StartsEvent,
)
from evomerge.ledger.history import ITEMS_FOLDER, LEDGER_FILE, History
from evomerge.ledger.item_store import ItemStore
from evomerge.ledger.ledger import read_events
from evomerge.optimizers.baselines import freeze, soups_in

__all__ = ["Verification", "examine", "verify"]


def verify(directory: Path) -> list[Problem]:
    """Every invariant of a campaign folder that does not hold; see `examine`."""
    return examine(directory).problems


def examine(directory: Path) -> Verification:
    """Check a campaign folder; works while a run goes on.

    Problems: E502 and E503 a damaged ledger or item store, E505 an optimizer that does not ask again what
    the ledger says, E510 anything else that contradicts itself.

    Raises:
        FileNotFoundError: if there is no ledger.
    """
    result = Verification(file=str(directory / LEDGER_FILE))
    try:
        events = read_events(directory / LEDGER_FILE)
    except LedgerDamaged as error:
        result.problems += error.problems
        return result
    result.count("ledger events with sound checksums", len(events))
    if not check_order(events, result):
        return result
    history = History.fold(events)
    check_clock(events, result)
    check_results(events, history, result)
    check_failures(events, history, result)
    check_keys(events, history.config, result)
    store = ItemStore(directory / ITEMS_FOLDER)
    check_items(events, store, result)
    check_races(events, history, store, result)
    if history.prepared is not None:
        check_recipes(history, store, result)
    _check_baselines(history, result)
    _check_budget(events, history, result)
    _check_front(directory, history, result)
    check_exports(directory, history, result)
    return result


def _check_baselines(history: History, result: Verification) -> None:
    """Ideal, nadir and best single coefficient follow from the baselines' scores."""
    if history.baselines is None:
        return
    campaign = campaign_from_json(history.config)
    metrics = {
        candidate.id: candidate.evaluations["search"].metrics
        for candidate in history.candidates.values()
        if candidate.is_baseline and "search" in candidate.evaluations
    }
    missing = [name for name in ("base", *campaign.experts) if name not in metrics]
    if missing:
        result.fault("the baselines are frozen, but one has no scores", ", ".join(missing))
        return
    # An average that failed was passed over for others.
    failed = [name for name in soups_in(history.candidates) if name not in metrics]
    expected = freeze(campaign.objectives, metrics, campaign.experts, campaign.constraints, failed)
    for name in ("ideal", "nadir", "single", "shown", "bounds"):
        value = getattr(expected, name)
        if getattr(history.baselines, name) != value:
            result.fault(f"`{name}` does not follow from the baselines' scores", f"found {value}")
    result.count("baselines behind ideal and nadir", len(metrics))


def _check_budget(events: Sequence[Event], history: History, result: Verification) -> None:
    """Count accepted search results again, event by event."""
    searched = {
        candidate.id
        for event in events
        if isinstance(event, AskedEvent)
        for candidate in event.candidates
    }
    free = {genome for event in events if isinstance(event, StartsEvent) for genome in event.free}
    may_be_free = {
        candidate.id
        for event in events
        if free and isinstance(event, AskedEvent)
        for candidate in event.candidates
        if candidate.genome in free
    }
    settled = {
        event.id
        for event in events
        if isinstance(event, ScoredEvent | FailedEvent)
        and event.split == "search"
        and event.same_as is None
        and not (event.id in may_be_free and isinstance(event, EvaluatedEvent) and event.shared)
    }
    if len(searched & settled) != history.budget_used:
        found = f"{len(searched & settled)} by events, {history.budget_used} by candidates"
        result.fault("the budget used comes out differently", found)
    result.count("results counted against the budget", len(searched & settled))


def _check_front(directory: Path, history: History, result: Verification) -> None:
    """The front, by comparing every pair of models that keep the constraints."""
    if history.baselines is None:
        return
    beside = [history.candidates.get(name) for name in history.reference_ids()]
    if any(each is None or "search" not in each.evaluations for each in beside):
        return  # noted with the baselines
    try:
        front = compute_front(history, ItemStore(directory / ITEMS_FOLDER))
    except LedgerDamaged:
        return  # noted with the items
    rows: dict[str, tuple[float, ...]] = {}
    keys: set[str] = set()
    bounds = bounds_of(history, front.split)
    # An earlier, smaller budget may have chosen others; the last selection is what counts.
    chosen = history.selection if front.split == "selection" else None
    for candidate in history.candidates.values():
        evaluation = candidate.evaluations.get(front.split)
        if chosen is not None and candidate.id not in chosen:
            continue
        if candidate.is_baseline or "search" not in candidate.evaluations or evaluation is None:
            continue
        kept = all(
            (b.value - evaluation.metrics[b.metric].value) * (1 if b.relation == "<=" else -1) >= 0
            for b in bounds
        )
        if evaluation.key not in keys and kept:
            keys.add(evaluation.key)
            rows[candidate.id] = tuple(
                o.sign * evaluation.metrics[o.metric].value for o in front.objectives
            )
    expected = {
        name
        for name, row in rows.items()
        if not any(
            all(a <= b for a, b in zip(other, row, strict=True)) and other != row
            for other in rows.values()
        )
    }
    found = {member.id for member in front.members}
    if found != expected:
        different = ", ".join(sorted(found ^ expected))
        result.fault("the front is not what comparing every pair gives", different)
    result.count(f"models compared pair by pair on {front.split} items", len(rows))
