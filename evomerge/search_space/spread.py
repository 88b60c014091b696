"""Spread: the values of genes laid over the places of a model, worked out once for all genomes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evomerge.recipe.method import MergeMethod
from evomerge.recipe.places import Picker, picker
from evomerge.search_space.genes import Gene
from evomerge.search_space.model_layout import ModelLayout

PlaceValues = dict[str, dict[str, list[float]]]
"""Coefficient to input (expert, or `*`) to its values, in the order of the layout's places."""

_KNOWN_LIMIT = 1_000_000


@dataclass(frozen=True)
class _Alike:
    """Genes that share bounds and step; `known` holds values found to be on their grid."""

    genes: tuple[Gene, ...]
    pick: Picker
    known: set[float]


@dataclass(frozen=True)
class _Table:
    """One coefficient of one input: which entry of genome and start values each place takes.

    `curves` holds (gene, (place, part) pairs) for genes with a basis.
    """

    coefficient: str
    name: str
    pick: Picker
    curves: tuple[tuple[int, tuple[tuple[int, float], ...]], ...]


class Spread:
    """What each gene sets, as look-ups: a candidate costs a few calls a table, not a few a gene."""

    def __init__(
        self,
        method: MergeMethod,
        genes: Sequence[Gene],
        fixed: Mapping[str, float],
        layout: ModelLayout,
        experts: Sequence[str],
    ) -> None:
        self._genes = tuple(genes)
        alike: dict[tuple[float, float, float], list[int]] = {}
        for index, gene in enumerate(genes):
            alike.setdefault((gene.low, gene.high, gene.step), []).append(index)
        self._alike = [
            _Alike(tuple(genes[i] for i in indices), picker(indices), set())
            for indices in alike.values()
        ]
        at = {place: index for index, place in enumerate(layout.leaves)}
        self._starts: list[float] = []
        self._tables: list[_Table] = []
        for coefficient in method.coefficients:
            # Places without a gene: the expert does not touch them, so they weigh nothing.
            unset = 0.0 if coefficient.name == "weight" else coefficient.default
            start = len(genes) + len(self._starts)
            self._starts.append(fixed.get(coefficient.name, unset))
            for name in experts if coefficient.per_input else ("*",):
                chosen = [start] * len(layout.leaves)
                curves = []
                for index, gene in enumerate(genes):
                    if gene.coefficient != coefficient.name or gene.input not in (name, "*"):
                        continue
                    places = [at[place] for place in gene.places]
                    if gene.basis:
                        curves.append((index, tuple(zip(places, gene.basis, strict=True))))
                    for place in () if gene.basis else places:
                        chosen[place] = index
                table = _Table(coefficient.name, name, picker(chosen), tuple(curves))
                self._tables.append(table)

    def values(self, genome: Sequence[float]) -> PlaceValues:
        """Every coefficient's values; new lists, the caller's to change.

        Raises:
            ValueError: if the genome has another length or a value off the grid.
        """
        if len(genome) != len(self._genes):
            raise ValueError(f"a genome has {len(self._genes)} genes here, found {len(genome)}")
        for alike in self._alike:
            own = alike.pick(genome)
            if not alike.known.issuperset(own):
                _learn(alike, own)
        entries = (*genome, *self._starts)
        found: PlaceValues = {}
        for table in self._tables:
            values = list(table.pick(entries))
            sums: dict[int, float] = {}
            for index, parts in table.curves:
                value = genome[index]
                for place, part in parts:
                    sums[place] = sums.get(place, 0.0) + value * part
            for place, total in sums.items():
                # Rounded like genes, so that a level curve is the constant it stands for.
                values[place] = round(total, 12) + 0.0
            found.setdefault(table.coefficient, {})[table.name] = values
        return found


def _learn(alike: _Alike, values: Sequence[float]) -> None:
    for gene, value in zip(alike.genes, values, strict=True):
        if value != gene.snap(value):
            raise ValueError(f"{gene.name} = {value} is not on its grid; snap genomes first")
    if len(alike.known) > _KNOWN_LIMIT:
        alike.known.clear()
    alike.known.update(values)
