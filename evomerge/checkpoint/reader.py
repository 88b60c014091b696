"""Mapped reading: tensors as views of the files, so that all workers of a node share one copy."""

from __future__ import annotations

import mmap
import warnings
from pathlib import Path

import torch

from evomerge.checkpoint.adapter import AdapterFolder, LowRank
from evomerge.checkpoint.folder import CheckpointFolder
from evomerge.checkpoint.header import TensorHeader
from evomerge.errors import CheckpointError, Problem


class MappedFiles:
    """The weight files of one folder, mapped read-only when first used."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._bytes: dict[str, torch.Tensor] = {}

    def tensor(self, header: TensorHeader) -> torch.Tensor:
        """A tensor as a view of its file; writing to it is a fault of the caller.

        Raises:
            CheckpointError: E240 if the file cannot be mapped, E239 if it became shorter.
        """
        data = self._bytes.get(header.file)
        if data is None:
            data = self._map(header.file)
            self._bytes[header.file] = data
        dtype: torch.dtype = getattr(torch, header.dtype)
        if header.elements == 0:
            return torch.empty(header.shape, dtype=dtype)
        if header.offset + header.nbytes > data.numel():
            path = str(self._folder / header.file)
            raise CheckpointError(Problem("E239", "the file became shorter", file=path))
        raw = data[header.offset : header.offset + header.nbytes]
        if header.offset % dtype.itemsize:
            # A header whose length is no multiple of the element: a view would be misaligned.
            raw = raw.clone()
        return raw.view(dtype).view(header.shape)

    def _map(self, file: str) -> torch.Tensor:
        path = self._folder / file
        try:
            with path.open("rb") as handle:
                mapped = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise CheckpointError(Problem("E240", "cannot map", str(error), file=str(path))) from error
        with warnings.catch_warnings():
            # torch warns that the mapping is read-only, which is what is wanted here.
            warnings.simplefilter("ignore", UserWarning)
            return torch.frombuffer(mapped, dtype=torch.uint8)


class TensorReader:
    """Tensors of a full model by checkpoint name."""

    def __init__(self, folder: CheckpointFolder) -> None:
        self.folder = folder
        self._files = MappedFiles(folder.path)

    def read(self, name: str) -> torch.Tensor:
        """Tensor `name`, a view of the mapped file in its storage dtype.

        Raises:
            CheckpointError: E220 if the checkpoint has no such tensor.
        """
        header = self.folder.tensors.get(name) or self.folder.redundant.get(name)
        if header is None:
            raise CheckpointError(
                Problem("E220", "tensor missing", "", "", str(self.folder.path), field=name)
            )
        return self._files.tensor(header)

    def delta(self, name: str) -> tuple[torch.Tensor, torch.Tensor] | None:
        """None: a full model has no factors."""
        return None


class AdapterReader:
    """An adapter: the tensors of its base, and low-rank deltas kept factored."""

    def __init__(self, folder: AdapterFolder, base: TensorReader | None = None) -> None:
        if not folder.factored:
            raise ValueError(f"{folder.name} is {folder.kind}, which PEFT must merge before it is read")
        self.folder = folder
        self._base = base if base is not None else TensorReader(folder.base)
        self._files = MappedFiles(folder.path)
        self._factors: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def read(self, name: str) -> torch.Tensor:
        """Tensor `name` of the base."""
        return self._base.read(name)

    def delta(self, name: str) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Float32 factors (left [rows, r], right [r, columns]) of tensor `name`'s delta, or None.

        The adapter's scale is in `left`. Kept in memory: an adapter is small beside a model.
        """
        header = self.folder.factors.get(name)
        if header is None:
            return None
        if name not in self._factors:
            self._factors[name] = self._load(header)
        return self._factors[name]

    def _load(self, header: LowRank) -> tuple[torch.Tensor, torch.Tensor]:
        a = self._files.tensor(header.a).to(torch.float32)
        b = self._files.tensor(header.b).to(torch.float32)
        left, right = (a.T, b.T) if header.transposed else (b, a)
        return left.mul(header.scale).contiguous(), right.contiguous()


Reader = TensorReader | AdapterReader


def open_reader(folder: CheckpointFolder | AdapterFolder, base: TensorReader | None = None) -> Reader:
    """The reader of an opened source; adapters of one base can share its reader."""
    if isinstance(folder, AdapterFolder):
        return AdapterReader(folder, base)
    return TensorReader(folder)


def open_readers(folders: dict[str, CheckpointFolder | AdapterFolder]) -> dict[str, Reader]:
    """A reader for each source; adapters share the reader of their base where it is among them."""
    full = {name: TensorReader(f) for name, f in folders.items() if isinstance(f, CheckpointFolder)}
    by_path = {reader.folder.path: reader for reader in full.values()}
    readers: dict[str, Reader] = dict(full)
    for name, folder in folders.items():
        if isinstance(folder, AdapterFolder):
            readers[name] = AdapterReader(folder, by_path.get(folder.base.path))
    return readers
