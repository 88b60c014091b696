"""Which points add most hypervolume: a batch chosen one by one, by draws of a model.

Greedy qEHVI (Daulton, Balandat and Bakshy 2020, arXiv:2006.05078) with hypervolume by random scalarizations
(Zhang and Golovin 2020, arXiv:2006.04655), whose cost does not grow exponentially with the objectives: the
volume between a front and the reference is the mean over directions of how far each goes before it leaves
what the front dominates, to the power of the number of objectives, times a constant. What directions
count by how near to a preference they end, is the hypervolume near it.
"""

from __future__ import annotations

import numpy as np

from evomerge.objectives.pareto import REFERENCE, distances

DIRECTIONS = 256

NEAR = 0.03
"""Of the distance from a focus: what is so much worse than the best known counts 1/e of what is as good."""


def greedy(
    front: np.ndarray,
    pending: np.ndarray,
    pool: np.ndarray,
    count: int,
    rng: np.random.Generator,
    nearness: np.ndarray | None = None,
) -> list[int]:
    """Indices of up to `count` points, each adding most hypervolume to all before it, on average over draws.

    Args:
        front: what is known, float64 [n, objectives], scaled.
        pending: draws of what is pending, float64 [draws, p, objectives].
        pool: draws of the points to choose from, float64 [draws, m, objectives].
        count: how many are wanted.
        rng: draws the directions of the scalarizations.
        nearness: what the gain of each point counts, by draw, float64 [draws, m]; alike if None.
    """
    directions = drawn_directions(pool.shape[2], rng)
    best = reached(front, pending, directions)
    offered = reach(pool, directions)
    left = np.ones(pool.shape[1], dtype=bool)
    chosen: list[int] = []
    for _ in range(min(count, len(left))):
        added = np.maximum(offered - best[:, None, :], 0.0).mean(axis=2)
        gain = (added if nearness is None else added * nearness).mean(axis=0)
        pick = int(np.argmax(np.where(left, gain, -1.0)))
        chosen.append(pick)
        left[pick] = False
        best = np.maximum(best, offered[:, pick])
    return chosen


def gain_shares(
    front: np.ndarray,
    pending: np.ndarray,
    batch: np.ndarray,
    rng: np.random.Generator,
    focus: np.ndarray | None = None,
) -> np.ndarray | None:
    """Hypervolume that a batch adds to a front and to what is pending, as a share of theirs: float64 [draws].

    `batch` holds draws of its points, float64 [draws, k, objectives]; the others are those of `greedy`. With
    a `focus`, as for `near_volume`, both are the hypervolume near it. None where there is none yet.
    """
    directions, nearness = drawn_directions(batch.shape[2], rng), np.ones(DIRECTIONS)
    if focus is not None and len(front):
        directions, nearness = _near(front, focus, rng)
    before = reached(front, pending, directions)
    after = np.maximum(before, reach(batch, directions).max(axis=1, initial=0.0))
    volume = (before * nearness).mean(axis=1)
    if not (volume > 0.0).all():
        return None
    shares: np.ndarray = (after * nearness).mean(axis=1) / volume - 1.0
    return shares


def drawn_directions(objectives: int, rng: np.random.Generator) -> np.ndarray:
    """Unit vectors into the positive orthant, float64 [DIRECTIONS, objectives]."""
    found = np.abs(rng.normal(size=(DIRECTIONS, objectives)))
    unit: np.ndarray = np.maximum(found / np.linalg.norm(found, axis=1, keepdims=True), 1e-3)
    return unit


def near_volume(values: np.ndarray, front: np.ndarray, focus: np.ndarray) -> float:
    """What points dominate near where a front is best for a focus, in units of its own.

    Args:
        values: of the points, float64 [n, objectives], scaled.
        front: float64 [m, objectives], scaled; of one front all figures can be compared.
        focus: weights of the objectives, the largest of them 1.
    """
    if not len(values) or not len(front):
        return 0.0
    directions, nearness = _near(front, focus, np.random.default_rng(0))
    return float((reach(values, directions).max(axis=0) * nearness).mean())


def _near(
    front: np.ndarray, focus: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Directions about the point of a front that is best for a focus, and what each counts.

    That is by how good it is where it leaves what the front dominates: 1/e for each `NEAR` that it is worse
    than the best point. They are drawn as far about that as each objective is weighed.
    """
    known = _distance(front, focus)
    spread = np.minimum(NEAR / np.maximum(focus, 1e-9), REFERENCE)
    room = REFERENCE - front[np.argmin(known)]
    places = np.maximum(room + spread * rng.laplace(size=(DIRECTIONS, len(room))), 1e-3)
    directions = np.maximum(places / np.linalg.norm(places, axis=1, keepdims=True), 1e-3)
    far = reach(front, directions).max(axis=0) ** (1.0 / len(room))
    worse = _distance(REFERENCE - far[:, None] * directions, focus) - known.min()
    return directions, np.exp(-np.maximum(worse, 0.0) / NEAR)


def _distance(values: np.ndarray, focus: np.ndarray) -> np.ndarray:
    """That of `distances`, for weights of which the largest is 1: float64 [n, objectives] to [n]."""
    total = focus.sum()
    found: np.ndarray = total * distances(values, focus / total)
    return found


def reach(values: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """[..., objectives] to [..., directions]: how far each direction goes until the point's box ends."""
    room = np.maximum(REFERENCE - values, 0.0)
    far = room[..., None, 0] / directions[:, 0]
    for k in range(1, directions.shape[1]):
        far = np.minimum(far, room[..., None, k] / directions[:, k])
    found: np.ndarray = far ** directions.shape[1]
    return found


def reached(front: np.ndarray, pending: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """How far a front [n, objectives] and what is pending [draws, p, objectives] go: [draws, directions]."""
    best = np.zeros((len(pending), DIRECTIONS))
    if len(front):
        best = np.maximum(best, reach(front, directions).max(axis=0))
    if pending.shape[1]:
        best = np.maximum(best, reach(pending, directions).max(axis=1))
    return best
