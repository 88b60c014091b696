"""What is asked for, refused before anything heavy is loaded: a stated merge, a pick, a target."""

from __future__ import annotations

from pathlib import Path

from evomerge.export.choice import choose
from evomerge.export.taken import NOTHING, Taken, take
from evomerge.files.staging import claim_target
from evomerge.mergekit.stated import read_recipe, stated_merge
from evomerge.recipe.recipe import Recipe


def refuse_export(
    directory: Path, choice: str, out: Path, *, overwrite: bool, taken: Taken = NOTHING
) -> None:
    """Raise what `export_candidate` would about its target and the candidate, without loading torch.

    Raises:
        EvomergeError: as `claim_target`, `choose` and `take`.
    """
    claim_target(out, overwrite=overwrite)
    chosen = choose(directory, choice)
    take(chosen.recipe, taken, chosen.models)


def refuse_merge(recipe: Path | Recipe, out: Path, *, overwrite: bool, taken: Taken = NOTHING) -> None:
    """Raise what `merge_recipe` would about its target and what the recipe states, without loading torch.

    Raises:
        EvomergeError: as `claim_target`, `read_recipe` and `take`.
    """
    claim_target(out, overwrite=overwrite)
    if isinstance(recipe, Path):
        take(read_recipe(recipe).recipe, taken)
    elif taken:
        take(stated_merge(recipe, Path()).recipe, taken)
