"""What the units of a decoder do on a text, so that two models' units can be compared by it.

Of MuDSC (Xu et al. 2024, arXiv:2403.01753), which mixes this with the similarity of weights. Hidden units are
seen at the input of `down_proj`, query heads at that of `o_proj`, groups by their keys and values, the
residual stream in front of every norm.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from evomerge.checkpoint.folder import CheckpointFolder
from evomerge.checkpoint.reader import TensorReader
from evomerge.merge.align.symmetries import Symmetries
from evomerge.merge.statistics.calibrated import expert_model
from evomerge.merge.threads import torch_threads

Activations = Mapping[str, torch.Tensor]
"""Units by name to what they did, float32 [units, numbers]; the product of two rows, of one model or of two,
is the mean correlation of two units."""

_OUTPUTS = ("k_proj.weight", "v_proj.weight")
_INPUTS = ("o_proj.weight", "down_proj.weight", "layernorm.weight", "model.norm.weight")


@torch.no_grad()
def activations(
    folder: CheckpointFolder, symmetries: Symmetries, items: Sequence[torch.Tensor]
) -> Activations:
    """Run a model over a text, in float32 on the CPU, on one thread.

    Args:
        folder: of the model.
        symmetries: of it.
        items: token ids, int64 [1, tokens] each; two tokens or more together.
    """
    seen: dict[str, list[torch.Tensor]] = {}
    units: dict[str, str] = {}

    def keep(tensor: str, inside: bool) -> Callable[..., None]:
        def hook(module: torch.nn.Module, given: tuple[Any, ...], out: torch.Tensor) -> None:
            rows: torch.Tensor = given[0] if inside else out
            seen.setdefault(tensor, []).append(rows.reshape(-1, rows.shape[-1]))

        return hook

    with torch_threads(1):
        model, bindings = expert_model(folder, TensorReader(folder))
        modules = dict(model.named_modules())
        handles = []
        for one in bindings:
            if not one.tensor.endswith((*_OUTPUTS, *_INPUTS)):
                continue
            inside = not one.tensor.endswith(_OUTPUTS)
            # An axis that a matrix reads is its second one.
            axes = symmetries.axes[one.tensor]
            units[one.tensor] = str(axes[-1] if inside else axes[0])
            module = modules[one.parameter.removesuffix(".weight")]
            handles.append(module.register_forward_hook(keep(one.tensor, inside)))
        try:
            for ids in items:
                model(input_ids=ids)
        finally:
            for handle in handles:
                handle.remove()
        found: dict[str, list[torch.Tensor]] = {}
        for tensor, parts in seen.items():
            rows = torch.cat(parts)
            rows = rows - rows.mean(0)
            # A dimension that never moves is like none.
            rows = rows / rows.norm(dim=0).clamp_min(1e-12)
            count = symmetries.counts[units[tensor]]
            blocks = rows.T.reshape(count, -1)
            found.setdefault(units[tensor], []).append(blocks)
        tokens = sum(ids.shape[1] for ids in items)
        return {name: _joined(parts, tokens) for name, parts in found.items()}


def _joined(parts: Sequence[torch.Tensor], tokens: int) -> torch.Tensor:
    """Sources side by side, so that the product of two rows is a mean over their dimensions."""
    joined = torch.cat(list(parts), dim=1)
    return joined * math.sqrt(tokens / joined.shape[1])
