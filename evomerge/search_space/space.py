"""SearchSpace: genome to recipe and back."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from evomerge.recipe.calibration import Calibration
from evomerge.recipe.method import MergeMethod, MethodOptions
from evomerge.recipe.places import compact, lookup
from evomerge.recipe.recipe import (
    AS_BASE,
    MERGED,
    CheckpointSource,
    LayerStep,
    MergedSource,
    ModelForm,
    Recipe,
    Source,
    checkpoint_recipe,
    single_coefficient_recipe,
    single_source_recipe,
)
from evomerge.search_space.genes import Gene, Genome, basis_matrix
from evomerge.search_space.layer_path import LayerPaths
from evomerge.search_space.mixture import Mixtures, dense_part, upcycled
from evomerge.search_space.model_layout import ModelLayout
from evomerge.search_space.one_for_equal import OneForEqual, all_equal
from evomerge.search_space.path_recipe import along, merge_of
from evomerge.search_space.rows import gather
from evomerge.search_space.spread import PlaceValues, Spread
from evomerge.search_space.trajectory import Trajectory, weights_in


@dataclass(frozen=True)
class SearchSpace:
    """Genes of one campaign, and what turns a genome into a recipe.

    `fixed` holds coefficients that are not searched: name to value. `one_with_baselines` is False only for
    ledgers from before it: there only base and experts are one with the genomes that are them. So is
    `mixture_rows`: there the matrices of a mixture's experts have the mean of what is said of their rows.

    With `paths` the genes of the path stand after those of the merge that it takes its layers from, and with
    `mixtures` those of the mixture after those of the merge that it stands on. With a `trajectory` genes are
    those of a window over the experts.
    """

    method: MergeMethod
    genes: tuple[Gene, ...]
    fixed: Mapping[str, float]
    options: MethodOptions
    layout: ModelLayout
    sources: Mapping[str, CheckpointSource]
    experts: tuple[str, ...]
    dtype: str
    seed: int
    form: ModelForm = AS_BASE
    calibration: Calibration | None = None
    one_with_baselines: bool = True
    mixture_rows: bool = True
    paths: LayerPaths | None = None
    trajectory: Trajectory | None = None
    mixtures: Mixtures | None = None

    def snap(self, values: Sequence[float]) -> Genome:
        """Every value on its gene's grid, and a path spelled in the one way there is."""
        found = tuple(gene.snap(value) for gene, value in zip(self.genes, values, strict=True))
        if self.paths is None:
            return found
        own = len(found) - len(self.paths)
        return (*found[:own], *self.paths.canonical(found[own:]))

    @cached_property
    def merging(self) -> SearchSpace:
        """The space of the merge alone, without a path or a mixture."""
        beyond = len(self.paths or self.mixtures or ())
        return replace(self, genes=self.genes[: len(self.genes) - beyond], paths=None, mixtures=None)

    @property
    def begins_with_the_merge(self) -> bool:
        """Whether a search begins with the merge as it is: without paths, or from all its layers in order."""
        paths = self.paths
        if paths is None:
            return True
        merge = [LayerStep(MERGED, layer) for layer in range(self.layout.layers)]
        return paths.outer == MERGED and list(paths.layer_steps(paths.home)) == merge

    @cached_property
    def averaging(self) -> SearchSpace:
        """The space of a weight for each checkpoint, without windows."""
        assert self.trajectory is not None
        return replace(self, genes=self.trajectory.weights, trajectory=None)

    def decode(self, genome: Sequence[float]) -> Recipe:
        """The recipe of a genome. What has no effect is canonicalised: equal merges, equal digests.

        Raises:
            ValueError: if the genome has another length, a value off the grid, or a path spelled otherwise.
        """
        if self.trajectory is not None:
            return self.averaging.decode(self.trajectory.shares(self._on_grid(genome)))
        if self.paths is not None:
            own, row = self._parts(genome, self.paths)
            return along(self.paths, self.paths.steps(row), self.merging.decode(own), self.sources)
        if self.mixtures is not None:
            own, row = self._parts(genome, self.mixtures)
            return upcycled(self.mixtures.mixture(row), self.merging.decode(own), self.sources)
        values = self._spread.values(genome)
        self._one_for_equal.neutralise(values)
        plain = self._one_for_equal.checkpoint(values)
        if plain is not None:
            return self._stated(checkpoint_recipe(self.sources, plain, self.layout.layers, self.dtype))
        single = self._one_for_equal.single_coefficient(values) if self.one_with_baselines else None
        if single is not None:
            layers, dtype = self.layout.layers, self.dtype
            return self._stated(
                single_coefficient_recipe(self.sources, self.experts, single, layers, dtype)
            )
        return self._merge(values)

    def spelled_out(self, genome: Sequence[float]) -> Recipe:
        """The recipe of a genome with all that it says, also what has no effect there.

        For gradients: an expert of weight 0 has one, by its own density. Where `decode` gives the recipe of a
        baseline this is the merge itself.

        Raises:
            ValueError: as `decode`.
        """
        if self.trajectory is not None:
            return self.averaging.spelled_out(self.trajectory.shares(self._on_grid(genome)))
        if self.paths is not None:
            own, row = self._parts(genome, self.paths)
            merge = self.merging.spelled_out(own)
            return along(self.paths, self.paths.steps(row), merge, self.sources)
        if self.mixtures is not None:
            own, row = self._parts(genome, self.mixtures)
            return upcycled(self.mixtures.mixture(row), self.merging.spelled_out(own), self.sources)
        return self._merge(self._spread.values(genome))

    def _parts(self, genome: Sequence[float], beyond: LayerPaths | Mixtures) -> tuple[Genome, Genome]:
        """The genes of the merge, and those of the path or mixture beyond it."""
        whole = self._on_grid(genome)
        own = len(whole) - len(beyond)
        return whole[:own], whole[own:]

    def _on_grid(self, genome: Sequence[float]) -> Genome:
        if len(genome) != len(self.genes):
            raise ValueError(f"a genome has {len(self.genes)} genes here, found {len(genome)}")
        if self.snap(genome) != tuple(genome):
            raise ValueError("a genome is not on its grid; snap genomes first")
        return tuple(genome)

    def _merge(self, values: PlaceValues) -> Recipe:
        by_place, rows = values, None
        if self.genes:
            by_place, rows = gather(values, self.layout, self.genes[0], self.mixture_rows)
        merged = MergedSource(
            method=self.method.name,
            inputs=self.experts,
            base="base" if self.method.uses_base(self.options) else None,
            coefficients={
                name: {key: compact(self.layout.places, table) for key, table in by_input.items()}
                for name, by_input in by_place.items()
                if not self._is_left_out(name, by_input)
            },
            options={
                name: value
                for name, value in self.options.to_json().items()
                if value != dict(self.method.options)[name][0]
            },
            # Only random masks have a use for it; without them, equal merges have equal recipes.
            seed=self.seed if self.method.is_random else 0,
            function=self.method.function,
            rows=rows,
            calibration=self.calibration,
        )
        sources: dict[str, Source] = {**self.sources, MERGED: merged}
        return self._stated(single_source_recipe(sources, MERGED, self.layout.layers, self.dtype))

    def _stated(self, recipe: Recipe) -> Recipe:
        """The recipe in the form that the campaign states."""
        return self.form.given(recipe, self.sources)

    @cached_property
    def _spread(self) -> Spread:
        return Spread(self.method, self.genes, self.fixed, self.layout, self.experts)

    @cached_property
    def _one_for_equal(self) -> OneForEqual:
        return OneForEqual(self.method, self.options, self.layout, self.experts, self.genes)

    @cached_property
    def weight_parts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Where genes of weights have a part: gene, expert and leaf, int64 [n], and the part, float64 [n]."""
        at = {leaf: index for index, leaf in enumerate(self.layout.leaves)}
        found = [
            (index, self.experts.index(name), at[leaf], part)
            for index, gene in enumerate(self.genes)
            if gene.coefficient == "weight"
            for name in (self.experts if gene.input == "*" else (gene.input,))
            for leaf, part in zip(gene.places, gene.basis or itertools.repeat(1.0), strict=False)
        ]
        table = np.array(found, dtype=np.float64).reshape(-1, 4)
        genes, experts, leaves = table[:, :3].T.astype(np.int64)
        return genes, experts, leaves, table[:, 3]

    def _is_left_out(self, name: str, by_input: Mapping[str, Sequence[float]]) -> bool:
        declared = self.method.coefficient(name)
        assert declared is not None
        return declared.may_be_left_out and all_equal(by_input, declared.default)

    def encode(self, recipe: Recipe) -> Genome | None:
        """The genome that decodes to this recipe, or None if the space cannot express it."""
        if self.paths is not None:
            return self._encode_path(recipe, self.paths)
        if self.mixtures is not None:
            return self._encode_mixture(recipe, self.mixtures)
        if self.trajectory is not None:
            wanted = weights_in(recipe, self.experts)
            window = None if wanted is None else self.trajectory.nearest(wanted)
            known = window is not None and self.decode(window).digest == recipe.digest
            return window if known else None
        plain = {step.source for step in recipe.path}
        if plain <= {"base", *self.experts}:
            genome = self.uniform({e: float(e in plain) for e in self.experts})
            if self.method.scalars == "slerp":
                genome = self.snap([float(self.experts[1] in plain)] * len(self.genes))
            return genome if self.decode(genome).digest == recipe.digest else None
        source = recipe.sources.get(MERGED)
        if not isinstance(source, MergedSource):
            return None
        weights = {name: table.get("") for name, table in source.coefficients.get("weight", {}).items()}
        if source.method == "task_arithmetic" != self.method.name and self.one_with_baselines:
            # A baseline, which is a point of other methods too.
            if set(weights) != set(self.experts) or self.method.scalars == "slerp":
                return None
            genome = self.uniform({name: value or 0.0 for name, value in weights.items()})
            return genome if self.decode(genome).digest == recipe.digest else None
        if source.method != self.method.name:
            return None
        if (
            self.method.resolve(source.options) != self.options
            or source.function != self.method.function
        ):
            return None

        def stated(coefficient: str, name: str, place: str) -> float:
            declared = self.method.coefficient(coefficient)
            by_input = source.coefficients.get(coefficient, {})
            if not by_input and declared is not None and declared.may_be_left_out:
                return declared.default
            table = by_input.get(name) or by_input.get("*")
            if table is None and name == "*" and by_input:
                table = next(iter(by_input.values()))
            if coefficient == "weight" and source.rows is not None:
                own = source.rows.weights(name, place)
                if own:
                    row = self.layout.row_of(place)
                    if not 0 <= row < len(own):
                        raise KeyError(place)
                    return own[row]
            return lookup(table or {}, place)

        try:
            genome = self.fit(stated)
        except KeyError:
            return None
        return genome if self.decode(genome).digest == recipe.digest else None

    def _encode_path(self, recipe: Recipe, paths: LayerPaths) -> Genome | None:
        """A plain source in order may be the merge, too; any other path is read step by step."""
        merge = merge_of(recipe, self.layout.layers)
        own = self.merging.encode(recipe if merge is None else merge)
        tries = [(own, paths.identity(MERGED) if MERGED in paths.sources else None)]
        tries.append(
            (own or self.merging.snap([0.0] * len(self.merging.genes)), paths.read(recipe.path))
        )
        for start, steps in tries:
            if start is not None and steps is not None and paths.is_spelled(steps):
                genome = (*start, *paths.spell(steps))
                if self.decode(genome).digest == recipe.digest:
                    return genome
        return None

    def _encode_mixture(self, recipe: Recipe, mixtures: Mixtures) -> Genome | None:
        """A dense recipe is one without layers of experts."""
        row = mixtures.row(recipe.mixture)
        own = self.merging.encode(dense_part(recipe, self.experts))
        if row is None or own is None:
            return None
        genome = (*own, *row)
        return genome if self.decode(genome).digest == recipe.digest else None

    def fit(self, value: Callable[[str, str, str], float]) -> Genome:
        """The genome nearest to given values; its path is that of all layers in order, and it is no mixture.

        Args:
            value: of a coefficient (by name) of an expert (or `*`) at a place. A gene takes its first
                place's, a curve the least-squares fit over its places, a window what is nearest to weights.
        """
        if self.paths is not None:
            return (*self.merging.fit(value), *self.paths.spell(self.paths.home))
        if self.mixtures is not None:
            return (*self.merging.fit(value), *self.mixtures.dense)
        if self.trajectory is not None:
            first = self.layout.leaves[0]
            return self.trajectory.nearest([value("weight", name, first) for name in self.experts])
        values = [0.0] * len(self.genes)
        curves: dict[tuple[str, str], list[int]] = {}
        for index, gene in enumerate(self.genes):
            if gene.basis:
                curves.setdefault((gene.coefficient, gene.input), []).append(index)
            else:
                values[index] = value(gene.coefficient, gene.input, gene.places[0])
        for (coefficient, name), members in curves.items():
            places, matrix = basis_matrix([self.genes[index] for index in members])
            wanted = np.array([value(coefficient, name, place) for place in places])
            solved = np.linalg.lstsq(matrix, wanted, rcond=None)[0]
            for index, number in zip(members, solved, strict=True):
                values[index] = float(number)
        return self.snap(values)

    def uniform(self, weights: Mapping[str, float]) -> Genome:
        """The genome with one weight per expert everywhere; other coefficients at their default."""

        def value(coefficient: str, name: str, place: str) -> float:
            declared = self.method.coefficient(coefficient)
            assert declared is not None
            weighs = coefficient == "weight" and declared.per_input
            return weights[name] if weighs else declared.default

        return self.fit(value)
