"""How far a merge is from the base, as far as its coefficients say.

A task vector's part in a merge grows with its weight, so that the sum of the weights' sizes over experts and
places is what the L1 distance is where task vectors are of one size and do not overlap. Two factors are known
besides: `lambda`, of all that is merged, and a density where nothing makes up for what it drops (TIES; DARE
and DELLA divide by it, so that the distance is that of the weights). How much a place holds is not known to
an optimizer: places of an expert count alike.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_array

from evomerge.search_space import Gene

_NUMBERS = 4_000_000
"""At a time, of float64 arrays."""

_Parts = tuple[tuple[int, float], ...]
"""Of a place's value: columns of genes, and what each is multiplied by."""


class Distance:
    """Genomes to a share of the largest distance that they can have.

    Where no expert has a weight of its own it is that by `lambda`, and 0 where there is none either.
    """

    def __init__(self, genes: Sequence[Gene]) -> None:
        parts: dict[tuple[str, str, str], list[tuple[int, float]]] = {}
        for column, gene in enumerate(genes):
            if gene.coefficient in ("weight", "lambda") or gene.thins:
                places = gene.places or ("",)
                for place, factor in zip(places, gene.basis or (1.0,) * len(places), strict=True):
                    parts.setdefault((gene.coefficient, gene.input, place), []).append((column, factor))

        def found(coefficient: str, owner: str, place: str) -> _Parts:
            return tuple(parts.get((coefficient, owner, place), ()))

        kind = "weight" if any(key[0] == "weight" and key[1] != "*" for key in parts) else "lambda"
        alike: Counter[tuple[_Parts, ...]] = Counter()
        for coefficient, owner, place in parts:
            if coefficient == kind and (owner == "*") == (kind == "lambda"):
                thinned = found("density", owner, place) or found("density", "*", place)
                alike[(found("weight", owner, place), thinned, found("lambda", "*", place))] += 1
        self._counts = np.array(list(alike.values()), dtype=np.float64)
        factors = zip(*alike, strict=True)
        self._factors = [_matrix(each, len(genes)) for each in factors if any(each)]
        low = np.array([gene.low for gene in genes])
        high = np.array([gene.high for gene in genes])
        most = np.ones(len(alike))
        for matrix, alone in self._factors:
            # No part is negative, so that a sum is largest where all genes are at one end.
            ends = np.stack([matrix @ low, matrix @ high])
            most *= np.where(alone, 1.0, np.abs(ends).max(axis=0))
        self._most = float(self._counts @ most)

    def __call__(self, genomes: np.ndarray) -> np.ndarray:
        """Float64 [n, genes] to float64 [n] within [0, 1]."""
        found = np.zeros(len(genomes))
        if self._most <= 0.0:
            return found
        step = max(1, _NUMBERS // len(self._counts))
        for start in range(0, len(genomes), step):
            rows = genomes[start : start + step]
            sizes = np.ones((len(self._counts), len(rows)))
            for matrix, alone in self._factors:
                sizes *= np.where(alone[:, None], 1.0, np.abs(matrix @ rows.T))
            found[start : start + step] = self._counts @ sizes
        return found / self._most


def _matrix(parts: Sequence[_Parts], genes: int) -> tuple[csr_array, np.ndarray]:
    """What each kind of place is made of, [kinds, genes], and bool [kinds]: where that is nothing."""
    rows = np.repeat(np.arange(len(parts)), [len(each) for each in parts])
    columns = [column for each in parts for column, _ in each]
    factors = [factor for each in parts for _, factor in each]
    matrix = csr_array((factors, (rows, columns)), shape=(len(parts), genes), dtype=np.float64)
    return matrix, np.array([not each for each in parts])
