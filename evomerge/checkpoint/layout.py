"""Where tensors stand: place of a checkpoint tensor, derived from the checkpoint's own names.

A decoder's layers are the largest numbered family of tensors (`PREFIX.I.…`). Outside them, what lies under
the same root as the layers comes before the final norm (embeddings: matrices, or names that say so) or is
the final norm; what lies beside that root is the head. No list of architectures.

Other models may have several families, each a *tower* with places of its own (`vision.layers.1.attn`), and
more beside them: poolers and the projector between towers. There names tell (`checkpoint/towers.py`).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from evomerge.checkpoint.header import TensorHeader
from evomerge.checkpoint.towers import Tower, find_towers, kind_beside, roots
from evomerge.recipe.places import any_expert

_ATTENTION = ("attn", "attention")
_MLP = ("mlp", "moe", "ffn", "feed_forward", "feedforward", "expert")
_MLP_ELSEWHERE = (*_MLP, "dense", "intermediate", "fc")
"""Of models that are no decoders, whose layers have such names; decoders keep the places they always had."""
_NORM = ("norm", "ln_", "layer_norm")
_NUMBERED = re.compile(r"(?:(.*?)\.)?(\d+)\.(.*)")
_ROTARY = re.compile(
    r"(^|\.)rotary(_pos)?_emb\.(\w*inv_freq|cos_cached|sin_cached|cos|sin)$|\.rope\.freqs$"
)
_MASK = re.compile(r"\.(attn|attention|self_attn|self_attention)\.(bias|masked_bias)$")
_POSITIONS = re.compile(r"(^|\.)(position_ids|token_type_ids)$")


@dataclass(frozen=True)
class LayerNames:
    """How a checkpoint numbers its layers: a number counts through all towers, one after the other.

    `decoder` is whether its names are read as a language model's with one family of layers.
    """

    towers: tuple[Tower, ...]
    decoder: bool = True

    @property
    def count(self) -> int:
        """Number of layers of all towers."""
        return sum(tower.count for tower in self.towers)

    @property
    def prefix(self) -> str:
        """What comes before the number in the first tower, without the dot; empty without layers."""
        return self.towers[0].prefix if self.towers else ""

    @cached_property
    def roots(self) -> tuple[str, ...]:
        """Of several towers, the part of the model that is this tower's alone."""
        return roots([tower.prefix for tower in self.towers])

    def split(self, tensor: str) -> tuple[int, str] | None:
        """(layer, rest of the name) of a tensor inside a layer, else None."""
        first = 0
        for tower in self.towers:
            head = tower.prefix + "." if tower.prefix else ""
            if tensor.startswith(head):
                number, dot, rest = tensor[len(head) :].partition(".")
                alone = len(self.towers) == 1
                if dot and number.isdecimal() and (alone or int(number) < tower.count):
                    return first + int(number), rest
            first += tower.count
        return None

    def at(self, layer: int) -> tuple[Tower, int]:
        """The tower of a layer, and its number there."""
        for tower in self.towers[:-1]:
            if layer < tower.count:
                return tower, layer
            layer -= tower.count
        return self.towers[-1], layer

    def place(self, layer: int, inside: str) -> str:
        """The place of what stands `inside` a layer."""
        tower, number = self.at(layer)
        return f"{tower.name}.layers.{number}.{inside}".removeprefix(".")

    def join(self, layer: int, rest: str) -> str:
        """The name of tensor `rest` in layer `layer`."""
        tower, number = self.at(layer)
        return f"{tower.prefix}.{number}.{rest}" if tower.prefix else f"{number}.{rest}"

    def shifted(self, tensor: str, shift: int) -> str:
        """The tensor `shift` layers above; outside the layers the same."""
        inside = self.split(tensor)
        return tensor if inside is None else self.join(inside[0] + shift, inside[1])


def layer_names(tensors: Iterable[str], decoder: bool = True) -> LayerNames:
    """How some tensors number their layers: of a decoder, the numbered family with the most tensors."""
    insides: dict[str, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name in tensors:
        match = _NUMBERED.match(name)
        if match:
            insides[match.group(1) or ""][int(match.group(2))].append(match.group(3))
    if not insides:
        return LayerNames((), decoder)
    largest = max(insides, key=lambda key: (sum(map(len, insides[key].values())), key))
    if decoder:
        return LayerNames((Tower("", largest, max(insides[largest]) + 1),))
    kept = {
        prefix: max(layers) + 1
        for prefix, layers in insides.items()
        if prefix == largest
        or (len(layers) == max(layers) + 1 and all(map(_has_attention, layers.values())))
    }
    return LayerNames(find_towers(kept), decoder=False)


def _has_attention(names: Iterable[str]) -> bool:
    return any(mark in name.lower() for name in names for mark in _ATTENTION)


def is_buffer(tensor: str, header: TensorHeader) -> bool:
    """Whether a tensor is a buffer that older releases saved though every loader computes it.

    Rotary frequencies, causal masks ([1, 1, length, length], and the number written where they hide) and
    position ids. A bias of the same name is a vector and no mask.
    """
    if _ROTARY.search(tensor) or (_POSITIONS.search(tensor) and not header.is_float):
        return True
    return bool(_MASK.search(tensor)) and len(header.shape) in (0, 4)


def place_of(tensor: str, names: LayerNames, header: TensorHeader | None = None) -> str:
    """The place of a tensor: `embed`, `layers.I.attn|mlp|norm|other`, `final_norm` or `head`.

    Of a model that is no decoder also `pooler` and `projector`; of several towers, `TOWER.` before what is
    inside one. A head has one place in any model.
    """
    inside = names.split(tensor)
    if inside is not None:
        return names.place(inside[0], _module_of(inside[1], _MLP if names.decoder else _MLP_ELSEWHERE))
    if not names.decoder:
        return _beside(tensor, names, header)
    root = names.prefix.split(".")[0] if "." in names.prefix else ""
    if root and not tensor.startswith(root + "."):
        return "head"
    words = tensor.lower()
    if "embed_out" in words or "lm_head" in words:
        return "head"
    matrix = header is not None and len(header.shape) > 1
    return "embed" if matrix or "embed" in words else "final_norm"


def _beside(tensor: str, names: LayerNames, header: TensorHeader | None) -> str:
    owners = [
        tower.name
        for tower, root in zip(names.towers, names.roots, strict=True)
        if root and tensor.startswith(root + ".")
    ]
    owner = owners[0] if owners else ""
    matrix = header is not None and len(header.shape) > 1
    kind = kind_beside(tensor, owner, matrix=matrix, several=len(names.towers) > 1)
    return f"{owner}.{kind}" if owner and kind != "head" else kind


def _module_of(rest: str, mlp: tuple[str, ...]) -> str:
    words = rest.lower().split(".")
    if any(part in word for word in words for part in _NORM):
        return "norm"
    for word in words:
        if any(part in word for part in _ATTENTION):
            return "attn"
        if any(part in word for part in mlp):
            return "mlp"
    return "other"


def places_of(tensors: Mapping[str, TensorHeader], names: LayerNames | None = None) -> dict[str, str]:
    """The place of every tensor of a checkpoint; a decoder's without `names`."""
    names = names or layer_names(tensors)
    return {name: place_of(name, names, header) for name, header in tensors.items()}


def tensor_places_of(
    tensors: Mapping[str, TensorHeader], names: LayerNames | None = None
) -> dict[str, str]:
    """The finest place of every tensor that coefficients are told apart by.

    A weight matrix is one, `layers.I.attn.self_attn.q_proj`, together with its bias and other vectors of its
    own; of a mixture's experts, that matrix of all of them. The norms of a layer are one, and each place
    outside the layers. A vector without a matrix is by itself. A decoder's without `names`.
    """
    names = names or layer_names(tensors)
    matrices = {
        tensor.removesuffix(".weight")
        for tensor, header in tensors.items()
        if tensor.endswith(".weight") and len(header.shape) > 1
    }
    found = {}
    for tensor, header in tensors.items():
        place, inside = place_of(tensor, names, header), names.split(tensor)
        if inside is not None and not place.endswith(".norm"):
            parent, _, last = any_expert(inside[1]).rpartition(".")
            beside = len(header.shape) < 2 and tensor.rpartition(".")[0] in matrices
            whole = beside or last in ("weight", "bias")
            place = f"{place}.{parent if parent and whole else any_expert(inside[1])}"
        found[tensor] = place
    return found
