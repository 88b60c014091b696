"""Which kind a model folder is: a full model, or an adapter of a base. Torch-free."""

from __future__ import annotations

from pathlib import Path

from evomerge.checkpoint.adapter import AdapterFolder, open_adapter
from evomerge.checkpoint.folder import CheckpointFolder, is_adapter, open_folder


def open_source(
    path: str | Path, name: str, base: CheckpointFolder | None = None
) -> CheckpointFolder | AdapterFolder:
    """Open a folder as what its files say it is: a full model, or an adapter of `base`.

    Raises:
        CheckpointError: as `open_folder` and `open_adapter` do.
    """
    folder = Path(path)
    if base is not None and is_adapter(folder):
        return open_adapter(folder, name, base)
    return open_folder(folder, name)
