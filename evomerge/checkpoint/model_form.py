"""Folders as if their models had another form: a head of its own, or another's head or rotary positions.

Torch-free. Headers and config only; readers find the weights by the headers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from evomerge.checkpoint.adapter import AdapterFolder
from evomerge.checkpoint.folder import CheckpointFolder, text_config
from evomerge.checkpoint.header import TensorHeader
from evomerge.checkpoint.rope import with_rope
from evomerge.checkpoint.vocabulary import vocabulary_tensors
from evomerge.errors import CheckpointError, Problem
from evomerge.recipe.places import place_kind

Folder = CheckpointFolder | AdapterFolder

CLASS_FIELDS = ("id2label", "label2id", "num_labels", "problem_type")
"""What a config says of a classifier's classes."""


def with_heads(folders: Mapping[str, Folder]) -> dict[str, Folder]:
    """Every model with a head of its own if one of them has: a tied head has the rows of its embedding.

    Raises:
        CheckpointError: E229, a tied model with more than one embedding over its vocabulary, or none.
    """
    full = {name: f for name, f in folders.items() if isinstance(f, CheckpointFolder)}
    names = [
        t
        for f in full.values()
        for t in sorted(vocabulary_tensors(f))
        if place_kind(f.places[t]) == "head"
    ]
    names += [f.own_head for f in folders.values() if isinstance(f, AdapterFolder) and f.own_head]
    if not names:
        return dict(folders)
    changed = {name: with_own_head(f, names[0]) if f.tied else f for name, f in full.items()}
    return _kept(folders, changed)


def with_head_of(folders: Mapping[str, Folder], owner: str) -> dict[str, Folder]:
    """Every model with the head of one of them, and its classes.

    Raises:
        CheckpointError: E229, it is an adapter, or has no head of its own.
    """
    source = folders[owner]
    heads = head_tensors(source) if isinstance(source, CheckpointFolder) else {}
    if not heads:
        wrong = f"{owner} has no head of its own to keep"
        raise CheckpointError(
            Problem(
                "E229", wrong, "", "name a full model that has one", str(source.path), field="heads"
            )
        )
    assert isinstance(source, CheckpointFolder)
    # A reader joins folder and file, and of two paths the second goes where it is absolute.
    lying = {t: replace(h, file=str(source.path.resolve() / h.file)) for t, h in heads.items()}
    classes = {key: source.config[key] for key in CLASS_FIELDS if key in source.config}
    changed = {}
    for name, folder in folders.items():
        if isinstance(folder, CheckpointFolder):
            own = head_tensors(folder)
            changed[name] = replace(
                folder,
                tensors={**{t: h for t, h in folder.tensors.items() if t not in own}, **lying},
                config={**{k: v for k, v in folder.config.items() if k not in CLASS_FIELDS}, **classes},
                shares_head=True,
            )
    return _kept(folders, changed)


def head_tensors(folder: CheckpointFolder) -> dict[str, TensorHeader]:
    """The tensors of a model's head."""
    return {t: h for t, h in folder.tensors.items() if folder.places[t] == "head"}


def with_positions(folders: Mapping[str, Folder], chosen: str) -> dict[str, Folder]:
    """Every model with the rotary positions of one of them."""
    source = folders[chosen]
    other = text_config((source.base if isinstance(source, AdapterFolder) else source).config)
    changed = {
        name: replace(f, config=_in_decoder(f.config, with_rope(text_config(f.config), other)))
        for name, f in folders.items()
        if isinstance(f, CheckpointFolder)
    }
    return _kept(folders, changed)


def with_own_head(folder: CheckpointFolder, head: str) -> CheckpointFolder:
    """A tied model with a head of its own, a tensor of this name, which has the rows of its embedding.

    Raises:
        CheckpointError: E229, it has more than one embedding over its vocabulary, or none.
    """
    embeddings = [t for t in vocabulary_tensors(folder) if place_kind(folder.places[t]) == "embed"]
    if len(embeddings) != 1:
        wrong = f"{folder.name}: its head cannot be untied"
        found = f"{len(embeddings)} embeddings have a row for each token"
        todo = "give models that all tie their heads, or none"
        raise CheckpointError(Problem("E229", wrong, found, todo, str(folder.path), field="heads"))
    tensors = {**folder.tensors, head: folder.tensors[embeddings[0]]}
    part = {**text_config(folder.config), "tie_word_embeddings": False}
    config = {**_in_decoder(folder.config, part), "tie_word_embeddings": False}
    return replace(folder, tensors=tensors, tied=False, redundant={}, config=config)


def _in_decoder(config: Mapping[str, Any], part: Mapping[str, Any]) -> dict[str, Any]:
    """A config with another part for its decoder."""
    return dict(part) if text_config(config) is config else {**config, "text_config": dict(part)}


def _kept(folders: Mapping[str, Folder], changed: Mapping[str, CheckpointFolder]) -> dict[str, Folder]:
    """Folders in their order, adapters on their changed models."""
    return {
        name: replace(folder, base=changed[folder.base.name])
        if isinstance(folder, AdapterFolder)
        else changed[name]
        for name, folder in folders.items()
    }
