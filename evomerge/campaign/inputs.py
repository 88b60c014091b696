"""Inputs: every file and folder that a campaign reads, each with what it is and the field that names it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from evomerge.campaign.campaign import Campaign
from evomerge.campaign.check import locate
from evomerge.errors import CheckpointError, ConfigError
from evomerge.evaluators.kinds import load_declaration


@dataclass(frozen=True)
class Input:
    """A file or folder that a campaign reads.

    Attributes:
        what: it is, in a few words.
        path: absolute, links followed: where the bytes lie.
        file: names it, in `field` (dotted).
        hub: whether it lies in the cache of the hub.
    """

    what: str
    path: Path
    file: Path
    field: str
    hub: bool = False


def inputs_of(campaign: Campaign) -> list[Input]:
    """The campaign file and all it names, those inside a folder that is named already left out.

    What cannot be read is left out: `check` reports it.
    """
    file = campaign.file
    found = [Input("the campaign file", file, file, "")]
    for name, reference in campaign.references().items():
        what = "the base" if name == "base" else f"expert `{name}`"
        field = name if name == "base" else f"experts.{name}"
        try:
            path = Path(locate(name, reference))
        except CheckpointError:
            continue
        # A snapshot of the hub is made of links into its repository's folder.
        place = Path(os.path.realpath(path.parent.parent if reference.hub is not None else path))
        found.append(Input(what, place, file, field, reference.hub is not None))
        found += [Input(what, target, file, field) for target in _linked(path, place)]
    if campaign.space_file != file:
        found.append(Input("the search space", campaign.space_file, file, "search_space"))
    for index, path in enumerate(campaign.evaluator_files):
        found.append(Input("an evaluator", path, file, f"evaluators[{index}]"))
        try:
            declaration = load_declaration(path)
            read = [(field, Path(os.path.realpath(p))) for field, p in declaration.inputs()]
        except (ConfigError, OSError):
            continue
        found += [Input(f"what `{declaration.name}` reads", p, path, field) for field, p in read]
    for index, path in enumerate(campaign.start_from):
        found.append(Input("what the search starts from", path, file, f"optimizer.start_from[{index}]"))
    return _without_the_inner(found)


def _linked(folder: Path, place: Path) -> list[Path]:
    """Where the links among a model folder's files lead out of `place`."""
    links = [Path(os.path.realpath(path)) for path in folder.glob("*") if path.is_symlink()]
    return sorted({path for path in links if not path.is_relative_to(place)})


def _without_the_inner(found: list[Input]) -> list[Input]:
    """Each path once; no file of a folder that is there itself."""
    kept: list[Input] = []
    folders = {each.path for each in found if each.path.is_dir()}
    seen: set[Path] = set()
    for each in found:
        if each.path not in seen and not folders & set(each.path.parents):
            kept.append(each)
        seen.add(each.path)
    return kept
