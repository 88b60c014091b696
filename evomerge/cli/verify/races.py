"""Races decided again, from the references that were recorded and the stored per-item results."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from evomerge.campaign.campaign import campaign_from_json
from evomerge.cli.verify.report import Verification
from evomerge.errors import LedgerDamaged
from evomerge.evaluators.racing import race_over
from evomerge.ledger.bounds import bounds_of
from evomerge.ledger.candidate import Candidate
from evomerge.ledger.events import AskedEvent, Event, RacedEvent
from evomerge.ledger.history import History
from evomerge.ledger.item_store import ItemStore
from evomerge.objectives.objective import Objective
from evomerge.run.racing_references import (
    Races,
    add_references,
    first_references,
    objective_blocks,
    references_digest,
)


def check_races(
    events: Sequence[Event], history: History, store: ItemStore, result: Verification
) -> None:
    """Who raced against whom follows from what was told; who lost, when and to whom, from the items."""
    campaign = campaign_from_json(history.config)
    asked = [event for event in events if isinstance(event, AskedEvent)]
    if campaign.config.racing is None:
        raced = any(isinstance(event, RacedEvent) for event in events)
        if raced or any(event.racing is not None for event in asked):
            result.fault("a candidate races in a campaign without `racing`")
        return
    if history.baselines is None:
        return
    objectives = campaign.objectives
    _check_references(asked, history, objectives, result)
    races = Races(objectives, campaign.config.racing, store)
    assert history.prepared is not None
    blocks = objective_blocks(history.prepared, objectives)
    # What an earlier campaign measured is not raced for, even if its scores are gone by then.
    without = frozenset() if history.starts is None else history.starts.free
    for ids, references in zip(history.generations, history.references, strict=True):
        every = [history.candidates[name] for name in ids]
        candidates = [candidate for candidate in every if candidate.genome not in without]
        try:
            race = races.against(history, references)
            for candidate in candidates:
                results = _own_results(candidate, store)
                if race is None or results is None:
                    continue
                counts = {metric: len(values) for metric, values in results.items()}
                if any(counts.get(o.metric, 0) == 0 for o in objectives):
                    result.fault("an objective of a race has no items", where=candidate.id)
                    continue
                found = race_over(race, results, blocks)
                expected = None
                if candidate.raced is not None:
                    seen = tuple(counts[o.metric] for o in objectives)
                    expected = (seen, candidate.beaten_by)
                if found != expected:
                    text = f"recorded {_told(expected)}, its items give {_told(found)}"
                    result.fault("a race ends otherwise", text, candidate.id)
                result.count("races decided again", 1)
        except LedgerDamaged:
            continue  # noted with the items
        except KeyError as error:
            result.fault("a reference of a race has no results", str(error), ", ".join(ids[:1]))


def _check_references(
    asked: Sequence[AskedEvent],
    history: History,
    objectives: Sequence[Objective],
    result: Verification,
) -> None:
    references = first_references(history, objectives)
    waiting = iter(asked)
    for turn in history.turns:
        if turn.slopes is not None or turn.refine is not None:
            continue
        if turn.asker is not None:  # refinements race against nobody
            if turn.state is None:
                next(waiting)
            continue
        if turn.state is not None:
            told = (history.candidates[name] for name in turn.ids)
            add_references(references, told, objectives, bounds_of(history))
            continue
        event = next(waiting)
        where, ids = f"event {event.n}", references.chosen()
        recorded = event.racing
        if recorded is None or tuple(ids) != recorded.references:
            result.fault("a batch races against others than the best known", "", where)
        elif references_digest(history, ids) != recorded.digest:
            result.fault("the references' per-item results are not those of the race", "", where)
        result.count("reference sets found again", 1)


def _own_results(candidate: Candidate, store: ItemStore) -> dict[str, np.ndarray] | None:
    """Per-item results of a candidate that raced itself: no failure, no repeat of another."""
    evaluation = candidate.raced or candidate.evaluations.get("search")
    if evaluation is None or evaluation.same_as is not None:
        return None
    found: dict[str, np.ndarray] = {}
    for reference in evaluation.items.values():
        found |= store.read(reference)
    return found


def _told(end: tuple[tuple[int, ...], str | None] | None) -> str:
    return "that it ran to the end" if end is None else f"a loss to {end[1]} after {end[0]} items"
