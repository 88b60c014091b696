"""A merge laid along a path of layers, and taken from it again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from evomerge.recipe.places import OUTER_PLACES
from evomerge.recipe.recipe import (
    MERGED,
    CheckpointSource,
    LayerStep,
    MergedSource,
    Recipe,
    Source,
    identity_path,
)
from evomerge.search_space.layer_path import LayerPaths, Step


def along(
    paths: LayerPaths,
    steps: Sequence[Step],
    merge: Recipe,
    sources: Mapping[str, CheckpointSource],
) -> Recipe:
    """The recipe of a path whose source `merged` is what `merge` makes, of base and experts `sources`.

    Where that is the base or an expert as it stands, the path names that source, and where nothing of it is
    used, it is no part of the recipe: equal merges have equal recipes.
    """
    own = merge.path[0].source
    path = tuple(
        LayerStep(own, step.layer, step.scale) if step.source == MERGED else step
        for step in paths.layer_steps(steps)
    )
    outer = own if paths.outer == MERGED else paths.outer
    used = {outer, *(step.source for step in path)}
    kept = dict(merge.sources)
    if MERGED not in used:
        whole = merge.align or merge.rope or merge.heads or merge.towers
        kept = {n: s for n, s in sources.items() if whole or n in ("base", *used)}
    places = dict.fromkeys(OUTER_PLACES, outer)
    if outer == MERGED and merge.head_owner and not _says_all(kept[MERGED]):
        # No search says anything of a head that all share: it stays the copy that the merge has.
        places["head"] = merge.outer["head"]
    return replace(merge, sources=kept, path=path, outer=places)


def merge_of(recipe: Recipe, layers: int) -> Recipe | None:
    """The merge that a recipe's path takes layers of, by itself; None where it takes none."""
    if MERGED not in recipe.sources:
        return None
    outer = dict.fromkeys(OUTER_PLACES, MERGED)
    if recipe.head_owner and not _says_all(recipe.sources[MERGED]):
        outer["head"] = recipe.outer["head"]
    return replace(recipe, path=identity_path(layers, MERGED), outer=outer)


def _says_all(source: Source) -> bool:
    """Whether a merge has a coefficient for any place, named or not."""
    assert isinstance(source, MergedSource)
    tables = (table for by_input in source.coefficients.values() for table in by_input.values())
    return all("" in table for table in tables)
