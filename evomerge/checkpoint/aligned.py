"""Readers that give embedding and head rows in the order of a common vocabulary."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from evomerge.checkpoint.adapter import AdapterFolder
from evomerge.checkpoint.folder import CheckpointFolder
from evomerge.checkpoint.reader import AdapterReader, Reader, TensorReader
from evomerge.checkpoint.vocabulary import (
    FILL,
    MEAN,
    Alignment,
    aligned_folders,
    vocabulary_tensors,
)
from evomerge.recipe.recipe import TokenRow

Folder = CheckpointFolder | AdapterFolder


class AlignedReader(TensorReader):
    """A full model whose vocabulary is another's; other tensors come as they are.

    Rows are gathered once and kept.
    """

    def __init__(
        self,
        name: str,
        folder: CheckpointFolder,
        own: Mapping[str, TensorReader],
        alignment: Alignment,
    ) -> None:
        super().__init__(folder)
        self._name = name
        self._own = own
        self._alignment = alignment
        self._vocabulary = vocabulary_tensors(own[name].folder)
        self._kept: dict[str, torch.Tensor] = {}

    def read(self, name: str) -> torch.Tensor:
        """Tensor `name`: [rows of the common vocabulary, ...] for embedding and head."""
        if name not in self._vocabulary:
            return self._own[self._name].read(name)
        if name not in self._kept:
            self._kept[name] = self._gather(name)
        return self._kept[name]

    def _gather(self, name: str) -> torch.Tensor:
        alignment = self._alignment
        stored = self._own[self._name].read(name)
        if alignment.is_identity(self._name, stored.shape[0]):
            return stored
        rows = alignment.rows[self._name]
        missing = rows < 0
        averaged = np.flatnonzero(missing & (alignment.donor == MEAN))
        filled = torch.from_numpy(alignment.donor == FILL)
        kinds = {reader.read(name).dtype for reader in self._own.values()}
        # A mean is not rounded to the storage dtype of the models, nor are wider rows.
        plain = len(kinds) == 1 and not averaged.size and not filled.any()
        dtype = stored.dtype if plain else torch.float32
        out = torch.zeros((len(rows), *stored.shape[1:]), dtype=dtype)
        present = torch.from_numpy(np.flatnonzero(~missing))
        out[present] = stored[torch.from_numpy(rows[~missing])].to(dtype)
        for index, donor in enumerate(alignment.names):
            wanted = np.flatnonzero(missing & (alignment.donor == index))
            if wanted.size:
                theirs = torch.from_numpy(alignment.taken[wanted])
                out[torch.from_numpy(wanted)] = self._own[donor].read(name)[theirs].to(dtype)
        if averaged.size:
            out[torch.from_numpy(averaged)] = self._mean(name, averaged)
        if filled.any():
            out[filled] = out[~filled].mean(dim=0)
        return out

    def _mean(self, name: str, wanted: np.ndarray) -> torch.Tensor:
        """Mean over the models that have each of the tokens, float32."""
        total = torch.zeros(0)
        for donor in self._alignment.names:
            theirs = torch.from_numpy(self._alignment.rows[donor][wanted])
            found = self._own[donor].read(name)[theirs.clamp(min=0)].to(torch.float32)
            has = (theirs >= 0).to(torch.float32).view(-1, *[1] * (found.ndim - 1))
            total = found * has if not total.numel() else total.addcmul_(found, has)
        count = torch.from_numpy(self._alignment.owners[wanted])
        return total / count.view(-1, *[1] * (total.ndim - 1))


def align_sources(
    folders: Mapping[str, Folder],
    readers: Mapping[str, Reader],
    base: str,
    target: str | None,
    stated: Mapping[str, TokenRow] | None = None,
    multiple: int = 0,
) -> tuple[dict[str, Folder], dict[str, Reader], Alignment]:
    """Folders and readers of a merge in one vocabulary; see `vocabulary.align` for the arguments.

    Raises:
        CheckpointError: E226 a model without readable tokens, E234 an adapter of embedding or head.
    """
    changed, alignment = aligned_folders(folders, base, target, stated, multiple)
    own = {name: reader for name, reader in readers.items() if isinstance(reader, TensorReader)}
    full: dict[str, TensorReader] = {
        name: AlignedReader(name, folder, own, alignment)
        for name, folder in changed.items()
        if isinstance(folder, CheckpointFolder)
    }
    aligned: dict[str, Reader] = {
        name: AdapterReader(folder, full[folder.base.name])
        if isinstance(folder, AdapterFolder)
        else full[name]
        for name, folder in changed.items()
    }
    return changed, aligned, alignment
