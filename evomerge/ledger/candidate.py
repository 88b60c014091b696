"""Candidate: what is known of one model that was asked for, or of one baseline."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from evomerge.ledger.events import ScoredEvent
from evomerge.ledger.item_store import ItemReference
from evomerge.ledger.packed_field import DIGEST, packed
from evomerge.ledger.packed_genome import GENOME, Genome
from evomerge.ledger.packed_scores import Names, pack_scores, packable
from evomerge.objectives.origin import Origin
from evomerge.objectives.scores import SPLITS, Metric, Split

_NOTHING: Mapping[str, int] = {}
"""One for all candidates: most were never lost and never raced."""


@packed(key=DIGEST)
@dataclass(frozen=True, slots=True)
class Evaluation:
    """Scores of one model on one split, see `evaluation_of`.

    Attributes:
        split: whose items were scored.
        key: evaluation key.
        names, numbers: all that was measured, packed.
        odd_items: places of per-item results, where one cannot be packed.
        same_as: the candidate with the same recipe that was scored first, if that was another.
    """

    split: Split
    key: str
    names: Names
    numbers: bytes
    odd_items: Mapping[str, ItemReference] | None = None
    same_as: str | None = None

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """`EVALUATOR.METRIC` to score."""
        return self.names.metrics_in(self.numbers)

    @property
    def items(self) -> Mapping[str, ItemReference]:
        """Evaluator to where its per-item results lie."""
        return self.names.items_in(self.numbers) if self.odd_items is None else self.odd_items

    @property
    def seconds(self) -> Mapping[str, float]:
        """Phase to wall seconds; empty where the scores are another's."""
        return self.names.seconds_in(self.numbers)

    @property
    def statistics(self) -> Mapping[str, float]:
        """Numbers about the merge itself."""
        return self.names.statistics_in(self.numbers)


@packed(recipe=DIGEST, genome=GENOME)
@dataclass(slots=True)
class Candidate:
    """A model that was asked for, or a baseline.

    Attributes:
        id: its name in the campaign.
        recipe: digest of its recipe.
        genome: None for a baseline.
        generation: number of the batch it was asked in; -1 for a baseline.
        scored: its scores, one for each split; see `evaluations`.
        failure, message, traceback: why it has no scores on search items.
        attempts_lost: workers lost with it, all in all.
        failed_splits: splits on which it failed.
        failed_as: the candidate with the same recipe whose failure this one shares.
        lost: by split, workers lost since the last result, without those that went with their machine.
        raced: what was measured until `beaten_by` had beaten it, which is no evaluation.
        beaten_by: the reference it lost its race to.
        seen: then, by evaluator, how many items it had answered.
        note: what the optimizer wants to know of it again in a replay.
        origin: what it was made of, as far as the optimizer said.
        asker: the refinement that asked for it; None for the campaign's own optimizer.
        number: its place among those of the same asker, from 0.
        is_free: whether its scores on search items are those of a campaign that the search starts from.
    """

    id: str
    recipe: str
    genome: Genome | None = None
    generation: int = -1
    scored: tuple[Evaluation, ...] = ()
    failure: str | None = None
    message: str = ""
    traceback: str | None = None
    attempts_lost: int = 0
    failed_splits: frozenset[str] = frozenset()
    failed_as: str | None = None
    lost: Mapping[str, int] = field(default_factory=lambda: _NOTHING)
    raced: Evaluation | None = None
    beaten_by: str | None = None
    seen: Mapping[str, int] = field(default_factory=lambda: _NOTHING)
    note: tuple[float, ...] | None = None
    origin: Origin | None = None
    asker: int | None = None
    number: int = -1
    is_free: bool = False

    def __repr__(self) -> str:
        state = self.failure or (f"beaten by {self.beaten_by}" if self.beaten_by else "")
        state = state or ", ".join(self.evaluations) or "not scored"
        return f"<Candidate {self.id}: {state}>"

    @property
    def evaluations(self) -> dict[str, Evaluation]:
        """Its scores by split."""
        return {each.split: each for each in self.scored}

    @property
    def is_baseline(self) -> bool:
        """Whether it is a point of comparison rather than a result of the search."""
        return self.generation < 0

    @property
    def is_settled(self) -> bool:
        """Whether it has scores on search items, was given up in a race, or has failed."""
        return "search" in self.evaluations or self.raced is not None or self.failure is not None

    @property
    def is_counted(self) -> bool:
        """Whether the budget pays for it: settled, no baseline, no repeat of another, and not free."""
        result = self.evaluations.get("search") or self.raced
        repeat = self.failed_as or (result is not None and result.same_as)
        return not self.is_baseline and self.is_settled and not repeat and not self.is_free

    def score(self, evaluation: Evaluation) -> None:
        """Take scores on a split, in the place of those it may have there."""
        others = (each for each in self.scored if each.split != evaluation.split)
        self.scored = (*others, evaluation)

    def lose(self, split: str) -> None:
        """Count an attempt on a split that ended with its worker."""
        self.lost = {**self.lost, split: self.lost.get(split, 0) + 1}

    def forget_lost(self, split: str) -> None:
        """A split has ended: what was lost on the way counts no more."""
        if split in self.lost:
            self.lost = {name: lost for name, lost in self.lost.items() if name != split}


def evaluation_of(event: ScoredEvent) -> Evaluation:
    """What a result says of one model on one split, packed."""
    odd = None if packable(event.items) else event.items
    items = event.items if odd is None else {}
    names, numbers = pack_scores(event.metrics, event.seconds, event.statistics, items)
    split = SPLITS[SPLITS.index(event.split)]  # each line of JSON has a copy of the word
    return Evaluation(split, event.key, names, numbers, odd, event.same_as)


def by_own_names(origin: Origin | None, known: Mapping[str, Candidate]) -> Origin | None:
    """An origin whose words and parents' ids are strings that are shared: each line of JSON has copies."""
    if origin is None:
        return None
    parents = origin.parents
    if parents is not None:
        parents = tuple(known[name].id if name in known else name for name in parents)
    return replace(origin, how=sys.intern(origin.how), parents=parents)
