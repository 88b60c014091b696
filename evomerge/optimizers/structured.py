"""Points and variation that respect how merge genomes are built, on plain arrays.

A genome holds one block of genes per expert and coefficient, along the depth of the model. Independent
random genes are a poor start and independent changes a poor step: in merges that interfere, points with
one value per expert reach after 100 evaluations what independent ones do not reach after 500. So
starts, crossovers and mutations move whole experts and ranges of layers, and single genes only then.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import qmc

from evomerge.optimizers.grid import Grid
from evomerge.optimizers.path_operators import start_rows

GLOBAL_SHARE, NEAR_SHARE = 0.65, 0.25
"""Of the points added to the given ones: global points, and jittered copies; the rest is Sobol."""

CROSSOVERS = ("genes", "layers", "experts", "blend")
CROSSOVER_WEIGHTS = (0.10, 0.20, 0.15, 0.55)
MUTATIONS = ("genes", "layers", "group", "level", "none")
MUTATION_WEIGHTS = (0.25, 0.30, 0.30, 0.05, 0.10)
GLOBAL_CROSSOVERS = ("experts", "blend")
SHIFT = 0.12
"""Standard deviation of a common shift, as a share of the gene's range."""


def start_points(grid: Grid, given: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` points on the grid to start from besides the `given` ones, float64 [count, genes].

    Most are global (one value per group: Sobol points, and blends of given ones where there are two),
    then come jittered copies of given and global points, and a few Sobol points over all genes. Paths of
    layers are edits of those in order.
    """
    if grid.paths is not None:
        points = np.empty((count, len(grid)))
        columns = grid.path_columns
        points[:, columns] = start_rows(grid.paths, given[:, columns], count, rng)
        if grid.plain is not None:
            points[:, ~columns] = start_points(grid.plain, given[:, ~columns], count, rng)
        return points
    number_global = round(GLOBAL_SHARE * count)
    number_near = round(NEAR_SHARE * count)
    spread = grid.global_from_unit(_sobol(number_global, len(grid.groups), rng))
    if len(given) > 1:
        weights = rng.dirichlet(np.ones(len(given)), size=number_global)
        blends = weights @ given
        odd = np.arange(number_global) % 2 == 1
        spread[odd] = grid.snap(blends[odd])
    known = np.concatenate([given.reshape(-1, len(grid)), spread])
    if not len(known):
        known = grid.from_unit(rng.random((1, len(grid))))
    parents = known[rng.integers(len(known), size=number_near)]
    noise = rng.normal(0.0, SHIFT, size=parents.shape) * (grid.high - grid.low)
    near = grid.snap(np.clip(parents + noise, grid.low, grid.high))
    wide = grid.from_unit(_sobol(count - number_global - number_near, len(grid), rng))
    return np.concatenate([spread, near, wide])


def _sobol(count: int, dimensions: int, rng: np.random.Generator) -> np.ndarray:
    if count <= 0:
        return np.empty((0, dimensions))
    if dimensions > qmc.Sobol.MAXDIM:
        return rng.random((count, dimensions))
    # A power of two of points, cut, because SciPy warns about other counts.
    points = qmc.Sobol(dimensions, rng=rng).random_base2((count - 1).bit_length())
    return np.asarray(points[:count], dtype=np.float64)


def cross(
    grid: Grid, first: np.ndarray, second: np.ndarray, kind: str, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Two children of two parents, all float64 [genes], by one of the block crossovers.

    `layers` swaps a range of depth of all experts, `experts` swaps whole experts, `blend` puts both
    children on the line through the parents, with a place of its own for each group.
    """
    one, two = first.copy(), second.copy()
    if kind == "blend":
        for group in grid.groups:
            step = rng.uniform(-0.25, 1.25)
            difference = second[group] - first[group]
            one[group] = first[group] + step * difference
            two[group] = second[group] - step * difference
        return one, two
    if kind == "layers":
        swapped = depth_range(grid, rng)
    else:
        chosen = rng.random(len(grid.inputs)) < 0.5
        if chosen.all() or not chosen.any():
            chosen[:] = False
            chosen[rng.integers(len(chosen))] = True
        swapped = np.zeros(len(grid), dtype=bool)
        for take, genes in zip(chosen.tolist(), grid.inputs, strict=True):
            swapped[genes] = take
    one[swapped], two[swapped] = second[swapped], first[swapped]
    return one, two


def mutate(grid: Grid, genome: np.ndarray, kind: str, rng: np.random.Generator) -> np.ndarray:
    """A mutated copy of a genome (float64 [genes]) by one of the block mutations.

    `group` adds one number to all genes of a group, `layers` to those within a range of depth, `level`
    gives a group one value everywhere, its mean.
    """
    child = genome.copy()
    group = grid.groups[rng.integers(len(grid.groups))]
    if kind == "level":
        child[group] = child[group].mean()
        return child
    if kind == "layers":
        inside = group[depth_range(grid, rng)[group]]
        group = inside if len(inside) else group
    child[group] += rng.normal(0.0, SHIFT) * (grid.high[group] - grid.low[group])
    return child


def depth_range(grid: Grid, rng: np.random.Generator) -> np.ndarray:
    """Bool [genes]: which genes lie in a random range of depth, from one place to all but one."""
    places = int(grid.depth.max()) + 1
    length = int(rng.integers(1, max(places, 2)))
    start = int(rng.integers(0, places - length + 1))
    return np.asarray((grid.depth >= start) & (grid.depth < start + length))
