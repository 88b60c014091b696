"""History: what a campaign has done so far, folded from its ledger's events. Computed, never stored."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from evomerge.ledger.candidate import Candidate, Evaluation, by_own_names, evaluation_of
from evomerge.ledger.events import (
    AskedEvent,
    BaselinesEvent,
    CampaignEvent,
    EvaluatedEvent,
    Event,
    FailedEvent,
    Grant,
    GrantedEvent,
    LostEvent,
    PreparedEvent,
    RacedEvent,
    RefineEvent,
    ResultEvent,
    ScoredEvent,
    SelectionEvent,
    SlopeEvent,
    StartsEvent,
    ToldEvent,
)
from evomerge.ledger.packed_field import held, packed_digest
from evomerge.ledger.sessions import Sessions
from evomerge.ledger.turn import Turn
from evomerge.objectives.forecast import Forecast
from evomerge.objectives.objective import Scaling

LEDGER_FILE = "ledger.jsonl"
EXPORTS_FILE = "exports.jsonl"
ITEMS_FOLDER = "items"
CACHE_FOLDER = "cache"


@dataclass
class History:
    """The state of a campaign after its ledger, or a part of it from the start.

    Attributes:
        campaign, prepared, baselines, starts: the events of these kinds, once they are there.
        candidates: those asked for, and the baselines, by id.
        generations: the ids of each batch asked.
        tells: how often the campaign's own optimizer was told.
        turns: asks, tells, batches of slopes and refinements in the order of the ledger.
        asked: number of candidates asked for.
        budget_used: results of the search that count: scored, raced or failed; no repeats, no baselines,
            nothing that was free.
        selection: who is scored on selection items; None until that is decided, and after a further ask.
        grants: what was allowed by name in any session.
        failed_by_key: evaluation key to the first failure.
        settled: candidates of the search with a result of any kind.
        failed_kinds: failed candidates by class of failure.
        last_failure: the candidate that failed last.
        slowest_baseline: most seconds that a baseline took.
        references: for each batch asked, whom it races against.
        forecasts: for each batch asked, what was expected of it.
        raced_as: digest of a recipe that lost a race to the first candidate with it.
        shared: evaluations that another campaign had measured.
        free: candidates whose scores on search items were taken from a campaign that the search starts from.
        lost_kinds, lost_seconds: attempts lost with their workers by class, and how long these had run.
        measured_seconds: what workers spent on what they brought to an end.
        raced, raced_items: candidates given up early, and the items they had answered.
        slopes, slope_cost: batches of slopes, each by number in its batch; what all cost, in evaluations.
        refinements: those begun.
        sessions: what ended them, and what of the running time refinements took.
        refined: results that count, by refinement.
        made_for: the candidate that is the learned map's own model for its preference, by refinement.
        asked_by: candidates asked for, by who asked: a refinement, or None.
        arrivals: ids of all results on search items, in order.
        started, last: wall-clock seconds of the first and the last event.
        elapsed: seconds of running time, by monotonic clocks and without the pauses between sessions.
    """

    campaign: CampaignEvent | None = None
    prepared: PreparedEvent | None = None
    baselines: BaselinesEvent | None = None
    starts: StartsEvent | None = None
    candidates: dict[str, Candidate] = field(default_factory=dict)
    generations: list[tuple[str, ...]] = field(default_factory=list)
    tells: int = 0
    turns: list[Turn] = field(default_factory=list)
    asked: int = 0
    budget_used: int = 0
    selection: tuple[str, ...] | None = None
    grants: set[Grant] = field(default_factory=set)
    failed_by_key: dict[str, FailedEvent] = field(default_factory=dict)
    settled: int = 0
    failed_kinds: Counter[str] = field(default_factory=Counter)
    last_failure: Candidate | None = None
    slowest_baseline: float | None = None
    references: list[tuple[str, ...]] = field(default_factory=list)
    forecasts: list[Forecast | None] = field(default_factory=list)
    raced_as: dict[str, str] = field(default_factory=dict)
    shared: int = 0
    free: int = 0
    raced: int = 0
    raced_items: int = 0
    lost_kinds: Counter[str] = field(default_factory=Counter)
    lost_seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    measured_seconds: float = 0.0
    slopes: list[dict[int, SlopeEvent]] = field(default_factory=list)
    slope_cost: float = 0.0
    refinements: list[RefineEvent] = field(default_factory=list)
    sessions: Sessions = field(default_factory=Sessions)
    refined: Counter[int] = field(default_factory=Counter)
    made_for: dict[int, str] = field(default_factory=dict)
    arrivals: list[str] = field(default_factory=list)
    asked_by: Counter[int | None] = field(default_factory=Counter)
    started: float = 0.0
    last: float = 0.0
    elapsed: float = 0.0
    _first: dict[str | bytes | None, str] = field(default_factory=dict)
    _may_be_free: frozenset[tuple[float, ...]] = frozenset()

    def __repr__(self) -> str:
        name = self.campaign.name if self.campaign else "no campaign"
        end = f", stopped: {self.stopped}" if self.stopped else ""
        counts = f"{self.budget_used} evaluations, {len(self.generations)} batches asked"
        return f"<History of {name}: {counts}, {sum(self.failed_kinds.values())} failed{end}>"

    @staticmethod
    def fold(events: Iterable[Event]) -> History:
        """The history of a sequence of events."""
        history = History()
        for event in events:
            history.apply(event)
        return history

    def apply(self, event: Event) -> None:
        """Take in one more event."""
        self.last = self.last if event.time is None else event.time
        before, self.elapsed = self.elapsed, self.elapsed if event.elapsed is None else event.elapsed
        match event:
            case CampaignEvent():
                self.campaign = event
                self.started = event.time or 0.0
            case GrantedEvent():
                self.grants |= set(event.grants)
            case PreparedEvent():
                self.prepared = event
            case EvaluatedEvent():
                self._evaluated(event)
            case RacedEvent():
                self._raced(event)
            case FailedEvent():
                self._failed(event)
            case LostEvent():
                candidate = self._candidate(event)
                candidate.attempts_lost += 1
                self.lost_kinds[event.failure] += 1
                self.lost_seconds[event.failure] += event.seconds or 0.0
                if event.failure != "node_lost":
                    candidate.lose(event.split)
            case BaselinesEvent():
                self.baselines = event
            case AskedEvent():
                self._asked(event)
            case ToldEvent():
                number = len(self.generations) if event.generation is None else event.generation
                whole = self.generations[number : number + 1]
                told = self._own(event.id) if event.id is not None else whole[0] if whole else ()
                asker = self._asker_of(told[0]) if told else None
                if asker is None:
                    self.tells += 1
                self.turns.append(Turn(told, event.state, asker=asker))
            case SlopeEvent():
                if event.batch == len(self.slopes):
                    self.slopes.append({})
                    self.turns.append(Turn((), slopes=event.batch))
                self.slopes[event.batch][event.number] = event
                self.slope_cost += event.cost
                self.selection = None
            case StartsEvent():
                self.starts = event
                self._may_be_free = event.free
            case RefineEvent():
                self.turns.append(Turn((), refine=len(self.refinements)))
                self.refinements.append(event)
                self.selection = None
            case SelectionEvent():
                self.selection = event.ids
                if event.made_for is not None and self.refinements:
                    self.made_for[len(self.refinements) - 1] = event.made_for
        self.sessions.take(event, self.elapsed - before, self._asker_of)

    def _asked(self, event: AskedEvent) -> None:
        ids = tuple(candidate.id for candidate in event.candidates)
        self.generations.append(ids)
        self.turns.append(Turn(ids, asker=event.refinement))
        self.asked += len(ids)
        self.references.append(event.racing.references if event.racing is not None else ())
        self.forecasts.append(event.forecast)
        for asked in event.candidates:
            self.candidates[asked.id] = Candidate(
                asked.id,
                asked.recipe,
                asked.genome,
                event.generation,
                note=asked.note,
                origin=by_own_names(asked.origin, self.candidates),
                asker=event.refinement,
                number=self.asked_by[event.refinement],
            )
            self.asked_by[event.refinement] += 1
        self.selection = None

    def first_scored(self, key: str) -> tuple[str, Evaluation] | None:
        """The candidate that was scored first under an evaluation key, with its scores; None if none was."""
        name = self._first.get(packed_digest(key))
        scored = () if name is None else self.candidates[name].scored
        return next(((name, each) for each in scored if name is not None and each.key == key), None)

    def _own(self, name: str) -> tuple[str]:
        """An id as the string that its candidate has; each line of JSON has a copy."""
        return (self.candidates[name].id if name in self.candidates else name,)

    def _asker_of(self, name: str) -> int | None:
        return self.candidates[name].asker if name in self.candidates else None

    def _candidate(self, event: ResultEvent) -> Candidate:
        if event.id not in self.candidates:
            self.candidates[event.id] = Candidate(event.id, event.recipe)
        return self.candidates[event.id]

    def _failed(self, event: FailedEvent) -> None:
        candidate, split = self._candidate(event), event.split
        self._tally(candidate, -1)
        candidate.failed_splits |= {split}
        candidate.forget_lost(split)
        # What was told to the optimizer must not change: a failure on held-out items does not take
        # back the scores on search items.
        if split == "search":
            self.arrivals.append(candidate.id)
            candidate.failure, candidate.message = event.failure, event.message
            candidate.traceback, candidate.failed_as = event.traceback, event.same_as
            self.selection = None
            if not candidate.is_baseline:
                self.last_failure = candidate
        self._tally(candidate, 1)
        if event.same_as is None:
            self.failed_by_key[event.key] = event

    def _evaluated(self, event: EvaluatedEvent) -> None:
        candidate = self._candidate(event)
        self._tally(candidate, -1)
        evaluation = evaluation_of(event)
        candidate.score(evaluation)
        if candidate.failed_splits:  # a difference, empty or not, is another set for each candidate
            candidate.failed_splits -= {evaluation.split}
        candidate.forget_lost(evaluation.split)
        if evaluation.split == "search":
            self.arrivals.append(candidate.id)
            candidate.failure, candidate.message = None, ""
            candidate.is_free = event.shared is not None and candidate.genome in self._may_be_free
            self.free += candidate.is_free
            # A larger budget can finish a generation after a selection, without a new ask.
            self.selection = None
        self._tally(candidate, 1)
        self._measured(event)
        self.shared += event.shared is not None
        self._first.setdefault(held(evaluation, "key"), candidate.id)
        self.failed_by_key.pop(evaluation.key, None)
        if candidate.is_baseline and evaluation.seconds:
            taken = sum(evaluation.seconds.values())
            self.slowest_baseline = max(taken, self.slowest_baseline or 0.0)

    def _measured(self, event: ScoredEvent) -> None:
        if event.same_as is None and event.shared is None:
            self.measured_seconds += sum(event.seconds.values())

    def _tally(self, candidate: Candidate, sign: int) -> None:
        """Take a candidate out of the counts before it changes (-1), and in again after it (+1)."""
        if candidate.is_baseline:
            return
        self.budget_used += sign * candidate.is_counted
        if candidate.asker is not None:
            self.refined[candidate.asker] += sign * candidate.is_counted
        self.settled += sign * candidate.is_settled
        if candidate.failure is not None:
            self.failed_kinds[candidate.failure] += sign
            self.failed_kinds += Counter()  # drops what is not above zero

    def _raced(self, event: RacedEvent) -> None:
        candidate = self._candidate(event)
        self._tally(candidate, -1)
        candidate.raced = evaluation_of(event)
        self.arrivals.append(candidate.id)
        candidate.beaten_by, candidate.seen = event.beaten_by, event.seen
        candidate.failure, candidate.message = None, ""
        candidate.forget_lost("search")
        self.selection = None
        self.raced_as.setdefault(candidate.recipe, candidate.id)
        self._tally(candidate, 1)
        self._measured(event)
        if candidate.is_counted:
            self.raced += 1
            self.raced_items += sum(event.seen.values())

    @property
    def stopped(self) -> str | None:
        """Why the last session of the search itself ended; None while one goes on."""
        return self.sessions.stopped

    @property
    def search_elapsed(self) -> float:
        """Seconds of running time without those of refinements."""
        return self.elapsed - self.sessions.refining_seconds

    @property
    def cost(self) -> float:
        """Budget spent, in evaluations.

        A raced candidate costs the share of the items it has answered; a slope costs its items, those with a
        gradient `run.slopes.PASSES` times.
        """
        cost: float = self.budget_used
        if self.raced:
            cost += self.raced_items / self.search_items - self.raced
        return cost + self.slope_cost if self.slopes else cost

    def cost_of(self, asker: int | None) -> float:
        """What of `cost` a refinement has spent, or (None) the campaign's own optimizer."""
        return self.cost - self.refined.total() if asker is None else self.refined[asker]

    @property
    def budget(self) -> int | None:
        """Evaluations allowed when the campaign began and for each refinement; None without a limit."""
        own = self.stated.evaluations
        return None if own is None else own + sum(each.evaluations for each in self.refinements)

    @property
    def search_items(self) -> int:
        """Search items of all evaluators, which a full evaluation answers."""
        if self.prepared is None:
            return 0
        return sum(each.items["search"] for each in self.prepared.evaluators.values())

    @property
    def stated(self) -> CampaignEvent:
        """The campaign as it began."""
        assert self.campaign is not None, "a ledger begins with its campaign"
        return self.campaign

    @property
    def config(self) -> Mapping[str, Any]:
        """The whole campaign as it began, as `Campaign.to_json` gives it."""
        return self.stated.config

    @property
    def versions(self) -> Mapping[str, str]:
        """Of the libraries the campaign began with."""
        return self.stated.versions

    @property
    def scaling(self) -> Scaling | None:
        """Ideal and nadir, once the baselines are known."""
        if self.baselines is None:
            return None
        return Scaling(self.baselines.ideal, self.baselines.nadir)

    def searched(self) -> list[Candidate]:
        """Candidates of the search with scores on search items, in ask order."""
        return [
            candidate
            for candidate in self.candidates.values()
            if not candidate.is_baseline and "search" in candidate.evaluations
        ]

    def baselines_equal_to(self, candidate: Candidate) -> tuple[str, ...]:
        """The baselines that are the same merge as a candidate of the search; none for a baseline itself."""
        if candidate.is_baseline:
            return ()
        return self.baselines_by_recipe().get(candidate.recipe, ())

    def baselines_by_recipe(self) -> dict[str, tuple[str, ...]]:
        """Ids of the baselines by digest of their recipe."""
        found: dict[str, tuple[str, ...]] = {}
        for candidate in self.candidates.values():
            if candidate.is_baseline:
                found[candidate.recipe] = (*found.get(candidate.recipe, ()), candidate.id)
        return found

    def reference_ids(self) -> list[str]:
        """Baselines shown beside a front: base, experts, uniform average, best single coefficient."""
        return list(self.baselines.shown) if self.baselines else []

    def failures(self) -> dict[str, int]:
        """Number of failed candidates by class."""
        found = (candidate.failure for candidate in self.candidates.values())
        return dict(sorted(Counter(each for each in found if each is not None).items()))
