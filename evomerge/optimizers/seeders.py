"""Seeders: weights computed from norms and inner products of task vectors, to start a search from.

Pure functions without torch; `prepare` records the matrices they need. Each takes `gram`, the float64
[T, T] inner products of the task vectors of T experts, of the whole model or of one place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from evomerge.ledger.events import TaskVectors
from evomerge.merge.passes.scalars import model_stock as stock_ratio
from evomerge.recipe.places import lookup
from evomerge.search_space import Genome, SearchSpace


def uniform(count: int) -> list[float]:
    """One share for each of `count` experts."""
    return [1.0 / count] * count


def metagpt(gram: np.ndarray) -> list[float]:
    """Weights proportional to the squared norms of the task vectors (Zhou et al. 2024, arXiv:2406.11385).

    `|tau_t|^2 / sum_s |tau_s|^2`; uniform where all are zero.
    """
    squares = np.diag(gram)
    total = float(squares.sum())
    return [float(square) / total for square in squares] if total > 0.0 else uniform(len(squares))


def model_stock(gram: np.ndarray) -> list[float]:
    """Equal weights `t / T` with Model Stock's ratio t (Jang et al. 2024, arXiv:2403.19522)."""
    return [stock_ratio(gram) / len(gram)] * len(gram)


def lines(gram: np.ndarray, weights: Sequence[float], slope: float = 1.0) -> tuple[float, float]:
    """(alpha, beta) of LiNeS for task arithmetic (Wang et al. 2025, arXiv:2410.17146).

    The first layer's scale of the merged task vector `sum_t w_t tau_t` is `|sum_t tau_t| / |merged| / T`, as
    for equal weights 1 gives `1 / T`; the slope is the method's searched constant.

    Args:
        gram: inner products over the whole model.
        weights: T weights of the merge that is scaled.
        slope: beta.
    """
    ones, used = np.ones(len(gram)), np.asarray(weights, dtype=np.float64)
    merged = math.sqrt(max(float(used @ gram @ used), 0.0))
    summed = math.sqrt(max(float(ones @ gram @ ones), 0.0))
    return (summed / merged if merged > 0.0 else 1.0) / len(gram), slope


def metagpt_seeds(space: SearchSpace, recorded: TaskVectors | None) -> list[Genome]:
    """The genome with MetaGPT's weights, of the whole model and place by place.

    Nothing where the space has no gene for a weight, or where the ledger is older than
    inner products in it.
    """
    weight = space.method.coefficient("weight")
    if weight is None or not weight.per_input:
        return []
    if recorded is None or not any(gene.coefficient == "weight" for gene in space.genes):
        return []
    by_place = {
        place: dict(zip(recorded.experts, metagpt(np.array(gram)), strict=True))
        for place, gram in recorded.gram.items()
    }

    def local(coefficient: str, name: str, place: str) -> float:
        declared = space.method.coefficient(coefficient)
        assert declared is not None
        return lookup(by_place, place)[name] if coefficient == "weight" else declared.default

    return [space.uniform(by_place[""]), space.fit(local)]
