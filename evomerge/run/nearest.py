"""Nearest: the point of a search space that comes nearest to a merge stated elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache

import numpy as np

from evomerge.recipe.places import lookup
from evomerge.recipe.recipe import (
    AS_BASE,
    MERGED,
    CheckpointSource,
    MergedSource,
    Recipe,
    Source,
)
from evomerge.recipe.registered import find_method
from evomerge.search_space import Genome, SearchSpace

OF_ONE_METHOD = frozenset({"t"})
"""Coefficients that mean something else in each method."""


class NoPoint(Exception):
    """No point of the search space is near to a merge; the message says why."""


def has_near_points(space: SearchSpace) -> bool:
    """Whether merges may be near to a point: of paths, windows and mixtures they are one or none."""
    return space.paths is None and space.trajectory is None and space.mixtures is None


def nearest(space: SearchSpace, recipe: Recipe, names: Mapping[str, str]) -> Genome:
    """The point of a space that is nearest to a recipe.

    A gene takes the mean of what the recipe states at its places. Weights mean the same in every method, so
    that the method may be another; shares that are divided by their sum are divided first. What the recipe
    does not state is at its default, and the weight of an expert that it does not know is 0.

    Args:
        space: without a path of layers, windows or a mixture, or the recipe must be one of its points.
        recipe: the one to come near to.
        names: this space's base and experts to what the recipe calls them.

    Raises:
        NoPoint: the recipe is no merge of the space's experts, or of nothing that the space searches.
        ConfigError: E114, it is by a method that is not registered.
    """
    exact = space.encode(_as_ours(recipe, space, names))
    if exact is not None:
        return exact
    if not has_near_points(space):
        raise NoPoint("a space of paths, windows or mixtures takes only what is one of its points")
    source = _one_merge(recipe, space, names)
    if isinstance(source, str):
        return space.uniform({name: float(names.get(name) == source) for name in space.experts})
    value = _stated(source, space, names)
    if any(gene.basis for gene in space.genes):
        return space.fit(value)

    def over(coefficient: str, name: str, places: Sequence[str]) -> float:
        if len(places) == 1:  # as of each of a million rows
            return value(coefficient, name, places[0])
        return float(np.mean([value(coefficient, name, place) for place in places]))

    return space.snap([over(gene.coefficient, gene.input, gene.places) for gene in space.genes])


def _as_ours(recipe: Recipe, space: SearchSpace, names: Mapping[str, str]) -> Recipe:
    """The recipe with our names of checkpoints, and without what no search varies.

    What lies under none of our names has one that is no name.
    """
    ours = {other: name for name, other in names.items()}
    merged = [name for name, source in recipe.sources.items() if isinstance(source, MergedSource)]
    ours |= {name: MERGED for name in merged if len(merged) == 1}

    def called(name: str) -> str:
        return ours.get(name, name if name in ("*", *merged) else f"?{name}")

    def renamed(source: Source) -> Source:
        if isinstance(source, CheckpointSource):
            return source
        return replace(
            source,
            inputs=tuple(map(called, source.inputs)),
            base=None if source.base is None else called(source.base),
            coefficients={
                name: {called(key): table for key, table in by_input.items()}
                for name, by_input in source.coefficients.items()
            },
        )

    sources = {called(name): renamed(source) for name, source in recipe.sources.items()}
    known = {name: space.sources[name] for name in sources if name in space.sources}
    found = replace(
        recipe,
        sources={**sources, **known},
        path=tuple(replace(step, source=called(step.source)) for step in recipe.path),
        outer={place: called(name) for place, name in recipe.outer.items()},
        dtype=space.dtype,
        config={},
        chat_template="",
    )
    if space.form != AS_BASE or recipe.align:
        return found
    # Whatever tokenizer it is published with, and whatever is named and not used.
    used = {"base", *found.outer.values(), *(step.source for step in found.path)}
    used |= set(space.sources) if MERGED in used else set()
    kept = {**space.sources, **found.sources}
    return replace(found, tokenizer="base", sources={n: s for n, s in kept.items() if n in used})


def _one_merge(recipe: Recipe, space: SearchSpace, names: Mapping[str, str]) -> MergedSource | str:
    """The merge that a recipe is, or the name of the checkpoint.

    Raises:
        NoPoint: it is neither, or has nothing in common with the space.
    """
    used = {step.source for step in recipe.path}
    if (
        recipe.mixture is not None
        or recipe.ensemble
        or not recipe.is_identity_path(space.layout.layers)
    ):
        raise NoPoint("its layers are not those of one merge, in order")
    (name,) = used
    source = recipe.sources[name]
    own = {names[expert] for expert in space.experts if expert in names}
    if isinstance(source, CheckpointSource):
        if name in {*own, names.get("base")}:
            return name
        raise NoPoint("it is a model that is none of this campaign")
    if not set(source.inputs) & own:
        raise NoPoint("none of its experts is one of this campaign")
    searched = {gene.coefficient for gene in space.genes}
    stated = {coefficient.name for coefficient in find_method(source.method).coefficients}
    if source.method != space.method.name:
        stated -= OF_ONE_METHOD
    if not searched & stated:
        listed = ", ".join(sorted(searched))
        raise NoPoint(f"{source.method} has no {listed}, which is what this campaign searches")
    return source


def _stated(
    source: MergedSource, space: SearchSpace, names: Mapping[str, str]
) -> Callable[[str, str, str], float]:
    """What a merge states of a coefficient of an expert (ours) at a place."""
    method = find_method(source.method)
    of_shares = method.scalars_with(method.resolve(source.options)) == "normalised"
    divided = of_shares and space.method.scalars_with(space.options) != "normalised"

    @cache
    def of_input(coefficient: str, own: str, place: str) -> float:
        declared = method.coefficient(coefficient) or space.method.coefficient(coefficient)
        assert declared is not None
        by_input = source.coefficients.get(coefficient, {})
        table = by_input.get(own) or by_input.get("*")
        rows = rows_at(coefficient, own, place)
        if rows:
            return float(np.mean(rows))
        if table is None:
            return declared.default
        return _mean_at(table, place, 0.0 if coefficient == "weight" else declared.default)

    @cache
    def rows_at(coefficient: str, own: str, place: str) -> tuple[float, ...]:
        if coefficient != "weight" or source.rows is None:
            return ()
        return source.rows.weights(own, place)

    def at_leaf(coefficient: str, own: str, leaf: str) -> float:
        row = space.layout.row_of(leaf)
        if row < 0:
            return of_input(coefficient, own, leaf)
        place = leaf.rpartition(".")[0]
        rows = rows_at(coefficient, own, place)
        return rows[row] if row < len(rows) else of_input(coefficient, own, place)

    def value(coefficient: str, name: str, place: str) -> float:
        own = names.get(name, name if name == "*" else "")
        if coefficient == "weight" and own not in (*source.inputs, "*"):
            return 0.0
        found = at_leaf(coefficient, own, place)
        if coefficient != "weight" or not divided:
            return found
        total = sum(at_leaf(coefficient, each, place) for each in source.inputs)
        return found / total if total else 0.0

    return value


def _mean_at(table: Mapping[str, float], place: str, otherwise: float) -> float:
    """The value at a place, or the mean of those of its parts."""
    parts = [value for name, value in table.items() if name.startswith(f"{place}.")]
    if parts and place not in table:
        return float(np.mean(parts))
    try:
        return lookup(table, place)
    except KeyError:
        return otherwise
