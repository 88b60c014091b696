"""Binding: each checkpoint tensor to the live parameter, or part of one, that holds it.

transformers renames and fuses tensors while loading (experts of a mixture are stacked, say). Its own
conversion is run backwards over the live model's tensors with copies turned off, so that each
checkpoint tensor comes out as a view of the parameter it belongs to; the view tells the slice. Nothing
is hard-coded for any architecture, and a conversion that is no slice is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    rename_source_key,
    revert_weight_conversion,
)

from evomerge.checkpoint.folder import CheckpointFolder
from evomerge.errors import CheckpointError, Problem


@dataclass(frozen=True)
class Binding:
    """Where a checkpoint tensor lives.

    Attributes:
        tensor: checkpoint name.
        parameter: name of a live parameter or persistent buffer (the first, where several are tied).
        shape: extents of the checkpoint tensor.
        offset: first element, counted from the parameter's first.
        stride: steps between elements of the parameter, for each axis of `shape`.
    """

    tensor: str
    parameter: str
    shape: tuple[int, ...]
    offset: int
    stride: tuple[int, ...]

    def view(self, parameter: torch.Tensor) -> torch.Tensor:
        """The slice of a (contiguous) parameter."""
        return torch.as_strided(
            parameter, self.shape, self.stride, parameter.storage_offset() + self.offset
        )


class _KeepViews(TorchFunctionMode):
    """Makes `contiguous` return its input, so that slices stay views."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.Tensor.contiguous:
            return args[0]
        return func(*args, **(kwargs or {}))


def bind(model: PreTrainedModel, folder: CheckpointFolder) -> list[Binding]:
    """Bind every tensor of a checkpoint to the live model, covering every live tensor exactly once.

    Tensors the model declares it ignores (old rotary buffers, say) are left out.

    Args:
        model: on any device, the meta device included; its parameters contiguous.
        folder: the checkpoint.

    Raises:
        CheckpointError: E220 a live parameter or persistent buffer without a tensor, E221 a tensor
            without a place, E223 a wrong shape, E219 two tensors for one place, E234 a conversion that
            is no slice; all together.
    """
    live = _unique_state(model)
    stand_ins = {
        name: torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
        for name, tensor in live.items()
    }
    owners = {_storage(tensor): name for name, tensor in stand_ins.items()}
    with _KeepViews(), torch.no_grad():
        saved = revert_weight_conversion(model, dict(stand_ins))
    ignored = [re.compile(p) for p in model._keys_to_ignore_on_load_unexpected or ()]
    aliases = _tied_names(model, live)
    problems: list[Problem] = []
    bindings: list[Binding] = []

    def fault(code: str, wrong: str, found: str, tensor: str) -> None:
        problems.append(Problem(code, wrong, found, "", str(folder.path), field=tensor))

    conversions = get_model_conversion_mapping(model)
    for tensor, header in folder.tensors.items():
        view = saved.get(tensor)
        if view is None:
            renamed = _live_name(tensor, conversions, model, aliases, stand_ins)
            view = None if renamed is None else stand_ins[renamed]
        if view is None:
            if not any(pattern.search(tensor) for pattern in ignored):
                fault("E221", "tensor unknown to the architecture", "", tensor)
            continue
        owner = owners.get(_storage(view))
        if owner is None:
            fault("E234", "loading it is more than taking a slice", "", tensor)
        elif tuple(view.shape) != header.shape:
            found = f"{list(header.shape)}, the architecture needs {list(view.shape)}"
            fault("E223", "wrong shape", found, tensor)
        else:
            bindings.append(
                Binding(tensor, owner, header.shape, view.storage_offset(), tuple(view.stride()))
            )
    _check_cover(bindings, stand_ins, fault)
    if problems:
        raise CheckpointError(problems)
    return bindings


def _storage(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _unique_state(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Parameters and persistent buffers, each once, under the name that is not tied to another."""
    tied = set(model.get_expanded_tied_weights_keys(all_submodels=True))
    state = model.state_dict(keep_vars=True)
    unique: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for name in sorted(state, key=lambda key: key in tied):
        if id(state[name]) not in seen:
            seen.add(id(state[name]))
            unique[name] = state[name]
    return {name: unique[name] for name in state if name in unique}


def _tied_names(model: PreTrainedModel, unique: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Every live name to the one its tensor goes by."""
    by_id = {id(tensor): name for name, tensor in unique.items()}
    return {name: by_id[id(tensor)] for name, tensor in model.state_dict(keep_vars=True).items()}


def _live_name(
    tensor: str,
    conversions: list[Any],
    model: PreTrainedModel,
    aliases: Mapping[str, str],
    stand_ins: Mapping[str, torch.Tensor],
) -> str | None:
    """The live tensor that loading would rename a checkpoint tensor to, if it fills all of it."""
    renamings = [entry for entry in conversions if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in conversions if isinstance(entry, WeightConverter)]
    name, converted = rename_source_key(
        tensor, renamings, converters, model.base_model_prefix, dict(stand_ins)
    )
    return aliases.get(name) if converted is None else None


def _check_cover(bindings: list[Binding], stand_ins: Mapping[str, torch.Tensor], fault: Any) -> None:
    by_parameter: dict[str, list[Binding]] = {}
    for binding in bindings:
        by_parameter.setdefault(binding.parameter, []).append(binding)
    for name, tensor in stand_ins.items():
        parts = by_parameter.get(name, [])
        if not parts:
            fault("E220", "tensor missing: nothing fills this parameter", "", name)
            continue
        if len(parts) == 1 and parts[0].shape == tuple(tensor.shape):
            continue
        covered, twice = _coverage(parts, tensor.numel())
        if twice:
            names = ", ".join(part.tensor for part in parts)
            fault("E219", "two tensors for one place", names, name)
        if covered < tensor.numel():
            found = f"{covered} of {tensor.numel()} elements"
            fault("E220", "tensor missing: this parameter is filled in part", found, name)


def _coverage(parts: list[Binding], size: int) -> tuple[int, bool]:
    """How many of `size` elements are covered, and whether any is covered twice."""
    views = [part.view(torch.empty(size, device="meta")) for part in parts]
    if all(view.is_contiguous() for view in views):
        # Blocks can be compared by their ends; a fused tensor may be too large to count in.
        covered, end, twice = 0, 0, False
        for start, length in sorted((int(view.storage_offset()), view.numel()) for view in views):
            twice |= start < end and length > 0
            covered += max(0, start + length - max(start, end))
            end = max(end, start + length)
        return covered, twice
    count = torch.zeros(size, dtype=torch.int8)
    for part in parts:
        part.view(count).add_(1)
    return int(count.count_nonzero()), bool((count > 1).any())
