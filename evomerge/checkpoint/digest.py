"""Content digests: what the weights are, wherever and however the folder lies."""

from __future__ import annotations

import hashlib
from pathlib import Path

from evomerge.checkpoint.adapter import AdapterFolder
from evomerge.checkpoint.folder import CheckpointFolder

_BLOCK = 1 << 22


def content_digest(folder: CheckpointFolder | AdapterFolder) -> str:
    """SHA-256 (hex) over the content of the weight files, and of `adapter_config.json` for an adapter.

    The digest of the files' sorted digests, so that neither the folder's nor a shard's name is in it.
    """
    files = [folder.path / name for name in folder.files]
    if isinstance(folder, AdapterFolder):
        files.append(folder.path / "adapter_config.json")
    parts = sorted(_file_digest(path) for path in files)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _file_digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
