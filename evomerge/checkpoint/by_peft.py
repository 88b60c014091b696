"""The full model that PEFT makes of an adapter without factors, from headers alone. Torch-free."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from importlib import metadata, util

from evomerge.checkpoint.adapter import AdapterFolder, stored_whole
from evomerge.checkpoint.folder import CheckpointFolder
from evomerge.checkpoint.model_form import with_own_head
from evomerge.checkpoint.vocabulary import TOKENIZER_FILE, vocabulary_tensors, with_vocabulary
from evomerge.errors import CheckpointError, EnvironmentFault, Problem

Folder = CheckpointFolder | AdapterFolder


def base_before(adapter: AdapterFolder) -> CheckpointFolder:
    """The base in the form that its merge with an adapter has: with a head of its own where that has one.

    Raises:
        CheckpointError: E229, it cannot be given one.
    """
    return with_own_head(adapter.base, adapter.own_head) if adapter.own_head else adapter.base


def foreseen(adapter: AdapterFolder) -> CheckpointFolder:
    """What the merge of an adapter into its base will be: headers and config only.

    It lies at the adapter's folder if that has a tokenizer, else at the base's. Adapters with tokens of
    their own have more rows than the base. A head that the adapter makes has no file.

    Raises:
        CheckpointError: E226, rows of an embedding without as many of its head; as `base_before`.
    """
    own = (adapter.path / TOKENIZER_FILE).is_file()
    path = adapter.path if own else adapter.base.path
    base = base_before(adapter)
    tensors = {t: replace(h, file="") if t == adapter.own_head else h for t, h in base.tensors.items()}
    full = replace(
        base,
        name=adapter.name,
        path=path,
        tensors=tensors,
        redundant={},
        warnings=(),
        adapter=adapter.path,
    )
    rows = {
        tensor: header.shape[0]
        for key, header in adapter.headers.items()
        if (tensor := stored_whole(key, base)) is not None
    }
    wanted = {name: full.tensors[name].shape[0] for name in vocabulary_tensors(full)}
    if all(rows.get(name, count) == count for name, count in wanted.items()):
        return full
    if len({rows.get(name) for name in wanted}) > 1:
        found = ", ".join(f"{name} {rows.get(name, 'not stored')}" for name in sorted(wanted))
        raise CheckpointError(
            Problem("E226", f"{adapter.name}: embedding and head have other numbers of rows", found,
                    "save both with the adapter", str(adapter.path))
        )  # fmt: skip
    return with_vocabulary(full, max(rows.values()))


def merge_note(adapter: AdapterFolder) -> Problem:
    """A warning that PEFT will merge an adapter, with what that takes."""
    size = sum(header.elements for header in foreseen(adapter).tensors.values()) * 4
    wrong = f"{adapter.name} is a {adapter.kind} adapter: PEFT merges it into the base, once"
    found = f"takes up to {size / 1e9:.2f} GB of disk, and as much again while it does"
    return Problem("E241", wrong, found, "", str(adapter.path))


def require_peft(adapter: AdapterFolder) -> str:
    """The version of PEFT that will merge an adapter.

    Raises:
        EnvironmentFault: E410, if it is not installed.
    """
    if util.find_spec("peft") is None:
        wrong = (
            f"{adapter.name} is a {adapter.kind} adapter, which PEFT merges, and PEFT is not installed"
        )
        todo = 'pip install "evomerge[peft]"'
        raise EnvironmentFault(Problem("E410", wrong, "", todo, str(adapter.path)))
    return metadata.version("peft")


def merge_key(adapter: AdapterFolder, digests: Mapping[str, str]) -> str:
    """SHA-256 (hex) of what the merge of an adapter depends on; `digests` has its own and its base's."""
    parts = [digests[adapter.name], digests[adapter.base.name], require_peft(adapter)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
