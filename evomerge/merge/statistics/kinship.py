"""Model kinship: how alike what models have learned is, by three similarities.

Hu et al. (2024), "Exploring Model Kinship for Merging Large Language Models", arXiv:2410.12613: cosine,
Pearson's correlation and Euclidean distance of task vectors, over the whole model at once. Sums are float64.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from evomerge.checkpoint.reader import Reader
from evomerge.merge.statistics.joint import TaskVectors


@dataclass(frozen=True)
class Kinship:
    """Similarities of every pair of models, float64 [models, models] each; NaN where a model is the base."""

    names: tuple[str, ...]
    cosine: np.ndarray
    pearson: np.ndarray
    distance: np.ndarray
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
    for tensor in tensors:
        vectors = TaskVectors(tensor, list(models.values()), base)
        for _, rows, _ in vectors.blocks():
            stack = torch.stack(rows).double()
            products += (stack @ stack.T).numpy()
            sums += stack.sum(1).numpy()
        size += vectors.size
    squares = np.diag(products)
    centred = products - np.outer(sums, sums) / max(size, 1)
    apart = squares[:, None] + squares[None] - 2.0 * products
    return Kinship(
        names, _normed(products), _normed(centred), np.sqrt(np.maximum(apart, 0.0)), np.sqrt(squares)
    )


def _normed(products: np.ndarray) -> np.ndarray:
    lengths = np.sqrt(np.maximum(np.diag(products), 0.0))
    outer = np.outer(lengths, lengths)
    return np.where(outer > 0.0, products / np.where(outer > 0.0, outer, 1.0), np.nan)
