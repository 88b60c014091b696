"""Genes: the numbers a search varies, and the places of a model each one sets."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from evomerge.errors import ConfigError, Problem
from evomerge.recipe.method import Coefficient
from evomerge.recipe.places import layer_place
from evomerge.search_space.declaration import CoefficientField
from evomerge.search_space.layer_path import LayerPaths
from evomerge.search_space.model_layout import ModelLayout

Genome = tuple[float, ...]


@dataclass(frozen=True)
class Gene:
    """One named number on a grid.

    Attributes:
        name: for example `weight.math.layers.03.mlp`.
        low, high: bounds, both reachable.
        step: grid spacing, counted from `low`.
        coefficient: name of the method's coefficient.
        input: the expert it belongs to, or `*` where all share it.
        places: the finest places it sets, or has a part in.
        basis: its part in each place's value, which is the sum of `gene * part` over genes; empty where
            the gene is the value.
        paths: the paths of layers that it is a slot of; None for coefficients.
        matrix: the place of which it is one row; empty for others.
        single: whether a search also begins with values of its own, and not with one value for all genes of
            its coefficient and input.
        default: with which the coefficient is at its method's own default, whatever the bounds are; None
            where it has none.
        thins: whether what is merged gets less by it: a density where nothing makes up for what is dropped.
    """

    name: str
    low: float
    high: float
    step: float
    coefficient: str
    input: str
    places: tuple[str, ...]
    basis: tuple[float, ...] = ()
    paths: LayerPaths | None = None
    matrix: str = ""
    single: bool = False
    default: float | None = None
    thins: bool = False

    def snap(self, value: float) -> float:
        """The nearest grid value within the bounds, as a short decimal."""
        return _snapped(self.low, self.high, self.step, value)


# Cached: decoding looks up every gene of every candidate, and grids have few distinct points.
@lru_cache(maxsize=100_000)
def _snapped(low: float, high: float, step: float, value: float) -> float:
    steps = math.floor((high - low) / step + 1e-9)
    index = min(max(round((value - low) / step), 0), steps)
    # Adding 0.0 turns -0.0 into 0.0, which has another JSON form and so another digest.
    return round(low + index * step, 12) + 0.0


def make_genes(
    coefficient: Coefficient,
    field: CoefficientField,
    layout: ModelLayout,
    experts: Sequence[str],
    active: Mapping[str, Collection[str]] | None,
    file: str,
) -> list[Gene]:
    """The genes of one coefficient.

    Args:
        coefficient: what they set.
        field: how it varies.
        layout: places and layers.
        experts: their names.
        active: expert to the places where a gene of it does something; None for everywhere.
        file: for messages.

    Raises:
        ConfigError: E119, a field that does not fit the number of layers.
    """
    _refuse_misfit(coefficient.name, field, layout, file)
    inputs = tuple(experts) if coefficient.per_input else ("*",)
    genes = []
    for name in inputs:
        own = [coefficient.name, *([name] if name != "*" else [])]
        for part in _parts(coefficient, field, layout):
            pairs = list(zip(part.places, part.basis or [1.0] * len(part.places), strict=True))
            if active is not None and name != "*":
                pairs = [pair for pair in pairs if pair[0] in active[name]]
            if not pairs:
                continue
            label = ".".join([*own, *([part.label] if part.label else [])])
            basis = tuple(factor for _, factor in pairs) if part.basis else ()
            places = tuple(place for place, _ in pairs)
            single = len(part.places) == 1 and layout.row_of(places[0]) >= 0
            matrix = places[0].rpartition(".")[0] if single else ""
            genes.append(
                Gene(
                    label, part.low, part.high, field.step, coefficient.name, name, places, basis,
                    matrix=matrix, default=part.default,
                )
            )  # fmt: skip
        _refuse_ambiguous([gene for gene in genes if gene.input == name and gene.basis], file)
    return genes


def path_genes(paths: LayerPaths) -> list[Gene]:
    """The genes of a path, in the order of its rows."""
    width = len(str(paths.slots - 1))
    if paths.form == "indicator":
        series = [paths.choices[slot % len(paths.choices)] for slot in range(paths.slots)]
        labels = [f"{slot:0{width}d}.{name}.{layer}" for slot, (name, layer) in enumerate(series)]
        most = 1.0
    else:
        labels = [f"{slot:0{width}d}" for slot in range(paths.slots)]
        most = float(len(paths.choices))
    genes = [Gene(f"path.{label}", 0.0, most, 1.0, "path", "*", (), paths=paths) for label in labels]
    if paths.scale is not None:
        genes += [
            Gene(f"scale.{label}", *paths.scale, "scale", "*", (), paths=paths) for label in labels
        ]
    return genes


def _refuse_misfit(name: str, field: CoefficientField, layout: ModelLayout, file: str) -> None:
    least = {"band": field.bands or 1, "depth_curve": field.knots or 2, "lines": 2}.get(field.field, 0)
    layers = min(layout.towers.values())
    if least > layers:
        what, count = {
            "band": ("bands", "bands"),
            "depth_curve": ("knots", "knots"),
            "lines": ("numbers", ""),
        }[field.field]
        raise ConfigError(
            Problem(
                "E119",
                f"more {what} than layers",
                f"{least} {what}, {layers} layers",
                file=file,
                field=".".join(part for part in ("coefficients", name, count) if part),
            )
        )


def _refuse_ambiguous(curve: Sequence[Gene], file: str) -> None:
    """Two genomes of one curve must not be the same values at every place it sets."""
    if curve and np.linalg.matrix_rank(basis_matrix(curve)[1]) < len(curve):
        found = f"{len(curve)} genes of {curve[0].coefficient} for {curve[0].input}"
        todo = "use fewer knots: the expert changes too few layers"
        wrong = "a curve with more genes than it can have values"
        raise ConfigError(Problem("E119", wrong, found, todo, file))


def basis_matrix(curve: Sequence[Gene]) -> tuple[list[str], np.ndarray]:
    """The places that genes of one curve set, and each gene's part there: float64 [places, genes]."""
    places = list(dict.fromkeys(place for gene in curve for place in gene.places))
    matrix = np.zeros((len(places), len(curve)))
    for column, gene in enumerate(curve):
        for place, factor in zip(gene.places, gene.basis, strict=True):
            matrix[places.index(place), column] = factor
    return places, matrix


@dataclass(frozen=True)
class _Part:
    """A gene before it belongs to an expert."""

    label: str
    places: tuple[str, ...]
    low: float
    high: float
    basis: tuple[float, ...] = ()
    default: float | None = None


def _parts(coefficient: Coefficient, field: CoefficientField, layout: ModelLayout) -> list[_Part]:
    def grid(low: float, high: float) -> tuple[float, float]:
        return low, Gene("", low, high, field.step, "", "", ()).snap(high)  # both lie on the grid

    low, high = grid(*field.bounds(coefficient))
    usual = coefficient.default
    if field.field not in ("depth_curve", "lines"):
        groups = _groups(field, layout)
        return [_Part(label, places, low, high, default=usual) for label, places in groups]
    shared = field.outside_layers == "shared"
    found: list[_Part] = []
    for stretch in _stretches(layout):
        depths = [layer / (stretch.layers - 1) for layer in stretch.numbers]
        before = [*stretch.before] if shared else []
        after = [*stretch.after] if shared else []
        if field.field == "lines":
            level = [*stretch.inside, *before, *after]
            ends = grid(*field.slopes)
            curve = [
                _Part(stretch.label("alpha"), tuple(level), low, high, (1.0,) * len(level), usual),
                _curve_part(stretch.label("beta"), stretch.inside, depths, *ends, 0.0),
            ]
        else:
            assert field.knots is not None
            curve = []
            for knot in range(field.knots):
                factors = [max(0.0, 1.0 - abs(depth * (field.knots - 1) - knot)) for depth in depths]
                beside = after if knot == field.knots - 1 else before if knot == 0 else []
                places = [*stretch.inside, *beside]
                factors += [1.0] * len(beside)
                label = stretch.label(f"knot.{knot}")
                curve.append(_curve_part(label, places, factors, low, high, usual))
        if not shared:
            found += [_Part(place, (place,), low, high, default=usual) for place in stretch.before]
        found += curve
        if not shared:
            found += [_Part(place, (place,), low, high, default=usual) for place in stretch.after]
    return found


@dataclass(frozen=True)
class _Stretch:
    """A tower: its name and layers, the places inside them with their layers' numbers, and those beside."""

    tower: str
    layers: int
    inside: tuple[str, ...]
    numbers: tuple[int, ...]
    before: tuple[str, ...]
    after: tuple[str, ...]

    def label(self, name: str) -> str:
        """The name of a gene, after that of the tower."""
        return f"{self.tower}.{name}" if self.tower else name


def _stretches(layout: ModelLayout) -> list[_Stretch]:
    """The towers in model order; what belongs to none comes before the first or after the last."""
    towers = list(layout.towers)
    inside: dict[str, list[tuple[str, int]]] = {tower: [] for tower in towers}
    before: dict[str, list[str]] = {tower: [] for tower in towers}
    after: dict[str, list[str]] = {tower: [] for tower in towers}
    for place in layout.places:
        found = layer_place(place)
        if found is not None:
            inside[found.tower].append((place, found.layer))
            continue
        owner, _, kind = place.rpartition(".")
        if kind == "embed":
            before[owner if owner in inside else towers[0]].append(place)
        else:
            after[owner if owner in inside else towers[-1]].append(place)
    return [
        _Stretch(
            tower,
            layout.towers[tower],
            tuple(place for place, _ in inside[tower]),
            tuple(layer for _, layer in inside[tower]),
            tuple(before[tower]),
            tuple(after[tower]),
        )
        for tower in towers
    ]


def _curve_part(
    label: str,
    places: Sequence[str],
    factors: Sequence[float],
    low: float,
    high: float,
    default: float,
) -> _Part:
    kept = [(place, factor) for place, factor in zip(places, factors, strict=True) if factor > 1e-12]
    return _Part(label, tuple(p for p, _ in kept), low, high, tuple(f for _, f in kept), default)


def _label(place: str, layout: ModelLayout) -> str:
    """What a gene of a matrix or a row is called: by the names inside its layer."""
    found = layer_place(place)
    if found is None:
        return place
    width = len(str(layout.towers[found.tower] - 1))
    own = f"layers.{found.layer:0{width}d}.{found.inside.split('.', 1)[-1]}"
    return f"{found.tower}.{own}" if found.tower else own


def _groups(field: CoefficientField, layout: ModelLayout) -> list[tuple[str, tuple[str, ...]]]:
    """(label, places) of the groups of a field, in model order."""
    if field.field == "model" and field.outside_layers == "shared":
        return [("", layout.leaves)]
    if field.field == "row":
        return _row_groups(field, layout)
    found: list[tuple[str, tuple[str, ...]]] = []
    for stretch in _stretches(layout):
        grouped = _groups_inside(field, stretch, layout)
        if field.outside_layers == "shared":
            # Each outer place goes with the layers next to it: embeddings with the first, the rest last.
            first_label, first_places = grouped[0]
            grouped[0] = (first_label, stretch.before + first_places)
            last_label, last_places = grouped[-1]
            grouped[-1] = (last_label, last_places + stretch.after)
            found += grouped
        else:
            found += [(place, (place,)) for place in stretch.before]
            found += grouped
            found += [(place, (place,)) for place in stretch.after]
    return found


def _row_groups(field: CoefficientField, layout: ModelLayout) -> list[tuple[str, tuple[str, ...]]]:
    """Those of single rows: a place of one value has one, and others may go with it."""
    if field.outside_layers == "own":
        return [(_label(leaf, layout), (leaf,)) for leaf in layout.leaves]
    found: list[tuple[str, tuple[str, ...]]] = []
    for stretch in _stretches(layout):
        # No value of a single row could stand for a vocabulary: norms can, which every layer has.
        alone = [place for place in stretch.inside if place not in layout.rows]
        beside: dict[str, tuple[str, ...]] = {}
        if alone:
            beside[alone[0]] = stretch.before
            beside[alone[-1]] = beside.get(alone[-1], ()) + stretch.after
        else:
            found += [(place, layout.leaves_of([place])) for place in stretch.before + stretch.after]
        for place in stretch.inside:
            for leaf in layout.leaves_of([place]):
                own = (leaf, *layout.leaves_of(beside.get(place, ())))
                found.append((_label(leaf, layout), own))
    return found


def _groups_inside(
    field: CoefficientField, stretch: _Stretch, layout: ModelLayout
) -> list[tuple[str, tuple[str, ...]]]:
    """Those of the layers of one tower."""
    width = len(str(stretch.layers - 1))

    def label(start: int, last: int) -> str:
        span = f"{start:0{width}d}"
        own = f"layers.{span}" if start == last else f"layers.{span}-{last:0{width}d}"
        return stretch.label(own)

    if field.field == "tensor":
        return [(_label(place, layout), (place,)) for place in stretch.inside]
    numbered = list(zip(stretch.inside, stretch.numbers, strict=True))
    grouped: list[tuple[str, tuple[str, ...]]] = []
    if field.field == "layer_module":

        def module_of(entry: tuple[str, int]) -> tuple[int, str]:
            found = layer_place(entry[0])
            assert found is not None
            return entry[1], found.inside.split(".")[0]

        for (index, module), own in itertools.groupby(numbered, module_of):
            grouped.append((f"{label(index, index)}.{module}", tuple(place for place, _ in own)))
        return grouped
    count = {"model": 1, "layer": stretch.layers}.get(field.field, field.bands or 1)
    edges = [band * stretch.layers // count for band in range(count + 1)]
    for start, end in itertools.pairwise(edges):
        places = tuple(place for place, layer in numbered if start <= layer < end)
        grouped.append((stretch.label("layers") if count == 1 else label(start, end - 1), places))
    return grouped
