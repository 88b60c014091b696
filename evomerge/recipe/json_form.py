"""Recipes from JSON: every fault named by its field."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from evomerge.errors import ConfigError, Problem
from evomerge.recipe.calibration import Calibration
from evomerge.recipe.mixture import mixture_from_json
from evomerge.recipe.places import FURTHER_PLACES, OUTER_PLACES, Table, place_kind
from evomerge.recipe.recipe import (
    ALLOWANCES,
    DTYPES,
    EACH,
    TEXT,
    UNTIE,
    CheckpointSource,
    LayerStep,
    MergedSource,
    Recipe,
    Source,
    TokenRow,
    canonical_json,
    head_owner,
)
from evomerge.recipe.rows import RowTable

_OF_A_TOKENIZER = {"source", "tokens", "pad_to_multiple_of"}
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")


def recipe_from_json(
    data: Any, file: str = "", rows: Callable[[str, str], RowTable] | None = None
) -> Recipe:
    """Read a recipe from JSON data as `Recipe.to_json` writes it.

    Whole numbers are read as the floats they stand for, so that `1` and `1.0` are one recipe.

    Args:
        data: as parsed.
        file: for messages.
        rows: gives the row weights with a digest; the second argument is the field that names them.

    Raises:
        ConfigError: E103 missing, E104 unknown, E108 of the wrong kind, E109 not finite, E136 a name that is
            no file's where heads are written by it, E150 row weights that cannot be had; every fault.
    """
    reader = _RecipeReader(file, rows)
    recipe = reader.read(data)
    if reader.problems or recipe is None:
        raise ConfigError(reader.problems)
    return recipe


class _RecipeReader:
    """Reads recipe JSON and collects what is wrong with it."""

    def __init__(self, file: str, rows: Callable[[str, str], RowTable] | None) -> None:
        self.file = file
        self.rows = rows
        self.problems: list[Problem] = []

    def fault(
        self, where: str, wrong: str, found: object = "", todo: str = "", code: str = "E108"
    ) -> None:
        shown = f"found {found!r}" if found != "" else ""
        self.problems.append(Problem(code, wrong, shown, todo, file=self.file, field=where))

    def read(self, data: Any) -> Recipe | None:
        """The recipe, or None with at least one problem."""
        if not isinstance(data, dict):
            self.fault("", "a recipe is a JSON object", code="E103")
            return None
        kinds = {"sources": dict, "path": list, "outer": dict, "dtype": str, "config": dict}
        kinds |= {"chat_template": str, "rope": str, "heads": str, "towers": str}
        known = {"schema", "tokenizer", "mixture", "ensemble", *kinds}
        for key in sorted(set(data) - known):
            self.fault(key, "unknown field", todo=f"known: {', '.join(sorted(known))}", code="E104")
        for key in ("sources", "path", "outer"):
            if key not in data:
                self.fault(key, "missing field", todo=f"add `{key}`", code="E103")
        for key, kind in kinds.items():
            if key in data and not isinstance(data[key], kind):
                word = {dict: "an object", list: "a list", str: "text"}[kind]
                self.fault(key, f"must be {word}", data[key])
        tokenizer = data.get("tokenizer", "base")
        align = isinstance(tokenizer, dict) and {"source"} <= set(tokenizer) <= _OF_A_TOKENIZER
        template = tokenizer["source"] if align else tokenizer
        if not isinstance(template, str):
            wrong = (
                "must be a source's name, or an object with `source` (`tokens`, `pad_to_multiple_of`)"
            )
            self.fault("tokenizer", wrong, tokenizer)
        try:
            canonical_json(data.get("config", {}))
        except ValueError:
            self.fault("config", "every number must be finite", code="E109")
        if data.get("towers", TEXT) != TEXT:
            self.fault("towers", "must be `text`, or be left out", data["towers"])
        heads = data.get("heads", UNTIE)
        if heads not in (UNTIE, EACH) and not head_owner(str(heads)):
            wrong = "must be `untie`, `each` or `keep:SOURCE`, or be left out"
            self.fault("heads", wrong, heads)
        if data.get("schema", 1) != 1:
            self.fault("schema", "this evomerge reads recipe schema 1", data.get("schema"))
        if isinstance(data.get("dtype", ""), str) and data.get("dtype", DTYPES[0]) not in DTYPES:
            self.fault("dtype", f"must be one of {', '.join(DTYPES)}", data.get("dtype"), code="E132")
        if self.problems:
            return None
        sources = {name: self._source(name, entry) for name, entry in data["sources"].items()}
        path = [self._step(f"path[{index}]", step) for index, step in enumerate(data["path"])]
        if not path:
            self.fault("path", "a model needs at least one layer")
        used = [(f"path[{index}]", step.source) for index, step in enumerate(path) if step]
        used += [(f"outer.{place}", name) for place, name in data["outer"].items()]
        for where, name in used:
            if not isinstance(name, str) or name not in sources:
                self.fault(where, "names no source", name, f"sources: {', '.join(sources)}")
        outside = (*OUTER_PLACES, *FURTHER_PLACES)
        for place in sorted(data["outer"]):
            if place_kind(place) not in outside or place.count(".") > 1:
                self.fault(f"outer.{place}", "unknown place", todo=f"places: {', '.join(outside)}")
        for name, source in sources.items():
            if isinstance(source, MergedSource):
                for entry in (*source.inputs, *([source.base] if source.base is not None else [])):
                    if not isinstance(sources.get(entry), CheckpointSource):
                        self.fault(f"sources.{name}", "names no checkpoint source", entry)
            elif isinstance(source, CheckpointSource) and source.on:
                model = sources.get(source.on)
                if not isinstance(model, CheckpointSource) or model.on or source.on == name:
                    wrong = "an adapter is read against a checkpoint source that is a full model"
                    self.fault(f"sources.{name}.on", wrong, source.on)
        rope = data.get("rope", "")
        if rope and not isinstance(sources.get(rope), CheckpointSource):
            self.fault("rope", "names no checkpoint source", rope)
        full = {name for name, source in sources.items() if isinstance(source, CheckpointSource)}
        owner = head_owner(heads)
        if owner and owner not in full:
            self.fault(
                "heads", "names no checkpoint source", owner, f"sources: {', '.join(sorted(full))}"
            )
        if data.get("towers") and "base" not in full:
            self.fault("towers", "needs a checkpoint source called `base`")
        for name in sorted(full) if heads == EACH else ():
            if not _FILE_NAME.fullmatch(name):
                wrong = "with `heads: each` a file of the export has this name"
                todo = "letters, digits, `.`, `_` and `-` only"
                self.fault(f"sources.{name}", wrong, "", todo, code="E136")
        tokens = self._tokens(tokenizer.get("tokens", {}), sources) if align else {}
        multiple = tokenizer.get("pad_to_multiple_of", 0) if align else 0
        if type(multiple) is not int or multiple < 0:
            wrong = "must be a whole number of rows"
            self.fault("tokenizer.pad_to_multiple_of", wrong, multiple)
        mixture = mixture_from_json(data["mixture"], full, self.fault) if "mixture" in data else None
        ensemble = data.get("ensemble", [])
        if not isinstance(ensemble, list) or not all(name in full for name in map(str, ensemble)):
            self.fault("ensemble", "must be a list of checkpoint sources", ensemble)
        if self.problems:
            return None
        return Recipe(
            sources={name: source for name, source in sources.items() if source is not None},
            path=tuple(step for step in path if step is not None),
            outer=dict(data["outer"]),
            dtype=data.get("dtype", "bfloat16"),
            config=data.get("config", {}),
            tokenizer=str(template),
            align=align,
            chat_template=data.get("chat_template", ""),
            tokens=tokens,
            pad_to_multiple_of=multiple,
            rope=rope,
            heads=data.get("heads", ""),
            towers=data.get("towers", ""),
            mixture=mixture,
            ensemble=tuple(ensemble),
        )

    def _tokens(self, given: Any, sources: Mapping[str, Source | None]) -> dict[str, TokenRow]:
        if not isinstance(given, dict):
            self.fault("tokenizer.tokens", "must map a token to where its row comes from", given)
            return {}
        found = {}
        for text, entry in given.items():
            where = f"tokenizer.tokens.{text}"
            if not isinstance(entry, dict) or not set(entry) <= {"source", "token", "force"}:
                self.fault(where, "must be an object of `source`, `token` and `force`", entry)
                continue
            row = TokenRow(entry.get("source", ""), entry.get("token"), entry.get("force", False))
            if row.source and not isinstance(sources.get(row.source), CheckpointSource):
                self.fault(f"{where}.source", "names no checkpoint source", row.source)
            elif isinstance(row.token, bool) or not isinstance(row.token, str | int | None):
                self.fault(f"{where}.token", "must be a token's text or its number", row.token)
            elif not isinstance(row.force, bool):
                self.fault(f"{where}.force", "must be true or false", row.force)
            found[text] = row
        return found

    def _step(self, where: str, step: Any) -> LayerStep | None:
        if not (
            isinstance(step, list)
            and 2 <= len(step) <= 3
            and isinstance(step[0], str)
            and type(step[1]) is int
            and step[1] >= 0
        ):
            self.fault(where, "must be [source, layer] or [source, layer, scale]", step)
            return None
        scale = self._number(where, step[2]) if len(step) == 3 else 1.0
        return LayerStep(step[0], step[1], scale)

    def _number(self, where: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.fault(where, "must be a number", value)
        elif not math.isfinite(value):
            self.fault(where, "must be finite", value, code="E109")
        else:
            return float(value)
        return 0.0

    def _source(self, name: str, entry: Any) -> Source | None:
        where = f"sources.{name}"
        if not isinstance(entry, dict) or not ("path" in entry or "method" in entry):
            self.fault(where, "needs `path` (a checkpoint) or `method` and `inputs`", entry)
            return None
        if "method" not in entry:
            self._fields(where, entry, {"path": str, "checkpoint": str, "on": str, "allow": list})
            path, digest, on = (str(entry.get(key, "")) for key in ("path", "checkpoint", "on"))
            allow = entry.get("allow", [])
            for each in allow if isinstance(allow, list) else []:
                if each not in ALLOWANCES:
                    known = f"known: {', '.join(ALLOWANCES)}"
                    self.fault(f"{where}.allow", "no difference that can be allowed", each, known)
            return CheckpointSource(path, digest, on, tuple(map(str, allow)))
        kinds: dict[str, type] = {
            "method": str, "inputs": list, "base": str, "coefficients": dict, "options": dict, "seed": int,
            "shifts": dict, "function": str, "rows": str, "calibration": dict,
        }  # fmt: skip
        if not self._fields(where, entry, kinds):
            return None
        for key, value in entry.get("options", {}).items():
            if not isinstance(value, str | bool):
                self._number(f"{where}.options.{key}", value)
        inputs = entry.get("inputs", [])
        if not inputs or not all(isinstance(each, str) for each in inputs):
            self.fault(f"{where}.inputs", "must be a list of source names", inputs)
            return None
        shifts = entry.get("shifts", {})
        reference = entry.get("base", inputs[0])
        for key, value in shifts.items():
            if key not in inputs or (key == reference and value != 0):
                wrong = "names no input whose layers can be others than the merge's own"
                self.fault(f"{where}.shifts.{key}", wrong)
            elif type(value) is not int:
                self.fault(f"{where}.shifts.{key}", "must be a whole number of layers", value)
        return MergedSource(
            method=entry["method"],
            inputs=tuple(inputs),
            base=entry.get("base"),
            coefficients={
                key: self._tables(f"{where}.coefficients.{key}", by_input, inputs)
                for key, by_input in entry.get("coefficients", {}).items()
            },
            options={
                key: float(value) if type(value) is int else value
                for key, value in entry.get("options", {}).items()
            },
            seed=entry.get("seed", 0),
            # A shift of nothing is none, so that equal merges have equal digests.
            shifts={key: value for key, value in shifts.items() if value != 0},
            function=entry.get("function", ""),
            rows=self._rows(f"{where}.rows", entry["rows"]) if "rows" in entry else None,
            calibration=self._calibration(f"{where}.calibration", entry.get("calibration")),
        )

    def _calibration(self, where: str, entry: Any) -> Calibration | None:
        if entry is None or not self._fields(where, entry, {"path": str, "sha256": str}):
            return None
        return Calibration(str(entry.get("path", "")), str(entry.get("sha256", "")))

    def _rows(self, where: str, digest: str) -> RowTable | None:
        if not re.fullmatch("[0-9a-f]{64}", digest):
            self.fault(where, "must be the SHA-256 of the row weights", digest)
            return None
        try:
            if self.rows is not None:
                return self.rows(digest, where)
            self.fault(where, "row weights lie in a file beside the recipe's", code="E150")
        except ConfigError as error:
            self.problems += error.problems
        return None

    def _fields(self, where: str, entry: Mapping[str, Any], kinds: Mapping[str, type]) -> bool:
        before = len(self.problems)
        for key in sorted(set(entry) - set(kinds)):
            self.fault(
                f"{where}.{key}", "unknown field", todo=f"known: {', '.join(kinds)}", code="E104"
            )
        for key, kind in kinds.items():
            if key in entry and (not isinstance(entry[key], kind) or isinstance(entry[key], bool)):
                self.fault(f"{where}.{key}", f"must be of kind {kind.__name__}", entry[key])
        return len(self.problems) == before

    def _tables(self, where: str, by_input: Any, inputs: Sequence[str]) -> dict[str, Table]:
        if not isinstance(by_input, dict):
            self.fault(where, "must map an input (or `*`) to a number or to places", by_input)
            return {}
        tables: dict[str, Table] = {}
        for key, table in by_input.items():
            if key != "*" and key not in inputs:
                self.fault(f"{where}.{key}", "names no input of this merge", key)
            places = table if isinstance(table, dict) else {"": table}
            tables[key] = {
                place: self._number(f"{where}.{key}.{place}".rstrip("."), value)
                for place, value in places.items()
            }
        return tables
