"""Result events: what the ledger is told of a job that has ended, and of equal merges that share its end.

Plain functions from results and history to event data; writing them down is the dispatcher's part.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evomerge.ledger.history import Evaluation, History
from evomerge.objectives.scores import Split
from evomerge.recipe.recipe import Recipe
from evomerge.run.job import JobResult

MOST_MESSAGE = 2000
"""Characters of a message that are kept."""


def scored_event(
    name: str, recipe: Recipe, split: Split, key: str, result: JobResult, items: Mapping[str, Any]
) -> dict[str, Any]:
    """`evaluated`, or `raced` for a candidate given up on the way.

    Args:
        name: id of the candidate.
        recipe: its recipe.
        split: whose items were scored.
        key: evaluation key of the items it has answered.
        result: of status `ok` or `raced`.
        items: by evaluator, where its per-item results are stored.
    """
    event: dict[str, Any] = {"event": "evaluated", "key": key}
    if result.status == "raced":
        seen = dict(result.data["seen"])
        event = {"event": "raced", "key": key, "beaten_by": result.data["beaten_by"], "seen": seen}
    return event | {
        "id": name,
        "recipe": recipe.digest,
        "split": split,
        "metrics": dict(result.data["metrics"]),
        "items": dict(items),
        "statistics": dict(result.data.get("statistics", {})),
        "seconds": {phase: round(s, 4) for phase, s in result.seconds.items()},
    }


def failed_event(
    name: str, recipe: Recipe, split: Split, key: str, result: JobResult
) -> dict[str, Any]:
    """`failed`: no scores, for good."""
    return {"event": "failed", "key": key, **_unscored(name, recipe, split, result)}


def lost_event(name: str, recipe: Recipe, split: Split, result: JobResult) -> dict[str, Any]:
    """`lost`: an attempt that ended with its worker."""
    return {"event": "lost", **_unscored(name, recipe, split, result)}


def _unscored(name: str, recipe: Recipe, split: Split, result: JobResult) -> dict[str, Any]:
    return {
        "id": name,
        "recipe": recipe.digest,
        "split": split,
        "failure": result.failure,
        "message": result.message[:MOST_MESSAGE],
    }


def same_scores(history: History, name: str, recipe: Recipe, key: str) -> dict[str, Any]:
    """The same merge under another id: its scores are those of the first."""
    owner, first = history.by_key[key]
    same = {"event": "evaluated", "id": name, "recipe": recipe.digest, "same_as": owner}
    return same | _measured(first)


def same_race(history: History, name: str, recipe: Recipe) -> dict[str, Any]:
    """The same merge under another id, which is as beaten as the first."""
    owner = history.candidates[history.raced_as[recipe.digest]]
    assert owner.raced is not None
    return {
        "event": "raced",
        "id": name,
        "recipe": recipe.digest,
        "beaten_by": owner.beaten_by,
        "seen": dict(owner.seen),
        "same_as": owner.id,
        **_measured(owner.raced),
    }


def same_failure(history: History, name: str, recipe: Recipe, key: str) -> dict[str, Any]:
    """The same merge under another id: it failed as the first did."""
    first = history.failed_by_key[key]
    same = {field: first[field] for field in ("event", "split", "key", "failure", "message")}
    return {**same, "id": name, "recipe": recipe.digest, "same_as": first["id"]}


def _measured(evaluation: Evaluation) -> dict[str, Any]:
    """The part of an event that says what was measured."""
    return {
        "split": evaluation.split,
        "key": evaluation.key,
        "metrics": {metric: m.to_json() for metric, m in evaluation.metrics.items()},
        "items": dict(evaluation.items),
        "statistics": dict(evaluation.statistics),
    }
