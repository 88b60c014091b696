"""From values of single rows to what a recipe says: a value by place, and a table of the rows that differ."""

from __future__ import annotations

import math

import numpy as np

from evomerge.recipe.rows import RowTable
from evomerge.search_space.genes import Gene
from evomerge.search_space.model_layout import ModelLayout
from evomerge.search_space.spread import PlaceValues

MIXTURE = "experts"
"""Of a place that all experts of a mixture share."""


def gather(
    values: PlaceValues, layout: ModelLayout, gene: Gene, mixture_rows: bool = True
) -> tuple[PlaceValues, RowTable | None]:
    """Values in the order of the layout's places, and the weights of places whose rows differ.

    Such a place has the mean of its rows, for people to read: merges go by the rows.

    Args:
        values: in the order of the layout's leaves.
        layout: with or without rows.
        gene: any of the weight; all have one grid.
        mixture_rows: as that of `SearchSpace`.
    """
    if not layout.rows:
        return values, None
    steps: dict[str, dict[str, np.ndarray]] = {}
    found: PlaceValues = {}
    for name, by_input in values.items():
        for key, leaves in by_input.items():
            means = found.setdefault(name, {}).setdefault(key, [])
            start = 0
            for place in layout.places:
                rows = layout.rows.get(place, 1)
                own = leaves[start : start + rows]
                start += rows
                if own.count(own[0]) == rows:
                    means.append(own[0])
                    continue
                means.append(round(math.fsum(own) / rows, 12) + 0.0)
                apart = np.rint((np.array(own) - gene.low) / gene.step)
                steps.setdefault(key, {})[place] = apart.astype(np.int16)
    of_mixtures = mixture_rows and any(
        MIXTURE in place.split(".") for own in steps.values() for place in own
    )
    return found, RowTable(gene.low, gene.step, steps, of_mixtures) if steps else None
