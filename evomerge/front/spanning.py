"""A large front made small: groups of members that the items cannot tell apart, and a few that span it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evomerge.front.front import Front

CLOSE = 2.0
"""Standard errors within which two members are not told apart."""

MOST = 12
"""Members shown of a front by default."""


@dataclass(frozen=True)
class Group:
    """Members within two standard errors of `leader` on every objective; `ids` begins with the leader."""

    leader: str
    ids: tuple[str, ...]


@dataclass(frozen=True)
class Spanning:
    """One of the few members that span a front.

    `why`: the picks that name it (`knee`, `best:METRIC`, `best:mean`, `best:worst`); empty for one taken
    because it lies farthest from those before it. `like`: other members of its group.
    """

    id: str
    why: tuple[str, ...]
    like: tuple[str, ...]


def close(values: np.ndarray, errors: np.ndarray, row: int) -> np.ndarray:
    """Bool [members]: which are within two standard errors of member `row` on all objectives.

    The standard error is the larger of the two models'. One row at a time: a table of all pairs of thousands
    takes gigabytes.

    Args:
        values: float64 [members, objectives].
        errors: their standard errors, same shape.
        row: of the member.
    """
    limit = CLOSE * np.maximum(errors, errors[row])
    return np.asarray((np.abs(values - values[row]) <= limit + 1e-12).all(axis=1))


def groups(front: Front) -> tuple[Group, ...]:
    """Every member in one group, none farther than two standard errors from its leader on any objective.

    Who has a name (an end, the knee, best mean, best worst score) leads first, then the rest in the front's
    order; closeness does not carry on from member to member, so that a long row of neighbours is no group.
    """
    names = [member.id for member in front.members]
    index = {name: row for row, name in enumerate(names)}
    free = np.array([index[name] for name in dict.fromkeys([*front.picks.values(), *names])], dtype=int)
    values, errors = (scores[free] for scores in scores_of(front))
    found = []
    while len(free):
        near = close(values, errors, 0)
        found.append(Group(names[free[0]], tuple(names[row] for row in free[near])))
        free, values, errors = free[~near], values[~near], errors[~near]
    return tuple(found)


def spanning(front: Front, joined: Sequence[Group], most: int = MOST) -> tuple[Spanning, ...]:
    """At most `most` members that span a front.

    First the ends, the knee, the best mean and the best worst score; then, one of each group that is not
    among them yet, whoever lies farthest from all before it in scaled objectives (Gonzalez 1985). In the
    front's order.

    Args:
        front: whose members to show.
        joined: its `groups`.
        most: of them.
    """
    named: dict[str, list[str]] = {}
    for text, name in front.picks.items():
        named.setdefault(name, []).append(text)
    scaled = {member.id: np.array(member.scaled) for member in front.members}
    chosen = list(named)[:most]
    group_of = {name: group for group in joined for name in group.ids}
    seen = {group_of[name].leader for name in chosen}
    rest = [group.leader for group in joined if group.leader not in seen]
    points = np.array([scaled[name] for name in rest]).reshape(len(rest), len(front.objectives))
    distances = np.full(len(rest), np.inf)
    for other in chosen:
        distances = np.minimum(distances, np.linalg.norm(points - scaled[other], axis=1))
    while rest and len(chosen) < most:
        farthest = int(np.argmax(distances))
        chosen.append(rest.pop(farthest))
        points, distances = (np.delete(array, farthest, axis=0) for array in (points, distances))
        distances = np.minimum(distances, np.linalg.norm(points - scaled[chosen[-1]], axis=1))
    return tuple(
        Spanning(
            id=member.id,
            why=tuple(named.get(member.id, ())),
            like=tuple(name for name in group_of[member.id].ids if name != member.id),
        )
        for member in front.members
        if member.id in chosen
    )


def scores_of(front: Front) -> tuple[np.ndarray, np.ndarray]:
    """Values and standard errors on the deciding split, float64 [members, objectives]."""
    shape = (len(front.members), len(front.objectives))
    found = [[m.metrics[front.split][o.metric] for o in front.objectives] for m in front.members]
    values = [[metric.value for metric in row] for row in found]
    errors = [[metric.stderr for metric in row] for row in found]
    return np.array(values).reshape(shape), np.array(errors).reshape(shape)
