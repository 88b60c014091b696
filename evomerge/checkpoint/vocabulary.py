"""Vocabularies that differ: which row of each model holds a token, and where missing rows come from.

Torch-free; `aligned` gathers the rows. Rules for a token that a model lacks: the base's row if the base has
the token, else the row of the only model that has it, else the mean over those that have it. A row without
a token (padding) is taken from the same place, where that is padding too, else from the base. A recipe may
say another source for the row of a token (`TokenRow`). It may also say of what the number of rows shall be a
multiple (`pad_to_multiple_of`); all padding is then the mean of the other rows of each model, as in mergekit.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from evomerge.checkpoint.adapter import AdapterFolder
from evomerge.checkpoint.folder import CheckpointFolder, text_config
from evomerge.errors import CheckpointError, Problem
from evomerge.recipe.places import place_kind
from evomerge.recipe.recipe import TokenRow

MEAN, ZERO, FILL = -1, -2, -3
TOKENIZER_FILE = "tokenizer.json"


@dataclass(frozen=True)
class Vocabulary:
    """Tokens of a model: `ids` token to row, `rows` of its embedding (at least the largest id + 1)."""

    ids: Mapping[str, int]
    rows: int


@dataclass(frozen=True)
class Alignment:
    """How the rows of several models come into one order.

    Attributes:
        vocabulary: of the result.
        rows: source to int64 [rows of the result], its own row or -1.
        donor: int64 [rows of the result], index into `names` of the model a missing row is taken from, or
            `MEAN`, or `ZERO` where no model has it, or `FILL` for the mean of the model's own tokens.
        taken: int64 [rows of the result], which row of that model.
        names: the sources in the order of `donor`.
    """

    vocabulary: Vocabulary
    rows: Mapping[str, np.ndarray]
    donor: np.ndarray
    taken: np.ndarray
    names: tuple[str, ...]

    def is_identity(self, name: str, rows: int) -> bool:
        """Whether a source's embedding is in the result's order already."""
        found = self.rows[name]
        return len(found) == rows and bool((found == np.arange(rows)).all())

    @cached_property
    def owners(self) -> np.ndarray:
        """Number of models that have each row, float32 [rows of the result]."""
        total = np.zeros(len(self.donor), dtype=np.float32)
        for found in self.rows.values():
            total += found >= 0
        return total


def read_vocabulary(folder: CheckpointFolder) -> Vocabulary:
    """The tokens of a model with those added to it, by `tokenizer.json`.

    Raises:
        CheckpointError: E226, there is no tokenizer that can be read as such.
    """
    ids = token_ids(folder.path)
    rows = text_config(folder.config).get("vocab_size")
    if not ids or not isinstance(rows, int):
        wrong = f"{folder.name}: its tokens cannot be read, so its vocabulary cannot be aligned"
        todo = f"add {TOKENIZER_FILE}"
        raise CheckpointError(Problem("E226", wrong, "", todo, str(folder.path)))
    # A tokenizer may know more than the model has rows for.
    return Vocabulary({token: number for token, number in ids.items() if number < rows}, rows)


def token_ids(folder: Path) -> dict[str, int]:
    """Token to id, added tokens included; empty where they cannot be read."""
    try:
        data = json.loads((folder / TOKENIZER_FILE).read_text(encoding="utf-8"))
        added = {entry["content"]: entry["id"] for entry in data.get("added_tokens", ())}
        return plain_ids(data) | added
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def plain_ids(data: Mapping[str, Any]) -> dict[str, int]:
    """Token to id of a `tokenizer.json`, without added tokens."""
    vocabulary = data["model"]["vocab"]
    if isinstance(vocabulary, list):
        return {str(entry[0]): number for number, entry in enumerate(vocabulary)}
    return {str(token): int(number) for token, number in vocabulary.items()}


def same_vocabulary(left: CheckpointFolder, right: CheckpointFolder) -> bool:
    """Whether two models have the same tokens in the same rows, and equally many rows."""
    if left.path == right.path:
        return True
    sizes = [text_config(folder.config).get("vocab_size") for folder in (left, right)]
    return sizes[0] == sizes[1] and token_ids(left.path) == token_ids(right.path)


def align(
    folders: Mapping[str, CheckpointFolder],
    base: str,
    target: str | None,
    stated: Mapping[str, TokenRow] | None = None,
    multiple: int = 0,
) -> Alignment:
    """Bring the vocabularies of models into the order of one of them, or of their union.

    Args:
        folders: full models by name.
        base: the model whose rows go before others'.
        target: the model whose vocabulary the result has; None for the union: the base's rows as they
            are, then what others add, in the order of their names and ids.
        stated: token to where its row comes from; those that the vocabulary lacks come last.
        multiple: as many rows as tokens, rounded up to a multiple of it; 0 keeps padding as it is.

    Raises:
        CheckpointError: E226, a model without readable tokens, or without one whose row is to be taken.
    """
    stated = stated or {}
    # One order, whoever asks: sums of several rows depend on it.
    known = {name: read_vocabulary(folders[name]) for name in sorted(folders)}
    vocabulary = known[target] if target is not None else _union(known, base)
    vocabulary = _with_tokens(vocabulary, stated)
    if multiple:
        used = max(vocabulary.ids.values(), default=-1) + 1
        vocabulary = Vocabulary(vocabulary.ids, -(-used // multiple) * multiple)
    names = tuple(known)
    tokens = list(vocabulary.ids)
    places = np.fromiter(vocabulary.ids.values(), dtype=np.int64, count=len(tokens))
    padding = np.ones(vocabulary.rows, dtype=bool)
    padding[places] = False
    rows = {}
    for name, own in known.items():
        found = np.full(vocabulary.rows, -1, dtype=np.int64)
        found[places] = np.fromiter((own.ids.get(t, -1) for t in tokens), np.int64, len(tokens))
        spare = np.ones(own.rows, dtype=bool)
        spare[list(own.ids.values())] = False
        common = 0 if multiple else min(own.rows, vocabulary.rows)
        both = np.flatnonzero(padding[:common] & spare[:common])
        found[both] = both
        rows[name] = found
    has = np.stack([rows[name] >= 0 for name in names])
    count = has.sum(axis=0)
    donor = np.where(count == 0, ZERO, np.where(count == 1, has.argmax(axis=0), MEAN))
    # Padding has no meaning to average.
    donor = np.where(padding & (count > 1), has.argmax(axis=0), donor)
    donor = np.where(rows[base] >= 0, names.index(base), donor)
    if multiple:
        donor = np.where(padding, FILL, donor)
    own_rows = np.stack([rows[name] for name in names])
    taken = np.take_along_axis(own_rows, np.maximum(donor, 0)[None], axis=0)[0]
    for token, row in stated.items():
        place = vocabulary.ids[token]
        donor[place] = names.index(row.source) if row.source else ZERO
        if row.source:
            taken[place] = _row_of(folders[row.source], known[row.source], token, row)
        if row.force:
            for found in rows.values():
                found[place] = -1
    return Alignment(vocabulary, rows, donor, taken, names)


def _with_tokens(vocabulary: Vocabulary, tokens: Iterable[str]) -> Vocabulary:
    ids = dict(vocabulary.ids)
    for token in tokens:
        ids.setdefault(token, max(ids.values(), default=-1) + 1)
    return Vocabulary(ids, max(vocabulary.rows, max(ids.values(), default=-1) + 1))


def _row_of(folder: CheckpointFolder, own: Vocabulary, token: str, row: TokenRow) -> int:
    """The row of a model that a token is given."""
    wanted = token if row.token is None else row.token
    found = wanted if isinstance(wanted, int) else own.ids.get(wanted, -1)
    if not 0 <= found < own.rows:
        wrong = f"{folder.name} has no token {wanted!r}, whose row {token!r} is to have"
        field = f"tokenizer.tokens.{token}"
        raise CheckpointError(Problem("E226", wrong, "", "", str(folder.path), field=field))
    return found


def _union(known: Mapping[str, Vocabulary], base: str) -> Vocabulary:
    ids = dict(known[base].ids)
    following = max(ids.values(), default=-1) + 1
    for name in sorted(known):
        for token, _ in sorted(known[name].ids.items(), key=lambda entry: entry[1]):
            if token not in ids:
                ids[token] = following
                following += 1
    return Vocabulary(ids, max(known[base].rows, following))


def vocabulary_tensors(folder: CheckpointFolder) -> frozenset[str]:
    """Embedding and head tensors: those with one row a token."""
    rows = text_config(folder.config).get("vocab_size")
    return frozenset(
        tensor
        for tensor, place in folder.places.items()
        if place_kind(place) in ("embed", "head") and folder.tensors[tensor].shape[:1] == (rows,)
    )


def with_vocabulary(folder: CheckpointFolder, rows: int) -> CheckpointFolder:
    """A model as if its embedding and head had `rows` rows: headers and config only."""
    changed = vocabulary_tensors(folder)
    tensors = {
        name: replace(header, shape=(rows, *header.shape[1:])) if name in changed else header
        for name, header in folder.tensors.items()
    }
    return replace(folder, tensors=tensors, config={**folder.config, **vocabulary_config(folder, rows)})


def aligned_folders(
    folders: Mapping[str, CheckpointFolder | AdapterFolder],
    base: str,
    target: str | None,
    stated: Mapping[str, TokenRow] | None = None,
    multiple: int = 0,
) -> tuple[dict[str, CheckpointFolder | AdapterFolder], Alignment]:
    """Folders as if they had one vocabulary, headers and config only; see `align` for the arguments.

    Raises:
        CheckpointError: E226 a model without readable tokens, E234 an adapter of embedding or head.
    """
    full = {name: folder for name, folder in folders.items() if isinstance(folder, CheckpointFolder)}
    # Embedding and head of an adapter are those of its model; see below.
    adapted = {n: f.base.name for n, f in folders.items() if isinstance(f, AdapterFolder)}
    rows = {
        token: replace(row, source=adapted.get(row.source, row.source))
        for token, row in (stated or {}).items()
    }
    alignment = align(full, base, target, rows, multiple)
    changed = {
        name: with_vocabulary(folder, alignment.vocabulary.rows) for name, folder in full.items()
    }
    found: dict[str, CheckpointFolder | AdapterFolder] = {}
    for name, folder in folders.items():
        if isinstance(folder, CheckpointFolder):
            found[name] = changed[name]
            continue
        touched = sorted(vocabulary_tensors(folder.base) & set(folder.factors))
        if touched:
            wrong = (
                f"{name}: an adapter of the embedding or head cannot be brought into another vocabulary"
            )
            raise CheckpointError(Problem("E234", wrong, "", "", str(folder.path), field=touched[0]))
        found[name] = replace(folder, base=changed[folder.base.name])
    return found, alignment


def vocabulary_config(folder: CheckpointFolder, rows: int) -> dict[str, Any]:
    """What changes in a config with the number of rows."""
    part = text_config(folder.config)
    if part is folder.config:
        return {"vocab_size": rows}
    return {"text_config": {**part, "vocab_size": rows}}
