"""A merged source in the making: coefficients tensor by tensor, and the shortest tables that say them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from evomerge.recipe.method import MergeMethod
from evomerge.recipe.places import compact

Leaves = dict[str, dict[str, dict[str, dict[str, float]]]]
"""Coefficient, input (or `*`), place, tensor inside it."""

Found = Mapping[tuple[str, str], Mapping[str, Mapping[str, float]]]
"""(Coefficient, input or `*`) to place to tensor inside it to value."""


@dataclass
class VirtualSource:
    """A merged source in the making."""

    name: str
    base: str | None
    inputs: tuple[str, ...]
    layers: set[int] = field(default_factory=set)
    leaves: Leaves = field(default_factory=dict)
    flags: dict[str, bool] = field(default_factory=dict)
    shifts: dict[str, int] = field(default_factory=dict)

    def agrees(self, found: Found) -> bool:
        """Whether it already says all of this."""
        return all(
            self.leaves.get(coefficient, {}).get(key, {}).get(place) == each
            for (coefficient, key), table in found.items()
            for place, each in table.items()
        )

    def take(self, found: Found) -> None:
        """Keep coefficients of some tensors."""
        for (coefficient, key), table in found.items():
            for place, each in table.items():
                by_place = self.leaves.setdefault(coefficient, {}).setdefault(key, {})
                by_place.setdefault(place, {}).update(each)


def stated_tables(method: MergeMethod, leaves: Leaves) -> dict[str, dict[str, dict[str, float]]]:
    """Coefficients as tables; one that need not be stated and is at its default is left out."""
    stated = {}
    for name, by_input in leaves.items():
        tables = {key: _table_of(by_place) for key, by_place in by_input.items()}
        declared = method.coefficient(name)
        plain = declared is not None and declared.may_be_left_out
        if not (plain and declared and tables == {"*": {"": declared.default}}):
            stated[name] = tables
    return stated


def _table_of(by_place: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The shortest table we know for values by place and tensor: places first, then exceptions."""
    usual = {place: Counter(each.values()).most_common(1)[0][0] for place, each in by_place.items()}
    table = compact(tuple(usual), list(usual.values()))
    for place, each in by_place.items():
        for own, value in each.items():
            if value != usual[place]:
                table[f"{place}.{own}"] = value
    return table
