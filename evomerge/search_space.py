"""SearchSpace: which genes exist; genome to recipe and back.

A declaration (a YAML file in `search_spaces/`) states a method and, for each of its coefficients, a
*field*: one value for the whole model, a band of layers, each layer, or each module of each layer.
Together with the layout of the base model it becomes a `SearchSpace`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from evomerge.errors import ConfigError, Problem
from evomerge.merge_method import METHODS, Coefficient, MergeMethod
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
from evomerge.yaml_file import load_yaml, validate

Genome = tuple[float, ...]
FieldKind = Literal["model", "band", "layer", "layer_module"]
MAX_GENES = 10_000


@dataclass(frozen=True)
class ModelLayout:
    """What a search space must know of the base model.

    Attributes:
        layers: number of layers.
        places: finest places that hold tensors (`embed`, `layers.0.attn`, ..., `final_norm`, `head`);
            a tied head has none.
        parameters: number of parameters.
        active: expert to the places its task vector touches; None before `prepare` has looked.
    """

    layers: int
    places: tuple[str, ...]
    parameters: int
    active: Mapping[str, tuple[str, ...]] | None = None


class CoefficientField(BaseModel):
    """How one coefficient varies over the model; either searched in [low, high] or fixed at value."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    field: FieldKind = "model"
    bands: Annotated[int, Field(ge=1)] | None = None
    outside_layers: Literal["own", "shared"] = "own"
    low: FiniteFloat | None = None
    high: FiniteFloat | None = None
    step: Annotated[FiniteFloat, Field(gt=0)] = 1e-3
    value: FiniteFloat | None = None

    @model_validator(mode="after")
    def _consistent(self) -> CoefficientField:
        if self.field == "band" and self.bands is None:
            raise ValueError("E119", "a banded field needs `bands`, the number of bands")
        if self.field != "band" and self.bands is not None:
            raise ValueError("E119", f"`bands` only goes with `field: band`, not {self.field}")
        if self.value is not None and (self.low is not None or self.high is not None):
            raise ValueError("E110", "give either `value` (fixed) or `low` and `high`, not both")
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise ValueError("E110", f"low must be below high; bounds are [{self.low}, {self.high}]")
        return self

    def bounds(self, coefficient: Coefficient) -> tuple[float, float]:
        """(low, high): what the file says, else the coefficient's own."""
        low = coefficient.low if self.low is None else self.low
        return low, coefficient.high if self.high is None else self.high


class SearchSpaceDeclaration(BaseModel):
    """A search-space file."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    schema_: Annotated[Literal[1], Field(alias="schema")]
    method: str
    coefficients: dict[str, CoefficientField] = {}
    options: dict[str, str | bool | float] = {}

    @model_validator(mode="after")
    def _known_method(self) -> SearchSpaceDeclaration:
        method = METHODS.get(self.method)
        if method is None:
            raise ValueError("E114", f"unknown method `{self.method}`; methods: {', '.join(METHODS)}")
        for name, field in self.coefficients.items():
            declared = method.coefficient(name)
            if declared is None:
                names = ", ".join(c.name for c in method.coefficients)
                raise ValueError("E111", f"{self.method} has no coefficient `{name}`; it has {names}")
            for bound in (field.low, field.high, field.value):
                if name == "density" and bound is not None and not 0 < bound <= 1:
                    raise ValueError("E111", f"density must lie in (0, 1], found {bound}")
                if method.scalars == "normalised" and bound is not None and bound < 0:
                    raise ValueError("E111", f"a share of {self.method} is at least 0, found {bound}")
            low, high = field.bounds(declared)
            if field.value is None and high - low < field.step:
                wrong = (
                    f"bounds of `{name}`: [{low}, {high}] with step {field.step} hold one value only"
                )
                raise ValueError("E110", wrong)
        allowed = dict(method.options)
        for name, value in self.options.items():
            if name not in allowed:
                raise ValueError("E111", f"{self.method} has no option `{name}`")
            if value not in allowed[name]:
                choices = ", ".join(allowed[name])
                raise ValueError("E111", f"option `{name}` must be one of {choices}, found {value!r}")
        return self


def load_search_space(path: Path) -> SearchSpaceDeclaration:
    """Read a search-space file.

    Raises:
        ConfigError: with every fault found.
    """
    data, positions = load_yaml(path)
    return validate(SearchSpaceDeclaration, data, positions, str(path))


@dataclass(frozen=True)
class Gene:
    """One named number on a grid.

    Attributes:
        name: for example `weight.math.layers.03.mlp`.
        low, high: bounds, both reachable.
        step: grid spacing, counted from `low`.
        coefficient: name of the method's coefficient.
        input: the expert it belongs to, or `*` where all share it.
        places: the finest places it sets.
    """

    name: str
    low: float
    high: float
    step: float
    coefficient: str
    input: str
    places: tuple[str, ...]

    def snap(self, value: float) -> float:
        """The nearest grid value within the bounds, as a short decimal."""
        return _snapped(self.low, self.high, self.step, value)


# Cached: decoding looks up every gene of every candidate, and grids have few distinct points.
@lru_cache(maxsize=100_000)
def _snapped(low: float, high: float, step: float, value: float) -> float:
    steps = math.floor((high - low) / step + 1e-9)
    index = min(max(round((value - low) / step), 0), steps)
    # Adding 0.0 turns -0.0 into 0.0, which has another JSON form and so another digest.
    return round(low + index * step, 12) + 0.0


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
        for gene, value in zip(self.genes, genome, strict=True):
            if value != gene.snap(value):
                raise ValueError(f"{gene.name} = {value} is not on its grid; snap genomes first")
            inputs = tuple(leaves[gene.coefficient]) if gene.input == "*" else (gene.input,)
            for name in inputs:
                for place in gene.places:
                    leaves[gene.coefficient][name][place] = value
        self._canonicalise(leaves)
        plain = self._plain_source(leaves)
        if plain is not None:
            return checkpoint_recipe(self.sources, plain, self.layout.layers, self.dtype)
        merged = MergedSource(
            method=self.method.name,
            inputs=self.experts,
            base="base" if self.method.needs_base else None,
            coefficients={
                name: {key: compact(table) for key, table in by_input.items()}
                for name, by_input in leaves.items()
            },
            options=dict(self.options),
            # Only random masks have a use for it; without them, equal merges have equal recipes.
            seed=self.seed if self.method.sparsify == "bernoulli" else 0,
        )
        sources: dict[str, Source] = {**self.sources, MERGED: merged}
        return single_source_recipe(sources, MERGED, self.layout.layers, self.dtype)

    def _canonicalise(self, leaves: dict[str, dict[str, dict[str, float]]]) -> None:
        """Neutral values where a coefficient does nothing: inactive places, density at weight 0.

        Not where signs are elected: there an expert votes and is counted whatever its weight.
        """
        if self.method.elect:
            return
        active = self.layout.active
        weights = leaves.get("weight", {})
        for expert, table in weights.items():
            if active is not None and self.method.needs_base:
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
        tables = leaves.get("weight", {})
        used = [name for name, table in tables.items() if any(table.values())]
        if self.method.needs_base and not used:
            return "base"
        if self.method.scalars == "slerp":
            ends = set(leaves["t"]["*"].values())
            return self.experts[int(ends.pop())] if ends in ({0.0}, {1.0}) else None
        if self.method.elect or len(used) != 1:
            return None
        table = tables[used[0]]
        if self.method.scalars == "normalised":
            return used[0] if all(table.values()) else None
        for density in leaves.get("density", {}).values():
            if set(density.values()) != {1.0}:
                return None
        active = self.layout.active
        places = self.layout.places if active is None else active[used[0]]
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
        values = []
        for gene in self.genes:
            by_input = source.coefficients.get(gene.coefficient, {})
            table = by_input.get(gene.input) or by_input.get("*")
            if table is None and gene.input == "*" and by_input:
                table = next(iter(by_input.values()))
            if table is None:
                return None
            try:
                values.append(lookup(table, gene.places[0]))
            except KeyError:
                return None
        genome = self.snap(values)
        return genome if self.decode(genome).digest == recipe.digest else None

    def uniform(self, weights: Mapping[str, float]) -> Genome:
        """The genome with one weight per expert everywhere; other genes at their default."""
        values = []
        for gene in self.genes:
            declared = self.method.coefficient(gene.coefficient)
            default = declared.default if declared else gene.low
            values.append(weights[gene.input] if gene.coefficient == "weight" else default)
        return self.snap(values)


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
    genes: list[Gene] = []
    fixed: dict[str, float] = {}
    for coefficient in method.coefficients:
        field = declaration.coefficients.get(coefficient.name)
        if field is None and coefficient.name != "weight" and coefficient.per_input:
            fixed[coefficient.name] = coefficient.default
            continue
        field = field or CoefficientField()
        if field.value is not None:
            fixed[coefficient.name] = field.value
            continue
        genes += _genes(coefficient, field, layout, experts, method, file)
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
        options={**{name: values[0] for name, values in method.options}, **declaration.options},
        layout=layout,
        sources={name: sources[name] for name in ("base", *experts)},
        experts=tuple(experts),
        dtype=dtype,
        seed=seed,
    )


def _genes(
    coefficient: Coefficient,
    field: CoefficientField,
    layout: ModelLayout,
    experts: Sequence[str],
    method: MergeMethod,
    file: str,
) -> list[Gene]:
    low, high = field.bounds(coefficient)
    high = Gene("", low, high, field.step, "", "", ()).snap(high)  # both bounds lie on the grid
    if field.bands is not None and field.bands > layout.layers:
        raise ConfigError(
            Problem(
                "E119",
                "more bands than layers",
                f"{field.bands} bands, {layout.layers} layers",
                file=file,
                field=f"coefficients.{coefficient.name}.bands",
            )
        )
    groups = _groups(field, layout)
    inputs = tuple(experts) if coefficient.per_input else ("*",)
    genes = []
    for name in inputs:
        for label, places in groups:
            if layout.active is not None and method.needs_base and name != "*":
                places = tuple(place for place in places if place in layout.active[name])
            if not places:
                continue
            parts = [
                coefficient.name,
                *([name] if name != "*" else []),
                *([label] if label else []),
            ]
            genes.append(Gene(".".join(parts), low, high, field.step, coefficient.name, name, places))
    return genes


def _groups(field: CoefficientField, layout: ModelLayout) -> list[tuple[str, tuple[str, ...]]]:
    """(label, places) of the groups of a field, in model order."""
    if field.field == "model" and field.outside_layers == "shared":
        return [("", layout.places)]
    inside = [place for place in layout.places if place.startswith("layers.")]
    outer = [(place, (place,)) for place in layout.places if not place.startswith("layers.")]
    width = len(str(layout.layers - 1))

    def layer(place: str) -> int:
        return int(place.split(".")[1])

    def label(start: int, last: int) -> str:
        span = f"{start:0{width}d}"
        return f"layers.{span}" if start == last else f"layers.{span}-{last:0{width}d}"

    grouped: list[tuple[str, tuple[str, ...]]] = []
    if field.field == "layer_module":
        for place in inside:
            _, index, module = place.split(".")
            grouped.append((f"layers.{int(index):0{width}d}.{module}", (place,)))
    else:
        count = {"model": 1, "layer": layout.layers}.get(field.field, field.bands or 1)
        edges = [band * layout.layers // count for band in range(count + 1)]
        for start, end in itertools.pairwise(edges):
            places = tuple(place for place in inside if start <= layer(place) < end)
            name = "layers" if count == 1 else label(start, end - 1)
            grouped.append((name, places))
    if field.outside_layers == "shared":
        # Each outer place goes with the layers next to it: embeddings with the first, the rest last.
        first_label, first_places = grouped[0]
        grouped[0] = (first_label, tuple(p for p, _ in outer if p == "embed") + first_places)
        last_label, last_places = grouped[-1]
        grouped[-1] = (last_label, last_places + tuple(p for p, _ in outer if p != "embed"))
        return grouped
    before = [group for group in outer if group[0] == "embed"]
    after = [group for group in outer if group[0] != "embed"]
    return [*before, *grouped, *after]


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
