"""Where experts pull a weight to different sides, sampled from their files where these lie on this machine.

Of each tensor some whole output rows are read, spread evenly; no model is loaded and no torch.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evomerge.checkpoint.adapter import AdapterFolder
from evomerge.checkpoint.folder import CheckpointFolder
from evomerge.checkpoint.header import TensorHeader
from evomerge.recipe.recipe import Recipe
from evomerge.report.coefficients import modules_of, open_checkpoints

ENTRIES = 1 << 14
"""Of each tensor, about; a single row may have more."""

LARGE = 0.8
"""Quantile of the magnitudes of a task vector's sampled entries from which they count as large."""


def sign_conflicts(recipe: Recipe, places: Sequence[str]) -> dict[str, Any] | None:
    """Share of entries that two experts move to different sides, by pair and layer.

    Args:
        recipe: that names base and experts, with paths.
        places: the finest ones of the model.

    Returns:
        `pairs` of experts; `layers`; `large` [pairs][layers], among entries that are large in both task
        vectors, None where there are none; `overall` [pairs][2], over all layers, among all entries that
        both move, and among large ones. None where fewer than two experts can be compared.

    Raises:
        EvomergeError: a file cannot be read.
    """
    folders = open_checkpoints(recipe)
    base = folders.get("base")
    if not isinstance(base, CheckpointFolder):
        return None
    experts = {name: folder for name, folder in folders.items() if _has_task_vector(name, folder)}
    pairs = list(itertools.combinations(experts, 2))
    if not pairs:
        return None
    layers = list(modules_of(places))
    counts = np.zeros((len(pairs), len(layers), 4))
    for tensor, place in base.places.items():
        own = [k for k, layer in enumerate(layers) if place == layer or place.startswith(f"{layer}.")]
        if own:
            sampled = _task_vectors(base, experts, tensor)
            for row, (left, right) in enumerate(pairs):
                counts[row, own[0]] += _counted(sampled.get(left), sampled.get(right))
    moved, apart, large, large_apart = np.moveaxis(counts, 2, 0)
    return {
        "pairs": [f"{left} · {right}" for left, right in pairs],
        "layers": layers,
        "large": [
            [_share(large_apart[row, k], large[row, k]) for k in range(len(layers))]
            for row in range(len(pairs))
        ],
        "overall": [
            [
                _share(apart[row].sum(), moved[row].sum()),
                _share(large_apart[row].sum(), large[row].sum()),
            ]
            for row in range(len(pairs))
        ],
    }


def _has_task_vector(name: str, folder: CheckpointFolder | AdapterFolder) -> bool:
    return name != "base" and (isinstance(folder, CheckpointFolder) or bool(folder.factors))


def _task_vectors(
    base: CheckpointFolder, experts: Mapping[str, CheckpointFolder | AdapterFolder], tensor: str
) -> dict[str, np.ndarray]:
    """Expert to float32 [rows, entries of a row] of its task vector, where it has one of this tensor."""
    header = base.tensors[tensor]
    if len(header.shape) < 2 or not header.elements:
        return {}
    count = max(1, ENTRIES * header.shape[0] // header.elements)
    rows = np.unique(np.linspace(0, header.shape[0] - 1, count).astype(int))
    found = {}
    start = None
    for name, folder in experts.items():
        if isinstance(folder, CheckpointFolder):
            theirs = folder.tensors.get(tensor)
            if theirs is not None and theirs.shape == header.shape:
                start = _rows(base.path, header, rows) if start is None else start
                found[name] = _rows(folder.path, theirs, rows) - start
        elif (factors := folder.factors.get(tensor)) is not None:
            a, b = (_rows(folder.path, each, None) for each in (factors.a, factors.b))
            found[name] = factors.scale * (a[:, rows].T @ b.T if factors.transposed else b[rows] @ a)
    return found


def _rows(folder: Path, header: TensorHeader, rows: np.ndarray | None) -> np.ndarray:
    """Some rows of a stored tensor (all, for None), as float32 [rows, entries of a row]."""
    stored = {"float32": "<f4", "float16": "<f2", "bfloat16": "<u2"}.get(header.dtype)
    if stored is None:
        return np.zeros((header.shape[0] if rows is None else len(rows), 0), np.float32)
    # Data need not lie at a multiple of their element's size: bytes are mapped, and read as what they are.
    data = np.memmap(
        folder / header.file,
        np.uint8,
        "r",
        header.offset,
        (header.shape[0], header.nbytes // header.shape[0]),
    )
    taken = np.ascontiguousarray(data if rows is None else data[rows]).view(stored)
    if header.dtype == "bfloat16":
        return (taken.astype(np.uint32) << 16).view(np.float32)
    return taken.astype(np.float32)


def _counted(left: np.ndarray | None, right: np.ndarray | None) -> np.ndarray:
    """Entries both move, of these to different sides, entries large in both, of these to different sides."""
    if left is None or right is None or left.shape != right.shape or not left.size:
        return np.zeros(4)
    both = (left != 0) & (right != 0)
    apart = np.sign(left) != np.sign(right)
    large = both.copy()
    for each in (np.abs(left), np.abs(right)):
        large &= each >= np.quantile(each[each > 0], LARGE) if bool((each > 0).any()) else False
    return np.array([both.sum(), (both & apart).sum(), large.sum(), (large & apart).sum()], float)


def _share(part: float, whole: float) -> float | None:
    return round(float(part / whole), 4) if whole else None
