"""From a recipe to a plan: the path, the tensors of each source, and the config that follows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from evomerge.checkpoint.adapter import AdapterFolder
from evomerge.checkpoint.folder import (
    LAYER_FIELDS,
    CheckpointFolder,
    config_layers,
    layer_lists,
    text_config,
)
from evomerge.checkpoint.residual import residual_writers
from evomerge.errors import CheckpointError, ConfigError, Problem
from evomerge.merge.plan.entries import MergePlan, PlanInput, TensorPlan
from evomerge.merge.plan.merged import Merger
from evomerge.recipe.places import layer_place, outer_source
from evomerge.recipe.recipe import CheckpointSource, MergedSource, Recipe

if TYPE_CHECKING:
    from evomerge.merge.statistics.weights import WeightStatistics

Folder = CheckpointFolder | AdapterFolder


def make_plan(
    recipe: Recipe,
    sources: Mapping[str, Folder],
    statistics: WeightStatistics,
    directions: bool = False,
) -> MergePlan:
    """Turn a recipe into what each output tensor is made of.

    Args:
        recipe: the merge.
        sources: opened checkpoint sources; at least those the recipe names.
        statistics: thresholds and inner products of these sources.
        directions: plan what each expert adds per unit of weight instead; see `Merger`. For methods that are
            linear in their weights, or in those divided by their sum.

    Raises:
        ConfigError: E111 a coefficient or option that is missing or out of range, E114 unknown method,
            E115 a method that needs a base, E118 a wrong number of inputs, E119 a layer a source does
            not have, E138 a place without a source, E514 a registered method whose function has changed.
        CheckpointError: E220 a tensor that a source lacks, E234 a layer scale that cannot be folded
            into the weights.
        CandidateError: `degenerate_coefficients`.
    """
    makers = {
        name: _Maker(recipe, name, sources, statistics, directions)
        for name in {step.source for step in recipe.path} | set(recipe.outer.values())
    }
    main = makers[recipe.path[0].source].folder
    names = main.names
    places = main.places
    problems = []
    for name, source in recipe.sources.items() if recipe.align else ():
        if isinstance(source, MergedSource) and source.calibration is not None:
            wrong = "statistics on a text need models of one vocabulary"
            problems.append(Problem("E111", wrong, field=f"sources.{name}.calibration"))
    for index, step in enumerate(recipe.path):
        for name, layer, count in makers[step.source].taken(step.layer):
            if not 0 <= layer < count:
                found = f"{name} has {count} layers"
                problems.append(Problem("E119", f"no layer {layer}", found, field=f"path[{index}]"))
    if len(names.towers) > 1 and not recipe.is_identity_path(names.count, whole=False):
        towers = ", ".join(f"{tower.name} {tower.count}" for tower in names.towers)
        wrong = "a model with several families of layers takes them all, in order"
        problems.append(Problem("E119", wrong, f"layers: {towers}", field="path"))
    for place in sorted({p for p in places.values() if layer_place(p) is None}):
        if outer_source(recipe.outer, place) is None:
            problems.append(Problem("E138", "place without a source", field=f"outer.{place}"))
    if problems:
        raise ConfigError(problems)

    before: list[TensorPlan] = []
    after: list[TensorPlan] = []
    seen_layer = False
    for tensor, place in places.items():
        if layer_place(place) is not None:
            seen_layer = True
        else:
            maker = makers[str(outer_source(recipe.outer, place))]
            entry = maker.tensor(tensor, tensor, place, place, recipe.dtype, 1.0)
            (after if seen_layer else before).append(entry)
    inside = []
    for index, step in enumerate(recipe.path):
        maker = makers[step.source]
        writers = residual_writers(maker.folder, step.layer) if step.scale != 1.0 else frozenset()
        for tensor, place in maker.layer(step.layer):
            rest = maker.rest(tensor)
            scale = step.scale if tensor in writers else 1.0
            fine = layer_place(maker.folder.tensor_places[tensor])
            assert fine is not None
            out_place = names.place(index, fine.inside)
            output = names.join(index, rest)
            inside.append(maker.tensor(output, tensor, place, out_place, recipe.dtype, scale))
    return MergePlan(
        tensors=(*before, *inside, *after),
        dtype=recipe.dtype,
        layers=len(recipe.path),
        path=tuple((step.source, step.layer, step.scale) for step in recipe.path),
        config={
            **({} if len(names.towers) > 1 else _path_config(main.config, recipe)),
            **recipe.config,
        },
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
        directions: bool,
    ) -> None:
        self._name = name
        self._source = recipe.sources[name]
        self._folders = folders
        self._merger: Merger | None = None
        if isinstance(self._source, CheckpointSource):
            first = name
        else:
            self._merger = Merger(self._source, f"sources.{name}", folders, statistics, directions)
            first = self._source.reference
        self.folder = _full(folders[first])
        self._layers: dict[int, list[tuple[str, str]]] = {}
        for tensor, place in self.folder.places.items():
            inside = self.folder.names.split(tensor)
            if inside is not None:
                self._layers.setdefault(inside[0], []).append((tensor, place))

    def taken(self, layer: int) -> list[tuple[str, int, int]]:
        """(source, its layer, how many it has) of all that a layer is made of."""
        if isinstance(self._source, CheckpointSource):
            return [(self._name, layer, self.folder.layers)]
        names = dict.fromkeys((self._source.reference, *self._source.shifts))
        shifts = self._source.shifts
        return [(n, layer + shifts.get(n, 0), _full(self._folders[n]).layers) for n in names]

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
        assert self._merger is not None
        split = self.folder.names.split(tensor)
        # A tensor's own place: the finest key a coefficient table can have.
        own = f"{place}.{tensor if split is None else split[1]}"
        merged = self._merger.tensor(tensor, own, header.shape)
        return TensorPlan(
            name=output,
            place=out_place,
            shape=header.shape,
            dtype=dtype,
            base=merged.base,
            inputs=merged.inputs,
            election=merged.election,
            divisor=merged.divisor,
            factor=merged.factor,
            least_variance=merged.least_variance,
            rule=merged.rule,
            call=merged.call,
            scale=scale,
        )

    def _origin(self) -> str:
        assert isinstance(self._source, MergedSource)
        return self._source.reference


def _full(folder: Folder) -> CheckpointFolder:
    """The full model behind a source."""
    return folder.base if isinstance(folder, AdapterFolder) else folder
