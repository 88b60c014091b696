"""Decoders seen as multimodal models of the same backbone: their weights in its text tower, all else its own.

Torch-free: headers alone, which say where a tensor lies. A reader joins a folder and a header's file, and of
two paths the second goes where it is absolute.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from evomerge.checkpoint.adapter import AdapterFolder
from evomerge.checkpoint.folder import CheckpointFolder, text_config
from evomerge.checkpoint.rope import read_rope
from evomerge.errors import CheckpointError, Problem
from evomerge.recipe.places import place_kind
from evomerge.recipe.recipe import TEXT

Folder = CheckpointFolder | AdapterFolder


def with_text_towers(folders: Mapping[str, Folder], base: str = "base") -> dict[str, Folder]:
    """Every decoder as the base with the decoder's weights in its text tower; other models as they are.

    Embedding and head are the base's where theirs have another number of rows (a warning of the folder,
    E226), or where a decoder has no head of its own.

    Args:
        folders: by name.
        base: a model with a tower called `text`.

    Raises:
        CheckpointError: E225 the base has no text tower, E224 another number of layers or another base of
            rotary positions, E220 and E221 tensors missing or unknown, E223 shapes; all together.
    """
    whole = folders[base]
    if not isinstance(whole, CheckpointFolder) or TEXT not in {t.name for t in whole.names.towers}:
        wrong = f"{base} has no tower called `{TEXT}`"
        todo = "leave out `towers`, or give a model that reads more than text"
        raise CheckpointError(Problem("E225", wrong, "", todo, str(whole.path), field="towers"))
    seen: dict[str, Folder] = {}
    problems: list[Problem] = []
    for name, folder in folders.items():
        if isinstance(folder, CheckpointFolder) and folder.names.decoder:
            seen[name], found = _in_the_tower(folder, whole)
            problems += found
        else:
            seen[name] = folder
    if problems:
        raise CheckpointError(problems)
    return seen


def _in_the_tower(
    decoder: CheckpointFolder, base: CheckpointFolder
) -> tuple[CheckpointFolder, list[Problem]]:
    problems: list[Problem] = []
    warnings: list[Problem] = []

    def fault(code: str, wrong: str, found: str = "", field: str = "") -> Problem:
        todo = "" if code == "E226" else "give a fine-tune of the model in the base's text tower"
        return Problem(code, f"{decoder.name}: {wrong}", found, todo, str(decoder.path), field=field)

    tower = next(tower for tower in base.names.towers if tower.name == TEXT)
    if tower.count != decoder.layers:
        found = f"the base's text tower {tower.count}, {decoder.name} {decoder.layers}"
        return decoder, [fault("E224", "another number of layers", found)]
    ours, theirs = (read_rope(text_config(folder.config)) for folder in (base, decoder))
    left, right = ({k: v.get("rope_theta") for k, v in each.items()} for each in (ours, theirs))
    if left != right:
        found = f"rope_theta: base {left}, {decoder.name} {right}"
        problems.append(fault("E224", "rotary positions of another base", found))
    names = _names(decoder, base)
    lying = {t: replace(h, file=str(base.path.resolve() / h.file)) for t, h in base.tensors.items()}
    for tensor, header in decoder.tensors.items():
        name = names[tensor]
        wanted = base.tensors.get(name)
        by_token = place_kind(decoder.places[tensor]) in ("embed", "head")
        if wanted is None:
            if decoder.places[tensor] != "head":
                problems.append(
                    fault("E221", "a tensor that the base's text tower lacks", f"`{name}`", tensor)
                )
        elif wanted.shape == header.shape:
            lying[name] = header
        elif by_token and wanted.shape[1:] == header.shape[1:]:
            found = f"{header.shape[0]} tokens, the base has {wanted.shape[0]}"
            warnings.append(fault("E226", "its embedding or head is left out", found, tensor))
        else:
            found = f"base {list(wanted.shape)}, {decoder.name} {list(header.shape)}"
            problems.append(fault("E223", "wrong shape", found, tensor))
    for name in base.tensors:
        split = base.names.split(name)
        inside = split is not None and base.names.at(split[0])[0].name == TEXT
        if inside and name not in names.values():
            problems.append(fault("E220", "a tensor of the base's text tower is missing", "", name))
    told = (*decoder.warnings, *warnings)
    view = replace(
        base, name=decoder.name, path=decoder.path, tensors=lying, redundant={}, warnings=told
    )
    return view, problems


def _names(decoder: CheckpointFolder, base: CheckpointFolder) -> dict[str, str]:
    """What each tensor of a decoder is called in the base."""
    tower = next(tower for tower in base.names.towers if tower.name == TEXT)
    root, own = (prefix.rpartition(".")[0] for prefix in (tower.prefix, decoder.names.prefix))
    heads = [tensor for tensor, place in base.places.items() if place == "head"]

    def name_of(tensor: str) -> str:
        split = decoder.names.split(tensor)
        if split is not None:
            return f"{tower.prefix}.{split[0]}.{split[1]}"
        if decoder.places[tensor] == "head":
            last = tensor.rpartition(".")[2]
            return next((head for head in heads if head.rpartition(".")[2] == last), tensor)
        inner = tensor.removeprefix(f"{own}.") if own else tensor
        return f"{root}.{inner}" if root else inner

    return {tensor: name_of(tensor) for tensor in decoder.tensors}
