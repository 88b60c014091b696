"""History: what a campaign has done so far, folded from its ledger. Computed, never stored.

Events, in the order in which they first appear:

===========  ==========================================================================
`campaign`   the configuration, versions and format; always the first line
`prepared`   what the `prepare` job found: digests, layout, item index, timings, and the inner
             products of task vectors by place (`task_vectors`), which seed the search
`evaluated`  metrics of one candidate or baseline on one split, where its items lie
`raced`      a candidate given up after some items, with what it scored on them, whom it lost to
             (`beaten_by`) and the items it has answered by evaluator (`seen`)
`failed`     a candidate without scores, with its evaluation key, its class and message
`baselines`  scaling (ideal and nadir), the best single coefficient and the constraints' bounds, frozen
`asked`      the genomes of one generation, or in steady state of one candidate; with racing, the
             references they race against and the digest of these references' per-item results
`told`       a generation, or the candidate `id`, was told to the optimizer; digest of its state
`granted`    what a session was allowed by name (`grants`): `task_code`, `benchmark_test`; a grant holds
             for its session only
`lost`       an attempt that was lost with its worker and will be tried again
`stopped`    why a session ended: budget, hours, signal, breaker
`selection`  which candidates were re-scored on the selection split
===========  ==========================================================================
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from evomerge.objectives.constraint import Bound, broken, parse_constraint
from evomerge.objectives.objective import Scaling
from evomerge.objectives.scores import Metric

LEDGER_FILE = "ledger.jsonl"
EXPORTS_FILE = "exports.jsonl"
ITEMS_FOLDER = "items"
CACHE_FOLDER = "cache"

Grant = Literal["task_code", "benchmark_test"]
"""What is refused unless a person allows it by name for a session."""


@dataclass(frozen=True)
class Evaluation:
    """Scores of one model on one split; `items` maps evaluator to its item-store reference."""

    split: str
    key: str
    metrics: Mapping[str, Metric]
    items: Mapping[str, Mapping[str, Any]]
    seconds: Mapping[str, float]
    statistics: Mapping[str, float]
    same_as: str | None = None


@dataclass
class Candidate:
    """A genome that was asked for, or a baseline (`genome` None).

    `lost` counts the workers lost since the last result, by split, those apart that went with their
    machine; `attempts_lost` counts all.
    `failed_as` is the id of the candidate with the same recipe whose failure this one shares.
    `raced` holds what was measured until `beaten_by` had beaten it; it is no evaluation.
    """

    id: str
    recipe: str
    genome: tuple[float, ...] | None = None
    generation: int = -1
    evaluations: dict[str, Evaluation] = field(default_factory=dict)
    failure: str | None = None
    message: str = ""
    attempts_lost: int = 0
    failed_splits: set[str] = field(default_factory=set)
    failed_as: str | None = None
    lost: dict[str, int] = field(default_factory=dict)
    raced: Evaluation | None = None
    beaten_by: str | None = None
    seen: Mapping[str, int] = field(default_factory=dict)

    def __repr__(self) -> str:
        state = self.failure or (f"beaten by {self.beaten_by}" if self.beaten_by else "")
        state = state or ", ".join(self.evaluations) or "not scored"
        return f"<Candidate {self.id}: {state}>"

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
        """Whether the budget pays for it: settled, no baseline, and no repeat of another."""
        result = self.evaluations.get("search") or self.raced
        repeat = self.failed_as or (result is not None and result.same_as)
        return not self.is_baseline and self.is_settled and not repeat


@dataclass(frozen=True)
class Turn:
    """One ask or tell: the candidates, and after a tell the digest of the optimizer's state."""

    ids: tuple[str, ...]
    state: str | None = None


@dataclass
class History:
    """The state of a campaign after some prefix of its ledger.

    `started` and `last` are wall-clock seconds; `elapsed` is the running time so far, by monotonic
    clocks and without the pauses between sessions. `generations` and `told` hold the batches asked and
    the state digests told, `turns` both in the order of the ledger. `budget_used` counts accepted results
    of the search: scored, raced or failed candidates, repeats and baselines apart. `settled` counts all
    candidates of the search with scores or a failure, `failed_kinds` those that failed, by class,
    `last_failure` is the last one. `by_key` and `failed_by_key` hold the first result (a failure as its
    event) of an evaluation key, `slowest_baseline` the most seconds that a baseline took. `references` holds
    whom each batch asked races against; `raced_as` by which candidate a raced recipe is known.
    """

    campaign: dict[str, Any] = field(default_factory=dict)
    prepared: dict[str, Any] | None = None
    baselines: dict[str, Any] | None = None
    candidates: dict[str, Candidate] = field(default_factory=dict)
    generations: list[list[str]] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    asked: int = 0
    budget_used: int = 0
    selection: list[str] | None = None
    stopped: str | None = None
    by_key: dict[str, tuple[str, Evaluation]] = field(default_factory=dict)
    grants: set[str] = field(default_factory=set)
    failed_by_key: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    settled: int = 0
    failed_kinds: Counter[str] = field(default_factory=Counter)
    last_failure: Candidate | None = None
    slowest_baseline: float | None = None
    references: list[tuple[str, ...]] = field(default_factory=list)
    raced_as: dict[str, str] = field(default_factory=dict)
    raced: int = 0
    raced_items: int = 0
    started: float = 0.0
    last: float = 0.0
    elapsed: float = 0.0

    def __repr__(self) -> str:
        name = self.campaign["config"]["name"] if self.campaign else "no campaign"
        end = f", stopped: {self.stopped}" if self.stopped else ""
        counts = f"{self.budget_used} evaluations, {len(self.generations)} batches asked"
        return f"<History of {name}: {counts}, {sum(self.failed_kinds.values())} failed{end}>"

    @staticmethod
    def fold(events: Iterable[Mapping[str, Any]]) -> History:
        """The history of a sequence of events."""
        history = History()
        for event in events:
            history.apply(event)
        return history

    def apply(self, event: Mapping[str, Any]) -> None:
        """Take in one more event."""
        kind = event["event"]
        self.last = event.get("time", self.last)
        self.elapsed = event.get("elapsed", self.elapsed)
        if kind == "campaign":
            self.campaign = dict(event)
            self.started = event["time"]
        elif kind == "granted":
            self.grants |= set(event["grants"])
        elif kind == "prepared":
            self.prepared = dict(event)
        elif kind == "evaluated":
            self._evaluated(event)
        elif kind == "raced":
            self._raced(event)
        elif kind == "failed":
            self._failed(event)
        elif kind == "lost":
            candidate = self._candidate(event)
            candidate.attempts_lost += 1
            split = event.get("split", "search")
            if event["failure"] != "node_lost":
                candidate.lost[split] = candidate.lost.get(split, 0) + 1
        elif kind == "baselines":
            self.baselines = dict(event)
        elif kind == "asked":
            ids = [entry["id"] for entry in event["candidates"]]
            self.generations.append(ids)
            self.turns.append(Turn(tuple(ids)))
            self.asked += len(ids)
            self.references.append(tuple(event.get("racing", {}).get("references", ())))
            for entry in event["candidates"]:
                self.candidates[entry["id"]] = Candidate(
                    entry["id"], entry["recipe"], tuple(entry["genome"]), event["generation"]
                )
            self.selection = None
        elif kind == "told":
            whole = self.generations[len(self.told) : len(self.told) + 1]
            told = (event["id"],) if "id" in event else tuple(whole[0] if whole else ())
            self.told.append(event["state"])
            self.turns.append(Turn(told, event["state"]))
        elif kind == "selection":
            self.selection = list(event["ids"])
        if kind == "stopped":
            self.stopped = event["reason"]
        elif kind != "selection":
            self.stopped = None

    def _candidate(self, event: Mapping[str, Any]) -> Candidate:
        name = event["id"]
        if name not in self.candidates:
            self.candidates[name] = Candidate(name, event["recipe"])
        return self.candidates[name]

    def _failed(self, event: Mapping[str, Any]) -> None:
        candidate, split = self._candidate(event), event["split"]
        self._tally(candidate, -1)
        candidate.failed_splits.add(split)
        candidate.lost.pop(split, None)
        # What was told to the optimizer must not change: a failure on held-out items does not take
        # back the scores on search items.
        if split == "search":
            candidate.failure, candidate.message = event["failure"], event["message"]
            candidate.failed_as = event.get("same_as")
            self.selection = None
            if not candidate.is_baseline:
                self.last_failure = candidate
        self._tally(candidate, 1)
        if "same_as" not in event:
            self.failed_by_key[event["key"]] = event

    def _evaluated(self, event: Mapping[str, Any]) -> None:
        candidate = self._candidate(event)
        self._tally(candidate, -1)
        evaluation = _evaluation(event)
        candidate.evaluations[evaluation.split] = evaluation
        candidate.failed_splits.discard(evaluation.split)
        candidate.lost.pop(evaluation.split, None)
        if evaluation.split == "search":
            candidate.failure, candidate.message = None, ""
            # A larger budget can finish a generation after a selection, without a new ask.
            self.selection = None
        self._tally(candidate, 1)
        self.by_key.setdefault(evaluation.key, (candidate.id, evaluation))
        self.failed_by_key.pop(evaluation.key, None)
        if candidate.is_baseline and evaluation.seconds:
            taken = sum(evaluation.seconds.values())
            self.slowest_baseline = max(taken, self.slowest_baseline or 0.0)

    def _tally(self, candidate: Candidate, sign: int) -> None:
        """Take a candidate out of the counts before it changes (-1), and in again after it (+1)."""
        if candidate.is_baseline:
            return
        self.budget_used += sign * candidate.is_counted
        self.settled += sign * candidate.is_settled
        if candidate.failure is not None:
            self.failed_kinds[candidate.failure] += sign
            self.failed_kinds += Counter()  # drops what is not above zero

    def _raced(self, event: Mapping[str, Any]) -> None:
        candidate = self._candidate(event)
        self._tally(candidate, -1)
        candidate.raced = _evaluation(event)
        candidate.beaten_by, candidate.seen = event["beaten_by"], event["seen"]
        candidate.failure, candidate.message = None, ""
        candidate.lost.pop("search", None)
        self.selection = None
        self.raced_as.setdefault(candidate.recipe, candidate.id)
        self._tally(candidate, 1)
        if candidate.is_counted:
            self.raced += 1
            self.raced_items += sum(event["seen"].values())

    @property
    def cost(self) -> float:
        """Budget spent, in evaluations: a raced candidate costs the share of the items it has answered."""
        if not self.raced:
            return self.budget_used
        return self.budget_used - self.raced + self.raced_items / self.search_items

    @property
    def search_items(self) -> int:
        """Search items of all evaluators, which a full evaluation answers."""
        evaluators = (self.prepared or {}).get("evaluators", {})
        return sum(entry["items"]["search"] for entry in evaluators.values())

    @property
    def scaling(self) -> Scaling | None:
        """Ideal and nadir, once the baselines are known."""
        if self.baselines is None:
            return None
        return Scaling(tuple(self.baselines["ideal"]), tuple(self.baselines["nadir"]))

    def bounds(self, split: str = "search") -> tuple[Bound, ...]:
        """The constraints' bounds, once the baselines are known; empty without constraints.

        On search items they are those frozen in the `baselines` event. On another split a bound relative
        to a model follows from that model's score on the same split, where it has one.
        """
        if self.baselines is None:
            return ()
        frozen = tuple(Bound.from_json(data) for data in self.baselines.get("bounds", ()))
        if split == "search" or not frozen:
            return frozen
        known = {
            name: candidate.evaluations[split].metrics
            for name, candidate in self.candidates.items()
            if candidate.is_baseline and split in candidate.evaluations
        }
        texts = self.campaign["config"]["constraints"]
        return tuple(
            bound if constraint.of not in (None, *known) else constraint.bound(known)
            for bound, constraint in zip(frozen, map(parse_constraint, texts), strict=True)
        )

    def feasible(self, candidates: Iterable[Candidate], split: str = "search") -> list[Candidate]:
        """Those of `candidates`, all with scores on `split`, that keep every constraint there."""
        bounds = self.bounds(split)
        if not bounds:
            return list(candidates)
        return [c for c in candidates if not broken(bounds, c.evaluations[split].metrics)]

    def searched(self) -> list[Candidate]:
        """Candidates of the search with scores on search items, in ask order."""
        return [
            candidate
            for candidate in self.candidates.values()
            if not candidate.is_baseline and "search" in candidate.evaluations
        ]

    def reference_ids(self) -> list[str]:
        """Baselines shown beside a front: base, experts, uniform average, best single coefficient."""
        return list(self.baselines["shown"]) if self.baselines else []

    def failures(self) -> dict[str, int]:
        """Number of failed candidates by class."""
        counts: dict[str, int] = {}
        for candidate in self.candidates.values():
            if candidate.failure is not None:
                counts[candidate.failure] = counts.get(candidate.failure, 0) + 1
        return dict(sorted(counts.items()))


def _evaluation(event: Mapping[str, Any]) -> Evaluation:
    return Evaluation(
        split=event["split"],
        key=event["key"],
        metrics={name: Metric.from_json(data) for name, data in event["metrics"].items()},
        items=event["items"],
        seconds=event.get("seconds", {}),
        statistics=event.get("statistics", {}),
        same_as=event.get("same_as"),
    )
