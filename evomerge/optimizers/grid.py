"""The grid that genomes live on, how genes hang together, and which genomes were asked."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterable, Sequence
from functools import cached_property

import numpy as np

from evomerge.objectives.objective import Complete, Outcome, Raced
from evomerge.recipe.places import layer_place
from evomerge.search_space import Gene, Genome

_TABLE_LIMIT = 100_000
"""Most grid points that are listed: per gene for its table of values, and of a whole space."""


class Grid:
    """Genes as arrays. Values are those of `Gene.snap`, bit for bit.

    Attributes:
        low, high: bounds, float64 [genes].
        groups: for each (coefficient, input) the indices of its genes, in model order; single genes alone.
        inputs: for each input (expert, or `*`) the indices of all its genes.
        depth: where a gene stands from embeddings (0) to head, int64 [genes]; equal for one layer.
        paths: the paths of layers that some genes spell, or None; their columns are `path_columns`.
        plain: the grid of the other genes, or None where there are none.
    """

    def __init__(self, genes: Sequence[Gene]) -> None:
        if not genes:
            raise ValueError("a search needs at least one gene")
        self.genes = tuple(genes)
        self.low = np.array([gene.low for gene in genes], dtype=np.float64)
        self.high = np.array([gene.high for gene in genes], dtype=np.float64)
        self._step = np.array([gene.step for gene in genes], dtype=np.float64)
        self._steps = np.floor((self.high - self.low) / self._step + 1e-9)
        tables: dict[tuple[float, float, float], np.ndarray] = {}
        self._tables: list[np.ndarray | None] = []
        for gene, steps in zip(genes, self._steps, strict=True):
            key = (gene.low, gene.high, gene.step)
            if key not in tables and steps < _TABLE_LIMIT:
                points = [gene.snap(gene.low + i * gene.step) for i in range(int(steps) + 1)]
                tables[key] = np.array(points, dtype=np.float64)
            self._tables.append(tables.get(key))
        # Genes that share bounds and step are snapped in one look-up: a space mostly has one such kind.
        self._alike: list[tuple[np.ndarray, np.ndarray]] = []
        for table in tables.values():
            columns = [column for column, own in enumerate(self._tables) if own is table]
            self._alike.append((np.array(columns), table))
        self._fine = [column for column, own in enumerate(self._tables) if own is None]
        self.depth = _depths(genes)
        order = np.argsort(self.depth, kind="stable")
        by_group: dict[tuple[str, str, int], list[int]] = {}
        by_input: dict[str, list[int]] = {}
        for index in order.tolist():
            gene = genes[index]
            alone = index if gene.single else -1
            by_group.setdefault((gene.coefficient, gene.input, alone), []).append(index)
            by_input.setdefault(gene.input, []).append(index)
        self.groups = [np.array(by_group[key]) for key in sorted(by_group)]
        self.inputs = [np.array(by_input[key]) for key in sorted(by_input)]
        self.paths = next((gene.paths for gene in genes if gene.paths is not None), None)
        self.path_columns = np.array([gene.paths is not None for gene in genes])
        others = [gene for gene in genes if gene.paths is None]
        self.plain = (self if self.paths is None else Grid(others)) if others else None

    def __len__(self) -> int:
        return len(self.genes)

    def snap(self, values: np.ndarray) -> np.ndarray:
        """The nearest grid points within the bounds, paths spelled in the one way: float64 [n, genes]."""
        index = np.clip(np.rint((values - self.low) / self._step), 0, self._steps).astype(np.int64)
        snapped = np.empty(values.shape, dtype=np.float64)
        for columns, table in self._alike:
            snapped[:, columns] = table[index[:, columns]]
        for column in self._fine:
            snap = self.genes[column].snap
            snapped[:, column] = [snap(value) for value in values[:, column].tolist()]
        if self.paths is not None and len(snapped):
            rows = snapped[:, self.path_columns].tolist()
            snapped[:, self.path_columns] = [self.paths.canonical(row) for row in rows]
        return snapped

    def from_unit(self, unit: np.ndarray) -> np.ndarray:
        """Grid points for numbers in [0, 1), each point of a gene's grid equally likely."""
        index = np.minimum(np.floor(unit * (self._steps + 1)), self._steps)
        return self.snap(self.low + index * self._step)

    def global_from_unit(self, unit: np.ndarray) -> np.ndarray:
        """Points with one value per group in every place, from [n, groups] numbers in [0, 1).

        A path is that of all layers in order.
        """
        full = np.empty((len(unit), len(self)))
        for column, group in enumerate(self.groups):
            full[:, group] = unit[:, [column]]
        found = self.from_unit(full)
        if self.paths is not None:
            found[:, self.path_columns] = self.paths.spell(self.paths.home)
        return found

    def all_points(self) -> Iterable[Genome] | None:
        """Every genome in lexicographic order, or None if there are too many to list."""
        if math.prod((int(steps) + 1 for steps in self._steps), start=1) > _TABLE_LIMIT:
            return None
        axes = [table.tolist() for table in self._tables if table is not None]
        return itertools.product(*axes) if self.paths is None else self._spelled_points

    @cached_property
    def _spelled_points(self) -> list[Genome]:
        """Every genome whose path is spelled in the one way; listing them takes long."""
        axes = [table.tolist() for table in self._tables if table is not None]
        every: list[Genome] = list(itertools.product(*axes))
        known = self.snap(np.array(every)).tolist()
        return [point for point, own in zip(every, known, strict=True) if list(point) == own]


def as_rows(genomes: Sequence[Sequence[float] | np.ndarray], genes: int) -> np.ndarray:
    """Genomes as float64 [n, genes], also of none."""
    return np.array(genomes, dtype=np.float64).reshape(-1, genes)


def _depths(genes: Sequence[Gene]) -> np.ndarray:
    firsts = [layer_place(gene.places[0]) for gene in genes if gene.places]
    towers = list(dict.fromkeys(place.tower for place in firsts if place is not None))

    def depth(gene: Gene) -> tuple[int, int, float]:
        place = gene.places[0] if gene.places else ""
        inside = layer_place(place)
        if inside is not None:
            return (1, towers.index(inside.tower), inside.layer)
        owner, _, kind = place.rpartition(".")
        if owner in towers and owner:
            return (1, towers.index(owner), -1.0 if kind == "embed" else math.inf)
        return ({"embed": 0, "final_norm": 2, "head": 3}.get(place, 1), 0, 0.0)

    ranks = {key: rank for rank, key in enumerate(sorted({depth(gene) for gene in genes}))}
    return np.array([ranks[depth(gene)] for gene in genes], dtype=np.int64)


class Turns:
    """Keeps ask and tell in order, checks what is told, and remembers every genome asked.

    Candidates are numbered from 0 over all asks. With `whole`, batches alternate with tells of the whole
    batch; otherwise any pending candidates may be told in any order, and more may be asked meanwhile.
    `digest` runs over the asked genomes; two histories with equal digests avoid the same duplicates.
    """

    def __init__(self, objectives: int, *, whole: bool = True) -> None:
        self._objectives = objectives
        self._whole = whole
        self._seen: set[bytes] = set()
        self._digest = hashlib.sha256()
        self._pending: dict[int, Genome] = {}
        self._batch: list[int] | None = None
        self._count = 0

    @property
    def count(self) -> int:
        """How many candidates were asked."""
        return self._count

    @property
    def pending(self) -> tuple[Genome, ...]:
        """What was asked and not told, in the order asked."""
        return tuple(self._pending.values())

    def may_ask(self) -> None:
        """Raise RuntimeError if a whole batch is awaited and was not told."""
        if self._whole and self._batch is not None:
            raise RuntimeError(
                f"ask() again before tell(): {len(self._batch)} asked candidates wait for outcomes"
            )

    def know(self, genomes: Iterable[Genome]) -> None:
        """Genomes that others asked for: none is asked here."""
        self._seen.update(map(genome_key, genomes))

    def was_asked(self, genome: Genome) -> bool:
        """Whether this genome stood in any batch."""
        return self.knows(genome_key(genome))

    def knows(self, key: bytes) -> bool:
        """Whether a genome with this key stood in any batch."""
        return key in self._seen

    def asked(self, batch: list[Genome]) -> list[Genome]:
        """Note a batch as asked and hand it back."""
        self._batch = list(range(self._count, self._count + len(batch)))
        self._pending.update(zip(self._batch, batch, strict=True))
        self._count += len(batch)
        rows = np.array(batch, dtype="<f8")
        self._seen.update(map(genome_key, rows))
        self._digest.update(rows.tobytes())
        return list(batch)

    def told(
        self, outcomes: Sequence[Outcome], numbers: Sequence[int] | None = None
    ) -> list[tuple[int, Genome]]:
        """Check outcomes; hands back (number, genome) of the told candidates, no longer pending.

        Raises:
            RuntimeError: nothing is pending, a number is not pending or comes twice, the number of
                outcomes is another, or part of a batch is told where batches are told whole.
            ValueError: a value or bound is not finite, or there is not one per objective.
        """
        if self._batch is None and (self._whole or numbers is None):
            raise RuntimeError("tell() out of turn: nothing was asked since the last tell()")
        told = list(numbers if numbers is not None else self._batch or ())
        if len(outcomes) != len(told):
            raise RuntimeError(
                f"tell() needs one outcome per asked candidate: "
                f"{len(told)} were asked, {len(outcomes)} were told"
            )
        if self._whole and told != self._batch:
            raise RuntimeError("tell() needs the whole last batch in its order; found other numbers")
        strangers = [number for number in told if number not in self._pending]
        if strangers or len(set(told)) != len(told):
            found = f"{strangers[0]} is not" if strangers else "one comes twice"
            raise RuntimeError(f"tell() takes each pending candidate once; by number, {found}")
        for index, outcome in enumerate(outcomes):
            if isinstance(outcome, Complete):
                self._check(index, outcome.values)
                if not all(map(math.isfinite, outcome.violations)):
                    raise ValueError(f"outcome {index} has a violation that is not finite")
            elif isinstance(outcome, Raced):
                self._check(index, outcome.bound)
        if self._whole or not set(self._batch or ()).isdisjoint(told):
            self._batch = None
        return [(number, self._pending.pop(number)) for number in told]

    def _check(self, index: int, values: Sequence[float]) -> None:
        if len(values) != self._objectives:
            raise ValueError(
                f"outcome {index} has {len(values)} values for {self._objectives} objectives"
            )
        if not all(map(math.isfinite, values)):
            raise ValueError(
                f"outcome {index} has values that are not finite: {tuple(values)}; "
                "a candidate without scores is told as Failed"
            )

    def digest(self) -> str:
        """SHA-256 (hex) over all asked genomes and what of them is pending."""
        both = self._digest.copy()
        if self._whole:
            both.update(b"pending" if self._batch is not None else b"told")
        else:
            both.update(np.array(list(self._pending), dtype="<i8").tobytes())
        return both.hexdigest()


def genome_key(genome: Sequence[float] | np.ndarray) -> bytes:
    """What a genome is told apart by: 16 bytes instead of kilobytes. Equal genomes (0, -0) have the same."""
    values = np.array(genome, dtype="<f8") + 0.0
    return hashlib.blake2b(values.tobytes(), digest_size=16).digest()


def leftovers(
    grid: Grid, turns: Turns, batch: Sequence[Genome], count: int, rng: np.random.Generator
) -> list[Genome]:
    """Up to `count` random genomes that neither were asked nor stand in `batch`.

    For when chance finds none any more; a space too large to be listed gives none here.
    """
    taken = set(batch)
    points = grid.all_points() or ()
    left = [point for point in points if point not in taken and not turns.was_asked(point)]
    if not left:
        return []
    return [left[index] for index in rng.permutation(len(left))[:count]]


def add_new(batch: list[Genome], points: np.ndarray, limit: int, turns: Turns) -> None:
    """Extend `batch` up to `limit` by the rows that are new, in order."""
    taken = set(map(genome_key, batch))
    for row in points:
        if len(batch) >= limit:
            return
        key = genome_key(row)
        if key not in taken and not turns.knows(key):
            taken.add(key)
            batch.append(tuple(row.tolist()))
