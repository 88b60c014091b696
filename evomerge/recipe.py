"""Recipe: one merge stated wholly, as data, with a canonical JSON form and a digest.

A recipe names *sources* (checkpoints, or virtual models that a method makes of them), the *path* of
output layers, each a layer of one source, and the source of every tensor outside the layers. An
ordinary merge is the identity path over one merged source; any other path is layer stacking.

Coefficients are addressed by *place*, a dotted prefix of where a tensor stands::

    ""  "embed"  "layers"  "layers.3"  "layers.3.attn"  "final_norm"  "head"

The longest prefix that is present wins. Torch-free, so that drivers can decode genomes without torch.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from evomerge.errors import ConfigError, Problem

OUTER_PLACES = ("embed", "final_norm", "head")
MODULES = ("attn", "mlp", "norm", "other")
DTYPES = ("bfloat16", "float16", "float32")
MERGED = "merged"

Table = Mapping[str, float]
"""Place to value; the longest matching prefix wins."""


@dataclass(frozen=True)
class CheckpointSource:
    """A model folder, or an adapter folder read against `base`.

    `digest` is the SHA-256 over the content of its weight files and stands for the checkpoint in the
    recipe's digest; `path` only says where the files lie today and is left out of the digest.
    """

    path: str
    digest: str = ""


@dataclass(frozen=True)
class MergedSource:
    """A virtual model: `method` applied to `inputs` (and `base`), tensor by tensor.

    `coefficients` maps a coefficient's name to an input's name (or `*` for one shared by all inputs)
    to a `Table`. `options` are the method's discrete settings; `seed` keys its random masks.
    """

    method: str
    inputs: tuple[str, ...]
    base: str | None = None
    coefficients: Mapping[str, Mapping[str, Table]] = field(default_factory=dict)
    options: Mapping[str, str | float | bool] = field(default_factory=dict)
    seed: int = 0


Source = CheckpointSource | MergedSource


@dataclass(frozen=True)
class LayerStep:
    """One output layer: layer `layer` of `source`; `scale` multiplies what it adds to the residual."""

    source: str
    layer: int
    scale: float = 1.0


@dataclass(frozen=True)
class Recipe:
    """One wholly stated merge.

    Attributes:
        sources: name to source; merged sources may only name checkpoint sources.
        path: the output layers in order.
        outer: place outside the layers (`embed`, `final_norm`, `head`) to source name.
        dtype: storage dtype of the result; live weights are rounded to it too.
        config: keys that replace those of the base's `config.json`.
        tokenizer: name of the checkpoint source whose tokenizer and config files are exported.
    """

    sources: Mapping[str, Source]
    path: tuple[LayerStep, ...]
    outer: Mapping[str, str]
    dtype: str = "bfloat16"
    config: Mapping[str, Any] = field(default_factory=dict)
    tokenizer: str = "base"

    def to_json(self) -> dict[str, Any]:
        """The recipe as plain JSON data, paths included."""
        return {
            "schema": 1,
            "sources": {name: _source_to_json(source) for name, source in self.sources.items()},
            "path": [[step.source, step.layer, step.scale] for step in self.path],
            "outer": dict(self.outer),
            "dtype": self.dtype,
            "config": dict(self.config),
            "tokenizer": self.tokenizer,
        }

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the canonical JSON without paths; equal merges have equal digests."""
        data = self.to_json()
        for source in data["sources"].values():
            source.pop("path", None)
        return hashlib.sha256(canonical_json(data).encode()).hexdigest()

    @property
    def checkpoints(self) -> dict[str, CheckpointSource]:
        """The checkpoint sources by name."""
        return {n: s for n, s in self.sources.items() if isinstance(s, CheckpointSource)}

    def is_identity_path(self, layers: int) -> bool:
        """Whether the path is the `layers` layers of one source, in order and unscaled."""
        names = {step.source for step in self.path} | set(self.outer.values())
        plain = all(step.layer == i and step.scale == 1.0 for i, step in enumerate(self.path))
        return len(names) == 1 and len(self.path) == layers and plain


def canonical_json(data: Any) -> str:
    """JSON with sorted keys, no spaces and shortest round-trip floats; refuses NaN and infinities."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)


def lookup(table: Table, place: str) -> float:
    """The value of the longest prefix of `place` that stands in `table`.

    Raises:
        KeyError: if not even the empty prefix is present.
    """
    parts = place.split(".") if place else []
    for length in range(len(parts), -1, -1):
        key = ".".join(parts[:length])
        if key in table:
            return table[key]
    raise KeyError(f"no value for place {place!r}; the table has {sorted(table)}")


def compact(leaves: Table) -> dict[str, float]:
    """The shortest table with the same value at every leaf place; equal fields give equal tables."""
    if len(set(leaves.values())) == 1:
        return {"": next(iter(leaves.values()))}
    by_layer: dict[str, dict[str, float]] = {}
    table: dict[str, float] = {}
    for place, value in leaves.items():
        if place.startswith("layers."):
            layer = ".".join(place.split(".")[:2])
            by_layer.setdefault(layer, {})[place] = value
        else:
            table[place] = value
    inside = {value for group in by_layer.values() for value in group.values()}
    if len(inside) == 1:
        table["layers"] = inside.pop()
        return table
    for layer, group in by_layer.items():
        values = set(group.values())
        table.update({layer: values.pop()} if len(values) == 1 else group)
    return table


def identity_path(layers: int, source: str = MERGED) -> tuple[LayerStep, ...]:
    """Every layer of one source, in order."""
    return tuple(LayerStep(source, layer) for layer in range(layers))


def single_source_recipe(
    sources: Mapping[str, Source], name: str, layers: int, dtype: str, tokenizer: str = "base"
) -> Recipe:
    """The recipe whose result is source `name` as it stands (a checkpoint, or one merged source)."""
    return Recipe(
        sources=dict(sources),
        path=identity_path(layers, name),
        outer=dict.fromkeys(OUTER_PLACES, name),
        dtype=dtype,
        tokenizer=tokenizer,
    )


def _source_to_json(source: Source) -> dict[str, Any]:
    if isinstance(source, CheckpointSource):
        return {"checkpoint": source.digest, "path": source.path}
    data: dict[str, Any] = {
        "method": source.method,
        "inputs": list(source.inputs),
        "coefficients": {
            name: {key: dict(table) for key, table in by_input.items()}
            for name, by_input in source.coefficients.items()
        },
        "options": dict(source.options),
        "seed": source.seed,
    }
    if source.base is not None:
        data["base"] = source.base
    return data


def checkpoint_recipe(
    sources: Mapping[str, CheckpointSource], name: str, layers: int, dtype: str
) -> Recipe:
    """The recipe that is the base or one expert as it stands, with the base's tokenizer."""
    kept = {key: sources[key] for key in dict.fromkeys(("base", name))}
    return single_source_recipe(kept, name, layers, dtype)


def recipe_from_json(data: Any, file: str = "") -> Recipe:
    """Read a recipe from JSON data as `Recipe.to_json` writes it.

    Raises:
        ConfigError: naming every field that is missing, unknown or of the wrong kind.
    """
    problems: list[Problem] = []

    def fault(where: str, wrong: str, found: object = "", todo: str = "") -> None:
        shown = f"found {found!r}" if found != "" else ""
        problems.append(Problem("E138", wrong, shown, todo, file=file, field=where))

    if not isinstance(data, dict):
        raise ConfigError(Problem("E103", "a recipe is a JSON object", file=file))
    known = {"schema", "sources", "path", "outer", "dtype", "config", "tokenizer"}
    for key in sorted(set(data) - known):
        fault(key, "unknown field", todo=f"known fields: {', '.join(sorted(known))}")
    for key in ("sources", "path", "outer"):
        if key not in data:
            fault(key, "missing field")
    if data.get("schema", 1) != 1:
        fault("schema", "this evomerge reads recipe schema 1", data.get("schema"))
    if data.get("dtype", "bfloat16") not in DTYPES:
        fault("dtype", f"must be one of {', '.join(DTYPES)}", data.get("dtype"))
    if problems:
        raise ConfigError(problems)

    sources: dict[str, Source] = {}
    for name, entry in data["sources"].items():
        source = _source_from_json(entry)
        if source is None:
            fault(f"sources.{name}", "needs `path` (a checkpoint) or `method` and `inputs`", entry)
        else:
            sources[name] = source
    path = []
    for index, step in enumerate(data["path"]):
        if not (isinstance(step, list) and 2 <= len(step) <= 3 and isinstance(step[1], int)):
            fault(f"path[{index}]", "must be [source, layer] or [source, layer, scale]", step)
            continue
        path.append(LayerStep(str(step[0]), step[1], float(step[2]) if len(step) == 3 else 1.0))
    for where, name in [(f"path[{i}]", s.source) for i, s in enumerate(path)] + [
        (f"outer.{place}", str(name)) for place, name in data["outer"].items()
    ]:
        if name not in data["sources"]:
            fault(where, "names no source", name, f"sources: {', '.join(data['sources'])}")
    for name, source in sources.items():
        if isinstance(source, MergedSource):
            for used in (*source.inputs, *([source.base] if source.base else [])):
                if not isinstance(sources.get(used), CheckpointSource):
                    fault(f"sources.{name}", "names no checkpoint source", used)
            _check_tables(source, f"sources.{name}.coefficients", fault)
    for place in sorted(set(data["outer"]) - set(OUTER_PLACES)):
        fault(f"outer.{place}", "unknown place", place, f"places: {', '.join(OUTER_PLACES)}")
    if not path:
        fault("path", "a model needs at least one layer")
    if problems:
        raise ConfigError(problems)
    return Recipe(
        sources=sources,
        path=tuple(path),
        outer={str(k): str(v) for k, v in data["outer"].items()},
        dtype=data.get("dtype", "bfloat16"),
        config=data.get("config", {}),
        tokenizer=data.get("tokenizer", "base"),
    )


def _check_tables(source: MergedSource, where: str, fault: Any) -> None:
    for name, by_input in source.coefficients.items():
        for key, table in by_input.items():
            if key != "*" and key not in source.inputs:
                fault(f"{where}.{name}.{key}", "names no input of this merge", key)
            for place, value in table.items():
                if isinstance(value, bool) or not isinstance(value, int | float):
                    fault(f"{where}.{name}.{key}.{place}", "must be a number", value)
                elif not math.isfinite(value):
                    fault(f"{where}.{name}.{key}.{place}", "must be finite", value)


def _source_from_json(entry: Any) -> Source | None:
    if not isinstance(entry, dict):
        return None
    if "method" in entry and isinstance(entry.get("inputs"), list):
        tables = entry.get("coefficients", {})
        return MergedSource(
            method=str(entry["method"]),
            inputs=tuple(str(name) for name in entry["inputs"]),
            base=entry.get("base"),
            coefficients={
                name: {
                    key: dict(table) if isinstance(table, dict) else {"": table}
                    for key, table in by_input.items()
                }
                for name, by_input in tables.items()
            },
            options=entry.get("options", {}),
            seed=int(entry.get("seed", 0)),
        )
    if "path" in entry:
        return CheckpointSource(str(entry["path"]), str(entry.get("checkpoint", "")))
    return None


def leaf_places(layers: int, modules: Iterable[str], outer: Iterable[str]) -> tuple[str, ...]:
    """Every finest place of a model: outer ones and `layers.I.MODULE`, in model order."""
    inside = [f"layers.{layer}.{module}" for layer in range(layers) for module in modules]
    first = [place for place in outer if place == "embed"]
    last = [place for place in outer if place != "embed"]
    return (*first, *inside, *last)
