"""Places: where a tensor stands in a model, as dotted names; tables of values by place.

Coefficients are addressed by *place*, a dotted prefix of where a tensor stands::

    ""  "embed"  "layers"  "layers.3"  "layers.3.attn"  "final_norm"  "head"

The longest prefix that is present wins. A place followed by a tensor's name inside its layer (outside the
layers, by its whole name) is that tensor alone: `layers.3.attn.self_attn.q_proj.weight`. The number of an
expert of a mixture may be left out: `layers.3.mlp.mlp.experts.up_proj` is that matrix of all of them.
A model with several families of layers (an encoder and a decoder, an image encoder and a language model) has
places for each: `vision.layers.1.attn`, `encoder.embed`. A path counts through all of them, in that order.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import NamedTuple, TypeVar

OUTER_PLACES = ("embed", "final_norm", "head")
MODULES = ("attn", "mlp", "norm", "other")
FURTHER_PLACES = ("pooler", "projector")
"""Outside the layers of models that are no decoders; where a recipe names no source, that of `final_norm`."""

Table = Mapping[str, float]
"""Place to value; the longest matching prefix wins."""

Value = TypeVar("Value")

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


_EXPERT = re.compile(r"\bexperts\.\d+\b")


def any_expert(name: str) -> str:
    """A name without the number of an expert of a mixture: `mlp.experts.up_proj.weight`."""
    return _EXPERT.sub("experts", name)


def lookup(table: Mapping[str, Value], place: str) -> Value:
    """The value of the longest prefix of `place` that stands in `table`, an expert's number left out or not.

    Raises:
        KeyError: if not even the empty prefix is present.
    """
    numbered = _EXPERT.search(place) is not None
    prefix = place
    while prefix not in table:
        if numbered and (shared := any_expert(prefix)) in table:
            return table[shared]
        if not prefix:
            raise KeyError(f"no value for place {place!r}; the table has {sorted(table)}")
        prefix = prefix.rpartition(".")[0]
    return table[prefix]


def compact(places: tuple[str, ...], values: Sequence[float]) -> dict[str, float]:
    """The shortest table with these values at these leaf places; equal fields give equal tables.

    However fine the places are: a module whose matrices share a value has one entry, and so has a layer whose
    modules do.
    """
    if values.count(values[0]) == len(values):
        return {"": values[0]}
    table = dict(zip(places, values, strict=True))
    for prefix, names, pick in _nodes(places):
        own = pick(values)
        # Names that are gone stand for a node above.
        if names[0] in table and own.count(own[0]) == len(own):
            for name in names:
                del table[name]
            table[prefix] = own[0]
    return table


Picker = Callable[[Sequence[float]], Sequence[float]]


def picker(indices: Sequence[int]) -> Picker:
    """A function that takes these entries out of a sequence, also where it is only one."""
    if len(indices) == 1:
        only = indices[0]
        return lambda values: (values[only],)
    return itemgetter(*indices)


@lru_cache(maxsize=256)
def _nodes(places: tuple[str, ...]) -> tuple[tuple[str, tuple[str, ...], Picker], ...]:
    """Each prefix of leaf places, shortest first, its places, and what takes their values out of all."""
    below: dict[str, list[int]] = {}
    for index, place in enumerate(places):
        parts = place.split(".")
        for length in range(1, len(parts)):
            below.setdefault(".".join(parts[:length]), []).append(index)
    nodes: dict[tuple[int, ...], str] = {}
    for prefix in sorted(below, key=lambda prefix: prefix.count(".")):
        own = [index for index, place in enumerate(places) if place == prefix]
        nodes.setdefault((*own, *below[prefix]), prefix)
    return tuple(
        (prefix, tuple(places[index] for index in indices), picker(indices))
        for indices, prefix in nodes.items()
    )


def leaf_places(layers: int, modules: Iterable[str], outer: Iterable[str]) -> tuple[str, ...]:
    """Every finest place of a model: outer ones and `layers.I.MODULE`, in model order."""
    inside = [f"layers.{layer}.{module}" for layer in range(layers) for module in modules]
    first = [place for place in outer if place == "embed"]
    last = [place for place in outer if place != "embed"]
    return (*first, *inside, *last)
