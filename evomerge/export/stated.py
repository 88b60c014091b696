"""What is asked for, refused before anything heavy is loaded: a stated merge, a pick, a target."""

from __future__ import annotations

from pathlib import Path

from evomerge.export.choice import choose
from evomerge.files.staging import claim_target
from evomerge.mergekit.stated import read_recipe
from evomerge.recipe.recipe import Recipe


def refuse_export(directory: Path, choice: str, out: Path, *, overwrite: bool) -> None:
    """Raise what `export_candidate` would about its target and the candidate, without loading torch.

    Raises:
        EvomergeError: as `claim_target` and `choose`.
    """
    claim_target(out, overwrite=overwrite)
    choose(directory, choice)


def refuse_merge(recipe: Path | Recipe, out: Path, *, overwrite: bool) -> None:
    """Raise what `merge_recipe` would about its target and what the recipe states, without loading torch.

    Raises:
        EvomergeError: as `claim_target` and `read_recipe`.
    """
    claim_target(out, overwrite=overwrite)
    if isinstance(recipe, Path):
        read_recipe(recipe)
