"""Verify: scores and failures, their evaluation keys and their per-item results."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evomerge.campaign.prepared import generation_of
from evomerge.cli.verify.report import Verification
from evomerge.errors import LedgerDamaged
from evomerge.ledger.events import (
    EvaluatedEvent,
    Event,
    FailedEvent,
    PreparedEvent,
    RacedEvent,
    ScoredEvent,
)
from evomerge.ledger.history import History
from evomerge.ledger.item_store import ItemStore
from evomerge.objectives.scores import apart, mean_metric

CLOSE = 1e-9
"""Relative tolerance for means: lm-eval sums in another order than NumPy."""


def check_results(events: Sequence[Event], history: History, result: Verification) -> None:
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


def check_failures(events: Sequence[Event], history: History, result: Verification) -> None:
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


def check_keys(events: Sequence[Event], config: Mapping[str, Any], result: Verification) -> None:
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


def check_items(events: Sequence[Event], store: ItemStore, result: Verification) -> None:
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
