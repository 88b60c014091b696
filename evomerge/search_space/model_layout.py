"""The places of a model that values are laid over, and the leaves below them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from evomerge.recipe.places import layer_place


@dataclass(frozen=True)
class ModelLayout:
    """What a search space must know of the base model.

    Attributes:
        layers: number of layers, of all towers together.
        places: finest places that hold tensors (`embed`, `layers.0.attn`, ..., `final_norm`, `head`);
            a tied head has none. Of several towers, `vision.layers.0.attn`. Where a field is `tensor`,
            single matrices, as `layers.0.attn.self_attn.q_proj`.
        parameters: number of parameters.
        active: expert to the places its task vector touches; None before `prepare` has looked.
        rows: place to the number of its rows, where a field is `row`.
    """

    layers: int
    places: tuple[str, ...]
    parameters: int
    active: Mapping[str, tuple[str, ...]] | None = None
    rows: Mapping[str, int] = field(default_factory=dict)

    @cached_property
    def towers(self) -> Mapping[str, int]:
        """Families of layers in model order, and the number of layers of each; one has no name."""
        found: dict[str, int] = {}
        for place in self.places:
            inside = layer_place(place)
            if inside is not None:
                found[inside.tower] = max(found.get(inside.tower, 0), inside.layer + 1)
        return found if len(found) > 1 else {"": self.layers}

    @cached_property
    def leaves(self) -> tuple[str, ...]:
        """The places that have values of their own: where rows are told apart, `PLACE.ROW` for each."""
        return self.leaves_of(self.places) if self.rows else self.places

    @cached_property
    def active_leaves(self) -> Mapping[str, frozenset[str]] | None:
        """`active`, as leaves."""
        if self.active is None:
            return None
        return {name: frozenset(self.leaves_of(places)) for name, places in self.active.items()}

    def row_of(self, leaf: str) -> int:
        """The row that a leaf is; -1 of one that is no row."""
        place, _, row = leaf.rpartition(".")
        return int(row) if place in self.rows else -1

    def leaves_of(self, places: Iterable[str]) -> tuple[str, ...]:
        """Those of some places, in their order."""
        found: list[str] = []
        for place in places:
            rows = self.rows.get(place)
            found += [place] if rows is None else [f"{place}.{row}" for row in range(rows)]
        return tuple(found)
