"""Variation of merge genomes for NSGA-II, by generations or in steady state.

Paths of layers have operators of their own (`path_operators`). Of other genes:
per couple either SBX (Deb and Agrawal 1995) or a block crossover of `structured`, per child either
polynomial mutation (Deb and Goyal 1996) or a block mutation; both plain forms are pymoo's.
"""

from __future__ import annotations

import numpy as np
from pymoo.operators.crossover.sbx import cross_sbx
from pymoo.operators.mutation.pm import mut_pm

from evomerge.optimizers import structured
from evomerge.optimizers.grid import Grid
from evomerge.optimizers.path_operators import cross_rows, mutate_row
from evomerge.optimizers.settings import Nsga2Settings

CROSSOVER_SHARE = 0.9
"""Share of couples whose children are crossed; the others' children are only mutated."""

PATH_SHARE = 0.5
"""Share of children whose path is edited, where there are other genes too."""


class Variation:
    """Crossover and mutation with the settings of a search."""

    def __init__(self, grid: Grid, settings: Nsga2Settings) -> None:
        self._grid = grid
        self._plain = settings.operators == "standard"
        self._global = settings.global_generations
        self._eta_crossover = settings.eta_crossover
        self._eta_mutation = settings.eta_mutation

    def cross(self, parents: np.ndarray, generation: int, rng: np.random.Generator) -> np.ndarray:
        """Children of couples, both float64 [2, couples, genes]; blends may leave the bounds."""
        grid = self._grid
        if grid.paths is None:
            return self._cross(grid, parents, generation, rng)
        children = parents.copy()
        columns = grid.path_columns
        if grid.plain is not None:
            children[:, :, ~columns] = self._cross(grid.plain, parents[:, :, ~columns], generation, rng)
        for couple in range(parents.shape[1]):
            first, second = parents[0, couple, columns], parents[1, couple, columns]
            one, two = cross_rows(grid.paths, first, second, rng)
            children[0, couple, columns], children[1, couple, columns] = one, two
        return children

    def _cross(
        self, grid: Grid, parents: np.ndarray, generation: int, rng: np.random.Generator
    ) -> np.ndarray:
        couples = parents.shape[1]
        column = np.ones((couples, 1))
        children: np.ndarray = cross_sbx(
            parents,
            grid.low,
            grid.high,
            self._eta_crossover * column,
            0.5,
            0.5 * column,
            random_state=rng,
        )
        if self._plain:
            return children
        if generation <= self._global:
            kinds = rng.choice(structured.GLOBAL_CROSSOVERS, size=couples)
        else:
            kinds = rng.choice(structured.CROSSOVERS, size=couples, p=structured.CROSSOVER_WEIGHTS)
        for couple, kind in enumerate(kinds.tolist()):
            if kind != "genes":
                children[0, couple], children[1, couple] = structured.cross(
                    grid, parents[0, couple], parents[1, couple], kind, rng
                )
        return children

    def mutate(self, genomes: np.ndarray, generation: int, rng: np.random.Generator) -> np.ndarray:
        """Mutants of genomes, both float64 [n, genes], within the bounds."""
        grid = self._grid
        if grid.paths is None:
            return self._mutate(grid, genomes, generation, rng)
        mutants = genomes.copy()
        columns = grid.path_columns
        if grid.plain is not None:
            mutants[:, ~columns] = self._mutate(grid.plain, genomes[:, ~columns], generation, rng)
        for row in range(len(genomes)):
            # With other genes to change, a path may stay as it is.
            if grid.plain is None or rng.random() < PATH_SHARE:
                mutants[row, columns] = mutate_row(grid.paths, genomes[row, columns], rng)
        return mutants

    def _mutate(
        self, grid: Grid, genomes: np.ndarray, generation: int, rng: np.random.Generator
    ) -> np.ndarray:
        low, high = grid.low, grid.high
        # Within bounds first: blends may leave them, and the polynomial has no value outside.
        inside = np.clip(genomes, low, high)
        count = len(inside)
        share = np.full(count, min(0.5, 1.0 / len(grid)))
        mutants: np.ndarray = mut_pm(
            inside,
            low,
            high,
            np.full(count, self._eta_mutation),
            share,
            at_least_once=False,
            random_state=rng,
        )
        if self._plain:
            return mutants
        if generation <= self._global:
            kinds = np.full(count, "group")
        else:
            kinds = rng.choice(structured.MUTATIONS, size=count, p=structured.MUTATION_WEIGHTS)
        for index, kind in enumerate(kinds.tolist()):
            if kind == "none":
                mutants[index] = inside[index]
            elif kind != "genes":
                mutants[index] = structured.mutate(grid, inside[index], kind, rng)
        return np.asarray(np.clip(mutants, low, high))
