"""Standing: how far a campaign is, as numbers and as one line; for displays and for `status`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from evomerge.campaign.estimates import RESCORED
from evomerge.front.words import duration
from evomerge.ledger.bounds import bounds_of, feasible
from evomerge.ledger.candidate import Candidate
from evomerge.ledger.failed_slopes import failed_slopes, measured_slopes, slope_failure
from evomerge.ledger.history import History
from evomerge.ledger.sessions import FINAL
from evomerge.objectives.measures import is_fraction
from evomerge.objectives.objective import Objective, complete
from evomerge.objectives.pareto import hypervolume
from evomerge.optimizers.baselines import soups_in
from evomerge.run.limits import Ahead, ahead, ended_text, plateau_text

BEFORE_SELECTION = ("prepare", "baselines", "learning", "search")
"""Phases after which candidates are still to be scored again."""

MEAN = "mean"


@dataclass(frozen=True)
class Best:
    """The best value of an objective (or of the mean of all) so far, and the best expert's."""

    metric: str
    id: str
    value: float
    expert: str
    expert_value: float


@dataclass(frozen=True)
class Standing:
    """How far a campaign is. Scores are search scores, which flatter what was chosen by them.

    Attributes:
        campaign: its name.
        phase: see `phase_of`.
        generation: generations told; in steady state populations' worth of results.
        evaluations: results of the search that count.
        budget: evaluations allowed; None without a limit.
        baselines, rescored: (settled, all) baselines, and models scored again on selection items.
        hypervolume: of the search scores that keep all constraints.
        best: of each objective, and of their mean, beside the best expert.
        failures: failed candidates by class.
        lost: attempts that ended with their worker.
        lost_to: of these by class, how many and how many seconds of work.
        repeated: what share of all work that is; None where nothing is known of it.
        shared: evaluations that another campaign had measured.
        starts: points taken from `start_from`.
        free: candidates whose scores came from there, which no budget pays for.
        feasible: candidates that keep all constraints, and all with scores; None without constraints.
        raced: candidates given up early.
        cost: what of the budget is spent: less than `evaluations` where some were raced, more with slopes.
        slopes, slopes_failed: losses and gradients measured, and those that could not be had.
        slope_cost: what of `cost` those measured are.
        slope_failure: the most frequent class of failure of those, with a message; empty where none failed.
        refinements: of each, what it is near and how far it is.
        ahead: what was expected of the last candidates asked; None where no model says so.
        ended_by: the limit at which the search ended, or what stopped it.
        plateau: if that was a plateau, what was compared with it, in words.
        refinement_ended_by: the same of the last refinement, where there was one.
        refines: whether it is a refinement that is at work, or was last.
        pace: evaluations per minute; None where too little is known.
        seconds_left: to the end, what will be scored again included; None where too little is known.
        steady: whether results are told as they come.
    """

    campaign: str
    phase: str
    generation: int
    evaluations: int
    budget: int | None
    baselines: tuple[int, int]
    rescored: tuple[int, int]
    hypervolume: float | None
    best: tuple[Best, ...]
    failures: Mapping[str, int]
    lost: int
    shared: int
    lost_to: Mapping[str, tuple[int, float]] = field(default_factory=dict)
    repeated: float | None = None
    feasible: tuple[int, int] | None = None
    raced: int = 0
    cost: float = 0.0
    slopes: int = 0
    slopes_failed: int = 0
    slope_cost: float = 0.0
    slope_failure: str = ""
    refinements: tuple[str, ...] = ()
    ended_by: str | None = None
    refinement_ended_by: str | None = None
    refines: bool = False
    pace: float | None = None
    seconds_left: float | None = None
    steady: bool = False
    starts: int = 0
    free: int = 0
    ahead: Ahead | None = None
    plateau: str = ""

    @property
    def stage(self) -> str:
        """The generation in words; a steady-state schedule has none."""
        return "steady state" if self.steady else f"generation {self.generation}"

    def to_json(self) -> dict[str, Any]:
        """As plain JSON data."""
        return {
            "campaign": self.campaign,
            "phase": self.phase,
            "schedule": "steady_state" if self.steady else "generational",
            "generation": None if self.steady else self.generation,
            "evaluations": self.evaluations,
            "budget": self.budget,
            "baselines": list(self.baselines),
            "rescored": list(self.rescored),
            "hypervolume": self.hypervolume,
            "best": [asdict(best) for best in self.best],
            "failures": dict(self.failures),
            "lost": self.lost,
            "lost_to": {
                kind: {"attempts": attempts, "seconds": round(seconds, 3)}
                for kind, (attempts, seconds) in self.lost_to.items()
            },
            "repeated_share": self.repeated,
            "shared": self.shared,
            "starts": self.starts,
            "free": self.free,
            "feasible": None if self.feasible is None else list(self.feasible),
            "raced": self.raced,
            "cost": self.cost,
            "slopes": self.slopes,
            "slopes_failed": self.slopes_failed,
            "slope_cost": self.slope_cost,
            "slope_failure": self.slope_failure or None,
            "refinements": list(self.refinements),
            "forecast": None if self.ahead is None else asdict(self.ahead),
            "ended_by": self.ended_by,
            "refinement_ended_by": self.refinement_ended_by,
            "pace_per_minute": self.pace,
            "seconds_left": self.seconds_left,
        }


def phase_of(history: History) -> str:
    """prepare, baselines, learning, search, selection, done, or how the last session was stopped."""
    stopped = history.sessions.last_stopped
    if stopped is not None:
        return "done" if stopped in FINAL else stopped
    if history.prepared is None:
        return "prepare"
    if history.baselines is None:
        return "baselines"
    if history.selection is not None:
        return "selection"
    return "learning" if history.turns and history.turns[-1].slopes is not None else "search"


def standing(
    history: History,
    *,
    budget: int | None,
    phase: str | None = None,
    pace: float | None = None,
    known_hypervolume: float | None = None,
) -> Standing:
    """How far a history has come.

    Args:
        history: of a campaign that has begun.
        budget: evaluations allowed, None without such a limit.
        phase: what goes on now; read off the history if not given.
        pace: evaluations per minute.
        known_hypervolume: taken instead of computing it.
    """
    objectives = history.stated.objectives
    used = history.budget_used
    chosen = [*(history.selection or []), *(history.reference_ids() if history.selection else [])]
    settled = [
        name
        for name in chosen
        if "selection" in history.candidates[name].evaluations
        or "selection" in history.candidates[name].failed_splits
    ]
    left: float | None = None
    if budget is not None:
        # Raced candidates cost less than one evaluation each; those to come will cost like those before.
        # Slopes are no candidates: what they cost says nothing of them.
        paid = history.cost - history.slope_cost
        left = max(0.0, budget - history.cost) * (used / paid if used else 1.0)
    now = phase or phase_of(history)
    if now == "selection":
        left = float(len(chosen) - len(settled))
    elif left is not None and now in BEFORE_SELECTION:
        left += _rescoring_to_come(history, used + left)
    return Standing(
        campaign=history.stated.name,
        phase=now,
        generation=_generations_told(history),
        steady=history.stated.is_steady,
        evaluations=used,
        budget=budget,
        baselines=(_settled_baselines(history), _all_baselines(history)),
        rescored=(len(settled), len(chosen)),
        hypervolume=search_hypervolume(history) if known_hypervolume is None else known_hypervolume,
        best=_best(history, objectives),
        failures=history.failures(),
        feasible=_feasible(history),
        raced=history.raced,
        cost=history.cost,
        slopes=measured_slopes(history),
        slopes_failed=len(failed_slopes(history)),
        slope_cost=history.slope_cost,
        slope_failure=slope_failure(history),
        shared=history.shared,
        starts=len(history.starts.sources) if history.starts is not None else 0,
        free=history.free,
        refinements=_refinements(history, objectives),
        ahead=ahead(history),
        ended_by=history.stopped,
        plateau=plateau_text(history) if phase in (None, "done") else "",
        refinement_ended_by=history.sessions.refinement_stopped,
        refines=history.sessions.refining is not None,
        lost=history.lost_kinds.total(),
        lost_to={
            kind: (count, history.lost_seconds[kind]) for kind, count in history.lost_kinds.items()
        },
        repeated=_repeated(history),
        pace=pace,
        seconds_left=60 * left / pace if left is not None and pace else None,
    )


def _repeated(history: History) -> float | None:
    """Share of the workers' time that was spent on attempts that were lost."""
    lost = sum(history.lost_seconds.values())
    return lost / (lost + history.measured_seconds) if lost > 0.0 else None


def _refinements(history: History, objectives: Sequence[Objective]) -> tuple[str, ...]:
    found = []
    for number, each in enumerate(history.refinements):
        pairs = zip(objectives, each.preference, strict=True)
        near = ", ".join(f"{o.metric} {weight:.3g}" for o, weight in pairs if weight > 0.0)
        found.append(f"near {near}: {history.refined[number]} of {each.evaluations} evaluations")
    stopped = history.sessions.refinement_stopped
    if found and stopped is not None and stopped not in FINAL:
        found[-1] += f"; ended by {ended_text(stopped, refinement=True)}"
    return tuple(found)


def _rescoring_to_come(history: History, evaluations: float) -> float:
    """Evaluations on search items that take as long as scoring the best candidates on selection items."""
    if history.prepared is None:
        return 0.0
    counts = [each.items for each in history.prepared.evaluators.values()]
    held_out = sum(items.get("selection", 0) for items in counts) / max(history.search_items, 1)
    return held_out * (RESCORED * evaluations + len(history.reference_ids()))


def _feasible(history: History) -> tuple[int, int] | None:
    if not bounds_of(history):
        return None
    searched = history.searched()
    return len(feasible(history, searched)), len(searched)


def _generations_told(history: History) -> int:
    """Generations told; in steady state, as many candidates as a population holds count as one."""
    told, stated = history.tells, history.stated
    return told // stated.population if stated.is_steady else told


def _settled_baselines(history: History) -> int:
    return sum(c.is_baseline and c.is_settled for c in history.candidates.values())


def _all_baselines(history: History) -> int:
    """Base, experts, uniform average, single coefficients, and the averages of some that were begun."""
    some = len(soups_in(history.candidates)) + history.stated.has_ensemble
    return 2 + len(history.stated.experts) + len(history.stated.single) + some


def search_hypervolume(history: History) -> float | None:
    """Hypervolume of the search scores that keep all constraints; None before the baselines are frozen."""
    scaling = history.scaling
    if scaling is None:
        return None
    objectives = history.stated.objectives
    kept = feasible(history, history.searched())
    rows = [complete(objectives, c.evaluations["search"].metrics).values for c in kept]
    values = np.array(rows, dtype=np.float64).reshape(len(rows), len(objectives))
    return hypervolume(scaling.scale(values))


def _best(history: History, objectives: Sequence[Objective]) -> tuple[Best, ...]:
    experts = [history.candidates.get(name) for name in history.stated.experts]
    scored = [c for c in experts if c is not None and "search" in c.evaluations]
    searched = feasible(history, history.searched())
    if not scored or not searched:
        return ()
    found = [_best_of(objective.metric, searched, scored, [objective]) for objective in objectives]
    if len(objectives) > 1 and all(o.sign < 0 and is_fraction(o.metric) for o in objectives):
        found.append(_best_of(MEAN, searched, scored, objectives))
    return tuple(found)


def _best_of(
    name: str,
    searched: Sequence[Candidate],
    experts: Sequence[Candidate],
    objectives: Sequence[Objective],
) -> Best:
    """The best mean of some objectives; the first asked for wins a tie."""

    def value(candidate: Candidate) -> float:
        metrics = candidate.evaluations["search"].metrics
        return sum(metrics[o.metric].value for o in objectives) / len(objectives)

    def rank(candidate: Candidate) -> float:
        return objectives[0].sign * value(candidate)

    best, expert = min(searched, key=rank), min(experts, key=rank)
    return Best(name, best.id, value(best), expert.id, value(expert))


def line(now: Standing) -> str:
    """A standing in one line."""
    if now.phase == "prepare":
        return "prepare: reading the checkpoints"
    if now.phase == "baselines":
        return "baselines: scoring base, experts and simple merges"
    if now.phase == "selection":
        return ", ".join(
            [f"selection: scoring {now.rescored[1]} models on held-out items", *pace_text(now)]
        )
    if now.phase == "learning":
        of = "" if now.budget is None else f" of {now.budget}"
        failed = f"{now.slopes_failed} failed, " if now.slopes_failed else ""
        return f"learning: {now.slopes} gradients and losses, {failed}{now.cost:.1f}{of} evaluations"
    if now.phase != "search":
        # Else whoever set the budget misses what the gradients took of it.
        paid = f" and {now.slope_cost:.1f} for gradients" if now.slopes else ""
        return ", ".join([f"{now.phase}: {now.evaluations} evaluations{paid}", *ended_words(now)])
    of = "" if now.budget is None else f" of {now.budget}"
    done = f"{now.cost:.1f}" if now.raced or now.slopes else f"{now.evaluations}"
    parts = [f"{now.stage}: {done}{of} evaluations", *pace_text(now)]
    if now.raced:
        parts.append(f"raced: {now.raced}")
    if now.slopes:
        parts.append(f"slopes: {now.slopes}")
    if now.hypervolume is not None:
        parts.append(f"hypervolume {now.hypervolume:.4f}")
    if now.feasible is not None:
        parts.append(f"{now.feasible[0]} of {now.feasible[1]} feasible")
    if now.failures or now.slopes_failed:
        parts.append(f"failed: {failures_text(now)}")
    return ", ".join(parts)


def ended_words(now: Standing) -> list[str]:
    """What ended the last session, in a few words; none while one goes on."""
    reason = now.refinement_ended_by if now.refines else now.ended_by
    if reason is None:
        return []
    return [
        f"{'refinement ' if now.refines else ''}ended by {ended_text(reason, now.refines, now.plateau)}"
    ]


def pace_text(now: Standing) -> list[str]:
    """Evaluations a minute and what is left of the phase, as far as known."""
    if now.pace is None:
        return []
    parts = [f"{now.pace:.1f} evaluations/min"]
    if now.seconds_left is not None:
        parts.append(f"{duration(now.seconds_left)} left")
    return parts


def failures_text(now: Standing) -> str:
    """Failed candidates by class, and how many slopes failed, in a few words."""
    parts = [f"{count} {kind}" for kind, count in now.failures.items()]
    parts += [f"{now.slopes_failed} slopes"] if now.slopes_failed else []
    return ", ".join(parts) or "none"
