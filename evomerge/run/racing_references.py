"""Whom candidates race against: chosen from a history, with their per-item results from the store.

The references of a batch are the non-dominated models known when it is asked: the baselines that tables
show, and every candidate the optimizer was told of. Both follow from the order of the ledger alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np

from evomerge.campaign.file import RacingSection
from evomerge.evaluators.racing import Race, References, compact
from evomerge.front.selection import item_arrays
from evomerge.ledger.bounds import bounds_of
from evomerge.ledger.candidate import Candidate
from evomerge.ledger.events import PreparedEvent, RacingRecord
from evomerge.ledger.history import History
from evomerge.ledger.item_store import ItemStore
from evomerge.objectives.constraint import Bound
from evomerge.objectives.objective import Objective, complete
from evomerge.optimizers.baselines import ENSEMBLE
from evomerge.recipe.recipe import canonical_json


def add_references(
    references: References,
    candidates: Iterable[Candidate],
    objectives: Sequence[Objective],
    bounds: Sequence[Bound],
) -> None:
    """Take in the candidates that have search scores of their own and keep all constraints."""
    for candidate in candidates:
        evaluation = candidate.evaluations.get("search")
        if evaluation is not None and evaluation.same_as is None:
            references.add(candidate.id, complete(objectives, evaluation.metrics, bounds))


def first_references(history: History, objectives: Sequence[Objective]) -> References:
    """The references of the first batch: the baselines that are models."""
    references = References()
    models = [name for name in history.reference_ids() if name != ENSEMBLE]
    baselines = (history.candidates[name] for name in models)
    add_references(references, baselines, objectives, bounds_of(history))
    return references


def references_digest(history: History, ids: Sequence[str]) -> str:
    """SHA-256 (hex) over the ids and the digests of their per-item results on search items."""
    records = [
        [
            name,
            {e: r.digest for e, r in history.candidates[name].evaluations["search"].items.items()},
        ]
        for name in ids
    ]
    return hashlib.sha256(canonical_json(records).encode()).hexdigest()


def racing_record(history: History, ids: Sequence[str]) -> RacingRecord:
    """What an `asked` event says of a race."""
    return RacingRecord(references=tuple(ids), digest=references_digest(history, ids))


def without_items(history: History, objectives: Sequence[Objective], store: ItemStore) -> list[str]:
    """Metrics of objectives that have no per-item results, by the baselines."""
    base = history.candidates["base"]
    return [o.metric for o in objectives if item_arrays([base], [o], "search", store) is None]


class Races:
    """Makes the races of a campaign; results read once are kept while they belong to the references."""

    def __init__(
        self, objectives: Sequence[Objective], section: RacingSection, store: ItemStore
    ) -> None:
        self.objectives, self.section, self.store = tuple(objectives), section, store
        self._rows: dict[str, tuple[np.ndarray, ...]] = {}
        self._last: tuple[tuple[str, ...], Race] | None = None

    def against(self, history: History, ids: Sequence[str]) -> Race | None:
        """The race against some references; None if there are none.

        Raises:
            LedgerDamaged: E502, if results cannot be read.
            KeyError: if a reference has no per-item results of an objective.
        """
        wanted = tuple(ids)
        if not wanted:
            return None
        if self._last is None or self._last[0] != wanted:
            self._rows = {
                name: self._rows.get(name) or self._read(history.candidates[name]) for name in wanted
            }
            columns = zip(*(self._rows[name] for name in wanted), strict=True)
            race = Race(
                metrics=tuple(o.metric for o in self.objectives),
                signs=tuple(o.sign for o in self.objectives),
                ids=wanted,
                results=tuple(compact(np.array(rows)) for rows in columns),
                threshold=self.section.threshold,
                first=self.section.first,
            )
            self._last = (wanted, race)
        return self._last[1]

    def _read(self, candidate: Candidate) -> tuple[np.ndarray, ...]:
        found = item_arrays([candidate], self.objectives, "search", self.store)
        if found is None:
            raise KeyError(f"{candidate.id} has no per-item results of an objective")
        return tuple(rows[0] for rows in found)


def objective_blocks(prepared: PreparedEvent, objectives: Sequence[Objective]) -> list[int]:
    """Items of a block of each objective's task, from a `prepared` event."""
    found = [prepared.evaluators[o.metric.split(".")[0]].block_size for o in objectives]
    return [size for size in found if size is not None]  # `check_racing` has seen that all have one
