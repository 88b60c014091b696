"""What is asked for, refused before anything heavy is loaded: a merge, a pick, a pair of models, a target."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from evomerge.checkpoint.compare import compare_with_base
from evomerge.checkpoint.folder import CheckpointFolder, open_folder
from evomerge.errors import CheckpointError, ConfigError, Problem, UsageError
from evomerge.export.choice import choose
from evomerge.export.taken import NOTHING, Taken, take
from evomerge.files.staging import claim_target
from evomerge.merge.mixture.declaration import load_mixture
from evomerge.mergekit.stated import read_recipe, stated_merge
from evomerge.recipe.calibration import Calibration
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


def refuse_merge(
    recipe: Path | Recipe, out: Path, *, overwrite: bool, taken: Taken = NOTHING, rope: str = ""
) -> None:
    """Raise what `merge_recipe` would about its target and what the recipe states, without loading torch.

    Raises:
        EvomergeError: as `claim_target`, `read_recipe`, `with_positions_of` and `take`.
    """
    claim_target(out, overwrite=overwrite)
    if isinstance(recipe, Path):
        take(with_positions_of(read_recipe(recipe).recipe, rope), taken)
    elif taken or rope:
        take(with_positions_of(stated_merge(recipe, Path()).recipe, rope), taken)


def with_positions_of(recipe: Recipe, name: str) -> Recipe:
    """The recipe with the rotary positions of a source; as it is where the name is empty.

    Raises:
        ConfigError: E138, no such source.
    """
    if name and name not in recipe.checkpoints:
        todo = f"sources: {', '.join(recipe.checkpoints)}"
        wrong = "the rotary positions are those of no source of this merge"
        raise ConfigError(Problem("E138", wrong, f"found {name!r}", todo, field="rope"))
    return replace(recipe, rope=name) if name else recipe


def refuse_mixture(file: Path, out: Path, *, overwrite: bool) -> None:
    """Raise what `write_mixture` would about its target and its file, without loading torch.

    Raises:
        EvomergeError: as `load_mixture` and `claim_target`.
    """
    load_mixture(file)
    claim_target(out, overwrite=overwrite)


def refuse_comparison(
    first: Path,
    second: Path,
    text: Path | None,
    mix: float,
    out: Path | None = None,
    *,
    overwrite: bool = False,
) -> None:
    """Raise what `write_aligned` and `measure_barrier` would about models, text and target, without torch.

    Raises:
        EvomergeError: as `see_mix`, `claim_target`, `open_pair` and `Calibration.content`.
    """
    if out is not None:
        see_mix(text, mix)
        claim_target(out, overwrite=overwrite)
    open_pair(first, second)
    if text is not None:
        Calibration(str(text)).content()


def see_mix(text: Path | None, mix: float) -> None:
    """Refuse a mix of weights and activations without a text, and a text without a mix.

    Raises:
        UsageError: E500.
    """
    if (text is None) != (mix == 1.0):
        wrong = "activations are compared on a text, by what the weights leave of the mix"
        found = f"found --mix {mix:g} and {'no --text' if text is None else '--text'}"
        raise UsageError(Problem("E500", wrong, found, "give --text FILE and --mix below 1"))


def open_pair(first: Path, second: Path) -> tuple[CheckpointFolder, CheckpointFolder]:
    """Two full models that fit together.

    Raises:
        CheckpointError: as `open_folder` and `compare_with_base`.
    """
    one, other = open_folder(first, first.name), open_folder(second, second.name)
    if problems := compare_with_base(one, [other]):
        raise CheckpointError(problems)
    return one, other
