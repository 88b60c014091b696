"""The live model's body without its weights, and its parameters as views of flat per-layer buffers."""

from __future__ import annotations

import contextlib
import copy
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging

from evomerge.checkpoint.folder import (
    CheckpointFolder,
    architectures,
    is_decoder,
    layer_lists,
)
from evomerge.checkpoint.layout import layer_names
from evomerge.errors import CheckpointError, Problem
from evomerge.merge.device_map import device_of

_ALIGN = 64
"""Bytes; a parameter begins on a cache line of its buffer."""


def build_skeleton(
    folder: CheckpointFolder, dtype: torch.dtype, layers: int | None = None
) -> PreTrainedModel:
    """The model of a folder's config on the meta device: no memory, no random initialisation.

    With `layers`, it has that many, the further ones like those of the checkpoint from the first on.

    Raises:
        CheckpointError: E203 if transformers does not know the architecture, E235 if it needs code of
            its own.
    """
    found = model_class(folder)
    try:
        stored = AutoConfig.from_pretrained(folder.path, trust_remote_code=False)
        # As the folder says now: vocabulary, head and rotary positions may not be those of the file.
        config = type(stored).from_dict(copy.deepcopy(dict(folder.config)))
        if layers is not None:
            set_layers(config, [layer % folder.layers for layer in range(layers)])
        with torch.device("meta"):
            model: PreTrainedModel = (
                found.from_config(config, dtype=dtype, trust_remote_code=False)
                if hasattr(found, "from_config")
                else found._from_config(config, dtype=dtype)
            )
    except (ValueError, KeyError, OSError, TypeError, AttributeError) as error:
        code = "E235" if "trust_remote_code" in str(error) else "E203"
        found = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            Problem(code, "transformers cannot build this architecture", found, file=str(folder.path))
        ) from error
    model.train(False)
    return model


def model_class(folder: CheckpointFolder) -> Any:
    """What builds and loads the model of a folder: for a decoder transformers' automatic class.

    For others the class that `architectures` names.

    Raises:
        CheckpointError: E203, if transformers has no such class.
    """
    if is_decoder(folder.config):
        return AutoModelForCausalLM
    named = architectures(folder.config)
    for name in named:
        found = getattr(transformers, name, None)
        if isinstance(found, type) and issubclass(found, PreTrainedModel):
            return found
    wrong = f"{folder.name}: transformers {transformers.__version__} has no class of this architecture"
    raise CheckpointError(
        Problem(
            "E203", wrong, ", ".join(named) or f"model_type {folder.config.get('model_type')}",
            "name one of its classes, as `BertForSequenceClassification` or `T5ForConditionalGeneration`",
            str(folder.path / "config.json"), field="architectures",
        )
    )  # fmt: skip


def set_layers(config: Any, order: Sequence[int]) -> None:
    """Make a config that of a model whose layers are those in `order` of the one it describes."""
    part = config.get_text_config()
    for key, value in layer_lists(part.to_dict(), part.num_hidden_layers).items():
        setattr(part, key, [value[layer] for layer in order])
    part.num_hidden_layers = len(order)


def allocate(
    model: PreTrainedModel,
    device_map: Mapping[str, str],
    decoder: bool = True,
    directory: Path | None = None,
) -> dict[str, torch.Tensor]:
    """Give a meta model real memory: one flat buffer for each layer and one for the rest.

    With a `directory` the buffers are on files in it, which go with them (CPU only); see `_mapped`.

    With several devices in the map (modules by name; the empty string is the whole model), the rest has a
    buffer on each that holds some of it.

    Parameters become views without gradients; their contents are undefined until they are written.
    Persistent buffers are allocated likewise; the others (rotary frequencies, say) are computed by the
    model's own initialisation.

    Returns:
        The flat buffers by layer prefix (`model.layers.0`; the empty string for the rest), with dtype and
        device where a part has several.
    """
    parameters = dict(model.named_parameters())
    names = layer_names(parameters, decoder)
    groups: dict[str, list[str]] = {}
    for name in parameters:
        split = names.split(name)
        key = "" if split is None else names.join(split[0], "").removesuffix(".")
        groups.setdefault(key, []).append(name)
    buffers: dict[str, torch.Tensor] = {}
    replacement: dict[int, torch.nn.Parameter] = {}
    for key, members in groups.items():
        kinds: dict[tuple[torch.dtype, str], list[str]] = {}
        for name in members:
            kinds.setdefault((parameters[name].dtype, device_of(name, device_map)), []).append(name)
        for (dtype, device), chosen in kinds.items():
            shapes = {name: parameters[name].shape for name in chosen}
            flat, views = _flat_views(shapes, dtype, device, directory)
            buffers[key if len(kinds) == 1 else f"{key}:{dtype}:{device}"] = flat
            for name in chosen:
                fresh = torch.nn.Parameter(views[name], requires_grad=False)
                # transformers initialises what is not marked; these are written by the first merge.
                fresh._is_hf_initialized = True  # type: ignore[attr-defined]
                replacement[id(parameters[name])] = fresh
    for place, module in model.named_modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = replacement[id(parameter)]
        for name, buffer in module._buffers.items():
            if buffer is not None and buffer.is_meta:
                device = device_of(place, device_map)
                fresh_buffer: Any = torch.zeros(buffer.shape, dtype=buffer.dtype, device=device)
                if name not in module._non_persistent_buffers_set:
                    fresh_buffer._is_hf_initialized = True
                module._buffers[name] = fresh_buffer
    initialiser: Any = model
    initialiser.initialize_weights()
    return buffers


def _flat_views(
    shapes: Mapping[str, torch.Size],
    dtype: torch.dtype,
    device: torch.device | str,
    directory: Path | None,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    step = max(1, _ALIGN // dtype.itemsize)
    offsets: dict[str, int] = {}
    position = 0
    for name, shape in shapes.items():
        offsets[name] = position
        position += -(-shape.numel() // step) * step
    if directory is None or not position:
        flat = torch.empty(position, dtype=dtype, device=device)
    else:
        flat = _mapped(position, dtype, directory)
    views = {n: flat[offsets[n] : offsets[n] + s.numel()].view(s) for n, s in shapes.items()}
    return flat, views


def _mapped(size: int, dtype: torch.dtype, directory: Path) -> torch.Tensor:
    """Memory on a file without a name: where memory is short, the system writes its pages back.

    Raises:
        OSError: there is no room; found here, for a page that cannot be written ends the process.
    """
    with tempfile.NamedTemporaryFile(dir=directory) as file:
        os.posix_fallocate(file.fileno(), 0, size * dtype.itemsize)
        return torch.from_file(file.name, shared=True, size=size, dtype=dtype)


@contextlib.contextmanager
def quiet_loading() -> Iterator[None]:
    """No progress bars while transformers loads."""
    bars: Any = logging  # these two functions of it have no annotations
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            bars.enable_progress_bar()
