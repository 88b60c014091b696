"""Statistics of experts on calibration inputs: Gram matrices of what linear layers see, Fisher diagonals.

Gathered once for each expert and text, on the CPU, on one thread and item by item, so that every process
finds the same bits; kept under the digests of both.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoTokenizer, PreTrainedModel

from evomerge.checkpoint.adapter import AdapterFolder
from evomerge.checkpoint.folder import CheckpointFolder, is_decoder, text_config
from evomerge.checkpoint.reader import Reader
from evomerge.errors import ConfigError, Problem
from evomerge.merge.binding import Binding, bind
from evomerge.merge.skeleton import allocate, build_skeleton
from evomerge.merge.statistics.array_cache import ArrayCache, Arrays
from evomerge.merge.threads import torch_threads
from evomerge.recipe.calibration import Calibration

Folder = CheckpointFolder | AdapterFolder

Kind = Literal["input_grams", "fisher"]

MOST_TOKENS = 512
"""Longer items are cut."""


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
    """Run an expert over a text and gather a statistic.

    `input_grams`: `X^T X / n` of the inputs X of each linear layer, n the tokens (Jin et al. 2023,
    arXiv:2212.09849). `fisher`: the mean over items of the squared gradient of their log-likelihood, the
    empirical Fisher information (Matena and Raffel 2022, arXiv:2111.09832).

    Raises:
        ConfigError: E109, the text has no item to use; E108, one with a token that the expert does not have;
            E111, the expert is no decoder.
    """
    full = folder.base if isinstance(folder, AdapterFolder) else folder
    if not is_decoder(full.config):
        wrong = "statistics on a text need models that write text"
        raise ConfigError(Problem("E111", wrong, f"{full.name} is no decoder", file=str(full.path)))
    items = read_items(calibration, [folder.path, full.path], full)
    with torch_threads(1):
        model, bindings = expert_model(full, reader)
        return (
            input_grams(model, bindings, items)
            if kind == "input_grams"
            else fisher(model, bindings, items)
        )


def read_items(
    calibration: Calibration, folders: Sequence[Path], model: CheckpointFolder
) -> list[torch.Tensor]:
    """Token ids of each item, int64 [1, tokens], two at least; by the tokenizer of the first folder with one.

    Raises:
        ConfigError: E109, there is none; E108, an id that the model's embedding has no row for; as
            `Calibration.content`.
    """
    rows = text_config(model.config).get("vocab_size")
    tokenizer: Any = None
    items = []
    for number, line in enumerate(calibration.content().decode("utf-8").splitlines(), 1):
        if not line.strip():
            continue
        ids = _stated_ids(line)
        if ids is None:
            if tokenizer is None:
                own = next((f for f in folders if (f / "tokenizer_config.json").is_file()), folders[-1])
                tokenizer = AutoTokenizer.from_pretrained(own, trust_remote_code=False)
            ids = tokenizer(line)["input_ids"]
        strange = [i for i in ids if i < 0 or (isinstance(rows, int) and i >= rows)]
        if strange:
            wrong = f"token id {strange[0]} is none of {model.name}, whose ids are below {rows}"
            todo = "give ids of the models' own tokenizer, or the text itself"
            raise ConfigError(Problem("E108", wrong, "", todo, calibration.path, number))
        if len(ids) > 1:
            items.append(torch.tensor([ids[:MOST_TOKENS]]))
    if not items:
        wrong, todo = "the calibration text has no item", "give lines of two tokens or more"
        raise ConfigError(Problem("E109", wrong, "", todo, calibration.path))
    return items


def _stated_ids(line: str) -> list[int] | None:
    if not line.lstrip().startswith("["):
        return None
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, list) and all(type(each) is int for each in found) else None


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
def input_grams(
    model: PreTrainedModel, bindings: Sequence[Binding], items: Sequence[torch.Tensor]
) -> Arrays:
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
        for ids in items:
            model(input_ids=ids)
    finally:
        for handle in handles:
            handle.remove()
    return {tensor: (total / tokens[tensor]).numpy() for tensor, total in sums.items()}


def fisher(
    model: PreTrainedModel, bindings: Sequence[Binding], items: Sequence[torch.Tensor]
) -> Arrays:
    """Mean of squared gradients of each item's log-likelihood, float32, by tensor."""
    parameters = dict(model.named_parameters())
    sums = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    with torch.enable_grad():
        for parameter in parameters.values():
            parameter.requires_grad_(True)
        for ids in items:
            model.zero_grad()
            logits = model(input_ids=ids).logits[0, :-1]
            loss: Any = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum")
            loss.backward()
            for name, parameter in parameters.items():
                if parameter.grad is not None:
                    sums[name] += parameter.grad.square()
    return {
        one.tensor: one.view(sums[one.parameter] / len(items)).contiguous().numpy()
        for one in bindings
        if one.parameter in sums
    }
