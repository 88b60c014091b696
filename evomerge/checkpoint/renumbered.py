"""Full models seen otherwise than as they lie: with their layers renumbered, or with an adapter on top."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from evomerge.checkpoint.adapter import AdapterFolder
from evomerge.checkpoint.folder import CheckpointFolder
from evomerge.checkpoint.reader import AdapterReader, Reader, TensorReader

Folder = CheckpointFolder | AdapterFolder

_ROWS_OF = 1 << 16
"""Elements that a block of an adapter's product has: its bits must not depend on who multiplies."""


class RenumberedReader(TensorReader):
    """A full model whose layer I is layer `I + shift` of another's files."""

    def __init__(self, folder: CheckpointFolder, own: Reader, shift: int) -> None:
        super().__init__(folder)
        self._own = own
        self._shift = shift

    def read(self, name: str) -> torch.Tensor:
        """Tensor `name`, as the files have it `shift` layers above."""
        return self._own.read(self.folder.names.shifted(name, self._shift))


class AdaptedReader(TensorReader):
    """A full model with an adapter on top: what the adapter touches is float32, unrounded."""

    def __init__(self, name: str, own: AdapterReader) -> None:
        super().__init__(replace(own.folder.base, name=name))
        self._own = own

    def read(self, name: str) -> torch.Tensor:
        """Tensor `name`; the product is formed again each time, so that no second model is held."""
        stored = self._own.read(name)
        factors = self._own.delta(name)
        if factors is None:
            return stored
        left, right = factors
        out = stored.to(torch.float32, copy=True)
        step = max(1, _ROWS_OF // right.shape[1])
        for start in range(0, left.shape[0], step):
            out[start : start + step] += left[start : start + step] @ right
        return out


def renumber(
    folders: Mapping[str, Folder], readers: Mapping[str, Reader], shifts: Mapping[str, int]
) -> tuple[dict[str, Folder], dict[str, Reader]]:
    """Sources with the layers of some renumbered, and of all only the tensors that all then have.

    Args:
        folders: of one architecture; those that are renumbered are full models.
        readers: theirs.
        shifts: source to how many layers above its new number a layer lies; others keep theirs.
    """
    shapes = []
    for name, folder in folders.items():
        names, shift = _full(folder).names, shifts.get(name, 0)
        shapes.append({(names.shifted(t, -shift), h.shape) for t, h in folder.tensors.items()})
    common = {tensor for tensor, _ in set.intersection(*shapes)}
    seen: dict[str, Folder] = {}
    reading: dict[str, Reader] = {}
    for name, folder in folders.items():
        full, shift = _full(folder), shifts.get(name, 0)
        moved = {full.names.shifted(t, -shift): h for t, h in full.tensors.items()}
        view = replace(full, tensors={t: h for t, h in moved.items() if t in common})
        seen[name] = replace(folder, base=view) if isinstance(folder, AdapterFolder) else view
        reading[name] = RenumberedReader(view, readers[name], shift) if shift else readers[name]
    return seen, reading


def _full(folder: Folder) -> CheckpointFolder:
    return folder.base if isinstance(folder, AdapterFolder) else folder
