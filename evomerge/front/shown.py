"""Which members of a front a person asked to see, and in which order."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from evomerge.errors import Problem, UsageError
from evomerge.front.decision import Decision
from evomerge.front.front import Front, Member, objective_index, pick
from evomerge.front.spanning import MOST, close, groups, scores_of, spanning
from evomerge.objectives.measures import MEAN, WORST, alike, as_share, mean_score, worst_score

PROBABILITY, ID = "probability", "id"
USUAL = "ordered by the mean of their scaled scores (0: best of base and experts, 1: worst)"


@dataclass(frozen=True)
class Wish:
    """What to show of a front.

    Attributes:
        ids: members by id or pick; these and no others.
        every: all members instead of a few that span the front.
        sort: a metric, `mean`, `worst`, `probability` or `id`; best first. The front's order if None.
        low: `METRIC=VALUE`, least values as measured.
        high: `METRIC=VALUE`, greatest values.
    """

    ids: tuple[str, ...] = ()
    every: bool = False
    sort: str | None = None
    low: tuple[str, ...] = ()
    high: tuple[str, ...] = ()


@dataclass(frozen=True)
class Shown:
    """Members to show.

    Attributes:
        members: in the order in which they are shown.
        allowed: how many members keep what was asked for.
        like: for how many of those left out one that is shown stands: of its group, within two standard
            errors of it, and none that a bound leaves out.
        how: the choice and the order, in words.
    """

    members: tuple[Member, ...]
    allowed: int
    like: Mapping[str, int]
    how: str

    @property
    def alike(self) -> int:
        """How many of those left out one that is shown stands for."""
        return sum(self.like.values())


def choose_shown(front: Front, decision: Decision, wish: Wish) -> Shown:
    """The members that a wish names.

    Raises:
        UsageError: E506 for an unknown id, pick, metric or form; E507 as `pick`.
    """
    allowed = list(front.members)
    for texts, sign in ((wish.low, 1.0), (wish.high, -1.0)):
        for text in texts:
            measure, value = _bound(front, text)
            allowed = [member for member in allowed if sign * (measure(member) - value) >= 0]
    kept = {member.id for member in allowed}
    if wish.ids:
        named = {pick(front, text).id for text in wish.ids}
        allowed = [member for member in allowed if member.id in named]
    order, ordered = USUAL, allowed
    if wish.sort is not None:
        ordered = _sorted(front, allowed, wish.sort)
        order = "ordered by id" if wish.sort == ID else f"ordered by {wish.sort}, best first"
    chosen = ordered
    if not wish.every and not wish.ids and len(ordered) > MOST:
        if wish.sort is None:
            part = dataclasses.replace(front, members=tuple(ordered))
            ids = {each.id for each in spanning(part, groups(part))}
            chosen = [member for member in ordered if member.id in ids]
        else:
            chosen = ordered[:MOST]
    like = _stands_for(front, decision, {member.id for member in chosen}, kept)
    how = f"{_counted(front, len(chosen), len(allowed), wish)}, {order}"
    if front.members and not allowed:
        how = "no member has what was asked for"
    return Shown(tuple(chosen), len(allowed), like, how)


def _stands_for(
    front: Front, decision: Decision, ids: Collection[str], kept: Collection[str]
) -> dict[str, int]:
    """Id to how many of `kept` the first of `ids` in a group stands for; without those who do for none."""
    values, errors = scores_of(front)
    rows = {member.id: row for row, member in enumerate(front.members)}
    found = {}
    for group in decision.groups:
        first = next((name for name in group.ids if name in ids), None)
        if first is None:
            continue
        # All are close to the group's leader, which need not be shown, and not so to one another.
        near = close(values, errors, rows[first])
        count = sum(name in kept and name not in ids and bool(near[rows[name]]) for name in group.ids)
        if count:
            found[first] = count
    return found


def _counted(front: Front, count: int, allowed: int, wish: Wish) -> str:
    asked = "members" if allowed == len(front.members) else "members asked for"
    if count == allowed == 1:
        return "the one member" if asked == "members" else "the member asked for"
    if count == allowed:
        return f"{'all' if asked == 'members' else 'the'} {count} {asked}"
    if wish.sort is not None:
        return f"the first {count} of {allowed} {asked}"
    return f"{count} of {allowed} {asked} that span the front"


def _sorted(front: Front, members: Sequence[Member], name: str) -> list[Member]:
    if name == ID:
        return sorted(members, key=lambda member: member.id)
    if name == PROBABILITY:
        return sorted(members, key=lambda member: -(member.probability or 0.0))
    try:
        measure = _measure(front, name)
    except UsageError as error:
        others = f"sort by a metric, {MEAN}, {WORST}, {PROBABILITY} or {ID}"
        problem = error.problems[0]
        raise UsageError(dataclasses.replace(problem, todo=problem.todo or others)) from None
    minimised = name not in (MEAN, WORST) and (
        front.objectives[objective_index(front, name)].direction == "minimize"
    )
    return sorted(members, key=lambda member: measure(member) * (1 if minimised else -1))


def _bound(front: Front, text: str) -> tuple[Callable[[Member], float], float]:
    name, _, stated = text.partition("=")
    try:
        measure, value = _measure(front, name.strip()), float(stated)
    except ValueError:
        todo = "for example math.acc=0.6"
        raise UsageError(Problem("E506", f"`{text}` must be METRIC=VALUE", todo=todo)) from None
    metrics = [each.metric for each in front.objectives]
    if name.strip() not in (MEAN, WORST):
        metrics = [front.objectives[objective_index(front, name.strip())].metric]
    if all(shares := [as_share(metric, value) for metric in metrics]):
        todo = f"write {name}={shares[0]} for {value:g} %"
        raise UsageError(Problem("E506", f"`{text}`: scores are shares of 1", todo=todo))
    return measure, value


def _measure(front: Front, name: str) -> Callable[[Member], float]:
    if name in (MEAN, WORST):
        if not alike(front.objectives):
            found = ", ".join(f"{o.metric} ({o.direction})" for o in front.objectives)
            raise UsageError(Problem("E506", f"there is no {name} of objectives that differ", found))
        score = mean_score if name == MEAN else worst_score
        return lambda member: score(front.objectives, member.metrics[front.split]) or 0.0
    metric = front.objectives[objective_index(front, name)].metric
    return lambda member: member.metrics[front.split][metric].value
