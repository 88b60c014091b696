"""The permutations of a decoder's units that change no output, as axes of its tensors.

Of a Llama-type model: the residual stream (every reader, writer and norm), the hidden units of each MLP,
and whole heads: groups of keys and values with their query heads, and query heads within a group.
Dimensions inside the heads of queries and keys are none: rotary positions turn them in pairs of their own
frequency.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from evomerge.checkpoint.folder import CheckpointFolder, is_decoder
from evomerge.errors import CheckpointError, Problem

RESIDUAL = "residual"

Permutations = Mapping[str, np.ndarray]
"""Units by name to their new order, int64 [count]: entry i is the unit that comes to stand at i."""

_KINDS = ("llama", "mistral", "qwen2", "qwen3")

_LAYER = re.compile(r"(.*\.layers)\.(\d+)\.(.*)")
_INSIDE: dict[str, tuple[str | None, ...]] = {
    "self_attn.q_proj.weight": ("heads", RESIDUAL),
    "self_attn.q_proj.bias": ("heads",),
    "self_attn.k_proj.weight": ("groups", RESIDUAL),
    "self_attn.k_proj.bias": ("groups",),
    "self_attn.v_proj.weight": ("groups", RESIDUAL),
    "self_attn.v_proj.bias": ("groups",),
    "self_attn.o_proj.weight": (RESIDUAL, "heads"),
    "self_attn.o_proj.bias": (RESIDUAL,),
    "self_attn.q_norm.weight": (None,),
    "self_attn.k_norm.weight": (None,),
    "mlp.gate_proj.weight": ("mlp", RESIDUAL),
    "mlp.up_proj.weight": ("mlp", RESIDUAL),
    "mlp.gate_proj.bias": ("mlp",),
    "mlp.up_proj.bias": ("mlp",),
    "mlp.down_proj.weight": (RESIDUAL, "mlp"),
    "mlp.down_proj.bias": (RESIDUAL,),
    "input_layernorm.weight": (RESIDUAL,),
    "post_attention_layernorm.weight": (RESIDUAL,),
}
_OUTSIDE: dict[str, tuple[str | None, ...]] = {
    "model.embed_tokens.weight": (None, RESIDUAL),
    "model.norm.weight": (RESIDUAL,),
    "lm_head.weight": (None, RESIDUAL),
}


@dataclass(frozen=True)
class Symmetries:
    """What may be permuted in a model.

    Attributes:
        axes: tensor to the units that each of its axes consists of, None for one that stays.
        counts: units to how many there are: `residual`, and of layer 3 `mlp.3`, `groups.3` and `heads.3`.
        An axis
            is that many blocks of equal length, of 1 or of a head's.
        layers: numbers of the layers.
    """

    axes: Mapping[str, tuple[str | None, ...]]
    counts: Mapping[str, int]
    layers: tuple[int, ...]

    def check(self, permutations: Permutations) -> None:
        """See that permutations are of whole units, and query heads stay with their group.

        Raises:
            ValueError: naming what would change the model's outputs.
        """
        for name, order in permutations.items():
            count = self.counts[name]
            if sorted(order.tolist()) != list(range(count)):
                wrong = f"`{name}` takes an order of its {count} units as wholes, found {len(order)} numbers"
                why = "inside a head of queries or keys rotary positions allow none"
                raise ValueError(f"{wrong}: {why}")
        for layer in self.layers:
            heads, groups = permutations.get(f"heads.{layer}"), permutations.get(f"groups.{layer}")
            if heads is None and groups is None:
                continue
            size = self.counts[f"heads.{layer}"] // self.counts[f"groups.{layer}"]
            heads = np.arange(self.counts[f"heads.{layer}"]) if heads is None else heads
            groups = np.arange(self.counts[f"groups.{layer}"]) if groups is None else groups
            if not np.array_equal(heads // size, np.repeat(groups, size)):
                raise ValueError(f"`heads.{layer}` parts query heads from the keys they look at")

    def apply(
        self, tensor: str, values: torch.Tensor, permutations: Permutations, besides: str = ""
    ) -> torch.Tensor:
        """A tensor in a new order of units, those of `besides` left alone; same shape and dtype."""
        for axis, name in enumerate(self.axes[tensor]):
            order = permutations.get(name) if name is not None and name != besides else None
            if name is None or order is None:
                continue
            rows = values.transpose(0, axis)
            blocks = rows.reshape(self.counts[name], -1, *rows.shape[1:])
            values = blocks[torch.from_numpy(order)].reshape(rows.shape).transpose(0, axis)
        return values.contiguous()


def symmetries_of(folder: CheckpointFolder) -> Symmetries:
    """What may be permuted in a model.

    Raises:
        CheckpointError: E234, an architecture, or a tensor of it, whose symmetries are not known.
    """
    config = folder.config
    kind = str(config.get("model_type"))
    if not is_decoder(config) or kind not in _KINDS:
        wrong, todo = "the symmetries of this architecture are not known", f"known: {', '.join(_KINDS)}"
        where = str(folder.path)
        raise CheckpointError(
            Problem("E234", wrong, f"model_type {kind}", todo, where, field="model_type")
        )
    axes: dict[str, tuple[str | None, ...]] = {}
    counts = {RESIDUAL: int(config["hidden_size"])}
    heads = int(config["num_attention_heads"])
    layers: set[int] = set()
    for tensor in folder.tensors:
        found = _LAYER.fullmatch(tensor)
        known = _OUTSIDE.get(tensor) if found is None else _INSIDE.get(found[3])
        if known is None:
            wrong = "nobody has said what may be permuted of this tensor"
            raise CheckpointError(Problem("E234", wrong, "", "", str(folder.path), field=tensor))
        if found is None:
            axes[tensor] = known
            continue
        layer = int(found[2])
        layers.add(layer)
        own = {
            "mlp": int(config["intermediate_size"]),
            "heads": heads,
            "groups": int(config.get("num_key_value_heads") or heads),
        }
        counts |= {f"{name}.{layer}": count for name, count in own.items()}
        axes[tensor] = tuple(name if name in (None, RESIDUAL) else f"{name}.{layer}" for name in known)
    return Symmetries(axes, counts, tuple(sorted(layers)))
