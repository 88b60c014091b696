"""WeightStatistics: what merge methods must know of the weights, computed once per set of checkpoints.

Thresholds are exact: tables of order statistics of the float32 magnitudes of a task vector answer every
density on the 1e-3 grid, and other densities are computed on demand. Results are kept in memory and,
given a folder, on disk under the digests of the checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from evomerge.checkpoint.adapter import AdapterFolder
from evomerge.checkpoint.digest import content_digest
from evomerge.checkpoint.folder import CheckpointFolder
from evomerge.checkpoint.reader import Reader, open_readers
from evomerge.checkpoint.renumbered import renumber
from evomerge.merge.passes.blocks import low_rank_delta
from evomerge.merge.passes.sparsity import Sparsity
from evomerge.merge.statistics import order
from evomerge.merge.statistics.array_cache import ArrayCache, Arrays
from evomerge.merge.statistics.calibrated import Calibrated
from evomerge.merge.statistics.joint import TaskVectors, rescaling
from evomerge.merge.statistics.ranks import RankFile

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
        self._cache = ArrayCache(directory)
        self._digests = dict(digests or {})
        self.calibrated = Calibrated(self._sources, self._readers, self._cache, self._identity)
        self._single: dict[tuple[Hashable, int], float] = {}
        self._ranks: dict[tuple[str, str], RankFile] = {}
        self._drawn: dict[tuple[str, str, str, int], np.ndarray] = {}
        self._renumbered: dict[Hashable, WeightStatistics] = {}

    def know(self, digests: Mapping[str, str]) -> None:
        """Take content digests that somebody has computed, instead of reading the files again."""
        self._digests.update(digests)

    def renumbered(self, names: Sequence[str], shifts: Mapping[str, int]) -> WeightStatistics:
        """Statistics of some sources with the layers of some of them renumbered; see `renumber`."""
        key = (tuple(names), tuple(sorted(shifts.items())))
        if key not in self._renumbered:
            own = {name: self._sources[name] for name in names}
            folders, readers = renumber(own, {name: self._readers[name] for name in names}, shifts)
            digests = {}
            if self._cache.directory is not None:
                digests = {name: f"{self._identity(name)} {sorted(shifts.items())}" for name in names}
            found = WeightStatistics(folders, self._cache.directory, digests, readers)
            self._renumbered[key] = found
        return self._renumbered[key]

    def threshold(
        self, base: str, expert: str, tensor: str, density: float, binary: bool = False
    ) -> float:
        """The k-th largest |expert - base| of a tensor in float32, with `k = rank(density, size)`.

        Keeping every element of at least that magnitude keeps a fraction of `density`, and those tied
        with the last. Zero where the tensor is untouched.
        """
        size = self.elements(base, tensor)
        return self.magnitude(base, expert, tensor, order.rank(density, size, binary))

    def magnitude(self, base: str, expert: str, tensor: str, place: int) -> float:
        """The |expert - base| of a tensor at a rank; 1 is the largest. Zero for an empty tensor."""
        tables = self._kept(("magnitudes", base, expert), lambda: self._tables(base, expert))
        found = order.find(tables[tensor], place, self.elements(base, tensor))
        if found is not None:
            return found
        return self._once(
            ("magnitude", base, expert, tensor, place),
            lambda: order.at_rank(np.abs(self._delta(base, expert, tensor)), place),
        )

    def model_threshold(self, base: str, expert: str, density: float, binary: bool = False) -> float:
        """`threshold` over all float tensors of the model together (the authors' trim in TIES)."""
        size = sum(self.elements(base, tensor) for tensor in self._floats(base))
        place = order.rank(density, size, binary)

        def statistics(ranks_of: Callable[[int], np.ndarray]) -> np.ndarray:
            return order.radix_order_statistics(lambda: self._bits(base, expert), ranks_of)

        table = self._kept(
            ("model_magnitudes", base, expert),
            lambda: {"": statistics(lambda n: order.grid_ranks(n).reshape(-1)).reshape(3, -1)},
        )
        found = order.find(table[""], place, size)
        if found is not None:
            return found
        return self._once(
            ("model_magnitude", base, expert, place),
            lambda: float(statistics(lambda _: np.array([place]))[0]),
        )

    def gram(self, tensor: str, names: Sequence[str], base: str | None = None) -> np.ndarray:
        """Inner products of a tensor of several sources, flattened: float64 [T, T], in their order.

        Of their task vectors where `base` is given.
        """
        known = sorted(names)
        kind = ("gram", *known) if base is None else ("task_gram", base, *known)
        products = self._kept(kind, lambda: self._products(known, base))
        places = [known.index(name) for name in names]
        return products[tensor][np.ix_(places, places)]

    def place_grams(
        self, base: str, names: Sequence[str], *, by_tensor: bool = False
    ) -> dict[str, np.ndarray]:
        """Inner products of task vectors by place, and of the whole model under the empty place.

        With `by_tensor` the places are the finest.
        """
        sums: dict[str, np.ndarray] = {"": np.zeros((len(names), len(names)))}
        folder = self._sources[base]
        assert isinstance(folder, CheckpointFolder)
        places = folder.tensor_places if by_tensor else folder.places
        for tensor in self._floats(base):
            found = self.gram(tensor, names, base)
            sums[""] = sums[""] + found
            sums[places[tensor]] = sums.get(places[tensor], 0.0) + found
        return sums

    def least_variance(self, base: str, names: Sequence[str], tensor: str, density: float) -> float:
        """The variance over task vectors that a fraction of the entries which vary reaches."""
        known = sorted(names)
        tables = self._kept(("variances", base, *known), lambda: self._variances(base, known))
        size = int(tables[f"{tensor}/count"][0])
        if not size:
            return 0.0
        place = order.rank(density, size)
        found = order.find(tables[tensor], place, size)
        if found is not None:
            return found
        return self._once(
            ("variance", base, *known, tensor, place),
            lambda: order.at_rank(self._vectors(tensor, known, base).variances(), place),
        )

    def energies(
        self, base: str, names: Sequence[str], tensor: str, least_variance: float
    ) -> list[float]:
        """Sum of squares of each task vector over the entries that vary so much, in float64."""
        known = sorted(names)
        tables = self._kept(("variances", base, *known), lambda: self._variances(base, known))
        place = _place_of(least_variance, tables[tensor])
        if place is not None:
            sums = tables[f"{tensor}/energies"]
            return [float(sums[known.index(name), place]) for name in names]
        key = ("energy", base, *known, tensor, least_variance)
        if (key, 0) not in self._single:
            found = self._vectors(tensor, known, base).energies(least_variance)
            self._single.update({(key, index): value for index, value in enumerate(found)})
        return [self._single[key, known.index(name)] for name in names]

    def l1_factor(self, base: str, expert: str, tensor: str, sparsity: Sparsity, columns: int) -> float:
        """Sum of magnitudes of a task vector, divided by that of what survives `sparsity`.

        Prepared sums answer trims and random masks on the 1e-3 grid of densities; the rest costs a pass
        over the tensor the first time.
        """
        found = self._l1_prepared(base, expert, tensor, sparsity)
        if found is not None:
            return found
        return self._once(
            ("l1", base, expert, tensor, sparsity),
            lambda: self._vectors(tensor, [expert], base, columns).l1_factor(
                sparsity, self.ranks(base, expert, tensor) if sparsity.spread > 0.0 else None
            ),
        )

    def _l1_prepared(self, base: str, expert: str, tensor: str, sparsity: Sparsity) -> float | None:
        if sparsity.ceiling < math.inf or sparsity.spread > 0.0:
            return None
        if sparsity.keep == 1.0:
            sums = self._kept(("sums", base, expert), lambda: self._sums(base, expert))[tensor]
            tables = self._kept(("magnitudes", base, expert), lambda: self._tables(base, expert))
            place = _place_of(sparsity.threshold, tables[tensor])
            return None if place is None else rescaling(float(sums[-1]), float(sums[place]))
        step = round(sparsity.keep * order.GRID)
        if sparsity.threshold > 0.0 or step / order.GRID != sparsity.keep:
            return None
        key = (base, expert, tensor, sparsity.key)
        if key not in self._drawn:
            self._drawn[key] = self._vectors(tensor, [expert], base).magnitudes_drawn(sparsity.key)
        sums = self._drawn[key]
        return rescaling(float(sums[-1]), float(sums[step - 1]))

    def ranks(self, base: str, expert: str, tensor: str) -> torch.Tensor | None:
        """Ranks within rows of a task vector's magnitudes, [n] (`block_ranks`), from a mapped file.

        None without a folder to keep them in: then passes sort.
        """
        if self._cache.directory is None:
            return None
        if (base, expert) not in self._ranks:
            folder = self._sources[base]
            assert isinstance(folder, CheckpointFolder)
            self._ranks[base, expert] = RankFile(
                self._cache.stem("ranks", [self._identity(base), self._identity(expert)]),
                folder,
                lambda name: self._vectors(name, [expert], base, _columns(folder, name)).ranks(),
            )
        return self._ranks[base, expert].read(tensor)

    def elements(self, base: str, tensor: str) -> int:
        """Number of elements of a tensor."""
        return self._sources[base].tensors[tensor].elements

    def health(self, base: str, name: str) -> Health:
        """Non-finite elements of a source, and the tensors in which it differs from `base`."""
        found = self._kept(("health", base, name), lambda: self._look(base, name))
        return Health(
            nonfinite={t: int(counts[0]) for t, counts in found.items() if counts[0]},
            active=tuple(sorted(t for t, counts in found.items() if counts[1])),
        )

    def active_places(self, base: str, expert: str, *, by_tensor: bool = False) -> tuple[str, ...]:
        """The places an expert's task vector touches, in model order; the finest with `by_tensor`."""
        folder = self._sources[base]
        assert isinstance(folder, CheckpointFolder)
        places = folder.tensor_places if by_tensor else folder.places
        layout = folder.tensor_layout if by_tensor else folder.layout
        touched = {places[tensor] for tensor in self.health(base, expert).active}
        return tuple(place for place in layout.places if place in touched)

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

    def _vectors(
        self, tensor: str, names: Sequence[str], base: str | None, columns: int = 1
    ) -> TaskVectors:
        readers = [self._readers[name] for name in names]
        return TaskVectors(tensor, readers, None if base is None else self._readers[base], columns)

    def _tables(self, base: str, expert: str) -> Arrays:
        zeros = np.zeros((3, order.GRID), dtype=np.float32)
        return {
            tensor: order.table(np.abs(self._delta(base, expert, tensor)))
            if self._touches(expert, tensor)
            else zeros
            for tensor in self._floats(base)
        }

    def _sums(self, base: str, expert: str) -> Arrays:
        """Sums of the magnitudes that reach each value of the tables, and of all: float64 [3 GRID + 1]."""
        tables = self._kept(("magnitudes", base, expert), lambda: self._tables(base, expert))
        return {
            tensor: self._vectors(tensor, [expert], base).magnitudes_above(
                np.append(values, np.float32(0))
            )
            for tensor, values in tables.items()
        }

    def _variances(self, base: str, names: Sequence[str]) -> Arrays:
        """Order statistics of the variances above 0, and under `TENSOR/count` how many there are.

        Under `TENSOR/energies` the energies at each of these and at 0, float64 [T, 3 GRID + 1].
        """
        tables: Arrays = {}
        for tensor in self._floats(base):
            vectors = self._vectors(tensor, names, base)
            found = vectors.variances()
            varying = found[found > 0.0]
            tables[tensor] = order.table(varying)
            steps = np.append(tables[tensor], np.float32(0))
            tables[f"{tensor}/energies"] = vectors.energies_above(steps)
            tables[f"{tensor}/count"] = np.array([varying.size], dtype=np.int64)
        return tables

    def _touches(self, expert: str, tensor: str) -> bool:
        folder = self._sources[expert]
        return not isinstance(folder, AdapterFolder) or tensor in folder.factors

    def _bits(self, base: str, expert: str) -> Iterator[np.ndarray]:
        for tensor in self._floats(base):
            yield np.abs(self._delta(base, expert, tensor)).view(np.uint32)

    def _products(self, names: Sequence[str], base: str | None) -> Arrays:
        floats = self._floats(names[0] if base is None else base)
        return {tensor: self._vectors(tensor, names, base).gram() for tensor in floats}

    def _once(self, key: Hashable, compute: Callable[[], float]) -> float:
        if (key, 0) not in self._single:
            self._single[key, 0] = compute()
        return self._single[key, 0]

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
        return self._cache.get(key, lambda: [self._identity(name) for name in key[1:]], compute)

    def _identity(self, name: str) -> str:
        if name not in self._digests:
            self._digests[name] = content_digest(self._sources[name])
        folder = self._sources[name]
        if isinstance(folder, AdapterFolder):
            owner = next((n for n, f in self._sources.items() if f is folder.base), None)
            base = self._identity(owner) if owner is not None else content_digest(folder.base)
            return f"{self._digests[name]} on {base}"
        return self._digests[name]


def _columns(folder: CheckpointFolder, tensor: str) -> int:
    """Length of a tensor's rows."""
    shape = folder.tensors[tensor].shape
    return shape[-1] if shape else 1


def _place_of(value: float, table: np.ndarray) -> int | None:
    """Where sums belonging to the values of a table, and to 0 after them, have that of `value`."""
    if value == 0.0:
        return table.size
    found = np.flatnonzero(table.reshape(-1) == np.float32(value))
    return int(found[0]) if found.size and float(np.float32(value)) == value else None
