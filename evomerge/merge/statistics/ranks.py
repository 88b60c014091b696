"""Ranks within rows, prepared once for each expert and mapped: two bytes an element, shared by a node."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from evomerge.checkpoint.folder import SINGLE_FILE, CheckpointFolder
from evomerge.checkpoint.header import TensorHeader, read_header
from evomerge.checkpoint.reader import MappedFiles
from evomerge.checkpoint.writer import CheckpointWriter, TensorSpec
from evomerge.errors import CheckpointError
from evomerge.merge.passes.sparsify import rank_dtype


class RankFile:
    """Ranks of every float tensor of one expert, from one folder, written when it is first opened.

    Args:
        folder: where they are, or will be.
        base: whose tensors they belong to.
        compute: gives the ranks of a tensor, [n].
    """

    def __init__(
        self, folder: Path, base: CheckpointFolder, compute: Callable[[str], torch.Tensor]
    ) -> None:
        self._specs = [
            TensorSpec(
                name, str(rank_dtype(_columns(header))).removeprefix("torch."), (header.elements,)
            )
            for name, header in base.tensors.items()
            if header.is_float
        ]
        headers = self._headers(folder)
        if headers is None:
            self._write(folder, compute)
            headers = read_header(folder / SINGLE_FILE)
        self._tensors = headers
        self._files = MappedFiles(folder)

    def read(self, tensor: str) -> torch.Tensor:
        """Ranks of a tensor, [n], a view of the mapped file."""
        return self._files.tensor(self._tensors[tensor])

    def _headers(self, folder: Path) -> dict[str, TensorHeader] | None:
        """What is there, or None where there is nothing sound; it is then computed again."""
        with contextlib.suppress(CheckpointError, OSError):
            found = read_header(folder / SINGLE_FILE)
            if {n: (h.dtype, h.shape) for n, h in found.items()} == {
                spec.name: (spec.dtype, spec.shape) for spec in self._specs
            }:
                return found
        return None

    def _write(self, folder: Path, compute: Callable[[str], torch.Tensor]) -> None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        staged = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f"{folder.name}."))
        try:
            writer = CheckpointWriter(staged, self._specs, sum(s.nbytes for s in self._specs) + 1)
            try:
                for spec in self._specs:
                    writer.write(spec.name, compute(spec.name))
                writer.close()
            except BaseException:
                writer.abandon()
                raise
            shutil.rmtree(folder, ignore_errors=True)
            # Another process may have been faster: its file is the same.
            with contextlib.suppress(OSError):
                staged.rename(folder)
        finally:
            shutil.rmtree(staged, ignore_errors=True)


def _columns(header: TensorHeader) -> int:
    return header.shape[-1] if header.shape else 1
