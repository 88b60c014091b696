"""A `Recipe` to a mergekit YAML: one slice a layer, every number stated, nothing left to defaults.

Where our semantics cannot be said in mergekit's format the file holds what comes nearest and says so on its
top; a recipe that has no counterpart at all is refused with the reason.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ruamel.yaml import YAML

from evomerge.checkpoint.adapter import AdapterFolder
from evomerge.checkpoint.folder import CheckpointFolder
from evomerge.checkpoint.layout import place_of
from evomerge.checkpoint.residual import residual_writers
from evomerge.mergekit.methods import SPOKEN
from evomerge.mergekit.speech import Said, say
from evomerge.recipe.catalogue import METHODS
from evomerge.recipe.places import lookup
from evomerge.recipe.recipe import (
    UNION,
    CheckpointSource,
    LayerStep,
    MergedSource,
    Recipe,
    TokenRow,
)

Folder = CheckpointFolder | AdapterFolder
_PLAIN = re.compile(r"[^+@]+(@[0-9a-f]{40})?")
"""A path, or a hub's model at a commit, that a text of mergekit's means: `+` and `@` part it."""
_HEAD = (
    "The merge as a mergekit file, written by evomerge; recipe.json beside it is the exact one.",
    "Paths are relative to this folder, in which mergekit must be run.",
)


@dataclass(frozen=True)
class Written:
    """A mergekit file.

    Attributes:
        text: the YAML; empty if the recipe cannot be said at all.
        differences: where mergekit would do something else, or why there is no file.
    """

    text: str
    differences: tuple[str, ...]


class _Unsayable(Exception):
    pass


def mergekit_yaml(
    recipe: Recipe, folders: Mapping[str, Folder], references: Mapping[str, str]
) -> Written:
    """Write a recipe in mergekit's format.

    Args:
        recipe: any.
        folders: its opened checkpoint sources.
        references: source name to what mergekit shall call it, a path or `ORG/NAME@COMMIT`.
    """
    try:
        return _Writer(recipe, folders, references).write()
    except _Unsayable as reason:
        return Written("", (f"mergekit has no word for this merge: {reason}",))


@dataclass
class _Writer:
    recipe: Recipe
    folders: Mapping[str, Folder]
    references: Mapping[str, str]
    differences: list[str] = field(default_factory=list)

    def write(self) -> Written:
        recipe = self.recipe
        if recipe.mixture is not None:
            raise _Unsayable("it is a mixture of experts")
        if recipe.ensemble:
            raise _Unsayable("its models answer together, and are not merged")
        for name in recipe.checkpoints:
            if not self.full(name).names.decoder:
                raise _Unsayable("its places are those of a decoder alone")
        used = [recipe.sources[step.source] for step in recipe.path]
        used += [recipe.sources[name] for name in recipe.outer.values()]
        merged = [source for source in used if isinstance(source, MergedSource)]
        if all(_copied(source) for source in merged):
            merged = []
        if merged and len(merged) < len(used):
            raise _Unsayable("some of its layers are merged and others copied")
        said = self.method(merged)
        slices = [self.slice(index, step, said) for index, step in enumerate(recipe.path)]
        document: dict[str, Any] = {"merge_method": said.name if said else "passthrough"}
        base = said.base if said else None
        if base is None and (said is None or SPOKEN[said.name].base == "input"):
            base = self.giver()
        if base is not None:
            document["base_model"] = self.reference(base)
        document |= {"dtype": "float32", "out_dtype": recipe.dtype}
        if said and said.flags:
            document["parameters"] = dict(said.flags)
        document["slices"] = slices
        document |= self.tokenizer(base)
        if recipe.config:
            changed = ", ".join(sorted(recipe.config))
            self.differences.append(f"config.json keeps the base's {changed}")
        differences = tuple(dict.fromkeys(self.differences))
        stream = io.StringIO()
        writer = YAML(typ="safe", pure=True)
        writer.default_flow_style = None
        writer.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
        writer.width = 4096
        writer.dump(document, stream)
        lines = [*_HEAD, *(["Differences from the merge that was made:"] if differences else [])]
        lines += [f"- {text}" for text in differences]
        head = "".join(f"# {line}\n" for line in lines)
        return Written(head + stream.getvalue(), differences)

    def giver(self) -> str | None:
        """The model whose config and tokenizer the merge has, where a base is no part of the method.

        mergekit takes those of any of the models where the file names no base.
        """
        name = self.recipe.tokenizer
        return name if isinstance(self.folders.get(name), CheckpointFolder) else None

    def method(self, merged: Sequence[MergedSource]) -> Said | None:
        """How the one method of the file is said; None for copied layers."""
        if not merged:
            return None
        for name in sorted({s.method for s in merged if s.method not in SPOKEN}):
            if name in METHODS:
                raise _Unsayable(f"mergekit has no method {name}")
            raise _Unsayable(f"its method {name} is a person's own function")
        if any(s.rows is not None for s in merged):
            raise _Unsayable("its weights differ by output row")
        kinds = {(s.method, tuple(sorted(s.options.items())), s.seed) for s in merged}
        if len(kinds) > 1:
            raise _Unsayable("it has several methods")
        if len({(s.base, s.inputs[0] if s.method == "slerp" else "") for s in merged}) > 1:
            raise _Unsayable("its parts have several bases")
        first = merged[0]
        said = say(merged)
        self.differences += said.differences
        if METHODS[first.method].is_random:
            self.differences.append(
                "mergekit draws other random masks: from one generator, in the order of execution"
            )
        return said

    def slice(self, index: int, step: LayerStep, said: Said | None) -> dict[str, Any]:
        """One output layer, and with the first and last those outside the layers."""
        recipe = self.recipe
        source = recipe.sources[step.source]
        outer = self.outer(index)
        if said is None or isinstance(source, CheckpointSource):
            return {"sources": [self.copy(step, outer)]}
        if step.scale != 1.0:
            raise _Unsayable("a merged layer is scaled")
        for place, name in outer.items():
            other = recipe.sources[name]
            assert isinstance(other, MergedSource)
            if (other.inputs, other.base) != (source.inputs, source.base):
                raise _Unsayable(f"{place} is merged of other models than the layer beside it")
        folder = self.full(said.base or source.inputs[0])
        numbers: dict[str, dict[str, dict[str, float]]] = {}
        for tensor, place in self.tensors(folder, step.layer, outer):
            owner = source if place.startswith("layers.") else recipe.sources[outer[place]]
            assert isinstance(owner, MergedSource)
            split = folder.names.split(tensor)
            own = f"{place}.{tensor if split is None else split[1]}"
            output = tensor if split is None else folder.names.join(index, split[1])
            found = {
                name: {
                    key: self.value(owner, name, key, own)
                    for key in (source.inputs if _per_input(owner.method, name) else ("*",))
                }
                for name in owner.coefficients
            }
            for name, by_key in said.speak(found, owner).items():
                for key, value in by_key.items():
                    own_name = folder.names.shifted(tensor, owner.shifts.get(key, 0))
                    shown = output if key == "*" else own_name
                    numbers.setdefault(key, {}).setdefault(name, {})[shown] = value
        shared = {name: rules(values) for name, values in numbers.pop("*", {}).items()}
        names = [*([said.base] if said.base is not None else []), *source.inputs]
        sources = []
        for name in dict.fromkeys(names):
            layer = step.layer + source.shifts.get(name, 0)
            entry: dict[str, Any] = {"model": self.reference(name), "layer_range": [layer, layer + 1]}
            if name in numbers:
                entry["parameters"] = {p: rules(values) for p, values in numbers[name].items()}
            sources.append(entry)
        return {"sources": sources, **({"parameters": shared} if shared else {})}

    def copy(self, step: LayerStep, outer: Mapping[str, str]) -> dict[str, Any]:
        """One layer of one model, its tensors scaled or not, and with it what lies outside the layers."""
        name = self.copied(step.source)
        for place, other in outer.items():
            if self.copied(other) != name:
                raise _Unsayable(f"{place} is of another model than the layer beside it")
        folder = self.full(name)
        writers = residual_writers(folder, step.layer) if step.scale != 1.0 else set()
        values = {}
        for tensor, place in self.tensors(folder, step.layer, outer):
            split = folder.names.split(tensor)
            owner = self.recipe.sources[step.source if split else outer[place]]
            scale = step.scale if tensor in writers else 1.0
            if isinstance(owner, MergedSource):
                own = f"{place}.{split[1] if split else tensor}"
                scale *= self.value(owner, "weight", owner.inputs[0], own)
            values[tensor] = scale
        entry: dict[str, Any] = {
            "model": self.reference(name),
            "layer_range": [step.layer, step.layer + 1],
        }
        if set(values.values()) != {1.0}:
            entry["parameters"] = {"scale": rules(values)}
        return entry

    def copied(self, name: str) -> str:
        """The model that a source is a copy of."""
        source = self.recipe.sources[name]
        return source.inputs[0] if isinstance(source, MergedSource) else name

    def value(self, source: MergedSource, name: str, key: str, own: str) -> float:
        by_input = source.coefficients[name]
        return lookup(by_input.get(key) or by_input["*"], own)

    def outer(self, index: int) -> dict[str, str]:
        """The places outside the layers that mergekit takes from a slice."""
        recipe = self.recipe
        places: list[str] = ["embed"] if index == 0 else []
        places += ["final_norm", "head"] if index == len(recipe.path) - 1 else []
        return {place: recipe.outer[place] for place in places if place in recipe.outer}

    def tensors(
        self, folder: CheckpointFolder, layer: int, outer: Mapping[str, str]
    ) -> list[tuple[str, str]]:
        """(tensor, place) of a layer and of the places beside it."""
        found = []
        for tensor, header in folder.tensors.items():
            place = place_of(tensor, folder.names, header)
            split = folder.names.split(tensor)
            if header.is_float and (place in outer if split is None else split[0] == layer):
                found.append((tensor, place))
        return found

    def full(self, name: str) -> CheckpointFolder:
        folder = self.folders[name]
        return folder.base if isinstance(folder, AdapterFolder) else folder

    def reference(self, name: str) -> str | dict[str, Any]:
        """What mergekit calls a model: a text, but where a path has what parts its texts."""
        folder = self.folders[name]
        parts = [name] if isinstance(folder, CheckpointFolder) else [folder.base.name, name]
        said = [self.references[part] for part in parts]
        if all(_PLAIN.fullmatch(part) for part in said):
            return "+".join(said)
        paths: list[Any] = [p if _PLAIN.fullmatch(p) else {"path": p} for p in said]
        return dict(zip(("model", "lora"), paths, strict=False))

    def tokenizer(self, base: str | None) -> dict[str, Any]:
        recipe = self.recipe
        said: dict[str, Any] = {}
        union = recipe.align and recipe.tokenizer == UNION
        if recipe.align or base != recipe.tokenizer:
            source = UNION if union else self.reference(recipe.tokenizer)
            rows = {token: self.token(row) for token, row in recipe.tokens.items()}
            more: dict[str, Any] = {"tokens": rows} if rows else {}
            if recipe.pad_to_multiple_of:
                more["pad_to_multiple_of"] = recipe.pad_to_multiple_of
            else:
                self.differences.append("mergekit cuts rows of the embedding that have no token")
            said = {"tokenizer": {"source": source, **more}} if more else {"tokenizer_source": source}
        if not union and base != recipe.tokenizer:
            whose = "any of its models" if base is None else "its base_model"
            self.differences.append(f"mergekit takes the config.json of {whose}")
        if recipe.rope and recipe.rope != base:
            self.differences.append("mergekit keeps the rotary positions of the base's config.json")
        if recipe.untied:
            self.differences.append(
                "mergekit keeps the base's config.json, which may tie the head it made"
            )
        if recipe.chat_template:
            said["chat_template"] = recipe.chat_template
        return said

    def token(self, row: TokenRow) -> dict[str, Any]:
        said: dict[str, Any] = {"source": {"kind": "zero"}}
        if row.source:
            said["source"] = model = self.reference(row.source)
            if row.token is not None:
                key = "token_id" if isinstance(row.token, int) else "token"
                said["source"] = {"kind": "model_token", "model": model, key: row.token}
        return {**said, "force": True} if row.force else said


def _copied(source: MergedSource) -> bool:
    """Whether it is one model with its tensors scaled."""
    if source.method != "linear" or len(source.inputs) != 1:
        return False
    return METHODS["linear"].resolve(source.options).normalise == "no"


def _per_input(method: str, coefficient: str) -> bool:
    declared = METHODS[method].coefficient(coefficient)
    return declared is not None and declared.per_input


def rules(values: Mapping[str, float]) -> float | list[dict[str, float | str]]:
    """Values by tensor as a scalar, or as filters for the exceptions and a value for the rest.

    A filter is a substring test, and the first that fits holds: each is one that of the tensors without a
    filter before it only those of its value contain.
    """
    usual = Counter(values.values()).most_common(1)[0][0]
    listed: list[dict[str, float | str]] = []
    left = dict(values)
    while wanted := [name for name, value in left.items() if value != usual]:
        # A name within a longer one, as `down_proj` in `down_proj_bias`, has its turn after that.
        found = ((_filter(name, left[name], left), left[name]) for name in wanted)
        text, value = next(((text, value) for text, value in found if text), ("", usual))
        if not text:
            raise _Unsayable(f"no filter means {wanted[0]} alone")
        listed.append({"filter": text, "value": value})
        left = {other: v for other, v in left.items() if text not in other}
    return [*listed, {"value": usual}] if listed else usual


def _filter(name: str, value: float, values: Mapping[str, float]) -> str:
    """The part of a name, cut at dots, that most tensors of a value share and no others have, or nothing."""
    parts = name.split(".")
    spans = [
        ".".join(parts[start:stop])
        for start in range(len(parts))
        for stop in range(start + 1, len(parts) + 1)
        if not parts[start].isdecimal()
    ]
    fitting = [
        span for span in spans if all(v == value for other, v in values.items() if span in other)
    ]
    return max(
        fitting, key=lambda span: (sum(span in other for other in values), -len(span)), default=""
    )
