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
    objectives = pool.shape[2]
    directions = np.abs(rng.normal(size=(DIRECTIONS, objectives)))
    directions = np.maximum(directions / np.linalg.norm(directions, axis=1, keepdims=True), 1e-3)

    def reach(values: np.ndarray) -> np.ndarray:
        """[..., objectives] to [..., directions]: how far each direction goes until the point's box ends."""
        room = np.maximum(REFERENCE - values, 0.0)
        far = room[..., None, 0] / directions[:, 0]
        for k in range(1, objectives):
            far = np.minimum(far, room[..., None, k] / directions[:, k])
        found: np.ndarray = far**objectives
        return found

    best = np.zeros((len(pool), DIRECTIONS))
    if len(front):
        best = np.maximum(best, reach(front).max(axis=0))
    if pending.shape[1]:
        best = np.maximum(best, reach(pending).max(axis=1))
    offered = reach(pool)
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
