"""Streamed writing of safetensors: headers from sizes known beforehand, then tensor after tensor."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch

from evomerge.checkpoint.folder import INDEX_FILE, SINGLE_FILE
from evomerge.checkpoint.header import DTYPES
from evomerge.files.storage import sync_folder

_NAMES = {torch_name: (name, width) for name, (torch_name, width) in DTYPES.items()}


@dataclass(frozen=True)
class TensorSpec:
    """A tensor that will be written: name, element type as torch spells it, shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Length in bytes."""
        count = _NAMES[self.dtype][1]
        for extent in self.shape:
            count *= extent
        return count


def plan_shards(specs: Sequence[TensorSpec], shard_bytes: int) -> list[list[TensorSpec]]:
    """Tensors in order, in shards of at most `shard_bytes`; a larger tensor has a shard of its own."""
    shards: list[list[TensorSpec]] = [[]]
    filled = 0
    for spec in specs:
        if shards[-1] and filled + spec.nbytes > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(spec)
        filled += spec.nbytes
    return shards


class CheckpointWriter:
    """Writes tensors in the order of `specs` to `model.safetensors`, or to shards with an index.

    `write` must be called once for each spec, in order; `close` checks that, syncs files and folder to
    disk and writes the index. The folder gets its final name from the caller.
    """

    def __init__(self, folder: Path, specs: Sequence[TensorSpec], shard_bytes: int) -> None:
        self._folder = folder
        self._shards = plan_shards(specs, shard_bytes)
        count = len(self._shards)
        self.files = (
            [SINGLE_FILE]
            if count == 1
            else [f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]
        )
        self._total = sum(spec.nbytes for spec in specs)
        self._queue: Iterator[tuple[int, TensorSpec]] = (
            (index, spec) for index, shard in enumerate(self._shards) for spec in shard
        )
        self._left = len(specs)
        self._open: BinaryIO | None = None
        self._open_index = -1

    def write(self, name: str, tensor: torch.Tensor) -> None:
        """Write the next tensor (contiguous, any device).

        Raises:
            ValueError: if it is not the tensor whose turn it is.
        """
        index, spec = next(self._queue, (-1, None))
        found = TensorSpec(name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))
        if spec != found:
            raise ValueError(f"expected {spec} to be written next, found {found}")
        if index != self._open_index:
            self._begin(index)
        assert self._open is not None
        if tensor.numel():
            flat = tensor.contiguous().view(-1).view(torch.uint8).cpu().numpy()
            self._open.write(flat.data)
        self._left -= 1

    def close(self) -> None:
        """Finish the last file, write the index, sync all to disk.

        Raises:
            ValueError: if tensors are still missing.
        """
        if self._left:
            raise ValueError(f"{self._left} tensors were not written")
        self._finish()
        if len(self.files) > 1:
            weight_map = {
                spec.name: file
                for file, shard in zip(self.files, self._shards, strict=True)
                for spec in shard
            }
            index = {"metadata": {"total_size": self._total}, "weight_map": weight_map}
            with (self._folder / INDEX_FILE).open("w", encoding="utf-8") as file:
                json.dump(index, file, indent=2, sort_keys=True)
                file.write("\n")
                file.flush()
                os.fsync(file.fileno())
        sync_folder(self._folder)

    def abandon(self) -> None:
        """Close the open file without finishing; what was written is of no use."""
        if self._open is not None:
            self._open.close()
            self._open = None

    def _begin(self, index: int) -> None:
        self._finish()
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        position = 0
        for spec in self._shards[index]:
            header[spec.name] = {
                "dtype": _NAMES[spec.dtype][0],
                "shape": list(spec.shape),
                "data_offsets": [position, position + spec.nbytes],
            }
            position += spec.nbytes
        raw = json.dumps(header, separators=(",", ":")).encode()
        raw += b" " * (-len(raw) % 8)  # data begins aligned, so that mapped tensors are aligned
        self._open = (self._folder / self.files[index]).open("wb")
        self._open.write(struct.pack("<Q", len(raw)) + raw)
        self._open_index = index

    def _finish(self) -> None:
        if self._open is not None:
            self._open.flush()
            os.fsync(self._open.fileno())
            self._open.close()
            self._open = None
