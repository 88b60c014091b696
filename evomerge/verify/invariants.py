"""Verify: recompute every invariant of a campaign folder from what it holds.

Nothing is taken from the driver's bookkeeping: counts, dominance and keys are worked out again by plainer
means, so that a fault in the code that wrote a folder shows as well as a damaged file. No model is loaded.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evomerge.campaign.campaign import campaign_from_json, identity_digest
from evomerge.campaign.prepared import generation_of
from evomerge.errors import LedgerDamaged, Problem
from evomerge.front.compute import compute_front
from evomerge.ledger.events import (
    AskedEvent,
    BaselinesEvent,
    CampaignEvent,
    EvaluatedEvent,
    Event,
    FailedEvent,
    GrantedEvent,
    PreparedEvent,
    RacedEvent,
    RefineEvent,
    ResultEvent,
    ScoredEvent,
    SelectionEvent,
    StoppedEvent,
    ToldEvent,
)
from evomerge.ledger.history import ITEMS_FOLDER, LEDGER_FILE, History
from evomerge.ledger.item_store import ItemStore
from evomerge.ledger.ledger import read_events
from evomerge.objectives.scores import apart, mean_metric
from evomerge.optimizers.baselines import UNIFORM, freeze
from evomerge.verify.exports import check_exports
from evomerge.verify.races import check_races
from evomerge.verify.replay import check_recipes
from evomerge.verify.report import Verification

__all__ = ["Verification", "examine", "verify"]

Events = Sequence[Event]

CLOSE = 1e-9
"""Relative tolerance for means: lm-eval sums in another order than NumPy."""


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
    if not _check_order(events, result):
        return result
    history = History.fold(events)
    _check_clock(events, result)
    _check_results(events, history, result)
    _check_failures(events, history, result)
    _check_keys(events, history.config, result)
    store = ItemStore(directory / ITEMS_FOLDER)
    _check_items(events, store, result)
    check_races(events, history, store, result)
    if history.prepared is not None:
        check_recipes(history, store, result)
    _check_baselines(history, result)
    _check_budget(events, history, result)
    _check_front(directory, history, result)
    check_exports(directory, history, result)
    return result


def _check_order(events: Events, result: Verification) -> bool:
    """Events stand in an order a driver writes; False if not, since all else builds on it."""
    first = events[0] if events else None
    if not isinstance(first, CampaignEvent):
        result.fault("a ledger begins with its `campaign` event")
        return False
    config = first.config
    if first.identity != identity_digest(config):
        result.fault("the campaign's identity is not that of its configuration", where="identity")
    before = len(result.problems)
    known = {"base", UNIFORM, *config["experts"]}
    known |= {f"single-{c:g}" for c in config["baselines"]["single"]}
    seen: set[type[Event]] = set()
    steady = config["optimizer"]["schedule"] == "steady_state"
    asked = refinements = 0
    waiting: int | None = None  # the generation that was asked and not told
    untold: set[str] = set()
    for event in events[1:]:
        where = f"event {event.n}"
        if isinstance(event, CampaignEvent | PreparedEvent | BaselinesEvent) and type(event) in seen:
            result.fault(f"`{event.kind}` stands twice", where=where)
        early = isinstance(event, PreparedEvent | GrantedEvent | StoppedEvent)
        if not early and PreparedEvent not in seen:
            result.fault(f"`{event.kind}` stands before `prepared`", where=where)
        match event:
            case AskedEvent():
                refined = event.refinement is not None
                turn = event.generation == asked and (waiting is None or steady or refined)
                if not turn or BaselinesEvent not in seen:
                    result.fault("a generation is asked out of turn", f"{event.generation}", where)
                if event.refinement is not None and event.refinement != refinements - 1:
                    found = f"{event.refinement}"
                    result.fault("a refinement asks that is not under way", found, where)
                waiting = event.generation if waiting is None and not refined else waiting
                asked += 1
                names = [candidate.id for candidate in event.candidates]
                for name in names:
                    if name in known or names.count(name) > 1:
                        result.fault(f"`{name}` is asked twice", where=where)
                known |= set(names)
                untold |= set(names)
            case RefineEvent():
                refinements += 1
            case ToldEvent() if steady or event.id is not None:
                if event.id not in untold:
                    result.fault(f"`{event.id}` is told out of turn", where=where)
                untold.discard(str(event.id))
            case ToldEvent():
                if event.generation != waiting or waiting is None:
                    result.fault("a generation is told out of turn", f"{event.generation}", where)
                waiting = None
            case ResultEvent() if event.id not in known:
                result.fault(f"a result for `{event.id}`, which nobody asked for", where=where)
            case SelectionEvent():
                for name in event.ids:
                    if name not in known:
                        result.fault(f"`{name}` is re-scored, but nobody asked for it", where=where)
        seen.add(type(event))
    result.count("asks in turn" if steady else "generations in turn", asked)
    return len(result.problems) == before


def _check_clock(events: Events, result: Verification) -> None:
    """The running time never goes back, whatever the machine's clock did."""
    elapsed = 0.0
    for event in events:
        now = elapsed if event.elapsed is None else event.elapsed
        if now < elapsed:
            result.fault("the running time goes back", f"{now} after {elapsed} s", f"event {event.n}")
        elapsed = now


def _check_results(events: Events, history: History, result: Verification) -> None:
    """One accepted result per evaluation key; a repeat names its owner and has its scores."""
    owners: dict[str, ScoredEvent] = {}
    keys: dict[tuple[str, str], str] = {}
    scored: set[tuple[str, str]] = set()
    for event in (event for event in events if isinstance(event, ScoredEvent)):
        where = f"event {event.n}"
        if (event.id, event.split) in scored:
            result.fault(f"`{event.id}` is scored twice on {event.split} items", where=where)
        scored.add((event.id, event.split))
        if history.candidates[event.id].recipe != event.recipe:
            result.fault(f"`{event.id}` is scored as another recipe than was asked", where=where)
        if keys.setdefault((event.recipe, event.split), event.key) != event.key:
            result.fault("one recipe has two evaluation keys on one split", event.id, where)
        owner = owners.get(event.key)
        if event.same_as is None:
            if owner is not None:
                found = f"{owner.id}, {event.id}"
                result.fault("one evaluation key has two results", found, where)
            owners[event.key] = event
        elif owner is None or owner.id != event.same_as or owner.metrics != event.metrics:
            result.fault(f"`{event.id}` repeats scores that `{event.same_as}` has not", where=where)
    if len({*keys.values()}) != len(keys):
        result.fault("two recipes or splits share an evaluation key")
    result.count("evaluations, one result for each key", len(owners))
    for candidate in history.candidates.values():
        metrics = [m for e in candidate.evaluations.values() for m in e.metrics.values()]
        finite = all(math.isfinite(m.value) and math.isfinite(m.smooth or 0.0) for m in metrics)
        if not finite or any(not m.stderr >= 0 or m.items < 1 for m in metrics):
            result.fault("a score is not finite, or was measured on nothing", where=candidate.id)


def _check_failures(events: Events, history: History, result: Verification) -> None:
    """A key fails for one candidate, which others name; nothing is both scored and failed.

    A baseline that failed is tried again by the next session, and may then have scores.
    """
    owners: dict[str, FailedEvent] = {}
    scored: dict[tuple[str, str], str] = {}
    scored_keys: set[str] = set()
    failed: set[tuple[str, str]] = set()
    for event in events:
        where = f"event {event.n}"
        if isinstance(event, EvaluatedEvent):
            scored[event.id, event.split] = event.key
            scored_keys.add(event.key)
            again = history.candidates[event.id].is_baseline
            if (event.id, event.split) in failed and not again:
                result.fault(f"`{event.id}` is scored after it failed", where=where)
        if not isinstance(event, FailedEvent):
            continue
        name, place = event.id, (event.id, event.split)
        if history.candidates[name].recipe != event.recipe:
            result.fault(f"`{name}` failed as another recipe than was asked", where=where)
        if place in scored or event.key in scored_keys:
            result.fault(f"`{name}` failed, but its evaluation key has scores", where=where)
        if place in failed and not history.candidates[name].is_baseline:
            result.fault(f"`{name}` failed twice on {event.split} items", where=where)
        failed.add(place)
        owner = owners.get(event.key)
        if event.same_as is None:
            if owner is not None and owner.id != name:
                result.fault("one evaluation key failed twice", f"{owner.id}, {name}", where)
            owners[event.key] = event
        elif (
            owner is None
            or owner.id != event.same_as
            or (owner.failure, owner.message) != (event.failure, event.message)
        ):
            result.fault(f"`{name}` shares a failure that `{event.same_as}` has not", where=where)
    result.count("failures, one for each key", len(owners))


def _check_keys(events: Events, config: Mapping[str, Any], result: Verification) -> None:
    """Evaluation keys follow from recipe, split, evaluators, dtype and batch size."""
    prepared = next((event for event in events if isinstance(event, PreparedEvent)), None)
    if prepared is None:
        return
    settings = config["evaluation"]
    digests = {name: each.digest for name, each in prepared.evaluators.items()}
    engine = generation_of(settings.get("generation", "padded"), prepared)
    for event in events:
        if not isinstance(event, ScoredEvent | FailedEvent):
            continue
        parts = {
            "recipe": event.recipe,
            "evaluators": digests,
            "split": event.split,
            "blocks": event.seen if isinstance(event, RacedEvent) else "all",
            "dtype": settings["dtype"],
            "batch_size": settings["batch_size"],
        }
        if engine != "padded":
            parts["generation"] = engine
        text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
        if hashlib.sha256(text.encode()).hexdigest() != event.key:
            where = f"event {event.n}, {event.id}"
            result.fault("an evaluation key is not that of what was evaluated", event.key, where)
        result.count("evaluation keys worked out again", 1)


def _check_items(events: Events, store: ItemStore, result: Verification) -> None:
    """Per-item results are there, unchanged, and their means are the recorded metrics."""
    means = smooth_means = 0
    records: dict[tuple[str, int], dict[str, np.ndarray]] = {}
    for event in (event for event in events if isinstance(event, ScoredEvent)):
        where = f"event {event.n}, {event.id}"
        for reference in event.items.values():
            place = (reference.segment, reference.offset)
            if place not in records:
                try:
                    records[place] = store.read(reference)
                except LedgerDamaged as error:
                    result.problems += error.problems
                    records[place] = {}
            results, smooth = apart(records[place])
            for metric, values in results.items():
                means += 1
                recorded, found = event.metrics.get(metric), mean_metric(values)
                if recorded is None:
                    result.fault(f"items of {metric}, which has no score", where=where)
                elif recorded.items != found.items or not (
                    _close(recorded.value, found.value) and _close(recorded.stderr, found.stderr)
                ):
                    text = f"recorded {recorded.value}, its items give {found.value}"
                    result.fault(f"{metric} is not the mean of its items", text, where)
            for metric, values in smooth.items():
                smooth_means += 1
                recorded, mean = event.metrics.get(metric), float(np.mean(values))
                if recorded is None or recorded.smooth is None:
                    result.fault(f"smooth values of {metric}, which has no mean of them", where=where)
                elif recorded.items != len(values) or not _close(recorded.smooth, mean):
                    text = f"recorded {recorded.smooth}, its items give {mean}"
                    result.fault(
                        f"the smooth value of {metric} is not the mean of its items", text, where
                    )
    result.count("item records with sound digests", sum(1 for record in records.values() if record))
    result.count("metrics equal to the mean of their items", means)
    if smooth_means:
        result.count("smooth values equal to the mean of their items", smooth_means)


def _close(recorded: float, found: float) -> bool:
    return math.isclose(recorded, found, rel_tol=CLOSE, abs_tol=CLOSE)


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
    expected = freeze(campaign.objectives, metrics, campaign.experts, campaign.constraints)
    for name in ("ideal", "nadir", "single", "shown", "bounds"):
        value = getattr(expected, name)
        if getattr(history.baselines, name) != value:
            result.fault(f"`{name}` does not follow from the baselines' scores", f"found {value}")
    result.count("baselines behind ideal and nadir", len(metrics))


def _check_budget(events: Events, history: History, result: Verification) -> None:
    """Count accepted search results again, event by event."""
    searched = {
        candidate.id
        for event in events
        if isinstance(event, AskedEvent)
        for candidate in event.candidates
    }
    settled = {
        event.id
        for event in events
        if isinstance(event, ScoredEvent | FailedEvent)
        and event.split == "search"
        and event.same_as is None
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
    bounds = history.bounds(front.split)
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
