"""Front: the non-dominated complete evaluations of a campaign, computed from its history.

After the selection phase everything here uses selection scores, which the search never saw; before
it, search scores, and the front says so. Baselines stand beside the front, not in it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from evomerge.errors import Problem, UsageError
from evomerge.front.measures import mean_score, worst_score
from evomerge.front.selection import RESAMPLES, distinct, item_arrays, tasks
from evomerge.front.statistics import probability_non_dominated
from evomerge.ledger.history import ITEMS_FOLDER, LEDGER_FILE, Candidate, History
from evomerge.ledger.item_store import ItemStore
from evomerge.ledger.ledger import read_events
from evomerge.objectives.constraint import Bound, broken
from evomerge.objectives.objective import Objective, Scaling, complete
from evomerge.objectives.pareto import hypervolume, knee, non_dominated, preferred
from evomerge.objectives.scores import Metric, Split
from evomerge.objectives.steering import Choice, steering

Score = Callable[[Sequence[Objective], Mapping[str, Metric]], float | None]

ONE_SIDED_95 = 1.645
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"


@dataclass(frozen=True)
class Member:
    """One model of a front, or one baseline beside it.

    `probability` is that of being non-dominated among the front, by resampling items jointly; None
    for baselines and where no per-item results exist. `scaled`: objectives, 0 = ideal, 1 = nadir.
    `equals`: the baselines that are the same merge; empty for baselines.
    """

    id: str
    recipe: str
    metrics: Mapping[str, Mapping[str, Metric]]
    scaled: tuple[float, ...]
    probability: float | None = None
    equals: tuple[str, ...] = ()

    def __repr__(self) -> str:
        split = "selection" if "selection" in self.metrics else "search"
        values = ", ".join(f"{name} {m.value:.4g}" for name, m in self.metrics.get(split, {}).items())
        same = f" (= {', '.join(self.equals)})" if self.equals else ""
        return f"<Member {self.id}{same}: {values} on {split} items>"

    def to_json(self) -> dict[str, Any]:
        """As plain JSON data: metrics by split."""
        data: dict[str, Any] = {
            "id": self.id,
            "recipe": self.recipe,
            "metrics": {
                split: {name: metric.to_json() for name, metric in metrics.items()}
                for split, metrics in self.metrics.items()
            },
            "scaled": list(self.scaled),
            "equals": list(self.equals),
        }
        if self.probability is not None:
            data["probability_non_dominated"] = self.probability
        return data


@dataclass(frozen=True)
class Front:
    """A Pareto front with what is needed to judge it; `split` tells whose scores decide.

    `bounds` are those of the constraints, which all members keep; `infeasible` models did not.
    `failed_baselines` are not beside it: id to the class and message of the failure. `steering`: of each
    objective, how its smooth values rank the candidates of the search; empty where no candidate has any.
    """

    campaign: str
    split: Split
    objectives: tuple[Objective, ...]
    members: tuple[Member, ...]
    references: tuple[Member, ...]
    scaling: Scaling
    hypervolume: Mapping[str, float]
    evaluations: int
    failures: Mapping[str, int]
    bounds: tuple[Bound, ...] = ()
    infeasible: int = 0
    raced: int = 0
    failed_baselines: Mapping[str, str] = field(default_factory=dict)
    steering: tuple[Choice, ...] = ()
    slopes: int = 0
    slope_cost: float = 0.0

    @property
    def picks(self) -> dict[str, str]:
        """`knee`, `best:METRIC` of every objective, `best:mean` and `best:worst` to the member's id.

        Empty where the front is; with one objective the last two say nothing new and are left out.
        """
        if not self.members:
            return {}
        over_all = ("best:mean", "best:worst") if len(self.objectives) > 1 else ()
        texts = ("knee", *(f"best:{objective.metric}" for objective in self.objectives), *over_all)
        return {text: pick(self, text).id for text in texts}

    def __repr__(self) -> str:
        counts = f"{len(self.members)} members, {len(self.references)} baselines"
        volume = f"hypervolume {self.hypervolume.get(self.split, 0.0):.4f}"
        return f"<Front of {self.campaign}: {counts}, {volume} on {self.split} items>"

    def to_json(self) -> dict[str, Any]:
        """As plain JSON data without times, hosts or paths: equal campaigns give equal bytes."""
        data = {
            "schema": 1,
            "campaign": self.campaign,
            "split": self.split,
            "objectives": [{"metric": o.metric, "direction": o.direction} for o in self.objectives],
            "members": [member.to_json() for member in self.members],
            "baselines": [member.to_json() for member in self.references],
            "picks": self.picks,
            "ideal": list(self.scaling.ideal),
            "nadir": list(self.scaling.nadir),
            "hypervolume": dict(self.hypervolume),
            "evaluations": self.evaluations,
            "failures": dict(self.failures),
            "failed_baselines": dict(self.failed_baselines),
            "constraints": [bound.to_json() for bound in self.bounds],
            "infeasible": self.infeasible,
            "raced": self.raced,
        }
        if self.slopes:
            data |= {"slopes": self.slopes, "slope_cost": self.slope_cost}
        if self.steering:
            pairs = zip(self.objectives, self.steering, strict=True)
            data["smooth"] = {objective.metric: choice.to_json() for objective, choice in pairs}
        return data


def compute_front(history: History, store: ItemStore) -> Front:
    """The front of a history.

    Raises:
        UsageError: E507, if no baseline has been evaluated yet, so that nothing can be compared.
    """
    scaling = history.scaling
    if scaling is None:
        raise UsageError(
            Problem("E507", "there is no front yet", "the baselines are not evaluated", "run on")
        )
    config = history.config
    objectives = tuple(Objective(o["metric"], o["direction"]) for o in config["objectives"])
    split = _deciding_split(history)
    parts: tuple[Split, ...] = ("search",) if split == "search" else ("search", "selection")
    judged = distinct(_scored(history, split), split)
    pool = history.feasible(judged, split)
    values = _values(pool, objectives, split)
    stays = non_dominated(values) if pool else np.zeros(0, dtype=bool)
    chosen = [c for c, stay in zip(pool, stays, strict=True) if stay]
    probabilities = _probabilities(chosen, objectives, split, store, int(config["seed"]))
    members = [
        _member(
            candidate, objectives, scaling, split, probability, history.baselines_equal_to(candidate)
        )
        for candidate, probability in zip(chosen, probabilities, strict=True)
    ]
    members.sort(key=lambda member: (sum(member.scaled), member.id))
    return Front(
        campaign=config["name"],
        split=split,
        objectives=objectives,
        members=tuple(members),
        references=tuple(
            _member(history.candidates[name], objectives, scaling, split)
            for name in history.reference_ids()
        ),
        scaling=scaling,
        hypervolume={part: _hypervolume(history, objectives, scaling, part) for part in parts},
        evaluations=history.budget_used,
        failures=history.failures(),
        bounds=history.bounds(split),
        infeasible=len(judged) - len(pool),
        raced=history.raced,
        slopes=sum(map(len, history.slopes)),
        slope_cost=history.slope_cost,
        failed_baselines={
            name: f"{c.failure}: {c.message}"
            for name, c in history.candidates.items()
            if c.is_baseline and c.failure is not None
        },
        steering=_steering(history, objectives),
    )


def _steering(history: History, objectives: Sequence[Objective]) -> tuple[Choice, ...]:
    searched = distinct(history.searched(), "search")
    outcomes = [complete(objectives, c.evaluations["search"].metrics) for c in searched]
    return steering(outcomes).choices if any(outcome.smooth for outcome in outcomes) else ()


def _hypervolume(
    history: History, objectives: Sequence[Objective], scaling: Scaling, split: Split
) -> float:
    kept = history.feasible(_scored(history, split), split)
    return hypervolume(scaling.scale(_values(kept, objectives, split)))


def read_front(directory: Path) -> Front:
    """The front of a campaign folder, also while a run goes on in it.

    Raises:
        UsageError: E507, as `compute_front` says.
        LedgerDamaged: E502.
    """
    history = History.fold(read_events(directory / LEDGER_FILE))
    return compute_front(history, ItemStore(directory / ITEMS_FOLDER))


def _deciding_split(history: History) -> Split:
    if history.selection is None:
        return "search"
    wanted = (*history.selection, *history.reference_ids())
    done = all(
        "selection" in {*history.candidates[name].evaluations, *history.candidates[name].failed_splits}
        for name in wanted
    )
    return "selection" if done else "search"


def _scored(history: History, split: Split) -> list[Candidate]:
    """Candidates with scores on a split; on `selection` only those the last selection chose.

    A campaign whose budget grew has scores of earlier selections, which one run to the end has not.
    """
    found = [c for c in history.searched() if split in c.evaluations]
    chosen = set(history.selection or ())
    return [c for c in found if c.id in chosen] if split == "selection" else found


def _values(
    candidates: Sequence[Candidate], objectives: Sequence[Objective], split: Split
) -> np.ndarray:
    rows = [complete(objectives, c.evaluations[split].metrics).values for c in candidates]
    return np.array(rows, dtype=np.float64).reshape(len(rows), len(objectives))


def _probabilities(
    members: Sequence[Candidate],
    objectives: Sequence[Objective],
    split: Split,
    store: ItemStore,
    seed: int,
) -> list[float | None]:
    arrays = item_arrays(members, objectives, split, store) if members else None
    if arrays is None:
        return [None] * len(members)
    signs = [objective.sign for objective in objectives]
    found = probability_non_dominated(
        arrays, signs, resamples=RESAMPLES, seed=seed, tasks=tasks(objectives)
    )
    return [round(float(p), 4) for p in found]


def _member(
    candidate: Candidate,
    objectives: Sequence[Objective],
    scaling: Scaling,
    split: Split,
    probability: float | None = None,
    equals: tuple[str, ...] = (),
) -> Member:
    # A baseline that could not be scored on the deciding split still has search scores.
    known = split if split in candidate.evaluations else "search"
    scaled = scaling.scale(_values([candidate], objectives, known))[0]
    return Member(
        id=candidate.id,
        recipe=candidate.recipe,
        metrics={s: e.metrics for s, e in sorted(candidate.evaluations.items())},
        scaled=tuple(scaled.tolist()),
        probability=probability,
        equals=equals,
    )


PICKS = "knee, best:METRIC, best:mean, best:worst, prefer:A=0.7,B=0.3 or METRIC>=VALUE"
"""What names a member by its scores."""


def pick(front: Front, text: str) -> Member:
    """The member a person asks for.

    Args:
        front: the front to pick from.
        text: the id of a member or of a baseline beside it; `knee`; `best:METRIC`;
            `best:mean` and `best:worst` (the highest mean, the highest of lowest scores; where objectives
            are no fractions to maximise, of scaled objectives); `prefer:math=0.7,code=0.3` (weights of
            objectives); or a constraint such as `math.acc>=0.6` (several joined by commas), which must
            hold at the one-sided 95 % bound, and among those the knee.

    Raises:
        UsageError: E506 for an unknown id, metric or form, E507 if nothing satisfies a constraint.
    """
    for member in (*front.members, *front.references):
        if member.id == text:
            return member
    if not front.members:
        raise UsageError(Problem("E507", "the front is empty", why_empty(front)))
    scaled = np.array([member.scaled for member in front.members])
    if text == "knee":
        return front.members[knee(scaled)]
    kind, _, rest = text.partition(":")
    if text == "best:mean":
        return front.members[_best_over_all(front, mean_score, scaled.sum(axis=1))]
    if text == "best:worst":
        return front.members[_best_over_all(front, worst_score, scaled.max(axis=1))]
    if kind == "best" and rest:
        return front.members[int(np.argmin(scaled[:, _objective_index(front, rest)]))]
    if kind == "prefer" and rest:
        return front.members[preferred(scaled, _weights(front, rest))]
    if re.search(r"[<>]", text):
        return _constrained(front, text, scaled)
    ids = ", ".join(member.id for member in front.members[:8])
    more = ", ..." if len(front.members) > 8 else ""
    beside = ", ".join(member.id for member in front.references)
    found = f"members: {ids}{more}; baselines: {beside}"
    todo = f"give an id of these, {PICKS}"
    raise UsageError(Problem("E506", f"`{text}` is no member of the front", found, todo))


def _best_over_all(front: Front, score: Score, otherwise: np.ndarray) -> int:
    """The member with the highest score; by `otherwise` [members], minimised, where there is none."""
    found = [score(front.objectives, member.metrics[front.split]) for member in front.members]
    values = [-value for value in found if value is not None]
    return int(np.argmin(values if len(values) == len(found) else otherwise))


def why_empty(front: Front) -> str:
    """Why a front has no members, or nothing where it is not known."""
    if not front.infeasible:
        return ""
    bounds = ", ".join(map(str, front.bounds))
    return f"none of {front.infeasible} models keeps all constraints on {front.split} items: {bounds}"


def broken_by(front: Front, member: Member) -> list[Bound]:
    """The front's bounds that a member or baseline breaks, on the deciding split or else on search."""
    metrics = member.metrics[front.split if front.split in member.metrics else "search"]
    return broken(front.bounds, metrics)


def _objective_index(front: Front, name: str) -> int:
    metrics = [objective.metric for objective in front.objectives]
    if name in metrics:
        return metrics.index(name)
    short = [index for index, metric in enumerate(metrics) if metric.split(".")[0] == name]
    if len(short) == 1:
        return short[0]
    wrong = f"`{name}` is {'more than one' if short else 'no'} objective"
    near = difflib.get_close_matches(name, metrics, n=1)
    todo = f"did you mean `{near[0]}`?" if near and not short else ""
    raise UsageError(Problem("E506", wrong, f"objectives: {', '.join(metrics)}", todo))


def _weights(front: Front, text: str) -> np.ndarray:
    weights = np.zeros(len(front.objectives))
    for part in text.split(","):
        name, _, value = part.partition("=")
        index = _objective_index(front, name.strip())
        try:
            weights[index] = float(value)
        except ValueError:
            raise UsageError(Problem("E506", f"`{part}` must be NAME=NUMBER")) from None
    if not np.isfinite(weights).all() or (weights < 0).any() or weights.sum() == 0:
        raise UsageError(Problem("E506", "weights must be at least 0 and not all 0", f"found `{text}`"))
    shares: np.ndarray = weights / weights.sum()
    return shares


def _constrained(front: Front, text: str, scaled: np.ndarray) -> Member:
    keep = np.ones(len(front.members), dtype=bool)
    for part in text.split(","):
        match = re.fullmatch(rf"\s*([\w.-]+)\s*([<>]=)\s*({_NUMBER})\s*", part)
        if match is None:
            raise UsageError(Problem("E506", f"`{part}` must be METRIC>=VALUE or METRIC<=VALUE"))
        objective = front.objectives[_objective_index(front, match[1])]
        for index, member in enumerate(front.members):
            metric = member.metrics[front.split][objective.metric]
            margin = ONE_SIDED_95 * metric.stderr
            if match[2] == ">=":
                keep[index] &= metric.value - margin >= float(match[3])
            else:
                keep[index] &= metric.value + margin <= float(match[3])
    if not keep.any():
        todo = "loosen it; it must hold at the 95 % bound, not only at the value"
        raise UsageError(Problem("E507", f"no member satisfies `{text}`", todo=todo))
    allowed = np.flatnonzero(keep)
    return front.members[int(allowed[knee(scaled[allowed])])]
