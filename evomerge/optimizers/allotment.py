"""Allotment: how many search items of each objective a step of a lesson looks at.

The variance of a weighted sum of losses, over items that are drawn, is least for a given number of them where
each objective has them in proportion to its weight, its losses being as noisy as the others' (Neyman 1934,
doi:10.2307/2342192).
"""

from __future__ import annotations

import numpy as np


def allotted(total: int, weights: np.ndarray, most: np.ndarray) -> np.ndarray:
    """Items of each objective, int64 [objectives]: in proportion to weights, none above what there are.

    Shares are rounded so that they add up (largest remainders, the first of equal ones); what an objective
    cannot take goes to the others. Each has one at least, as long as another has two.

    Args:
        total: items of all objectives together; fewer are given where there are fewer.
        weights: float64 [objectives], at least 0; with 0 an objective gets none.
        most: int64 [objectives], items there are.
    """
    found = np.zeros(len(weights), dtype=np.int64)
    while (left := total - int(found.sum())) > 0:
        takes = (weights > 0.0) & (found < most)
        if not takes.any():
            break
        share = np.where(takes, weights, 0.0)
        share = left * share / share.sum()
        whole = np.floor(share).astype(np.int64)
        rest = left - int(whole.sum())
        whole[np.argsort(whole - share, kind="stable")[:rest]] += 1
        found = np.minimum(found + whole, most)
    for none in np.flatnonzero((weights > 0.0) & (most > 0) & (found == 0)):
        if found.max() > 1:
            found[np.argmax(found)] -= 1
            found[none] = 1
    return found
