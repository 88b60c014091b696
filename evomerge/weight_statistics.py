"""WeightStatistics: what merge methods must know of the weights, computed once per set of checkpoints.

Thresholds are exact: a table of 1000 order statistics of the float32 magnitudes of a task vector
answers every density on the 1e-3 grid, and other densities are computed on demand. Tables for the whole
model (TIES' original trim) come from a two-level radix histogram: the vector itself would not fit.
Results are kept in memory and, given a folder, on disk under the digests of the checkpoints.
"""

from __future__ import annotations

import hashlib
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from evomerge.checkpoint.adapter import AdapterFolder
from evomerge.checkpoint.digest import content_digest
from evomerge.checkpoint.folder import CheckpointFolder
from evomerge.checkpoint.layout import layout_of, places_of
from evomerge.checkpoint.reader import Reader, TensorReader, open_readers
from evomerge.errors import CheckpointError, Problem
from evomerge.merge_method import METHODS
from evomerge.methods.blocks import low_rank_delta

GRID = 1000
"""Densities `1/GRID ... 1` have a place in the tables."""

_VERSION = 1
_LOW_BITS = 15
_LOW = 1 << _LOW_BITS
_HIGH = 1 << (31 - _LOW_BITS)

Arrays = dict[str, np.ndarray]
Folder = CheckpointFolder | AdapterFolder


@dataclass(frozen=True)
class Health:
    """What a look at every weight of a source found.

    Attributes:
        nonfinite: tensor to the number of NaN and infinite elements, where there are any.
        active: tensors in which the source differs from the base, sorted.
    """

    nonfinite: Mapping[str, int]
    active: tuple[str, ...]


def rank(density: float, size: int) -> int:
    """How many of `size` elements a density keeps: `floor(density * size)`, at least one.

    The density counts as the decimal number it is written as: 0.29 of 100 is 29, though the nearest
    double lies below 0.29.
    """
    return max(1, math.floor(Fraction(repr(float(density))) * size))


def _grid_ranks(size: int) -> np.ndarray:
    steps = np.arange(1, GRID + 1, dtype=object)
    return np.array([max(1, int(step) * size // GRID) for step in steps], dtype=np.int64)


def _grid_index(density: float) -> int | None:
    steps = Fraction(repr(float(density))) * GRID
    return int(steps) - 1 if steps.denominator == 1 and 1 <= steps <= GRID else None


class WeightStatistics:
    """Statistics of a base and experts, computed when first asked for.

    Args:
        sources: opened folders by the names recipes use.
        directory: where results are kept between runs; None keeps them in memory only.
        digests: content digests by name; those missing are computed when a file has to be named.
    """

    def __init__(
        self,
        sources: Mapping[str, Folder],
        directory: Path | None = None,
        digests: Mapping[str, str] | None = None,
        readers: Mapping[str, Reader] | None = None,
    ) -> None:
        self._sources = dict(sources)
        self._readers = dict(readers) if readers is not None else open_readers(self._sources)
        self._directory = directory
        self._digests = dict(digests or {})
        self._memory: dict[tuple[str, ...], Arrays] = {}
        self._single: dict[tuple[str, str, str, float], float] = {}

    def know(self, digests: Mapping[str, str]) -> None:
        """Take content digests that somebody has computed, instead of reading the files again."""
        self._digests.update(digests)

    def threshold(self, base: str, expert: str, tensor: str, density: float) -> float:
        """The k-th largest |expert - base| of a tensor in float32, with `k = rank(density, size)`.

        Keeping every element of at least that magnitude keeps a fraction of `density`, and those tied
        with the last. Zero where the tensor is untouched.
        """
        index = _grid_index(density)
        if index is not None:
            tables = self._kept(("magnitudes", base, expert), lambda: self._tables(base, expert))
            return float(tables[tensor][index])
        key = (base, expert, tensor, density)
        if key not in self._single:
            magnitudes = np.abs(self._delta(base, expert, tensor))
            size = magnitudes.size
            place = size - rank(density, size)
            self._single[key] = float(np.partition(magnitudes, place)[place]) if size else 0.0
        return self._single[key]

    def model_threshold(self, base: str, expert: str, density: float) -> float:
        """The same over all float tensors of the model together (the authors' trim in TIES)."""
        index = _grid_index(density)
        if index is not None:
            table = self._kept(
                ("model_magnitudes", base, expert),
                lambda: {"": self._model_order_statistics(base, expert, None)},
            )
            return float(table[""][index])
        key = (base, expert, "", density)
        if key not in self._single:
            self._single[key] = float(self._model_order_statistics(base, expert, density)[0])
        return self._single[key]

    def gram(self, tensor: str, first: str, second: str) -> tuple[float, float, float]:
        """Inner products (aa, ab, bb) of a tensor of two sources, flattened, in float64."""
        if second < first:
            bb, ab, aa = self.gram(tensor, second, first)
            return aa, ab, bb
        products = self._kept(("gram", first, second), lambda: self._products(first, second))
        aa, ab, bb = (float(value) for value in products[tensor])
        return aa, ab, bb

    def health(self, base: str, name: str) -> Health:
        """Non-finite elements of a source, and the tensors in which it differs from `base`."""
        found = self._kept(("health", base, name), lambda: self._look(base, name))
        return Health(
            nonfinite={t: int(counts[0]) for t, counts in found.items() if counts[0]},
            active=tuple(sorted(t for t, counts in found.items() if counts[1])),
        )

    def active_places(self, base: str, expert: str) -> tuple[str, ...]:
        """The places an expert's task vector touches, in model order."""
        folder = self._sources[base]
        assert isinstance(folder, CheckpointFolder)
        places = places_of(folder.tensors)
        touched = {places[tensor] for tensor in self.health(base, expert).active}
        return tuple(place for place in layout_of(folder).places if place in touched)

    def _value(self, name: str, tensor: str) -> torch.Tensor:
        """A tensor of a source as float32; float64 stays float64."""
        reader = self._readers[name]
        value = reader.read(tensor)
        value = value if value.dtype == torch.float64 else value.to(torch.float32)
        factors = reader.delta(tensor)
        if factors is not None:
            value = value + (factors[0] @ factors[1]).view(value.shape)
        return value

    def _delta(self, base: str, expert: str, tensor: str) -> np.ndarray:
        """A flattened task vector as the passes form it: float32 [n]."""
        factors = self._readers[expert].delta(tensor)
        if factors is not None:
            # The passes multiply in blocks of rows; so must the thresholds, to meet the same bits.
            return low_rank_delta(*factors).numpy()
        if isinstance(self._sources[expert], AdapterFolder):
            return np.zeros(self._sources[base].tensors[tensor].elements, dtype=np.float32)
        value = self._readers[expert].read(tensor).to(torch.float32)
        origin = self._readers[base].read(tensor).to(torch.float32)
        return (value - origin).view(-1).numpy()

    def _floats(self, base: str) -> list[str]:
        return [name for name, header in self._sources[base].tensors.items() if header.is_float]

    def _tables(self, base: str, expert: str) -> Arrays:
        tables: Arrays = {}
        zeros = np.zeros(GRID, dtype=np.float32)
        for tensor in self._floats(base):
            if not self._touches(expert, tensor):
                tables[tensor] = zeros
                continue
            magnitudes = np.abs(self._delta(base, expert, tensor))
            magnitudes.sort()
            size = magnitudes.size
            tables[tensor] = magnitudes[size - _grid_ranks(size)] if size else zeros
        return tables

    def _touches(self, expert: str, tensor: str) -> bool:
        folder = self._sources[expert]
        return not isinstance(folder, AdapterFolder) or tensor in folder.factors

    def _model_order_statistics(self, base: str, expert: str, density: float | None) -> np.ndarray:
        """Exact order statistics over all tensors, float32 [GRID] or [1] for one density.

        Magnitudes of float32 order as their 31 bits do. A first pass counts the upper 16 bits, which
        tells the bin each rank falls into; a second counts the lower 15 bits inside those bins.
        """
        names = self._floats(base)
        coarse = np.zeros(_HIGH, dtype=np.int64)
        size = 0
        for tensor in names:
            bits = self._magnitude_bits(base, expert, tensor)
            coarse += np.bincount(bits >> _LOW_BITS, minlength=_HIGH)
            size += bits.size
        ranks = _grid_ranks(size) if density is None else np.array([rank(density, size)])
        positions = size - ranks
        below = np.cumsum(coarse)
        bins = np.searchsorted(below, positions, side="right")
        wanted = np.unique(bins)
        slot = np.full(_HIGH, -1, dtype=np.int64)
        slot[wanted] = np.arange(wanted.size)
        fine = np.zeros(wanted.size * _LOW, dtype=np.int64)
        for tensor in names:
            bits = self._magnitude_bits(base, expert, tensor)
            slots = slot[bits >> _LOW_BITS]
            chosen = slots >= 0
            cells, counts = np.unique(
                slots[chosen] * _LOW + (bits[chosen] & (_LOW - 1)), return_counts=True
            )
            fine[cells] += counts
        fine_below = np.cumsum(fine.reshape(wanted.size, _LOW), axis=1)
        found = np.empty(ranks.size, dtype=np.uint32)
        for i, (position, bin_) in enumerate(zip(positions, bins, strict=True)):
            inside = position - (below[bin_] - coarse[bin_])
            low = int(np.searchsorted(fine_below[slot[bin_]], inside, side="right"))
            found[i] = (int(bin_) << _LOW_BITS) | low
        return found.view(np.float32)

    def _magnitude_bits(self, base: str, expert: str, tensor: str) -> np.ndarray:
        bits: np.ndarray = np.abs(self._delta(base, expert, tensor)).view(np.uint32)
        return bits

    def _products(self, first: str, second: str) -> Arrays:
        products: Arrays = {}
        for tensor in self._floats(first):
            a = self._value(first, tensor).double().view(-1)
            b = self._value(second, tensor).double().view(-1)
            products[tensor] = torch.stack([a @ a, a @ b, b @ b]).numpy()
        return products

    def _look(self, base: str, name: str) -> Arrays:
        found: Arrays = {}
        for tensor in self._floats(name):
            if not self._touches(name, tensor) and name != base:
                found[tensor] = np.zeros(2, dtype=np.int64)
                continue
            value = self._value(name, tensor)
            bad = int(value.numel() - torch.isfinite(value).sum().item())
            factors = self._readers[name].delta(tensor)
            if name == base:
                differs = False
            elif factors is not None:
                differs = bool((factors[0] @ factors[1]).count_nonzero().item())
            else:
                differs = not torch.equal(value, self._value(base, tensor))
            found[tensor] = np.array([bad, int(differs)], dtype=np.int64)
        return found

    def _kept(self, key: tuple[str, ...], compute: Callable[[], Arrays]) -> Arrays:
        if key in self._memory:
            return self._memory[key]
        path = self._file(key)
        arrays = _load(path) if path is not None else None
        if arrays is None:
            arrays = compute()
            if path is not None:
                _save(path, arrays)
        self._memory[key] = arrays
        return arrays

    def _file(self, key: tuple[str, ...]) -> Path | None:
        if self._directory is None:
            return None
        kind, *names = key
        parts = [str(_VERSION), kind, *(self._identity(name) for name in names)]
        digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()
        return self._directory / f"{kind}-{digest[:32]}.safetensors"

    def _identity(self, name: str) -> str:
        if name not in self._digests:
            self._digests[name] = content_digest(self._sources[name])
        folder = self._sources[name]
        if isinstance(folder, AdapterFolder):
            owner = next((n for n, f in self._sources.items() if f is folder.base), None)
            base = self._identity(owner) if owner is not None else content_digest(folder.base)
            return f"{self._digests[name]} on {base}"
        return self._digests[name]


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
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@dataclass(frozen=True)
class WeightReport:
    """What preparing found.

    Attributes:
        active: expert to the places its task vector touches.
        warnings: E233 problems, which do not stop a campaign.
    """

    active: Mapping[str, tuple[str, ...]]
    warnings: tuple[Problem, ...]


def prepare_statistics(
    statistics: WeightStatistics,
    sources: Mapping[str, Folder],
    base: str,
    methods: Iterable[str],
    trims: Iterable[str] = ("tensor",),
) -> WeightReport:
    """Look at every weight once and compute what `methods` need, before the first candidate.

    Raises:
        CheckpointError: E232 for every source with NaN or infinite weights, E229 where a config ties
            the head and the files hold another one; all together.
    """
    problems: list[Problem] = []
    warnings: list[Problem] = []
    active: dict[str, tuple[str, ...]] = {}
    experts = [name for name in sources if name != base]
    for name, folder in sources.items():
        health = statistics.health(base, name)
        for tensor, count in health.nonfinite.items():
            found = f"{count} elements"
            problems.append(
                Problem("E232", f"{name} has NaN or infinite weights", found, "leave this expert out",
                        str(folder.path), field=tensor)
            )  # fmt: skip
        if isinstance(folder, CheckpointFolder):
            problems.extend(_untied_heads(folder))
        if name != base:
            active[name] = statistics.active_places(base, name)
            if not active[name]:
                warnings.append(
                    Problem("E233", f"{name} equals the base: its coefficients do nothing", "",
                            "leave it out", str(folder.path))
                )  # fmt: skip
    if problems:
        raise CheckpointError(problems)
    needed = {need for method in methods for need in METHODS[method].statistics}
    for index, expert in enumerate(experts):
        if "magnitudes" in needed:
            first = next(iter(sources[base].tensors))
            for trim in trims:
                if trim == "model":
                    statistics.model_threshold(base, expert, 1.0)
                else:
                    statistics.threshold(base, expert, first, 1.0)
        if "gram" in needed:
            for other in experts[index + 1 :]:
                statistics.gram(next(iter(sources[base].tensors)), expert, other)
    return WeightReport(active, tuple(warnings))


def _untied_heads(folder: CheckpointFolder) -> list[Problem]:
    if not folder.redundant:
        return []
    reader = TensorReader(folder)
    places = places_of(folder.tensors)
    embeddings = [reader.read(name) for name, place in places.items() if place == "embed"]
    problems = []
    for name in folder.redundant:
        head = reader.read(name)
        if not any(head.shape == e.shape and torch.equal(head, e) for e in embeddings):
            problems.append(
                Problem("E229", f"{folder.name}: the config ties the head, the files hold another", "",
                        "set tie_word_embeddings to false, or remove the tensor", str(folder.path),
                        field=name)
            )  # fmt: skip
    return problems
