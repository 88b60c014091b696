"""MergePlan: what each output tensor is made of, as data, before a byte moves.

A plan names checkpoint tensors and numbers only; `materialize` carries it out, into a live model or a
folder. Torch-free. What needs no arithmetic (weights of zero, one expert at full weight, density 1) is
planned as what it amounts to, so equal merges have equal entries.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from evomerge.checkpoint.adapter import AdapterFolder
from evomerge.checkpoint.folder import (
    LAYER_FIELDS,
    CheckpointFolder,
    config_layers,
    layer_lists,
    text_config,
)
from evomerge.checkpoint.layout import places_of
from evomerge.checkpoint.residual import residual_writers
from evomerge.errors import CheckpointError, ConfigError, Problem
from evomerge.merge_method import METHODS, MergeMethod
from evomerge.methods.keys import mask_key
from evomerge.methods.scalars import normalised, slerp
from evomerge.recipe import CheckpointSource, MergedSource, Recipe, lookup

if TYPE_CHECKING:
    from evomerge.weight_statistics import WeightStatistics

Folder = CheckpointFolder | AdapterFolder


@dataclass(frozen=True)
class PlanInput:
    """One expert's part in an output tensor.

    Attributes:
        source: name of a checkpoint source; `tensor` the tensor's name in it.
        weight: factor in the sum.
        threshold: least magnitude of the task vector that survives; 0 keeps all.
        keep: probability of surviving; 1 keeps all. `rescale` is the factor of survivors.
        key: 64-bit key of the random mask.
    """

    source: str
    tensor: str
    weight: float = 1.0
    threshold: float = 0.0
    keep: float = 1.0
    rescale: float = 1.0
    key: int = 0

    @property
    def is_sparse(self) -> bool:
        """Whether the task vector is changed before it is weighted."""
        return self.threshold > 0.0 or self.keep < 1.0 or self.rescale != 1.0


@dataclass(frozen=True)
class TensorPlan:
    """One output tensor.

    Attributes:
        name: checkpoint name in the result.
        place: where it stands in the result.
        shape: extents.
        dtype: storage dtype; for tensors that are not floats, that of their source.
        base: (source, tensor) the task vectors are measured from, or None for a plain weighted sum.
        inputs: the experts, in the order of their names.
        elect: whether signs must agree; `mean_of_agreeing` divides by the number that do.
        scale: factor of the whole result.
    """

    name: str
    place: str
    shape: tuple[int, ...]
    dtype: str
    base: tuple[str, str] | None
    inputs: tuple[PlanInput, ...]
    elect: bool = False
    mean_of_agreeing: bool = False
    scale: float = 1.0

    @property
    def is_copy(self) -> bool:
        """Whether the result is one source tensor, rounded to the storage dtype."""
        plain = self.base is None and len(self.inputs) == 1 and self.scale == 1.0
        return plain and self.inputs[0].weight == 1.0 and not self.elect

    @property
    def is_sparse(self) -> bool:
        """Whether the sparsified pass is needed."""
        return self.elect or any(entry.is_sparse for entry in self.inputs)


@dataclass(frozen=True)
class MergePlan:
    """A whole merge.

    Attributes:
        tensors: every tensor of the architecture once, in checkpoint order.
        dtype: storage dtype.
        layers: number of output layers.
        path: (source, layer, scale) of each output layer.
        config: keys that replace those of the tokenizer source's `config.json`; nested for configs that
            keep the decoder's part in `text_config`.
    """

    tensors: tuple[TensorPlan, ...]
    dtype: str
    layers: int
    path: tuple[tuple[str, int, float], ...]
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def by_name(self) -> dict[str, TensorPlan]:
        """The entries by checkpoint name."""
        return {entry.name: entry for entry in self.tensors}


def make_plan(recipe: Recipe, sources: Mapping[str, Folder], statistics: WeightStatistics) -> MergePlan:
    """Turn a recipe into what each output tensor is made of.

    Args:
        recipe: the merge.
        sources: opened checkpoint sources; at least those the recipe names.
        statistics: thresholds and inner products of these sources.

    Raises:
        ConfigError: E111 a coefficient or option that is missing or out of range, E114 unknown method,
            E115 a method that needs a base, E118 a wrong number of inputs, E119 a layer a source does
            not have, E138 a place without a source.
        CheckpointError: E220 a tensor that a source lacks, E234 a layer scale that cannot be folded
            into the weights.
        CandidateError: `degenerate_coefficients`.
    """
    makers = {
        name: _Maker(recipe, name, sources, statistics)
        for name in {step.source for step in recipe.path} | set(recipe.outer.values())
    }
    main = makers[recipe.path[0].source].folder
    names = main.names
    places = places_of(main.tensors)
    problems = []
    for index, step in enumerate(recipe.path):
        if not 0 <= step.layer < makers[step.source].folder.layers:
            found = f"{step.source} has {makers[step.source].folder.layers} layers"
            problems.append(Problem("E119", f"no layer {step.layer}", found, field=f"path[{index}]"))
    for place in sorted({p for p in places.values() if not p.startswith("layers.")}):
        if place not in recipe.outer:
            problems.append(Problem("E138", "place without a source", field=f"outer.{place}"))
    if problems:
        raise ConfigError(problems)

    before: list[TensorPlan] = []
    after: list[TensorPlan] = []
    seen_layer = False
    for tensor, place in places.items():
        if place.startswith("layers."):
            seen_layer = True
        else:
            entry = makers[recipe.outer[place]].tensor(tensor, tensor, place, place, recipe.dtype, 1.0)
            (after if seen_layer else before).append(entry)
    inside = []
    for index, step in enumerate(recipe.path):
        maker = makers[step.source]
        writers = residual_writers(maker.folder, step.layer) if step.scale != 1.0 else frozenset()
        for tensor, place in maker.layer(step.layer):
            rest = maker.rest(tensor)
            scale = step.scale if tensor in writers else 1.0
            out_place = f"layers.{index}.{place.split('.')[2]}"
            output = names.join(index, rest)
            inside.append(maker.tensor(output, tensor, place, out_place, recipe.dtype, scale))
    return MergePlan(
        tensors=(*before, *inside, *after),
        dtype=recipe.dtype,
        layers=len(recipe.path),
        path=tuple((step.source, step.layer, step.scale) for step in recipe.path),
        config={**_path_config(main.config, recipe), **recipe.config},
    )


def _path_config(config: Mapping[str, Any], recipe: Recipe) -> dict[str, Any]:
    """Config keys that follow from the path: the layer count, and lists with one entry a layer."""
    layers = config_layers(config)
    order = [step.layer for step in recipe.path]
    if layers is None or order == list(range(layers)):
        return {}
    part = text_config(config)
    changed: dict[str, Any] = {
        key: len(order) for key in LAYER_FIELDS if part.get(key) == layers and len(order) != layers
    }
    for key, value in layer_lists(part, layers).items():
        changed[key] = [value[layer] for layer in order]
    if part is config or not changed:
        return changed
    return {"text_config": {**part, **changed}}


class _Maker:
    """Makes the entries of one source of a recipe."""

    def __init__(
        self,
        recipe: Recipe,
        name: str,
        folders: Mapping[str, Folder],
        statistics: WeightStatistics,
    ) -> None:
        self._name = name
        self._source = recipe.sources[name]
        self._folders = folders
        self._statistics = statistics
        self._method: MergeMethod | None = None
        if isinstance(self._source, CheckpointSource):
            first = name
        else:
            self._method = _checked_method(self._source, f"sources.{name}")
            first = self._source.base or self._source.inputs[0]
        opened = folders[first]
        self.folder = opened.base if isinstance(opened, AdapterFolder) else opened
        self._layers: dict[int, list[tuple[str, str]]] = {}
        for tensor, place in places_of(self.folder.tensors).items():
            if place.startswith("layers."):
                self._layers.setdefault(int(place.split(".")[1]), []).append((tensor, place))

    def layer(self, layer: int) -> list[tuple[str, str]]:
        """(tensor, place) of each tensor of a layer."""
        return self._layers[layer]

    def rest(self, tensor: str) -> str:
        """A tensor's name inside its layer."""
        split = self.folder.names.split(tensor)
        assert split is not None
        return split[1]

    def tensor(
        self, output: str, tensor: str, place: str, out_place: str, dtype: str, scale: float
    ) -> TensorPlan:
        """The entry for `output`, made of `tensor`, whose coefficients stand at `place`."""
        header = self.folder.tensors.get(tensor)
        if header is None:
            raise CheckpointError(
                Problem(
                    "E220", f"{self._name} has no such tensor", file=str(self.folder.path), field=tensor
                )
            )
        source = self._source
        if isinstance(source, CheckpointSource) or not header.is_float:
            origin = self._name if isinstance(source, CheckpointSource) else self._origin()
            copied: tuple[PlanInput, ...] = (PlanInput(origin, tensor),)
            stored = dtype if header.is_float else header.dtype
            return TensorPlan(output, out_place, header.shape, stored, None, copied, scale=scale)
        method = self._method
        assert method is not None
        base, inputs = self._merged(source, method, tensor, place)
        elect = method.elect and len(inputs) > 1
        return TensorPlan(
            name=output,
            place=out_place,
            shape=header.shape,
            dtype=dtype,
            base=base,
            inputs=inputs,
            elect=elect,
            mean_of_agreeing=elect and method.reduce == "mean_of_agreeing",
            scale=scale,
        )

    def _origin(self) -> str:
        assert isinstance(self._source, MergedSource)
        return self._source.base or self._source.inputs[0]

    def _merged(
        self, source: MergedSource, method: MergeMethod, tensor: str, place: str
    ) -> tuple[tuple[str, str] | None, tuple[PlanInput, ...]]:
        for name in source.inputs:
            if tensor not in self._folders[name].tensors:
                path = str(self._folders[name].path)
                raise CheckpointError(
                    Problem("E220", f"{name} has no such tensor", file=path, field=tensor)
                )
        weights = self._weights(source, method, tensor, place)
        if not method.needs_base:
            inputs = tuple(
                PlanInput(name, tensor, weight)
                for name, weight in sorted(weights.items())
                if weight != 0.0
            )
            return None, inputs
        assert source.base is not None
        base = (source.base, tensor)
        touching = sorted(name for name in weights if self._touches(name, tensor))
        inputs = tuple(
            self._sparse_input(source, method, name, tensor, place, weights[name]) for name in touching
        )
        alone = len(inputs) == 1 or not method.elect
        if alone:
            # Without an election an expert of weight 0 has no part; in one it still votes.
            inputs = tuple(entry for entry in inputs if entry.weight != 0.0)
        if not inputs:
            return None, (PlanInput(*base),)
        whole = len(inputs) == 1 and inputs[0].weight == 1.0 and not inputs[0].is_sparse
        if whole:
            return None, inputs
        return base, inputs

    def _touches(self, name: str, tensor: str) -> bool:
        folder = self._folders[name]
        return not isinstance(folder, AdapterFolder) or tensor in folder.factors

    def _weights(
        self, source: MergedSource, method: MergeMethod, tensor: str, place: str
    ) -> dict[str, float]:
        if method.scalars == "slerp":
            t = self._coefficient(source, method, "t", None, place)
            first, second = source.inputs
            gram = self._statistics.gram(tensor, first, second)
            return dict(zip(source.inputs, slerp(t, *gram), strict=True))
        found = [self._coefficient(source, method, "weight", name, place) for name in source.inputs]
        if method.scalars == "normalised":
            found = normalised(found)
        return dict(zip(source.inputs, found, strict=True))

    def _sparse_input(
        self,
        source: MergedSource,
        method: MergeMethod,
        name: str,
        tensor: str,
        place: str,
        weight: float,
    ) -> PlanInput:
        if method.sparsify == "none":
            return PlanInput(name, tensor, weight)
        density = self._coefficient(source, method, "density", name, place)
        if density == 1.0:
            return PlanInput(name, tensor, weight)
        if method.sparsify == "magnitude":
            assert source.base is not None
            if source.options.get("trim", "tensor") == "model":
                threshold = self._statistics.model_threshold(source.base, name, density)
            else:
                threshold = self._statistics.threshold(source.base, name, tensor, density)
            return PlanInput(name, tensor, weight, threshold=threshold)
        key = mask_key(source.seed, name, tensor)
        return PlanInput(name, tensor, weight, keep=density, rescale=1.0 / density, key=key)

    def _coefficient(
        self, source: MergedSource, method: MergeMethod, name: str, expert: str | None, place: str
    ) -> float:
        by_input = source.coefficients.get(name, {})
        key = expert if expert is not None and expert in by_input else "*"
        where = f"sources.{self._name}.coefficients.{name}.{expert or '*'}"
        try:
            value = lookup(by_input.get(key, {}), place)
        except KeyError:
            raise ConfigError(
                Problem(
                    "E111", f"{method.name} needs a value of {name}", f"none at {place}", field=where
                )
            ) from None
        if name == "density" and not 0.0 < value <= 1.0:
            raise ConfigError(
                Problem(
                    "E111", "a density lies above 0 and at most at 1", f"found {value}", field=where
                )
            )
        return value


def _checked_method(source: MergedSource, where: str) -> MergeMethod:
    method = METHODS.get(source.method)
    if method is None:
        near = difflib.get_close_matches(source.method, METHODS, n=1)
        todo = f"did you mean {near[0]}?" if near else f"known: {', '.join(sorted(METHODS))}"
        found = f"found {source.method!r}"
        raise ConfigError(Problem("E114", "unknown merge method", found, todo, field=f"{where}.method"))
    least, most = method.inputs
    problems = []
    count = len(source.inputs)
    if count < least or (most is not None and count > most):
        wanted = f"exactly {least}" if least == most else f"at least {least}"
        found = f"found {count}"
        problems.append(Problem("E118", f"{method.name} takes {wanted} inputs", found, field=where))
    if method.needs_base and source.base is None:
        problems.append(Problem("E115", f"{method.name} needs a base", field=f"{where}.base"))
    allowed = dict(method.options)
    for key, value in source.options.items():
        if key not in allowed or value not in allowed[key]:
            known = "; ".join(f"{name}: {', '.join(values)}" for name, values in allowed.items())
            problems.append(
                Problem(
                    "E111", "unknown option", f"found {key}: {value}", known, field=f"{where}.options"
                )
            )
    if problems:
        raise ConfigError(problems)
    return method
