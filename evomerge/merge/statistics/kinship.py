"""How alike what models have learned is: model kinship's similarities, and dissimilarities of signs.

Hu et al. (2024), "Exploring Model Kinship for Merging Large Language Models", arXiv:2410.12613: cosine,
Pearson's correlation and Euclidean distance of task vectors, over the whole model at once. Sung et al.
(2023), "An Empirical Study of Multimodal Model Merging", arXiv:2304.14933: soft sign dissimilarity, whole and
truncated, which are to say beforehand how well two models merge. Sums are float64.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch

from evomerge.checkpoint.reader import Reader
from evomerge.merge.statistics.joint import TaskVectors

KINDS = ("cosine", "pearson", "distance", "ssd", "tssd")
"""The fields of a `Kinship` that say something of pairs."""


@dataclass(frozen=True)
class Kinship:
    """Similarities of every pair of models, float64 [models, models] each; NaN where a model is the base.

    `ssd` is the mean of `1 - |x + y| / (|x| + |y|)` over the entries where either task vector is not zero: 0
    where the signs agree, 1 where all cancels. For `tssd` the smaller half of a tensor's magnitudes is zero
    before, in each of the two.
    """

    names: tuple[str, ...]
    cosine: np.ndarray
    pearson: np.ndarray
    distance: np.ndarray
    ssd: np.ndarray
    tssd: np.ndarray
    norms: np.ndarray

    def mean(self, kind: str) -> float:
        """The mean over pairs; NaN of a single model."""
        values: np.ndarray = getattr(self, kind)[np.triu_indices(len(self.names), 1)]
        return float(values.mean()) if values.size else float("nan")


def kinship(base: Reader, models: Mapping[str, Reader], tensors: Sequence[str]) -> Kinship:
    """Of task vectors of some models, over all float tensors given by name."""
    names = tuple(models)
    products = np.zeros((len(names), len(names)))
    sums, size = np.zeros(len(names)), 0
    whole, truncated = _SoftSigns(len(names)), _SoftSigns(len(names))
    for tensor in tensors:
        vectors = TaskVectors(tensor, list(models.values()), base)
        medians = [_median(TaskVectors(tensor, [reader], base)) for reader in models.values()]
        for _, rows, _ in vectors.blocks():
            stack = torch.stack(rows).double()
            products += (stack @ stack.T).numpy()
            sums += stack.sum(1).numpy()
            whole.add(stack)
            small = stack.abs() < torch.tensor(medians, dtype=torch.float64)[:, None]
            truncated.add(stack.masked_fill_(small, 0.0))
        size += vectors.size
    squares = np.diag(products)
    centred = products - np.outer(sums, sums) / max(size, 1)
    apart = squares[:, None] + squares[None] - 2.0 * products
    return Kinship(
        names,
        _normed(products),
        _normed(centred),
        np.sqrt(np.maximum(apart, 0.0)),
        whole.mean(squares),
        truncated.mean(squares),
        np.sqrt(squares),
    )


class _SoftSigns:
    """Sums of soft sign dissimilarities over the entries of each pair, and how many entries there were."""

    def __init__(self, models: int) -> None:
        self._sums, self._counts = np.zeros((models, models)), np.zeros((models, models))

    def add(self, rows: torch.Tensor) -> None:
        """Entries of all models, float64 [models, entries]."""
        for i, j in combinations(range(len(rows)), 2):
            sizes = rows[i].abs() + rows[j].abs()
            live = sizes > 0.0
            parts = 1.0 - (rows[i] + rows[j]).abs()[live] / sizes[live]
            self._sums[i, j] += float(parts.sum())
            self._counts[i, j] += int(live.sum())

    def mean(self, squares: np.ndarray) -> np.ndarray:
        """Of each pair; 0 of a model and itself, NaN where a model's norm is zero."""
        sums, counts = self._sums + self._sums.T, self._counts + self._counts.T
        found = sums / np.maximum(counts, 1.0)
        return np.where((squares[:, None] > 0.0) & (squares[None] > 0.0), found, np.nan)


def _median(vector: TaskVectors) -> float:
    """The magnitude that the larger half of a task vector's entries reach."""
    magnitudes = torch.cat([row.abs() for _, (row, *_), _ in vector.blocks()])
    return float(magnitudes.kthvalue(len(magnitudes) // 2 + 1).values) if len(magnitudes) else 0.0


def _normed(products: np.ndarray) -> np.ndarray:
    lengths = np.sqrt(np.maximum(np.diag(products), 0.0))
    outer = np.outer(lengths, lengths)
    return np.where(outer > 0.0, products / np.where(outer > 0.0, outer, 1.0), np.nan)
