"""What a file states: one merge, as a recipe of ours or a mergekit YAML, told apart by content."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from evomerge.campaign.check import locate
from evomerge.campaign.checkpoint_reference import CheckpointReference
from evomerge.checkpoint.hub import HUB_NAME
from evomerge.errors import ConfigError, Problem
from evomerge.files.yaml_file import load_yaml, other_form
from evomerge.mergekit.read import read_mergekit
from evomerge.recipe.json_form import recipe_from_json
from evomerge.recipe.recipe import UNION, CheckpointSource, MergedSource, Recipe
from evomerge.recipe.rows import read_rows

_GIVE = "give a recipe in JSON, such as `recipe.json` of an export, or a mergekit YAML"

_SAYS = ("merge_method", "models", "slices", "modules")
"""One of these stands in every mergekit YAML, also where another was forgotten."""


@dataclass(frozen=True)
class StatedMerge:
    """What a file says: a recipe with paths that exist, hub names of its sources, and notes on it."""

    recipe: Recipe
    hubs: Mapping[str, str]
    notes: tuple[str, ...] = ()


def read_recipe(file: Path) -> StatedMerge:
    """A recipe file or a mergekit YAML (told apart by content), with its paths resolved.

    Raises:
        ConfigError: E101 missing or unreadable, E102 neither, E103 a file of another form, E138 one that
            states a search, and the faults `recipe_from_json` and `read_mergekit` find.
        CheckpointError: E201, a hub model is not in the local cache.
    """
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        problem = Problem("E101", "no such file", todo="check the path", file=str(file))
        raise ConfigError(problem) from None
    except IsADirectoryError:
        problem = Problem("E101", "this is a folder, no file", "", _GIVE, str(file))
        raise ConfigError(problem) from None
    except OSError as error:
        found = error.strerror or str(error)
        raise ConfigError(Problem("E101", "cannot read the file", found, file=str(file))) from None
    try:
        data = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        if file.suffix in (".yml", ".yaml") or re.search(rb"^(merge_method|genome)\s*:", content, re.M):
            return _from_mergekit(file, content)
        problem = Problem("E102", "a recipe is a JSON file", str(error), _GIVE, str(file))
        raise ConfigError(problem) from None
    if isinstance(data, dict) and "merge_method" in data:
        return _from_mergekit(file, content)
    if isinstance(data, dict) and "search_space" in data:
        raise _is_a_campaign(file)
    if isinstance(data, dict) and data and not {"path", "outer"} & {*data}:
        found = (
            f"it has {', '.join(f'`{name}`' for name in [*data][:5])}, and neither `path` nor `outer`"
        )
        raise ConfigError(Problem("E103", "this states no merge", found, _GIVE, str(file)))
    recipe = recipe_from_json(
        data, str(file), lambda digest, where: read_rows(file.parent, digest, where)
    )
    return stated_merge(recipe, file.parent, str(file))


def stated_merge(recipe: Recipe, folder: Path, file: str = "") -> StatedMerge:
    """A recipe with the paths of its sources found, relative to a folder or in the hub's cache.

    Raises:
        ConfigError: E138, its tokenizer names no checkpoint; `file` says where.
        CheckpointError: E201, a hub model is not in the local cache.
    """
    union = recipe.align and recipe.tokenizer == UNION
    if not union and not isinstance(recipe.sources.get(recipe.tokenizer), CheckpointSource):
        known = f"checkpoints: {', '.join(recipe.checkpoints)}"
        found = f"found {recipe.tokenizer!r}"
        problem = Problem("E138", "names no checkpoint source", found, known, file, field="tokenizer")
        raise ConfigError(problem)
    sources, hubs = dict(recipe.sources), {}
    for name, source in recipe.checkpoints.items():
        path = folder / source.path
        match = HUB_NAME.fullmatch(source.path)
        if match and not path.exists():
            hubs[name] = source.path
            reference = CheckpointReference.model_validate(match.groupdict())
            sources[name] = replace(source, path=locate(name, reference))
        else:
            sources[name] = replace(source, path=str(path.resolve()))
    for name, merged in recipe.sources.items():
        if isinstance(merged, MergedSource) and merged.calibration is not None:
            sources[name] = replace(merged, calibration=merged.calibration.located(folder))
    return StatedMerge(replace(recipe, sources=sources), hubs)


def _is_a_campaign(file: Path) -> ConfigError:
    wrong = "this is a campaign, which states a search and no merge"
    todo = f"evomerge run {file} --dir DIR, then evomerge export DIR PICK OUT"
    return ConfigError(Problem("E138", wrong, "", todo, str(file), field="search_space"))


def _from_mergekit(file: Path, content: bytes) -> StatedMerge:
    if re.search(rb"^search_space\s*:", content, re.MULTILINE):
        raise _is_a_campaign(file)
    if re.search(rb"^genome\s*:", content, re.MULTILINE):
        wrong = "this is a mergekit-evolve file, which states a search and no merge"
        todo = f"evomerge import {file} --out DIR"
        raise ConfigError(Problem("E138", wrong, "", todo, str(file), field="genome"))
    data, _ = load_yaml(file)
    if (other := other_form(data, (), _SAYS, str(file), _GIVE)) is not None:
        raise ConfigError(other)
    found = read_mergekit(file)
    return StatedMerge(found.recipe, found.hubs, found.notes)
