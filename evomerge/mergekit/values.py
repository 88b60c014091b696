"""What a mergekit YAML says of each tensor: parameters by mergekit's precedence, filters and gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from evomerge.mergekit.document import Document, Settings, SliceEntry, SourceEntry
from evomerge.mergekit.methods import Parameter
from evomerge.mergekit.models import Models
from evomerge.mergekit.settings import Value
from evomerge.recipe.catalogue import METHODS


@dataclass
class SliceValues:
    """The parameters of a slice, evaluated at position `t` (0 to 1) of its layers.

    `names` are those of the sources; filters that meet a tensor are noted in `used`; `flags` are options
    that hold for the whole merged source.
    """

    document: Document
    models: Models
    entry: SliceEntry
    sources: Sequence[SourceEntry]
    names: Sequence[str]
    used: set[tuple[int, str]]
    t: float
    flags: dict[str, bool] = field(default_factory=dict)

    def of(
        self, tensors: Sequence[tuple[str, str, str, Mapping[str, str]]], inputs: Sequence[str]
    ) -> dict[tuple[str, str], dict[str, dict[str, float]]]:
        """(coefficient, input or `*`) to place to tensor to value; flags are kept aside."""
        found: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
        method = self.document.method
        for place, own, output, own_names in tensors:
            for parameter in method.parameters:
                if not (parameter.coefficient or parameter.is_flag):
                    continue
                if parameter.scope == "shared":
                    value = self._value(parameter, output, None)
                    if isinstance(value, bool):
                        self._keep_flag(parameter, value)
                    else:
                        self._put(found, parameter, "*", place, own, value)
                    continue
                for name in inputs:
                    value = self._value(parameter, own_names[name], name)
                    self._put(found, parameter, name, place, own, value)
        if method.name == "nuslerp":
            return {("t", "*"): self._positions(found, inputs)}
        if method.name == "karcher":
            ones = {place: {own: 1.0 for p, own, *_ in tensors if p == place} for place, *_ in tensors}
            return {("weight", name): ones for name in inputs}
        return found

    def _put(
        self,
        found: dict[tuple[str, str], dict[str, dict[str, float]]],
        parameter: Parameter,
        key: str,
        place: str,
        own: str,
        value: Value,
    ) -> None:
        if not parameter.coefficient:
            return
        method = METHODS[self.document.method.ours]
        rule = method.out_of_range(parameter.coefficient, float(value))
        if rule:
            where = self._where(parameter, None if key == "*" else key)
            raise self.document.error("E111", where, rule, value)
        table = found.setdefault((parameter.coefficient, key), {})
        table.setdefault(place, {})[own] = float(value)

    def _positions(
        self,
        found: Mapping[tuple[str, str], Mapping[str, Mapping[str, float]]],
        inputs: Sequence[str],
    ) -> dict[str, dict[str, float]]:
        """NuSLERP's weights as the position between two models."""
        if len(inputs) != 2:
            wrong = "nuslerp takes exactly two models besides the base_model"
            raise self.document.error("E118", self.entry.where, wrong, len(inputs))
        left, right = (found["weight", name] for name in inputs)
        positions: dict[str, dict[str, float]] = {}
        for place, each in left.items():
            for own, weight in each.items():
                total = weight + right[place][own]
                t = 0.5 if abs(total) < 1e-6 else right[place][own] / total
                positions.setdefault(place, {})[own] = t
        return positions

    def _value(self, parameter: Parameter, tensor: str, name: str | None) -> Value:
        """The value for a tensor, by mergekit's precedence."""
        for settings in self._scopes(name):
            setting = settings.get(parameter.name)
            if setting is None:
                continue
            for text, _ in setting.rules:
                if text is not None and text in tensor:
                    self.used.add((setting.line, text))
            value = setting.at(tensor, self.t)
            if value is not None:
                return value
        if parameter.default is None:
            wrong = f"`{parameter.name}` has no value for {tensor}"
            if name is not None:
                wrong += f" of {self.models.folders[name].path.name}"
            todo = f"give `{parameter.name}` under its parameters"
            raise self.document.error("E103", self._where(parameter, name), wrong, todo=todo)
        return parameter.default

    def _scopes(self, name: str | None) -> list[Settings]:
        """Settings from the nearest to the farthest."""
        own = [s.settings for s, n in zip(self.sources, self.names, strict=True) if n == name]
        return [*own, self.entry.settings, self.document.settings]

    def _where(self, parameter: Parameter, name: str | None) -> tuple[str | int, ...]:
        """The place of the file a complaint is about."""
        for source, known in zip(self.sources, self.names, strict=True):
            if known == name:
                return (*source.where, "parameters", parameter.name)
        return ("parameters", parameter.name)

    def _keep_flag(self, parameter: Parameter, value: bool) -> None:
        if self.flags.setdefault(parameter.name, value) is not value:
            wrong = f"`{parameter.name}` that differs between tensors is not supported"
            raise self.document.error("E137", self._where(parameter, None), wrong)
