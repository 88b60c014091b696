"""The part of a model card that tells its recipe."""

from __future__ import annotations

import itertools
from typing import Any

from evomerge.export.card_text import MAX_ROWS, code, tabled
from evomerge.recipe.mixture import Mixture
from evomerge.recipe.places import Table
from evomerge.recipe.recipe import MergedSource, Recipe
from evomerge.recipe.rows import rows_file


def recipe_section(recipe: Recipe, layers: int) -> str:
    """The recipe as tables: method, options, coefficients by place, path of layers."""
    rows = [["storage dtype", code(recipe.dtype)], ["recipe digest", code(recipe.digest)]]
    tables = []
    for name, source in recipe.sources.items():
        if not isinstance(source, MergedSource):
            continue
        rows.append([f"method of {code(name)}", code(source.method)])
        if source.base:
            rows.append([f"base of {code(name)}", code(source.base)])
        rows += [[f"option {code(key)}", code(value)] for key, value in source.options.items()]
        rows += [
            [f"layers of {code(key)} in {code(name)}", f"{shift:+d}"]
            for key, shift in source.shifts.items()
        ]
        rows.append([f"seed of {code(name)}", str(source.seed)])
        if source.rows is not None:
            file = code(rows_file(source.rows.digest))
            rows.append(
                [f"weights of {code(name)} by row", f"{file}; the tables here have their means"]
            )
        tables.append(f"Coefficients of {code(name)}:\n\n" + _coefficients(source))
    rows.append(["layers", _path(recipe, layers)])
    if recipe.mixture is not None:
        rows += _mixture(recipe.mixture)
    return "\n\n".join(["## Recipe", tabled(["", ""], rows), *tables])


def _mixture(mixture: Mixture) -> list[list[str]]:
    """What the mixture of experts on top of the merge is made of."""
    written = "each twice, for the two sides of its direction" if mixture.is_doubled else "each once"
    return [
        ["experts of the mixture", f"{', '.join(map(code, mixture.experts))}, {written}"],
        ["layers with experts", code(", ".join(map(str, mixture.layers)))],
        ["experts a token meets", str(mixture.per_token)],
        ["gates", f"{code(mixture.gate)}, temperature {mixture.temperature:g}"],
        ["rank of what an expert learned", "all" if mixture.rank is None else str(mixture.rank)],
    ]


def _coefficients(source: MergedSource) -> str:
    """A row for each place, a column for each coefficient of each input."""
    columns: list[tuple[str, Table]] = []
    for name, by_input in source.coefficients.items():
        for key, table in by_input.items():
            columns.append((name if key == "*" else f"{name} {key}", table))
    places = list(dict.fromkeys(place for _, table in columns for place in table))
    rows = [
        [
            code(place) if place else "elsewhere" if len(places) > 1 else "everywhere",
            *(f"{table[place]:g}" if place in table else "" for _, table in columns),
        ]
        for place in sorted(places, key=_model_order)
    ]
    return tabled(["place", *(code(label) for label, _ in columns)], rows)


def _model_order(place: str) -> tuple[str, int, int, str]:
    """By tower, then as data flows; what belongs to no tower first."""
    order = {"": 0, "embed": 1, "layers": 2, "final_norm": 3, "head": 4}
    tower, _, inside = place.partition(".")
    if tower in order or not inside:
        tower, inside = "", place
    first, _, rest = inside.partition(".")
    number, _, module = rest.partition(".")
    return tower, order.get(first, 5), int(number) if number.isdigit() else -1, module


def _path(recipe: Recipe, layers: int) -> str:
    if recipe.is_identity_path(layers):
        return f"{layers}, in order, of {code(recipe.path[0].source)}"
    runs = []
    numbered = list(enumerate(recipe.path))

    def run_of(entry: tuple[int, Any]) -> tuple[str, int, float]:
        index, step = entry
        return step.source, step.layer - index, step.scale

    for (source, _, scale), group in itertools.groupby(numbered, run_of):
        steps = [step for _, step in group]
        span = f"{steps[0].layer}" + (f" to {steps[-1].layer}" if len(steps) > 1 else "")
        runs.append(f"{code(source)} {span}" + (f" x {scale:g}" if scale != 1.0 else ""))
    shown = ", ".join(runs[:MAX_ROWS]) + (", and more" if len(runs) > MAX_ROWS else "")
    return f"{len(recipe.path)}: {shown}"
