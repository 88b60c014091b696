"""Places taken apart: the tower and layer of one inside the layers, the kind and source of one outside."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

FURTHER_PLACES = ("pooler", "projector")
"""Outside the layers of models that are no decoders; where a recipe names no source, that of `final_norm`."""

_LAYER = re.compile(r"(?:(\w+)\.)?layers\.(\d+)(?:\.(.+))?")


class LayerPlace(NamedTuple):
    """A place inside the layers: its tower (empty where there is one only), number there, and the rest."""

    tower: str
    layer: int
    inside: str


@lru_cache(maxsize=1 << 16)
def layer_place(place: str) -> LayerPlace | None:
    """A place inside the layers taken apart, None outside them."""
    found = _LAYER.fullmatch(place)
    return None if found is None else LayerPlace(found[1] or "", int(found[2]), found[3] or "")


def place_kind(place: str) -> str:
    """What a place outside the layers is, whatever its tower: `embed` of `vision.embed`."""
    return place.rpartition(".")[2]


def outer_source(outer: Mapping[str, str], place: str) -> str | None:
    """The source of a place outside the layers, None if a recipe names none."""
    kind = place_kind(place)
    return outer.get(place) or outer.get("final_norm" if kind in FURTHER_PLACES else kind)
