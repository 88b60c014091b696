"""Failed candidates and slopes for people: class, message and traceback, those alike together."""

from __future__ import annotations

from typing import Any

from evomerge.cli.output import table_console
from evomerge.ledger.candidate import Candidate
from evomerge.ledger.failed_slopes import failed_slopes, slope_name
from evomerge.ledger.history import History


def failed_candidates(history: History) -> list[Candidate]:
    """Candidates that have no scores for good, in ask order."""
    return [each for each in history.candidates.values() if each.failure is not None]


def failures_json(history: History) -> list[dict[str, Any]]:
    """Each failed candidate as plain JSON data."""
    return [
        {
            "id": each.id,
            "class": each.failure,
            "message": each.message,
            "traceback": each.traceback,
            "same_as": each.failed_as,
            "attempts_lost": each.attempts_lost,
        }
        for each in failed_candidates(history)
    ]


def slope_failures_json(history: History) -> list[dict[str, Any]]:
    """Each failed slope as plain JSON data."""
    return [
        {"id": slope_name(each.batch, each.number), "class": each.failure, "message": each.message}
        for each in failed_slopes(history)
    ]


def print_failures(history: History) -> None:
    """Failures by class and message with their candidates and the end of one traceback; then slopes."""
    console = table_console()
    alike: dict[tuple[str, str], list[Candidate]] = {}
    for each in failed_candidates(history):
        alike.setdefault((str(each.failure), each.message), []).append(each)
    if not alike:
        console.print("no candidate has failed", markup=False)
    for (failure, message), candidates in alike.items():
        names = ", ".join(
            each.id if each.failed_as is None else f"{each.id} (the same merge as {each.failed_as})"
            for each in candidates
        )
        console.print(f"{failure}: {message}", markup=False, soft_wrap=True)
        console.print(f"  {len(candidates)}: {names}", markup=False, soft_wrap=True)
        trace = next((each.traceback for each in candidates if each.traceback), None)
        for line in (trace or "").splitlines():
            console.print(f"    {line}", markup=False, soft_wrap=True)
    slopes: dict[tuple[str, str], list[str]] = {}
    for event in failed_slopes(history):
        slopes.setdefault((str(event.failure), event.message), []).append(
            slope_name(event.batch, event.number)
        )
    if slopes:
        console.print("gradients and losses that could not be had:", markup=False)
    for (failure, message), own in slopes.items():
        console.print(f"{failure}: {message}", markup=False, soft_wrap=True)
        console.print(f"  {len(own)}: {', '.join(own)}", markup=False, soft_wrap=True)
