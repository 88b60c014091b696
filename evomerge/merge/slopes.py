"""Gradients by the weights of experts: backward through the live model, without a gradient of the model.

A merge that is linear in the weight of expert t at a place has the derivative `<g, d_t>` by it, `g` being the
gradient of a loss by the merged weights of the place and `d_t` what the expert adds to them per unit of its
weight (AdaMerging, Yang et al. 2024, arXiv:2310.02575). A parameter's gradient is contracted as soon as it is
complete and then freed, and all layers but the last are recomputed in the backward pass (Chen et al. 2016,
arXiv:1604.06174), so that neither gradients nor activations of the whole model are ever held. A linear layer
that only adapters change has no gradient of its matrix at all (`passes.contract_outputs`). Rounding to the
storage dtype is passed straight through.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.checkpoint import checkpoint

from evomerge.checkpoint.adapter import AdapterFolder
from evomerge.checkpoint.folder import CheckpointFolder
from evomerge.checkpoint.reader import Reader
from evomerge.errors import ConfigError, Problem
from evomerge.evaluators.forward import replaced_forward
from evomerge.merge.binding import Binding
from evomerge.merge.materialize import LiveModel
from evomerge.merge.passes.contract import contract
from evomerge.merge.passes.contract_outputs import contract_outputs, is_of_adapters
from evomerge.merge.passes.scalars import LEAST_DIVISOR
from evomerge.merge.plan import TensorPlan, make_plan
from evomerge.merge.statistics.weights import WeightStatistics
from evomerge.recipe.places import lookup
from evomerge.recipe.recipe import MergedSource, Recipe
from evomerge.recipe.registered import find_method
from evomerge.search_space.model_layout import ModelLayout

Forward = Callable[..., Any]
Show = Callable[[torch.Tensor, torch.Tensor], None]

ONLY_CALLED = frozenset(
    f"{name}.weight"
    for name in (
        "q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj", "gate_proj", "up_proj", "down_proj",
        "gate_up_proj",
    )
)  # fmt: skip
"""Matrices that no model reads but by calling their linear layer; of others the gradient is taken whole."""


def sloped_source(recipe: Recipe, layers: int) -> MergedSource:
    """The merged source by whose weights a recipe can be differentiated.

    Raises:
        ConfigError: E147, if the recipe is no single merge of `layers` layers in their order, or its method
            is neither linear in its weights nor in those divided by their sum.
    """
    name = recipe.path[0].source
    source = recipe.sources[name]
    if not recipe.is_identity_path(layers) or not isinstance(source, MergedSource):
        wrong = "there is no gradient by weights: the recipe is not one merge, layer by layer"
        todo = "state all experts, as `SearchSpace.spelled_out` does"
        raise ConfigError(Problem("E147", wrong, f"its first layer is `{name}`", todo, field="path"))
    method = find_method(source.method)
    if not method.has_slopes(method.resolve(source.options)):
        stated = ", ".join(f"{key}: {value}" for key, value in source.options.items())
        wrong = f"there is no gradient by weights: {method.name} is not linear in them"
        found = f"with {stated}" if stated else ""
        todo = "take a method that is, such as task_arithmetic, or an optimizer without gradients"
        raise ConfigError(Problem("E147", wrong, found, todo, field=f"sources.{name}.method"))
    return source


class Slopes:
    """The gradient of what was run backwards, as sums for each expert and tensor.

    Attributes:
        experts: in the order of the recipe's inputs.
        places: leaves in the order of the prepared layout.
        parameters: by name, those whose gradient is received whole.
        layers: by the name of their matrix, the linear layers that adapters alone change.
    """

    def __init__(
        self,
        live: LiveModel,
        recipe: Recipe,
        folders: Mapping[str, CheckpointFolder | AdapterFolder],
        statistics: WeightStatistics,
        readers: Mapping[str, Reader],
        layout: ModelLayout,
    ) -> None:
        self._source = sloped_source(recipe, live.folder.layers)
        self._live, self._readers = live, readers
        self.experts = self._source.inputs
        self.places = layout.leaves
        self._spans = _spans(layout)
        plan = make_plan(recipe, folders, statistics, directions=True)
        parameters = dict(live.model.named_parameters(remove_duplicate=False))
        # An entry without inputs has no expert that touches it.
        entries = {entry.name: entry for entry in plan.tensors if entry.inputs}
        self._parts: dict[str, list[tuple[Binding, TensorPlan]]] = {}
        for binding in live.bindings:
            whole = parameters.get(binding.parameter)
            if binding.tensor in entries and whole is not None and whole.is_floating_point():
                part = (binding, entries[binding.tensor])
                self._parts.setdefault(binding.parameter, []).append(part)
        names = Counter(map(id, parameters.values()))
        self.layers = {
            name: live.model.get_submodule(name.rpartition(".")[0])
            for name in self._parts
            if names[id(parameters[name])] == 1 and self._is_of_adapters(name, parameters[name])
        }
        self.parameters = {name: parameters[name] for name in self._parts if name not in self.layers}
        self._forget()

    def _is_of_adapters(self, name: str, parameter: torch.nn.Parameter) -> bool:
        """Whether a parameter is, whole, the matrix of a linear layer that adapters alone change."""
        layer = self._live.model.get_submodule(name.rpartition(".")[0])
        (binding, entry), *others = self._parts[name]
        return (
            not others
            and type(layer) is torch.nn.Linear
            and ".".join(name.rsplit(".", 2)[-2:]) in ONLY_CALLED
            and binding.shape == parameter.shape
            and binding.stride == parameter.stride()
            and is_of_adapters(entry, self._readers)
        )

    def _forget(self) -> None:
        self._sums = {
            entry.name: dict.fromkeys(self.experts, np.zeros(self._rows(entry)))
            for parts in self._parts.values()
            for _, entry in parts
        }

    def _rows(self, entry: TensorPlan) -> int:
        """How many rows of a tensor are told apart; 1 where it has one weight."""
        start, stop = lookup(self._spans, entry.place)
        return stop - start if entry.shape and entry.shape[0] == stop - start else 1

    def receive(self, name: str, parameter: torch.nn.Parameter) -> None:
        """Contract a parameter's gradient and free it."""
        gradient, parameter.grad = parameter.grad, None
        assert gradient is not None
        gradient = gradient.contiguous()
        scratch = self._live.scratch(gradient.device)
        for binding, entry in self._parts[name]:
            flat = binding.view(gradient).contiguous().view(-1)
            self._add(entry, contract(entry, self._readers, flat, scratch, self._rows(entry)))

    def receive_outputs(self, name: str, inputs: torch.Tensor, gradient: torch.Tensor) -> None:
        """Contract the gradient by what a linear layer of `layers` made of its inputs, both [..., width]."""
        ((_, entry),) = self._parts[name]
        self._add(entry, contract_outputs(entry, self._readers, inputs, gradient, self._rows(entry)))

    def _add(self, entry: TensorPlan, found: np.ndarray) -> None:
        sums = self._sums[entry.name]
        for one, value in zip(entry.inputs, found, strict=True):
            sums[one.source] = sums[one.source] + value

    def take(self) -> np.ndarray:
        """The gradient since the last call: float64 [experts, places]; zeros where an expert has no part."""
        total = np.zeros((len(self.experts), len(self.places)))
        for tensor, sums in self._sums.items():
            split = self._live.folder.names.split(tensor)
            leaf = f"{self._live.folder.places[tensor]}.{tensor if split is None else split[1]}"
            own = np.stack(self._by_weight([sums[expert] for expert in self.experts], leaf))
            start, stop = lookup(self._spans, leaf)
            # A tensor of another length has the mean of the rows.
            total[:, start:stop] += own if own.shape[1] == stop - start else own / (stop - start)
        self._forget()
        return total

    def _by_weight(self, slopes: Sequence[np.ndarray], leaf: str) -> Sequence[np.ndarray]:
        """From the gradient by the numbers that multiply task vectors to that by weights.

        Numbers are weights or, normalised, `n_t = w_t / S` with `S = sum w`: then
        `dL/dw_t = (dL/dn_t - sum_j n_j dL/dn_j) / S`.
        """
        method = find_method(self._source.method)
        options = method.resolve(self._source.options)
        if method.scalars_with(options) != "normalised":
            return slopes
        tables = self._source.coefficients["weight"]
        weights = [lookup(tables.get(name) or tables["*"], leaf) for name in self.experts]
        total = math.fsum(weights)
        if method.uses_base(options) and abs(total) < LEAST_DIVISOR:
            return slopes
        mean = sum(w * slope for w, slope in zip(weights, slopes, strict=True)) / total
        return [(slope - mean) / total for slope in slopes]


def _spans(layout: ModelLayout) -> dict[str, tuple[int, int]]:
    """Each place to the first of its leaves and the one after its last."""
    found, start = {}, 0
    for place in layout.places:
        stop = start + layout.rows.get(place, 1)
        found[place] = (start, stop)
        start = stop
    return found


@contextmanager
def differentiable(live: LiveModel, slopes: Slopes) -> Iterator[None]:
    """Inside, backward passes through the live model reach `slopes`; no gradient outlives it."""
    handles = []
    try:
        for name, parameter in slopes.parameters.items():
            parameter.requires_grad_(True)
            hooked: Any = parameter
            hook = functools.partial(slopes.receive, name)
            handles.append(hooked.register_post_accumulate_grad_hook(hook))
        # The last layer is run backwards first: keeping what it needs takes no more than making it again.
        with _watched(slopes), _recomputed(live.layers[:-1]), _unpadded(live.model):
            yield
    finally:
        for handle in handles:
            handle.remove()
        for parameter in slopes.parameters.values():
            parameter.requires_grad_(False)
            parameter.grad = None


@contextmanager
def _unpadded(model: torch.nn.Module) -> Iterator[None]:
    """Embeddings give the row of their padding token a gradient: it may stand in a text as any other."""
    tables = [each for each in model.modules() if isinstance(each, torch.nn.Embedding)]
    kept = [table.padding_idx for table in tables]
    try:
        for table in tables:
            table.padding_idx = None
        yield
    finally:
        for table, index in zip(tables, kept, strict=True):
            table.padding_idx = index


class _Watch(torch.autograd.Function):
    """What a linear layer made, unchanged; going back, its gradient is shown with the layer's inputs."""

    @staticmethod
    def forward(ctx: Any, made: torch.Tensor, inputs: torch.Tensor, _: torch.Tensor, show: Show) -> Any:
        ctx.save_for_backward(inputs)
        ctx.show = show
        return made.view_as(made)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        ctx.show(ctx.saved_tensors[0], gradient)
        return gradient, None, None, None


@contextmanager
def _watched(slopes: Slopes) -> Iterator[None]:
    """Show the gradients of what linear layers make to `slopes`; their matrices have none."""
    # Inputs of the first layer may need no gradient; what is made of them is to have one all the same.
    anchor = torch.zeros((), requires_grad=True)

    def watched(name: str, layer: torch.nn.Module) -> Forward:
        forward: Forward = layer.forward
        show = functools.partial(slopes.receive_outputs, name)
        watch: Forward = _Watch.apply
        return lambda inputs: watch(forward(inputs), inputs, anchor, show)

    with ExitStack() as stack:
        for name, layer in slopes.layers.items():
            stack.enter_context(replaced_forward(layer, watched(name, layer)))
        yield


@contextmanager
def _recomputed(layers: Sequence[torch.nn.Module]) -> Iterator[None]:
    """Layers keep only their inputs for the backward pass, and compute again what it needs.

    Not by transformers' own switch, which wants a model in training mode, with dropout.
    """
    with ExitStack() as stack:
        for layer in layers:
            again = functools.partial(
                checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False
            )
            stack.enter_context(replaced_forward(layer, again))
        yield
