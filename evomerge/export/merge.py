"""A recipe with its sources opened, checked against their digests and planned."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from evomerge.campaign import CheckpointReference
from evomerge.check import locate
from evomerge.checkpoint.adapter import AdapterFolder
from evomerge.checkpoint.digest import content_digest
from evomerge.checkpoint.folder import CheckpointFolder, open_folder, open_source
from evomerge.checkpoint.reader import Reader, open_readers
from evomerge.checkpoint.writer import TensorSpec
from evomerge.errors import (
    CandidateError,
    CheckpointError,
    ConfigError,
    EvomergeError,
    Problem,
)
from evomerge.plan import MergePlan, make_plan
from evomerge.recipe import CheckpointSource, MergedSource, Recipe, recipe_from_json
from evomerge.weight_statistics import WeightStatistics

HUB_PATH = re.compile(r"([\w.-]+(?:/[\w.-]+)?)@([0-9a-f]{40})")
"""How a recipe's `path` names a hub model: `ORG/NAME@COMMIT`."""

Folder = CheckpointFolder | AdapterFolder


@dataclass(frozen=True)
class OpenedMerge:
    """A merge that is ready to be streamed.

    Attributes:
        recipe: with the digest of every source.
        folders: opened checkpoint sources by name.
        plan: what each output tensor is made of.
        readers: by source name.
        hubs: hub name of each source that came from the hub's cache.
    """

    recipe: Recipe
    folders: Mapping[str, Folder]
    plan: MergePlan
    readers: Mapping[str, Reader]
    hubs: Mapping[str, str]

    @property
    def template(self) -> CheckpointFolder:
        """The full model whose config and tokenizer the result takes."""
        folder = self.folders[self.recipe.tokenizer]
        return folder.base if isinstance(folder, AdapterFolder) else folder

    @property
    def nbytes(self) -> int:
        """Bytes of the result's tensors."""
        return sum(TensorSpec(t.name, t.dtype, t.shape).nbytes for t in self.plan.tensors)

    @property
    def places(self) -> tuple[Path, ...]:
        """The folders of all sources."""
        return tuple(folder.path for folder in self.folders.values())

    def label(self, name: str) -> str:
        """What a source is called outside: its hub name, or the name of its folder."""
        return self.hubs.get(name) or self.folders[name].path.resolve().name


def open_merge(recipe: Recipe, hubs: Mapping[str, str], cache: Path | None) -> OpenedMerge:
    """Open and plan a recipe; every source must have the digest the recipe states.

    Args:
        recipe: with paths that exist; an empty digest is filled in.
        hubs: hub name of each source that came from the hub's cache.
        cache: where statistics of the weights are kept; None for memory only.

    Raises:
        CheckpointError: E239, another digest than the recipe states; others as in opening and planning.
        ConfigError: faults of the recipe that show with its sources.
    """
    folders = _open_sources(recipe)
    digests = {name: content_digest(folder) for name, folder in folders.items()}
    problems = [
        Problem(
            "E239",
            f"the weights of `{name}` are not those the recipe means",
            f"their SHA-256 is {digests[name][:16]}, recorded was {source.digest[:16]}",
            "restore them",
            str(folders[name].path),
        )
        for name, source in recipe.checkpoints.items()
        if source.digest and source.digest != digests[name]
    ]
    if problems:
        raise CheckpointError(problems)
    recipe = replace(
        recipe,
        sources={
            name: replace(source, digest=digests[name])
            if isinstance(source, CheckpointSource)
            else source
            for name, source in recipe.sources.items()
        },
    )
    readers = open_readers(folders)
    statistics = WeightStatistics(folders, cache, digests, readers)
    try:
        plan = make_plan(recipe, folders, statistics)
    except CandidateError as error:
        raise ConfigError(Problem("E111", "these coefficients have no result", str(error))) from error
    return OpenedMerge(recipe, folders, plan, readers, dict(hubs))


def _open_sources(recipe: Recipe) -> dict[str, Folder]:
    """Full models first, then the adapters, each against the base of the merge it is part of."""
    base_of: dict[str, str] = {}
    for source in recipe.sources.values():
        if isinstance(source, MergedSource) and source.base is not None:
            base_of |= dict.fromkeys(source.inputs, source.base)
    folders: dict[str, Folder] = {}
    problems: list[Problem] = []

    def is_adapter(name: str, path: str) -> bool:
        return base_of.get(name, "base") != name and (Path(path) / "adapter_config.json").is_file()

    checkpoints = recipe.checkpoints
    for name, source in checkpoints.items():
        if not is_adapter(name, source.path):
            try:
                folders[name] = open_folder(source.path, name)
            except EvomergeError as error:
                problems += error.problems
    for name, source in checkpoints.items():
        if is_adapter(name, source.path):
            base = folders.get(base_of.get(name, "base"))
            try:
                opened = base if isinstance(base, CheckpointFolder) else None
                folders[name] = open_source(source.path, name, opened)
            except EvomergeError as error:
                problems += error.problems
    if problems:
        raise CheckpointError(problems)
    return {name: folders[name] for name in checkpoints}


def read_recipe(file: Path) -> tuple[Recipe, dict[str, str]]:
    """A recipe file with its paths resolved, and the hub names of its sources.

    Raises:
        ConfigError: E101 missing or unreadable, E102 not JSON, and the faults `recipe_from_json` finds.
        CheckpointError: E201, a hub model is not in the local cache.
    """
    try:
        data = json.loads(file.read_bytes().decode("utf-8"))
    except FileNotFoundError:
        problem = Problem("E101", "no such file", todo="check the path", file=str(file))
        raise ConfigError(problem) from None
    except OSError as error:
        found = error.strerror or str(error)
        raise ConfigError(Problem("E101", "cannot read the file", found, file=str(file))) from None
    except (ValueError, RecursionError) as error:
        todo = "give a recipe in JSON, such as `recipe.json` of an export"
        problem = Problem("E102", "a recipe is a JSON file", str(error), todo, str(file))
        raise ConfigError(problem) from None
    recipe = recipe_from_json(data, str(file))
    if not isinstance(recipe.sources.get(recipe.tokenizer), CheckpointSource):
        known = f"checkpoints: {', '.join(recipe.checkpoints)}"
        found = f"found {recipe.tokenizer!r}"
        problem = Problem(
            "E138", "names no checkpoint source", found, known, str(file), field="tokenizer"
        )
        raise ConfigError(problem)
    sources, hubs = dict(recipe.sources), {}
    for name, source in recipe.checkpoints.items():
        path = file.parent / source.path
        match = HUB_PATH.fullmatch(source.path)
        if match and not path.exists():
            hubs[name] = source.path
            reference = CheckpointReference(hub=match[1], revision=match[2])
            sources[name] = replace(source, path=locate(name, reference))
        else:
            sources[name] = replace(source, path=str(path.resolve()))
    return replace(recipe, sources=sources), hubs
