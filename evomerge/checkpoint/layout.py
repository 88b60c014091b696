"""Where tensors stand: place of a checkpoint tensor, derived from the checkpoint's own names.

The layers are the largest numbered family of tensors (`PREFIX.I.…`). Outside them, what lies under the
same root as the layers comes before the final norm (embeddings: matrices, or names that say so) or is
the final norm; what lies beside that root is the head. No list of architectures.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from evomerge.checkpoint.header import TensorHeader
from evomerge.recipe.recipe import any_expert

_ATTENTION = ("attn", "attention")
_MLP = ("mlp", "moe", "ffn", "feed_forward", "feedforward", "expert")
_NORM = ("norm", "ln_", "layer_norm")
_ROTARY = re.compile(
    r"(^|\.)rotary(_pos)?_emb\.(\w*inv_freq|cos_cached|sin_cached|cos|sin)$|\.rope\.freqs$"
)
_MASK = re.compile(r"\.(attn|attention|self_attn|self_attention)\.(bias|masked_bias)$")
_POSITIONS = re.compile(r"(^|\.)(position_ids|token_type_ids)$")


@dataclass(frozen=True)
class LayerNames:
    """How a checkpoint numbers its layers: `prefix` ends before the number, without the dot."""

    prefix: str
    count: int

    def split(self, tensor: str) -> tuple[int, str] | None:
        """(layer, rest of the name) of a tensor inside a layer, else None."""
        head = self.prefix + "." if self.prefix else ""
        if not tensor.startswith(head):
            return None
        number, dot, rest = tensor[len(head) :].partition(".")
        return (int(number), rest) if dot and number.isdecimal() else None

    def join(self, layer: int, rest: str) -> str:
        """The name of tensor `rest` in layer `layer`."""
        return f"{self.prefix}.{layer}.{rest}" if self.prefix else f"{layer}.{rest}"

    def shifted(self, tensor: str, shift: int) -> str:
        """The tensor `shift` layers above; outside the layers the same."""
        inside = self.split(tensor)
        return tensor if inside is None else self.join(inside[0] + shift, inside[1])


def layer_names(tensors: Iterable[str]) -> LayerNames:
    """The numbered family with the most tensors; `LayerNames("", 0)` if nothing is numbered."""
    numbers: dict[str, set[int]] = defaultdict(set)
    sizes: dict[str, int] = defaultdict(int)
    for name in tensors:
        match = re.match(r"(?:(.*?)\.)?(\d+)\.", name)
        if match:
            prefix = match.group(1) or ""
            numbers[prefix].add(int(match.group(2)))
            sizes[prefix] += 1
    if not sizes:
        return LayerNames("", 0)
    prefix = max(sizes, key=lambda key: (sizes[key], key))
    return LayerNames(prefix, max(numbers[prefix]) + 1)


def is_buffer(tensor: str, header: TensorHeader) -> bool:
    """Whether a tensor is a buffer that older releases saved though every loader computes it.

    Rotary frequencies, causal masks ([1, 1, length, length], and the number written where they hide) and
    position ids. A bias of the same name is a vector and no mask.
    """
    if _ROTARY.search(tensor) or (_POSITIONS.search(tensor) and not header.is_float):
        return True
    return bool(_MASK.search(tensor)) and len(header.shape) in (0, 4)


def place_of(tensor: str, names: LayerNames, header: TensorHeader | None = None) -> str:
    """The place of a tensor: `embed`, `layers.I.attn|mlp|norm|other`, `final_norm` or `head`."""
    inside = names.split(tensor)
    if inside is not None:
        layer, rest = inside
        return f"layers.{layer}.{_module_of(rest)}"
    root = names.prefix.split(".")[0] if "." in names.prefix else ""
    if root and not tensor.startswith(root + "."):
        return "head"
    words = tensor.lower()
    if "embed_out" in words or "lm_head" in words:
        return "head"
    matrix = header is not None and len(header.shape) > 1
    return "embed" if matrix or "embed" in words else "final_norm"


def _module_of(rest: str) -> str:
    words = rest.lower().split(".")
    if any(part in word for word in words for part in _NORM):
        return "norm"
    for word in words:
        if any(part in word for part in _ATTENTION):
            return "attn"
        if any(part in word for part in _MLP):
            return "mlp"
    return "other"


def places_of(tensors: Mapping[str, TensorHeader]) -> dict[str, str]:
    """The place of every tensor of a checkpoint."""
    names = layer_names(tensors)
    return {name: place_of(name, names, header) for name, header in tensors.items()}


def tensor_places_of(tensors: Mapping[str, TensorHeader]) -> dict[str, str]:
    """The finest place of every tensor that coefficients are told apart by.

    A weight matrix is one, `layers.I.attn.self_attn.q_proj`, together with its bias and other vectors of its
    own; of a mixture's experts, that matrix of all of them. The norms of a layer are one, and each place
    outside the layers. A vector without a matrix is by itself.
    """
    names = layer_names(tensors)
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
