"""SearchSpace: genome to recipe and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evomerge.errors import ConfigError, Problem
from evomerge.merge_method import METHODS, MergeMethod
from evomerge.recipe import (
    MERGED,
    CheckpointSource,
    MergedSource,
    Recipe,
    Source,
    checkpoint_recipe,
    compact,
    lookup,
    single_source_recipe,
)
from evomerge.search_space.declaration import CoefficientField, SearchSpaceDeclaration
from evomerge.search_space.genes import Gene, Genome, ModelLayout, basis_matrix, make_genes

MAX_GENES = 10_000


@dataclass(frozen=True)
class SearchSpace:
    """Genes of one campaign, and what turns a genome into a recipe.

    `fixed` holds coefficients that are not searched: name to value.
    """

    method: MergeMethod
    genes: tuple[Gene, ...]
    fixed: Mapping[str, float]
    options: Mapping[str, str | bool | float]
    layout: ModelLayout
    sources: Mapping[str, CheckpointSource]
    experts: tuple[str, ...]
    dtype: str
    seed: int

    def snap(self, values: Sequence[float]) -> Genome:
        """Every value on its gene's grid."""
        return tuple(gene.snap(value) for gene, value in zip(self.genes, values, strict=True))

    def decode(self, genome: Sequence[float]) -> Recipe:
        """The recipe of a genome. What has no effect is canonicalised: equal merges, equal digests.

        Raises:
            ValueError: if the genome has another length or a value off the grid.
        """
        if len(genome) != len(self.genes):
            raise ValueError(f"a genome has {len(self.genes)} genes here, found {len(genome)}")
        leaves: dict[str, dict[str, dict[str, float]]] = {}
        for coefficient in self.method.coefficients:
            # Places without a gene: the expert does not touch them, so they weigh nothing.
            unset = 0.0 if coefficient.name == "weight" else coefficient.default
            start = self.fixed.get(coefficient.name, unset)
            inputs = self.experts if coefficient.per_input else ("*",)
            leaves[coefficient.name] = {
                name: dict.fromkeys(self.layout.places, start) for name in inputs
            }
        curves: dict[tuple[str, str], dict[str, float]] = {}
        for gene, value in zip(self.genes, genome, strict=True):
            if value != gene.snap(value):
                raise ValueError(f"{gene.name} = {value} is not on its grid; snap genomes first")
            inputs = tuple(leaves[gene.coefficient]) if gene.input == "*" else (gene.input,)
            for name in inputs:
                table = leaves[gene.coefficient][name]
                if not gene.basis:
                    table.update(dict.fromkeys(gene.places, value))
                    continue
                sums = curves.setdefault((gene.coefficient, name), {})
                for place, part in zip(gene.places, gene.basis, strict=True):
                    sums[place] = sums.get(place, 0.0) + value * part
        for (coefficient_name, name), sums in curves.items():
            # Rounded like genes, so that a level curve is the constant it stands for.
            short = {place: round(value, 12) + 0.0 for place, value in sums.items()}
            leaves[coefficient_name][name].update(short)
        self._canonicalise(leaves)
        plain = self._plain_source(leaves)
        if plain is not None:
            return checkpoint_recipe(self.sources, plain, self.layout.layers, self.dtype)
        merged = MergedSource(
            method=self.method.name,
            inputs=self.experts,
            base="base" if self.method.uses_base(self.options) else None,
            coefficients={
                name: {key: compact(table) for key, table in by_input.items()}
                for name, by_input in leaves.items()
                if not self._is_left_out(name, by_input)
            },
            options={
                name: self.options[name]
                for name, values in self.method.options
                if self.options[name] != values[0]
            },
            # Only random masks have a use for it; without them, equal merges have equal recipes.
            seed=self.seed if self.method.is_random else 0,
        )
        sources: dict[str, Source] = {**self.sources, MERGED: merged}
        return single_source_recipe(sources, MERGED, self.layout.layers, self.dtype)

    def _is_left_out(self, name: str, by_input: Mapping[str, Mapping[str, float]]) -> bool:
        declared = self.method.coefficient(name)
        assert declared is not None
        values = {value for table in by_input.values() for value in table.values()}
        return declared.may_be_left_out and values == {declared.default}

    def _canonicalise(self, leaves: dict[str, dict[str, dict[str, float]]]) -> None:
        """Neutral values where a coefficient does nothing: inactive places, density at weight 0.

        Not where signs are elected: there an expert votes and is counted whatever its weight.
        """
        if self.method.elect:
            return
        active = self.layout.active
        weights = leaves.get("weight", {})
        for expert, table in weights.items():
            if active is not None and _only_where_active(self.method, self.options):
                for place in table:
                    if place not in active[expert]:
                        table[place] = 0.0
            for name, by_input in leaves.items():
                declared = self.method.coefficient(name)
                if name == "weight" or expert not in by_input or declared is None:
                    continue
                for place, weight in table.items():
                    if weight == 0.0:
                        by_input[expert][place] = declared.default

    def _plain_source(self, leaves: dict[str, dict[str, dict[str, float]]]) -> str | None:
        """`base` or the expert that the merge is by its formula, or None.

        So that such a candidate has the recipe of the baseline and is not computed twice.
        """
        scalars = self.method.scalars_with(self.options)
        if scalars == "slerp":
            ends = set(leaves["t"]["*"].values())
            return self.experts[int(ends.pop())] if ends in ({0.0}, {1.0}) else None
        if "weight" not in leaves:
            return None
        tables = leaves["weight"]
        used = [name for name, table in tables.items() if any(table.values())]
        based = self.method.uses_base(self.options)
        if based and not used and scalars in ("weights", "normalised"):
            return "base"
        if self.method.elect or len(used) != 1:
            return None
        exact = [value for name in ("density", "lambda") for value in _values(leaves.get(name, {}))]
        if any(value != 1.0 for value in exact):
            return None
        table = tables[used[0]]
        if scalars != "weights":
            shares = self.options.get("normalise", "yes") == "yes"
            return used[0] if shares and all(table.values()) else None
        active = self.layout.active
        places = self.layout.places if active is None or not based else active[used[0]]
        return used[0] if all(table[place] == 1.0 for place in places) else None

    def encode(self, recipe: Recipe) -> Genome | None:
        """The genome that decodes to this recipe, or None if the space cannot express it."""
        plain = {step.source for step in recipe.path}
        if plain <= {"base", *self.experts}:
            genome = self.uniform({e: float(e in plain) for e in self.experts})
            if self.method.scalars == "slerp":
                genome = self.snap([float(self.experts[1] in plain)] * len(self.genes))
            return genome if self.decode(genome).digest == recipe.digest else None
        source = recipe.sources.get(MERGED)
        if not isinstance(source, MergedSource) or source.method != self.method.name:
            return None
        if dict(self.method.resolve(source.options)) != dict(self.options):
            return None

        def stated(coefficient: str, name: str, place: str) -> float:
            declared = self.method.coefficient(coefficient)
            by_input = source.coefficients.get(coefficient, {})
            if not by_input and declared is not None and declared.may_be_left_out:
                return declared.default
            table = by_input.get(name) or by_input.get("*")
            if table is None and name == "*" and by_input:
                table = next(iter(by_input.values()))
            return lookup(table or {}, place)

        try:
            genome = self.fit(stated)
        except KeyError:
            return None
        return genome if self.decode(genome).digest == recipe.digest else None

    def fit(self, value: Callable[[str, str, str], float]) -> Genome:
        """The genome nearest to given values.

        Args:
            value: of a coefficient (by name) of an expert (or `*`) at a place. A gene takes its first
                place's, a curve the least-squares fit over its places.
        """
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
            return weights[name] if coefficient == "weight" else declared.default

        return self.fit(value)


def _values(by_input: Mapping[str, Mapping[str, float]]) -> list[float]:
    return [value for table in by_input.values() for value in table.values()]


def _only_where_active(method: MergeMethod, options: Mapping[str, str | bool | float]) -> bool:
    """Whether a weight does nothing where its expert equals the base; shares count everywhere."""
    return method.uses_base(options) and method.scalars_with(options) == "weights"


def build_search_space(
    declaration: SearchSpaceDeclaration,
    layout: ModelLayout,
    sources: Mapping[str, CheckpointSource],
    experts: Sequence[str],
    dtype: str,
    seed: int,
    file: str = "",
) -> SearchSpace:
    """Lay a declaration over a model. `sources` holds `base` and the experts.

    Raises:
        ConfigError: E118 wrong number of experts, E119 more bands than layers, E121 no free gene or
            too many.
    """
    method = METHODS[declaration.method]
    least, most = method.inputs
    if len(experts) < least or (most is not None and len(experts) > most):
        wanted = f"{least}" if most == least else f"{least} or more"
        found = f"found {len(experts)}"
        raise ConfigError(
            Problem("E118", f"{method.name} takes {wanted} experts", found, file=file, field="method")
        )
    options = method.resolve(declaration.options)
    genes: list[Gene] = []
    fixed: dict[str, float] = {}
    for coefficient in method.coefficients:
        field = declaration.coefficients.get(coefficient.name)
        if field is None and not coefficient.free:
            if not coefficient.may_be_left_out:
                fixed[coefficient.name] = coefficient.default
            continue
        field = field or CoefficientField()
        if field.value is not None:
            fixed[coefficient.name] = field.value
            continue
        active = layout.active if _only_where_active(method, options) else None
        genes += make_genes(coefficient, field, layout, experts, active, file)
    if not genes:
        raise ConfigError(
            Problem("E121", "nothing to search: no free gene", file=file, field="coefficients")
        )
    if len(genes) > MAX_GENES:
        found = f"found {len(genes)}, the limit is {MAX_GENES}"
        todo = "use a coarser field"
        raise ConfigError(Problem("E121", "too many genes", found, todo, file, field="coefficients"))
    return SearchSpace(
        method=method,
        genes=tuple(genes),
        fixed=fixed,
        options=options,
        layout=layout,
        sources={name: sources[name] for name in ("base", *experts)},
        experts=tuple(experts),
        dtype=dtype,
        seed=seed,
    )


def describe(space: SearchSpace) -> dict[str, Any]:
    """Genes, bounds and fixed coefficients as plain JSON data."""
    return {
        "method": space.method.name,
        "genes": [
            {"name": gene.name, "low": gene.low, "high": gene.high, "step": gene.step}
            for gene in space.genes
        ],
        "fixed": dict(space.fixed),
        "options": dict(space.options),
    }
