"""Which points add most hypervolume: a batch chosen one by one, by draws of a model.

Greedy qEHVI (Daulton, Balandat and Bakshy 2020, arXiv:2006.05078) with hypervolume by random scalarizations
(Zhang and Golovin 2020, arXiv:2006.04655), whose cost does not grow exponentially with the objectives: the
volume between a front and the reference is the mean over directions of how far each goes before it leaves
what the front dominates, to the power of the number of objectives, times a constant.
"""

from __future__ import annotations

import numpy as np

from evomerge.objectives.pareto import REFERENCE

DIRECTIONS = 256


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
    directions = _directions(pool.shape[2], rng)
    best = _reached(front, pending, directions)
    offered = _reach(pool, directions)
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
    front: np.ndarray, pending: np.ndarray, batch: np.ndarray, rng: np.random.Generator
) -> np.ndarray | None:
    """Hypervolume that a batch adds to a front and to what is pending, as a share of theirs: float64 [draws].

    `batch` holds draws of its points, float64 [draws, k, objectives]; the others are those of `greedy`.
    None where there is no hypervolume yet.
    """
    directions = _directions(batch.shape[2], rng)
    before = _reached(front, pending, directions)
    after = np.maximum(before, _reach(batch, directions).max(axis=1, initial=0.0))
    volume = before.mean(axis=1)
    if not (volume > 0.0).all():
        return None
    shares: np.ndarray = after.mean(axis=1) / volume - 1.0
    return shares


def _directions(objectives: int, rng: np.random.Generator) -> np.ndarray:
    """Unit vectors into the positive orthant, float64 [DIRECTIONS, objectives]."""
    found = np.abs(rng.normal(size=(DIRECTIONS, objectives)))
    unit: np.ndarray = np.maximum(found / np.linalg.norm(found, axis=1, keepdims=True), 1e-3)
    return unit


def _reach(values: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """[..., objectives] to [..., directions]: how far each direction goes until the point's box ends."""
    room = np.maximum(REFERENCE - values, 0.0)
    far = room[..., None, 0] / directions[:, 0]
    for k in range(1, directions.shape[1]):
        far = np.minimum(far, room[..., None, k] / directions[:, k])
    found: np.ndarray = far ** directions.shape[1]
    return found


def _reached(front: np.ndarray, pending: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """How far a front [n, objectives] and what is pending [draws, p, objectives] go: [draws, directions]."""
    best = np.zeros((len(pending), DIRECTIONS))
    if len(front):
        best = np.maximum(best, _reach(front, directions).max(axis=0))
    if pending.shape[1]:
        best = np.maximum(best, _reach(pending, directions).max(axis=1))
    return best
