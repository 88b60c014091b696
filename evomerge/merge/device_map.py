"""Device map: which device holds which part of a live model that does not fit on one.

Layers are kept whole and in order, so that hidden states cross from one device to the next once; hooks of
accelerate move them. Unlike transformers' `device_map="auto"`, the map is made from the skeleton before any
memory is given out, and nothing is ever offloaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate

import torch
from transformers import PreTrainedModel

from evomerge.checkpoint.layout import layer_names
from evomerge.errors import EnvironmentFault, Problem


def visible_devices(device: str, count: int) -> list[str]:
    """The `count` devices of this process over which a model on `device` is spread; itself for 1.

    Raises:
        EnvironmentFault: E401, this process sees fewer.
    """
    if count == 1:
        return [device]
    found = torch.cuda.device_count()
    if found < count:
        wrong = f"a worker has {found} devices, its campaign asks for {count}"
        raise EnvironmentFault(Problem("E401", wrong, "", "", field="workers.gpus"))
    return [f"{device}:{index}" for index in range(count)]


def make_device_map(model: PreTrainedModel, devices: Sequence[str]) -> dict[str, str]:
    """Spread a model over devices by bytes: embeddings on the first, norm and head on the last.

    A head that is tied to the embeddings is one tensor with them, and lies on the first.

    Args:
        model: on any device, the meta device included.
        devices: in the order in which hidden states pass; those beyond the number of parts get nothing.

    Returns:
        Layers and the modules beside them, by name, to their device. Every parameter and buffer
        belongs to exactly one of these modules.
    """
    prefix = layer_names(name for name, _ in model.named_parameters()).prefix
    count = len(list(model.get_submodule(prefix).children()))
    layers = [f"{prefix}.{index}" for index in range(count)]
    beside = [
        name
        for name, module in model.named_modules()
        if not f"{name}.".startswith(f"{prefix}.") and (module._parameters or module._buffers)
    ]
    held = {name: list(model.get_submodule(name).parameters(recurse=False)) for name in beside}
    held |= {name: list(model.get_submodule(name).parameters()) for name in layers}
    embeddings = {id(p) for p in model.get_input_embeddings().parameters()}
    after = _after_layers(model, prefix)
    back = [n for n in beside if n in after and held[n] and not {id(p) for p in held[n]} & embeddings]
    front = [name for name in beside if name not in back]
    parts = [front, *([layer] for layer in layers), back]
    sizes = [sum({id(p): p.nbytes for n in part for p in held[n]}.values()) for part in parts]
    places = balanced(sizes, len(devices))
    return {name: devices[place] for part, place in zip(parts, places, strict=True) for name in part}


def _after_layers(model: PreTrainedModel, prefix: str) -> set[str]:
    """Modules that were registered after the list of layers, as norms and heads are."""
    names = [name for name, _ in model.named_modules()]
    last = max(place for place, name in enumerate(names) if f"{name}.".startswith(f"{prefix}."))
    return set(names[last + 1 :])


def balanced(sizes: Sequence[int], count: int) -> list[int]:
    """Places 0 to `count - 1` of parts that stay in order, such that the largest sum of a place is least.

    Dynamic programming over (places, parts): the linear partition problem.
    """
    totals = [0, *accumulate(sizes)]
    largest = list(totals)  # of the first parts in one place
    begins: list[list[int]] = []
    for _ in range(count - 1):
        choices = [
            min((max(largest[begin], totals[end] - totals[begin]), begin) for begin in range(end + 1))
            for end in range(len(totals))
        ]
        largest = [most for most, _ in choices]
        begins.append([begin for _, begin in choices])
    places, end = [0] * len(sizes), len(sizes)
    for place in range(count - 1, 0, -1):
        begin = begins[place - 1][end]
        places[begin:end] = [place] * (end - begin)
        end = begin
    return places


def device_of(name: str, device_map: Mapping[str, str]) -> str:
    """The device of a parameter, buffer or module: that of the module in the map which holds it.

    Raises:
        KeyError: if the map does not cover it.
    """
    while name not in device_map:
        if not name:
            raise KeyError("the device map does not cover the whole model")
        name = name.rpartition(".")[0]
    return device_map[name]


def connect(model: PreTrainedModel, device_map: Mapping[str, str]) -> None:
    """Let hidden states follow a map over several devices, and logits come back to where tokens were.

    Args:
        model: its parameters lie where the map says, and stay the same tensors.
        device_map: from `make_device_map`.
    """
    from accelerate import dispatch_model

    first = next(iter(device_map.values()))
    dispatch_model(
        model,
        dict(device_map),
        main_device=first,
        skip_keys=model._skip_keys_device_placement,
        force_hooks=True,
    )
