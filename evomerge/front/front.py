"""Front: the non-dominated complete evaluations of a campaign, computed from its history.

After the selection phase everything here uses selection scores, which the search never saw; before
it, search scores, and the front says so. Baselines stand beside the front, not in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from evomerge.errors import Problem, UsageError
from evomerge.objectives.constraint import Bound, broken
from evomerge.objectives.measures import as_share, mean_score, worst_score
from evomerge.objectives.objective import Objective, Scaling
from evomerge.objectives.origin import Origin
from evomerge.objectives.pareto import knee, preferred
from evomerge.objectives.preference import index_of, preference
from evomerge.objectives.region import is_region, stated_bounds
from evomerge.objectives.scores import Metric, Split
from evomerge.objectives.steering import Choice

Score = Callable[[Sequence[Objective], Mapping[str, Metric]], float | None]

ONE_SIDED_95 = 1.645


@dataclass(frozen=True)
class Member:
    """One model of a front, or one baseline beside it.

    Attributes:
        id: of the candidate or baseline.
        recipe: digest of its recipe.
        metrics: split to `EVALUATOR.METRIC` to score.
        scaled: its objectives on the deciding split, 0 the ideal and 1 the nadir.
        probability: of being non-dominated, by resampling items jointly: among all models scored on selection
            items, or, before these decide, in the front; None for baselines and without per-item results.
        equals: the baselines that are the same merge; empty for baselines.
        origin: what it was made of, as far as the optimizer said.
    """

    id: str
    recipe: str
    metrics: Mapping[str, Mapping[str, Metric]]
    scaled: tuple[float, ...]
    probability: float | None = None
    equals: tuple[str, ...] = ()
    origin: Origin | None = None

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
        if self.origin is not None:
            data["origin"] = self.origin.to_json()
        return data


@dataclass(frozen=True)
class Front:
    """A Pareto front with what is needed to judge it.

    Attributes:
        campaign: its name.
        split: whose scores decide.
        objectives: of the campaign.
        members: the non-dominated models.
        references: the baselines beside them.
        scaling: ideal and nadir of the baselines on search items.
        hypervolume: of the members, by split.
        evaluations: results of the search that count.
        free: candidates whose scores were known from campaigns that the search started from.
        failures: failed candidates by class.
        bounds: of the constraints; all members keep them.
        infeasible: models that do not.
        raced: candidates given up early.
        failed_baselines: baselines without scores, id to the class and message of the failure.
        steering: how well smooth values rank the candidates, by objective; empty where there are none.
        slopes: losses and gradients measured.
        slopes_failed: those that could not be had, which cost nothing.
        slope_cost: what they cost, in evaluations.
        is_steered: whether an optimizer of the campaign steers by smooth values at all.
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
    slopes_failed: int = 0
    slope_cost: float = 0.0
    is_steered: bool = False
    free: int = 0

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
        if self.free:
            data["free"] = self.free
        if self.slopes_failed:
            data["slopes_failed"] = self.slopes_failed
        if self.slopes:
            data |= {"slopes": self.slopes, "slope_cost": self.slope_cost}
        if self.steering:
            pairs = zip(self.objectives, self.steering, strict=True)
            data["smooth"] = {
                objective.metric: choice.to_json(is_used=self.is_steered) for objective, choice in pairs
            }
        return data


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
    text = str(text)  # from Python anything may be given, and is no member then
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
        return front.members[int(np.argmin(scaled[:, objective_index(front, rest)]))]
    if kind == "prefer" and rest:
        return front.members[preferred(scaled, _weights(front, rest))]
    if is_region(text):
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


def objective_index(front: Front, name: str) -> int:
    """Which objective a name means: a metric, or an evaluator with one objective.

    Raises:
        UsageError: E506, if it is none or more than one.
    """
    try:
        return index_of(front.objectives, name)
    except ValueError as error:
        raise UsageError(Problem("E506", str(error))) from None


def _weights(front: Front, text: str) -> np.ndarray:
    try:
        return np.array(preference(front.objectives, text))
    except ValueError as error:
        raise UsageError(Problem("E506", str(error))) from None


def _constrained(front: Front, text: str, scaled: np.ndarray) -> Member:
    asked: list[_Asked] = []
    try:
        bounds = stated_bounds(front.objectives, text)
    except ValueError as error:
        raise UsageError(Problem("E506", str(error))) from None
    for part, bound in zip(text.split(","), bounds, strict=True):
        if share := as_share(bound.metric, bound.value):
            todo = f"write {bound.metric}{bound.relation}{share} for {bound.value:g} %"
            raise UsageError(Problem("E506", f"`{part.strip()}`: scores are shares of 1", todo=todo))
        side = 1.0 if bound.relation == ">=" else -1.0
        sure = [_at_the_bound(front, member, bound.metric, side) for member in front.members]
        missing = side * (bound.value - np.array(sure))
        asked.append(_Asked(part.strip(), bound.metric, sure, missing))
    keep = np.all([each.missing <= 0 for each in asked], axis=0)
    if not keep.any():
        raise _nearest(front, text, asked)
    allowed = np.flatnonzero(keep)
    return front.members[int(allowed[knee(scaled[allowed])])]


@dataclass(frozen=True)
class _Asked:
    """One part of a constraint: each member's score at the 95 % bound, and what it misses (<= 0: nothing)."""

    text: str
    metric: str
    sure: list[float]
    missing: np.ndarray


def _at_the_bound(front: Front, member: Member, metric: str, side: float) -> float:
    found = member.metrics[front.split][metric]
    return found.value - side * ONE_SIDED_95 * found.stderr


def _nearest(front: Front, text: str, asked: Sequence[_Asked]) -> UsageError:
    """The refusal of a constraint that nobody satisfies: who misses least, in units of the ranges."""
    names = [objective.metric for objective in front.objectives]
    ranges = np.abs(np.subtract(front.scaling.nadir, front.scaling.ideal))
    spans = [ranges[names.index(each.metric)] or 1.0 for each in asked]
    short = np.array(
        [np.maximum(each.missing, 0) / span for each, span in zip(asked, spans, strict=True)]
    )
    row = int(np.argmin(short.sum(axis=0)))
    member = front.members[row]
    misses = [
        f"{each.metric} {member.metrics[front.split][each.metric].value:.4g}, "
        f"{each.sure[row]:.4g} at the 95 % bound, misses `{each.text}` by {each.missing[row]:.2g}"
        for each in asked
        if each.missing[row] > 0
    ]
    found = f"the nearest is {member.id}: {'; '.join(misses)}"
    todo = "loosen it; it must hold at the 95 % bound, not only at the value"
    return UsageError(Problem("E507", f"no member satisfies `{text}`", found, todo))
