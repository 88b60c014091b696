"""Statistics of experts on calibration inputs: Gram matrices of what linear layers see, Fisher diagonals.

Gathered once for each expert and text, on the CPU, on one thread and item by item, so that every process
finds the same bits; kept under the digests of both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from transformers import PreTrainedModel

from evomerge.checkpoint.adapter import AdapterFolder
from evomerge.checkpoint.folder import CheckpointFolder, is_decoder
from evomerge.checkpoint.reader import Reader
from evomerge.errors import ConfigError, Problem
from evomerge.merge.binding import Binding, bind
from evomerge.merge.skeleton import allocate, build_skeleton
from evomerge.merge.statistics.array_cache import ArrayCache, Arrays
from evomerge.merge.statistics.calibration_items import (
    Inputs,
    has_pictures,
    read_items,
    read_pictures,
)
from evomerge.merge.threads import torch_threads
from evomerge.recipe.calibration import Calibration

Folder = CheckpointFolder | AdapterFolder

Kind = Literal["input_grams", "fisher"]


class Calibrated:
    """Arrays by kind, expert and text.

    Args:
        sources: opened folders by name.
        readers: their readers.
        cache: where arrays are kept.
        identity: of a source's content.
    """

    def __init__(
        self,
        sources: Mapping[str, Folder],
        readers: Mapping[str, Reader],
        cache: ArrayCache,
        identity: Callable[[str], str],
    ) -> None:
        self._sources, self._readers, self._cache, self._identity = sources, readers, cache, identity

    def of(self, kind: Kind, calibration: Calibration, expert: str) -> Arrays:
        """By tensor, float32: Gram matrices [in, in] of linear layers, or Fisher diagonals of its shape.

        Raises:
            ConfigError: as `gather`, and as `Calibration.content`.
            CheckpointError: the model cannot be built.
        """
        return self._cache.get(
            (kind, expert, calibration.digest),
            lambda: [self._identity(expert), calibration.digest],
            lambda: gather(kind, calibration, self._sources[expert], self._readers[expert]),
        )

    def tensors(
        self, kind: Kind, calibration: Calibration, wanted: Sequence[tuple[str, str]]
    ) -> list[torch.Tensor | None]:
        """That of each (expert, tensor); None for tensors that have none."""
        found = (self.of(kind, calibration, expert).get(tensor) for expert, tensor in wanted)
        return [None if array is None else torch.from_numpy(array) for array in found]


def gather(kind: Kind, calibration: Calibration, folder: Folder, reader: Reader) -> Arrays:
    """Run an expert over a text or over pictures and gather a statistic.

    `input_grams`: `X^T X / n` of the inputs X of each linear layer, n the tokens (Jin et al. 2023,
    arXiv:2212.09849). `fisher`: the mean over items of the squared gradient of their log-likelihood, of a
    text or of the class of a picture: the empirical Fisher information (Matena and Raffel 2022,
    arXiv:2111.09832).

    Raises:
        ConfigError: E109, there is no item to use; E108, one with a token that the expert does not have;
            E111, the expert does not read such items; E128, it has no image processor or not the class of a
            picture.
    """
    full = folder.base if isinstance(folder, AdapterFolder) else folder
    pictures = has_pictures(calibration)
    with torch_threads(1):
        model, bindings = expert_model(full, reader)
        _refuse_other_senses(model, full, kind, pictures)
        items: Sequence[Inputs]
        if pictures:
            known: Any = model.config.label2id or {}
            classes = {str(name): int(row) for name, row in known.items()}
            items = read_pictures(calibration, full.path, classes if kind == "fisher" else None)
        else:
            tokens = read_items(calibration, [folder.path, full.path], full)
            items = [{"input_ids": ids} for ids in tokens]
        return (
            input_grams(model, bindings, items)
            if kind == "input_grams"
            else fisher(model, bindings, items)
        )


def _refuse_other_senses(
    model: PreTrainedModel, full: CheckpointFolder, kind: Kind, pictures: bool
) -> None:
    if pictures:
        fits, wanted = model.main_input_name == "pixel_values", "pictures need models that read them"
    elif kind == "fisher":
        fits, wanted = is_decoder(full.config), "the likelihood of a text needs models that write it"
    else:
        fits = model.main_input_name == "input_ids" and not model.config.is_encoder_decoder
        wanted = "statistics on a text need models that read one text"
    if not fits:
        found = f"{full.name} is a {type(model).__name__}"
        raise ConfigError(Problem("E111", wanted, found, file=str(full.path)))


def expert_model(full: CheckpointFolder, reader: Reader) -> tuple[PreTrainedModel, list[Binding]]:
    """An expert in float32 on the CPU, adapters merged in, and where its tensors live."""
    model = build_skeleton(full, torch.float32)
    bindings = bind(model, full)
    allocate(model, {"": "cpu"})
    state = model.state_dict(keep_vars=True)
    for one in bindings:
        value = reader.read(one.tensor).float()
        factors = reader.delta(one.tensor)
        if factors is not None:
            value = value + (factors[0] @ factors[1]).view(value.shape)
        one.view(state[one.parameter].detach()).copy_(value)
    return model, bindings


@torch.no_grad()
def input_grams(model: PreTrainedModel, bindings: Sequence[Binding], items: Sequence[Inputs]) -> Arrays:
    """Gram matrix of the inputs of each linear layer, float32 [in, in], divided by the number of tokens."""
    linear: dict[str, torch.nn.Linear] = {
        f"{name}.weight": module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
    }
    sums: dict[str, torch.Tensor] = {}
    tokens: dict[str, int] = {}

    def hook(tensor: str) -> Callable[[torch.nn.Module, tuple[torch.Tensor, ...]], None]:
        def add(_: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> None:
            rows = given[0].reshape(-1, given[0].shape[-1])
            sums[tensor] = sums.get(tensor, 0.0) + rows.T @ rows
            tokens[tensor] = tokens.get(tensor, 0) + len(rows)

        return add

    handles = [
        linear[one.parameter].register_forward_pre_hook(hook(one.tensor))
        for one in bindings
        if one.parameter in linear and one.shape == tuple(linear[one.parameter].weight.shape)
    ]
    try:
        for item in items:
            model(**item)
    finally:
        for handle in handles:
            handle.remove()
    return {tensor: (total / tokens[tensor]).numpy() for tensor, total in sums.items()}


def fisher(model: PreTrainedModel, bindings: Sequence[Binding], items: Sequence[Inputs]) -> Arrays:
    """Mean of squared gradients of each item's log-likelihood, float32, by tensor."""
    parameters = dict(model.named_parameters())
    sums = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    with torch.enable_grad():
        for parameter in parameters.values():
            parameter.requires_grad_(True)
        for item in items:
            model.zero_grad()
            _loss(model, item).backward()
            for name, parameter in parameters.items():
                if parameter.grad is not None:
                    sums[name] += parameter.grad.square()
    return {
        one.tensor: one.view(sums[one.parameter] / len(items)).contiguous().numpy()
        for one in bindings
        if one.parameter in sums
    }


def _loss(model: PreTrainedModel, item: Inputs) -> Any:
    """What the log-likelihood of an item's tokens or class falls short of 0."""
    if "labels" in item:
        logits, targets = model(pixel_values=item["pixel_values"]).logits, item["labels"]
    else:
        ids = item["input_ids"]
        logits, targets = model(input_ids=ids).logits[0, :-1], ids[0, 1:]
    return torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
