"""Front map: a genome for every preference, genome(w) = clip(A + B w**p), and the steps it takes.

It starts at the simple merges: where one thing alone is preferred the expert that is best at it, in the
middle, by the power p < 1, about what the best single coefficient of such experts mostly is; of one objective
at the mean of the experts by how good they are. Steps are Adam's
(Kingma and Ba 2015, arXiv:1412.6980). As in Pareto hypernetworks (Navon et al. 2021, arXiv:2010.04104) one
model holds the whole front; here it is a matrix.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from evomerge.optimizers.grid import Grid
from evomerge.optimizers.slopes import SlopeGround
from evomerge.search_space import Gene

BETAS = (0.9, 0.98)
LEAST = 1e-8
LEVEL = 0.75
"""Sum of all experts' coefficients at the start where nothing is known of their strengths."""

MIDDLE, MOST = 2.1, 0.8
"""In the middle the coefficients of specialists add up to the first at the start, none above the second."""

ALONE = 0.5
"""The power where there is one objective, of which none matters: but 1 is on record for maps that began as
lines, as those of one objective did before December 2026."""

EDGE = 0.25
"""How far from the edges towards the middle points are asked for; experts themselves are known."""


class FrontMap:
    """genome(w) = clip(A + B w ** power), and its Adam state.

    Attributes:
        table: float64 [genes, 1 + objectives], A and then B.
        power: above 0; 1 is a line.
    """

    def __init__(self, grid: Grid, table: np.ndarray, learned: np.ndarray, power: float = 1.0) -> None:
        self._grid = grid
        self.power = power
        self._rows, self._matrix = row_groups(grid.genes)
        self.table = table
        self._learned = learned
        self._first, self._second = np.zeros_like(table), np.zeros_like(table)
        self._steps = 0

    def points(self, preferences: np.ndarray) -> np.ndarray:
        """Float64 [n, genes] within the bounds, off the grid, for preferences [n, objectives]."""
        # Sums in a fixed order, since BLAS may take another one on another machine.
        values = np.repeat(self.table[None, :, 0], len(preferences), axis=0)
        shares = preferences**self.power
        for objective in range(shares.shape[1]):
            values += shares[:, objective, None] * self.table[None, :, 1 + objective]
        clipped: np.ndarray = np.clip(values, self._grid.low, self._grid.high)
        return clipped

    def evenly(self, places: np.ndarray) -> np.ndarray:
        """Preferences whose shares w ** power lie as evenly as places [n, objectives] of the simplex do.

        A little inside of it, since where an objective has no weight it is given up for nothing. Places on a
        line are preferences themselves.
        """
        if self.power == 1.0:
            return places
        inside = (1.0 - EDGE) * places + EDGE / places.shape[1]
        stretched = inside ** (1.0 / self.power)
        found: np.ndarray = stretched / stretched.sum(axis=1, keepdims=True)
        return found

    def step(
        self, preferences: np.ndarray, gradients: np.ndarray, rate: float, shrinkage: float = 0.0
    ) -> None:
        """One Adam step by the mean of gradients [n, genes] at the points of n preferences.

        Rows are drawn to the mean of their matrix by `rate * shrinkage` of the way, apart from the moments
        (decoupled weight decay: Loshchilov and Hutter 2019, arXiv:1711.05101).
        """
        total = np.zeros_like(self.table)
        for w, gradient in zip(preferences**self.power, gradients, strict=True):
            value = self.table[:, 0].copy()
            for objective, share in enumerate(w.tolist()):
                value += share * self.table[:, 1 + objective]
            # Where the clip holds a value, only a step back inside does anything.
            held = ((value <= self._grid.low) & (gradient > 0)) | (
                (value >= self._grid.high) & (gradient < 0)
            )
            gradient = np.where(held | ~self._learned, 0.0, gradient)
            total[:, 0] += gradient
            for objective, share in enumerate(w.tolist()):
                total[:, 1 + objective] += share * gradient
        total /= len(gradients)
        self._steps += 1
        self._first += (1 - BETAS[0]) * (total - self._first)
        self._second += (1 - BETAS[1]) * (total * total - self._second)
        first = self._first / (1 - BETAS[0] ** self._steps)
        second = self._second / (1 - BETAS[1] ** self._steps)
        self.table = self.table - rate * first / (np.sqrt(second) + LEAST)
        if shrinkage > 0.0 and len(self._rows):
            own = self.table[self._rows]
            count = np.bincount(self._matrix)
            sums = [np.bincount(self._matrix, column) for column in own.T]
            mean = np.stack([total / count for total in sums], axis=1)[self._matrix]
            self.table[self._rows] = own + min(1.0, rate * shrinkage) * (mean - own)


def row_groups(genes: Sequence[Gene]) -> tuple[np.ndarray, np.ndarray]:
    """The genes that are single rows, and for each a number of its expert's matrix: int64 [rows], twice."""
    rows = [number for number, gene in enumerate(genes) if gene.matrix]
    numbers: dict[tuple[str, str, str], int] = {}
    matrix = [
        numbers.setdefault((gene.coefficient, gene.input, gene.matrix), len(numbers))
        for gene in (genes[number] for number in rows)
    ]
    return np.array(rows, dtype=np.int64), np.array(matrix, dtype=np.int64)


def starting_table(genes: Sequence[Gene], ground: SlopeGround, spread: float | None) -> np.ndarray:
    """A and B at the start, float64 [genes, 1 + objectives]; without a spread those of the curved map."""
    objectives = len(ground.items)
    middle = (1.0 / objectives) ** curve(objectives)
    # Of several objectives experts are mostly good at different ones; of one their whole sum is far off.
    together = sum(map(sum, ground.gains.values())) if objectives == 1 else 1.0
    level = LEVEL / max(1, len(ground.gains))
    if spread is None and any(map(any, ground.gains.values())):
        level = 0.0
    table = np.zeros((len(genes), 1 + objectives))
    for row, gene in enumerate(genes):
        if gene.coefficient != "weight" or gene.input not in ground.gains:
            table[row, 0] = (gene.low + gene.high) / 2
            continue
        own = np.array(ground.gains[gene.input])
        table[row, 0] = level
        most = max(1.0, together, middle * own.sum())
        table[row, 1:] = own / most if spread is None else spread * own
    return table


def curve(objectives: int) -> float:
    """The power p of a learned map: (1 / objectives) ** p is a specialist's coefficient in the middle."""
    if objectives == 1:
        return ALONE
    return float(np.log(min(MOST, MIDDLE / objectives)) / np.log(1.0 / objectives))
