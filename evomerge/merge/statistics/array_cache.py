"""Arrays computed once: kept in memory and, given a folder, on disk under the digests of what they are of."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from evomerge.files.storage import publish_file

Arrays = dict[str, np.ndarray]

VERSION = 3
"""Raised when what is computed changes: files outlive programs."""


class ArrayCache:
    """Named arrays by key: a kind of statistic and the names of the models it is of.

    Args:
        directory: where files are kept between runs; None keeps everything in memory only.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self.directory = directory
        self._memory: dict[tuple[str, ...], Arrays] = {}

    def get(
        self,
        key: tuple[str, ...],
        identities: Callable[[], Sequence[str]],
        compute: Callable[[], Arrays],
    ) -> Arrays:
        """What was computed under a key, here or by another process, else what `compute` gives now.

        Args:
            key: kind first, then names.
            identities: what stands for the content behind the names; asked only when a file is named.
            compute: called once.
        """
        found = self._memory.get(key)
        if found is None:
            stem = self.stem(key[0], identities()) if self.directory is not None else None
            path = stem.with_suffix(".safetensors") if stem is not None else None
            found = _load(path) if path is not None else None
            if found is None:
                found = compute()
                if path is not None:
                    _save(path, found)
            self._memory[key] = found
        return found

    def stem(self, kind: str, identities: Sequence[str]) -> Path:
        """Where something of these models is kept, without suffix; there must be a folder."""
        assert self.directory is not None
        digest = hashlib.sha256("\n".join([str(VERSION), kind, *identities]).encode()).hexdigest()
        return self.directory / f"{kind}-{digest[:32]}"


def _load(path: Path) -> Arrays | None:
    """What was saved, or None where there is nothing sound; a damaged cache is computed again."""
    try:
        return dict(load_file(path))
    except Exception:
        # safetensors raises its own undocumented error class for damaged files; a cache may be lost.
        return None


def _save(path: Path, arrays: Arrays) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".partial")
    os.close(handle)
    try:
        save_file(arrays, name)
        publish_file(Path(name), path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
