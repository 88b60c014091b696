"""Strict reader of safetensors headers; reads no weight and imports no torch.

A file is eight bytes (header length, little endian), a JSON header, and the data. Its tensors must tile
the data exactly: files with holes, overlaps or spare bytes are refused, since two readers may see
different models in them.
"""

from __future__ import annotations

import json
import math
import os
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge.errors import CheckpointError, Problem

HEADER_LIMIT = 100_000_000
"""Largest header in bytes; the reference implementation has the same cap."""

DTYPES: dict[str, tuple[str, int]] = {
    "F64": ("float64", 8),
    "F32": ("float32", 4),
    "F16": ("float16", 2),
    "BF16": ("bfloat16", 2),
    "F8_E4M3": ("float8_e4m3fn", 1),
    "F8_E5M2": ("float8_e5m2", 1),
    "I64": ("int64", 8),
    "I32": ("int32", 4),
    "I16": ("int16", 2),
    "I8": ("int8", 1),
    "U64": ("uint64", 8),
    "U32": ("uint32", 4),
    "U16": ("uint16", 2),
    "U8": ("uint8", 1),
    "BOOL": ("bool", 1),
}
"""Name in a safetensors header to (name as torch spells it, bytes of one element)."""

FLOATS = ("float64", "float32", "float16", "bfloat16")
"""Element types that can be merged."""


@dataclass(frozen=True)
class TensorHeader:
    """Where one tensor lies.

    Attributes:
        file: file name inside the checkpoint's folder.
        dtype: element type as torch spells it (`bfloat16`).
        shape: extents, outermost first.
        offset: first byte, counted from the start of the file.
        nbytes: length in bytes.
    """

    file: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def is_float(self) -> bool:
        """Whether the tensor can be merged."""
        return self.dtype in FLOATS


def read_header(path: Path) -> dict[str, TensorHeader]:
    """The tensors of one safetensors file by name.

    Raises:
        CheckpointError: E208 (pickle or zip), E209 (Git LFS pointer), E210 (HTML page), E211 (empty),
            E212 (truncated), E213 (spare bytes), E214 (damaged header), E240 (cannot be read).
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(8 + 512)
            if size < 8:
                wrong = "truncated file" if size else "empty file"
                raise _fault("E211", path, wrong, f"it has {size} bytes", "download it again")
            if start[8:9] != b"{":
                raise _not_safetensors(path, start)
            (length,) = struct.unpack("<Q", start[:8])
            if length > HEADER_LIMIT:
                raise _fault("E214", path, "header too long", f"{length} bytes", "save it again")
            if 8 + length > size:
                raise _truncated(path, size, f"its header alone needs {8 + length}")
            file.seek(8)
            raw = file.read(length)
    except OSError as error:
        raise _fault("E240", path, "cannot be read", error.strerror or str(error), "") from error
    try:
        data = json.loads(raw.decode("utf-8"), object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise _fault("E214", path, "header is not JSON", str(error), "download it again") from error
    if not isinstance(data, dict):
        raise _fault("E214", path, "header is not a JSON object", type(data).__name__, "")
    data.pop("__metadata__", None)
    tensors = {name: _entry(path, name, entry, 8 + length) for name, entry in data.items()}
    _check_tiling(path, tensors, 8 + length, size)
    return tensors


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        names = [name for name, _ in pairs]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"names stand twice: {', '.join(twice[:5])}")
    return table


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _entry(path: Path, name: str, entry: Any, data_start: int) -> TensorHeader:
    def damaged(what: str) -> CheckpointError:
        return _fault("E214", path, f"damaged header: {what}", f"found {entry!r:.200}", "", name)

    if not isinstance(entry, dict):
        raise damaged("an entry must be an object")
    dtype, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise damaged("unknown dtype")
    if not isinstance(shape, list) or not all(_is_count(extent) for extent in shape):
        raise damaged("shape must be a list of counts")
    if not (isinstance(offsets, list) and len(offsets) == 2 and all(map(_is_count, offsets))):
        raise damaged("data_offsets must be two counts")
    begin, end = offsets
    torch_name, width = DTYPES[dtype]
    if end - begin != math.prod(shape) * width:
        raise damaged(f"shape and dtype need {math.prod(shape) * width} bytes, not {end - begin}")
    return TensorHeader(path.name, torch_name, tuple(shape), data_start + begin, end - begin)


def _check_tiling(
    path: Path, tensors: dict[str, TensorHeader], data_start: int, file_size: int
) -> None:
    position = data_start
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].offset, item[1].nbytes)):
        if tensor.offset != position:
            found = f"data begins at byte {tensor.offset}, expected {position}"
            raise _fault(
                "E214", path, "damaged header: tensors overlap or leave holes", found, "", name
            )
        position += tensor.nbytes
    if position > file_size:
        raise _truncated(path, file_size, f"its tensors need {position}")
    if position < file_size:
        found = f"{file_size - position} bytes too many after the last tensor"
        raise _fault("E213", path, "file is too long", found, "download it again")


def _not_safetensors(path: Path, start: bytes) -> CheckpointError:
    if start.startswith(b"version https://git-lfs"):
        size = re.search(rb"^size (\d+)", start, re.MULTILINE)
        expected = f"{size.group(1).decode()} bytes expected" if size else "size unknown"
        return _fault("E209", path, "a Git LFS pointer, not the file", expected, "run `git lfs pull`")
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return _fault("E210", path, "an HTML page saved as weights", "", "download it again")
    if start.startswith(b"PK") or start[:1] == b"\x80":
        return _fault(
            "E208", path, "a pickle or zip file under another name", "", "convert it to safetensors"
        )
    return _fault("E214", path, "not a safetensors file", f"begins with {start[:16]!r}", "")


def _truncated(path: Path, size: int, need: str) -> CheckpointError:
    found = f"the file has {size} bytes, {need}"
    return _fault("E212", path, "truncated file", found, "download it again")


def _fault(
    code: str, path: Path, wrong: str, found: str, todo: str, field: str = ""
) -> CheckpointError:
    return CheckpointError(Problem(code, wrong, found, todo, file=str(path), field=field))
