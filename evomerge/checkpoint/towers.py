"""Towers: the numbered families of layers of a model that is no decoder, and what lies beside them.

An encoder and a decoder, or an image encoder and a language model, are towers of one model. What they are
called follows from the checkpoint's own names.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_ORDER = ("vision", "audio", "encoder", "", "text", "decoder")
"""As data flows; the empty string stands for all others."""
_MARKS = {
    "vision": ("vision", "visual", "image"),
    "audio": ("audio", "speech"),
    "text": ("text", "language"),
}
_SENSES = ("vision", "audio")
_HEAD = re.compile(
    r"(^|\.)(\w*_head|head|\w*classifier|score|qa_outputs|cls|predictions|embed_out|\w*logit\w*)(\.|$)"
)
_EMBED = re.compile(r"embed|position|patch|conv|(^|\.)(shared|wte|wpe|\w*_token)(\.|$)")
_PROJECTOR = re.compile(r"project|merger|connector|resampler")


@dataclass(frozen=True)
class Tower:
    """A numbered family of layers: its name (empty where it is the only one), prefix and number of layers.

    `prefix` ends before the number of a layer, without the dot.
    """

    name: str
    prefix: str
    count: int


def find_towers(counts: Mapping[str, int]) -> tuple[Tower, ...]:
    """The towers of a model, as data flows, from the prefixes of its families and their numbers of layers."""
    if len(counts) == 1:
        return tuple(Tower("", prefix, count) for prefix, count in counts.items())
    names = {prefix: _name(prefix) for prefix in counts}
    senses = any(name in _SENSES for name in names.values())
    names = {p: name or ("text" if senses else p.replace(".", "_")) for p, name in names.items()}
    twice = {name for name, times in Counter(names.values()).items() if times > 1}
    towers = [
        Tower(prefix.replace(".", "_") if names[prefix] in twice else names[prefix], prefix, count)
        for prefix, count in counts.items()
    ]
    return tuple(sorted(towers, key=lambda tower: (_rank(tower.name), tower.prefix)))


def _rank(name: str) -> int:
    return _ORDER.index(name if name in _ORDER else "")


def _name(prefix: str) -> str:
    words = prefix.lower()
    for name, marks in _MARKS.items():
        if any(mark in words for mark in marks):
            return name
    return next((part for part in words.split(".") if part in ("encoder", "decoder")), "")


def roots(prefixes: Sequence[str]) -> tuple[str, ...]:
    """For each of several families of layers, the shortest module around it that has no other inside."""
    found = []
    for prefix in prefixes:
        others = [other + "." for other in prefixes if other != prefix]
        parts = prefix.split(".")
        around = [".".join(parts[:length]) for length in range(1, len(parts) + 1)]
        alone = [each for each in around if not any(o.startswith(each + ".") for o in others)]
        found.append(alone[0] if alone and others else "")
    return tuple(found)


def kind_beside(tensor: str, owner: str, *, matrix: bool, several: bool) -> str:
    """What a tensor outside all layers is: `embed`, `pooler`, `final_norm`, `projector` or `head`.

    Args:
        tensor: its name.
        owner: the tower whose part of the model it lies in; empty for none.
        matrix: whether it has more than one axis.
        several: whether the model has several towers.
    """
    words = tensor.lower()
    if _HEAD.search(words):
        return "pooler" if owner in _SENSES else "head"
    if _EMBED.search(words):
        return "embed"
    if _PROJECTOR.search(words) or (several and not owner):
        return "projector"
    if "pool" in words:
        return "pooler"
    return "embed" if matrix else "final_norm"
