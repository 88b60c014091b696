"""Reads a mergekit YAML's form: its fields with their lines, every fault in one report."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge.errors import ConfigError, Problem
from evomerge.files.yaml_file import Positions, dotted, load_yaml, position
from evomerge.mergekit.document import (
    Document,
    ModelRef,
    Settings,
    SliceEntry,
    SourceEntry,
    TokenEntry,
    Where,
)
from evomerge.mergekit.ignored import advice, misspelt
from evomerge.mergekit.methods import SPOKEN, Parameter
from evomerge.mergekit.settings import Setting, Value, as_flag, as_number
from evomerge.recipe.recipe import DTYPES

_TOP = (
    "merge_method", "base_model", "models", "slices", "modules", "parameters", "dtype", "out_dtype",
    "tokenizer_source", "tokenizer", "chat_template",
)  # fmt: skip

MODULE = "default"
"""mergekit's name of the only module a decoder has."""


def read_document(file: Path) -> Document:
    """Read a mergekit YAML's form; what its models are is looked at by `read_mergekit`.

    Raises:
        ConfigError: what `load_yaml` finds, E103 missing, E104 misspelt (mergekit would ignore it), E108 of
            the wrong kind, E109 not finite, E132 dtype, E137 what is not supported; all of them.
    """
    data, positions = load_yaml(file)
    return _Form(str(file), data, positions).read()


@dataclass(frozen=True)
class StatedTokenizer:
    """What a file says of its vocabulary; the fields are those of `Document`."""

    source: str | ModelRef | None
    tokens: Mapping[str, TokenEntry]
    multiple: int


def read_tokenizer(file: Path, data: Mapping[str, Any], positions: Positions) -> StatedTokenizer:
    """What `tokenizer` or `tokenizer_source` among some fields says.

    Raises:
        ConfigError: as `read_document`.
    """
    form = _Form(str(file), data, positions)
    found = StatedTokenizer(form.tokenizer(), form.tokens(), form.multiple())
    if form.problems:
        raise ConfigError(form.problems)
    return found


class _Form:
    """Reads a document and collects what is wrong with it."""

    def __init__(self, file: str, data: Mapping[str, Any], positions: Positions) -> None:
        self.file = file
        self.data = data
        self.positions = positions
        self.problems: list[Problem] = []
        self.notes: list[str] = []
        self.method = SPOKEN["linear"]
        self.knows_method = False

    def fault(self, code: str, where: Where, wrong: str, found: object = "", todo: str = "") -> None:
        line, column = position(self.positions, where)
        shown = f"found {found!r}" if found != "" else ""
        self.problems.append(Problem(code, wrong, shown, todo, self.file, line, column, dotted(where)))

    def read(self) -> Document:
        data = self.data
        self.fields(data, (), _TOP)
        name = data.get("merge_method")
        if name is None:
            self.fault("E103", ("merge_method",), "missing field", todo="add `merge_method`")
        elif name in SPOKEN:
            self.method, self.knows_method = SPOKEN[name], True
        else:
            near = difflib.get_close_matches(str(name), SPOKEN, n=1)
            todo = f"did you mean {near[0]}?" if near else f"supported: {', '.join(sorted(SPOKEN))}"
            self.fault("E137", ("merge_method",), "unsupported merge method", name, todo)
        body, inside = self.module()
        if ("models" in body) == ("slices" in body):
            self.fault("E103", (*inside, "models"), "give either `models` or `slices`")
        base = self.model(data["base_model"], ("base_model",)) if "base_model" in data else None
        if self.knows_method and self.method.base == "required" and base is None:
            inner = body.get("slices") or []
            if not all(isinstance(s, dict) and "base_model" in s for s in inner) or not inner:
                wrong = f"{self.method.name} needs a base_model"
                self.fault("E115", ("merge_method",), wrong)
        slices = (
            self.models(body.get("models"), inside)
            if "models" in body
            else self.slices(body.get("slices"), inside)
        )
        settings = self.settings(data.get("parameters"), ("parameters",))
        if inside:
            own = self.settings(body.get("parameters"), (*inside, "parameters"))
            settings = {**settings, **own}
        dtypes = [self.dtype(key) for key in ("dtype", "out_dtype")]
        tokenizer, tokens, multiple = self.tokenizer(), self.tokens(), self.multiple()
        template = data.get("chat_template") or ""
        if not isinstance(template, str):
            self.fault("E108", ("chat_template",), "must be text", template)
        if self.problems:
            raise ConfigError(sorted(self.problems, key=lambda p: (p.line, p.column)))
        return Document(
            self.file, self.positions, self.method, base, tuple(slices), "models" in body, settings,
            dtypes[0], dtypes[1], tokenizer, tokens, multiple, template,
            tuple(dict.fromkeys(self.notes)),
        )  # fmt: skip

    def module(self) -> tuple[Mapping[str, Any], Where]:
        """What holds `models` or `slices`, and where it stands: the file, or the module of a decoder."""
        if "modules" not in self.data:
            return self.data, ()
        for key in ("models", "slices"):
            if key in self.data:
                self.fault("E103", (key,), "give `modules`, or else `models` or `slices`")
        modules = self.data["modules"]
        if not isinstance(modules, dict) or list(modules) != [MODULE]:
            wrong = f"models of other modules than `{MODULE}`, the one of a decoder, are not supported"
            self.fault("E137", ("modules",), wrong)
            return {"models": []}, ("modules", MODULE)
        inside: Where = ("modules", MODULE)
        if not self.fields(modules[MODULE], inside, ("models", "slices", "parameters")):
            return {"models": []}, inside
        return modules[MODULE], inside

    def fields(self, entry: Any, where: Where, known: tuple[str, ...]) -> bool:
        if not isinstance(entry, dict):
            self.fault("E108", where, "must be a mapping of fields", entry)
            return False
        for key in entry:
            if key in known:
                continue
            if near := misspelt(key, known):
                wrong = "unknown field, which mergekit would ignore"
                self.fault("E104", (*where, key), wrong, todo=f"did you mean `{near}`?")
            else:
                level = "top" if not where else "model" if "model" in known else str(where[-1])
                self.ignore((*where, key), advice(key, level))
        return True

    def ignore(self, where: Where, more: str = "") -> None:
        """Note what mergekit ignores, and so do we."""
        line = position(self.positions, where)[0]
        said = f"line {line}: `{dotted(where)}` is ignored, as mergekit ignores it"
        self.notes.append(f"{said}; {more}" if more else said)

    def dtype(self, key: str) -> str | None:
        value = self.data.get(key)
        if value is None:
            return None
        name = str(value).removeprefix("torch.")
        if name not in DTYPES:
            self.fault("E132", (key,), f"must be one of {', '.join(DTYPES)}", value)
            return None
        return name

    def models(self, entries: Any, inside: Where) -> list[SliceEntry]:
        sources: list[SourceEntry] = []
        if not isinstance(entries, list) or not entries:
            self.fault("E108", (*inside, "models"), "must be a list of models")
            return []
        for index, entry in enumerate(entries):
            where: Where = (*inside, "models", index)
            if not self.fields(entry, where, ("model", "parameters")):
                continue
            model = self.model(entry.get("model"), (*where, "model"))
            settings = self.settings(entry.get("parameters"), (*where, "parameters"))
            if model is not None:
                sources.append(SourceEntry(model, None, settings, where))
        return [SliceEntry(tuple(sources), None, {}, (*inside, "models"))]

    def slices(self, entries: Any, inside: Where) -> list[SliceEntry]:
        slices = []
        if entries is not None and (not isinstance(entries, list) or not entries):
            self.fault("E108", (*inside, "slices"), "must be a list of slices")
        for index, entry in enumerate(entries if isinstance(entries, list) else []):
            where: Where = (*inside, "slices", index)
            if not self.fields(
                entry, where, ("sources", "base_model", "residual_weight", "parameters")
            ):
                continue
            if "residual_weight" in entry:
                self.ignore((*where, "residual_weight"), "a layer can be scaled by filters of `scale`")
            base = None
            if "base_model" in entry:
                base = self.model(entry["base_model"], (*where, "base_model"))
            settings = self.settings(entry.get("parameters"), (*where, "parameters"))
            inputs = entry.get("sources")
            if not isinstance(inputs, list) or not inputs:
                self.fault("E108", (*where, "sources"), "must be a list of sources")
                continue
            found = [self.source(each, (*where, "sources", i)) for i, each in enumerate(inputs)]
            sources = tuple(source for source in found if source is not None)
            lengths = {s.layers[1] - s.layers[0] for s in sources if s.layers is not None}
            if len(lengths) > 1:
                self.fault("E108", where, "sources of a slice must have equally many layers")
            slices.append(SliceEntry(sources, base, settings, where))
        return slices

    def source(self, entry: Any, where: Where) -> SourceEntry | None:
        if not self.fields(entry, where, ("model", "layer_range", "parameters")):
            return None
        model = self.model(entry.get("model"), (*where, "model"))
        settings = self.settings(entry.get("parameters"), (*where, "parameters"))
        given = entry.get("layer_range")
        if not (
            isinstance(given, list)
            and len(given) == 2
            and all(type(each) is int for each in given)
            and 0 <= given[0] < given[1]
        ):
            wrong = "must be [first, last + 1], two whole numbers"
            self.fault("E119", (*where, "layer_range"), wrong, given)
            return None
        return SourceEntry(model, (given[0], given[1]), settings, where) if model else None

    def model(self, value: Any, where: Where) -> ModelRef | None:
        parts: list[tuple[str, str]] = []
        if isinstance(value, dict):
            if not self.fields(value, where, ("model", "lora")) or not value.get("model"):
                self.fault("E108", where, "must be a model: `PATH`, `PATH@REVISION` or `PATH+LORA`")
                return None
            for key in ("model", "lora"):
                part = value.get(key)
                if isinstance(part, str):
                    path, _, revision = part.partition("@")
                    parts.append((path.strip(), revision.strip()))
                elif part is not None and self.fields(part, (*where, key), ("path", "revision")):
                    parts.append((str(part.get("path", "")), str(part.get("revision") or "")))
        elif isinstance(value, str):
            for piece in value.split("+"):
                path, _, revision = piece.partition("@")
                parts.append((path.strip(), revision.strip()))
        if not 1 <= len(parts) <= 2 or not all(path for path, _ in parts):
            wrong = "must be a model: `PATH`, `PATH@REVISION` or `PATH+LORA`"
            self.fault("E108", where, wrong, value)
            return None
        lora = parts[1] if len(parts) == 2 else ("", "")
        return ModelRef(*parts[0], *lora, where=where)

    def tokenizer(self) -> str | ModelRef | None:
        both = [key for key in ("tokenizer_source", "tokenizer") if self.data.get(key) is not None]
        if len(both) == 2:
            wrong = "give either `tokenizer` or `tokenizer_source`"
            self.fault("E108", ("tokenizer_source",), wrong)
        if not both:
            return None
        where: Where = (both[0],)
        value = self.data[both[0]]
        if both[0] == "tokenizer":
            if not self.fields(value, where, ("source", "tokens", "pad_to_multiple_of")):
                return None
            value, where = value.get("source", "union"), (*where, "source")
        return str(value) if value in ("union", "base") else self.model(value, where)

    def multiple(self) -> int:
        """What `tokenizer.pad_to_multiple_of` says."""
        section = self.data.get("tokenizer")
        given = section.get("pad_to_multiple_of") if isinstance(section, dict) else None
        if not given:
            return 0
        number = as_number(given)
        if number is None or not number.is_integer() or number < 1:
            where: Where = ("tokenizer", "pad_to_multiple_of")
            self.fault("E108", where, "must be a whole number of rows", given)
            return 0
        return int(number)

    def tokens(self) -> dict[str, TokenEntry]:
        """The entries of `tokenizer.tokens`."""
        section = self.data.get("tokenizer")
        given = section.get("tokens") if isinstance(section, dict) else None
        where: Where = ("tokenizer", "tokens")
        if given is not None and not isinstance(given, dict):
            self.fault("E108", where, "must map tokens to where their rows come from", given)
        entries = given if isinstance(given, dict) else {}
        found = {str(text): self.token(entry, (*where, text)) for text, entry in entries.items()}
        return {text: entry for text, entry in found.items() if entry is not None}

    def token(self, entry: Any, where: Where) -> TokenEntry | None:
        if not self.fields(entry, where, ("source", "force")):
            return None
        force = as_flag(entry.get("force", False))
        if force is None:
            self.fault("E108", (*where, "force"), "must be true or false", entry["force"])
        source, inside = entry.get("source"), (*where, "source")
        token: str | int | None = None
        if isinstance(source, dict) and "kind" in source:
            self.fields(source, inside, ("kind", "model", "token", "token_id"))
            if source["kind"] == "zero":
                return TokenEntry(None, None, bool(force), where)
            token, number = source.get("token"), source.get("token_id")
            if source["kind"] != "model_token":
                self.fault("E108", (*inside, "kind"), "must be model_token or zero", source["kind"])
            elif (token is None) == (number is None):
                self.fault("E108", inside, "give either `token` or `token_id`")
            elif number is not None and type(number) is not int:
                self.fault("E108", (*inside, "token_id"), "must be a whole number", number)
            token = number if token is None else str(token)
            source, inside = source.get("model"), (*inside, "model")
        if source is None:
            todo = "give a model, `{kind: model_token, model: M, token: T}` or `{kind: zero}`"
            self.fault("E103", inside, "missing field", todo=todo)
            return None
        model = self.model(source, inside)
        return None if model is None else TokenEntry(model, token, bool(force), where)

    def settings(self, given: Any, where: Where) -> Settings:
        if given is None or (not given and isinstance(given, dict)):
            return {}
        if not isinstance(given, dict):
            self.fault("E108", where, "must be a mapping of parameters", given)
            return {}
        found = {}
        for name, value in given.items():
            here = (*where, name)
            parameter = self.method.parameter(name)
            if parameter is None:
                if self.knows_method:
                    self.no_parameter(name, here)
                continue
            setting = self.setting(value, here, parameter)
            if setting is None:
                continue
            found[name] = setting
            if not parameter.effect:
                self.notes.append(
                    f"line {setting.line}: `{name}` has no effect on {self.method.name} here"
                )
        return found

    def no_parameter(self, name: object, here: Where) -> None:
        """A parameter that the method does not have: misspelt, or ignored."""
        method = self.method.name
        known = [p.name for p in self.method.parameters]
        if near := misspelt(name, known):
            wrong = f"{method} has no parameter `{name}`; mergekit would ignore it"
            self.fault("E104", here, wrong, todo=f"did you mean `{near}`?")
        else:
            has = f"{method} has {', '.join(known)}" if known else f"{method} has no parameters"
            self.ignore(here, advice(name, "parameters") or has)

    def setting(self, value: Any, where: Where, parameter: Parameter) -> Setting | None:
        before = len(self.problems)
        rules: list[tuple[str | None, tuple[Value, ...]]] = []
        entries = value if isinstance(value, list) else [value]
        if entries and any(isinstance(entry, dict) for entry in entries):
            for index, entry in enumerate(entries):
                here = (*where, index) if isinstance(value, list) else where
                if not self.fields(entry, here, ("filter", "value")):
                    continue
                text = entry.get("filter")
                if text is not None and not isinstance(text, str):
                    self.fault("E108", (*here, "filter"), "must be text", text)
                    continue
                points = self.points(entry.get("value"), (*here, "value"), parameter)
                rules.append((None if text in (None, "*") else text, points))
        else:
            rules.append((None, self.points(value, where, parameter)))
        line = position(self.positions, where)[0]
        return Setting(tuple(rules), line) if len(self.problems) == before else None

    def points(self, value: Any, where: Where, parameter: Parameter) -> tuple[Value, ...]:
        entries = value if isinstance(value, list) else [value]
        points: list[Value] = []
        for entry in entries:
            read = as_flag(entry) if parameter.is_flag else as_number(entry)
            if read is None and parameter.is_flag:
                self.fault("E108", where, "must be true or false", entry)
            elif read is None:
                self.fault("E108", where, "must be a number or a list of numbers", entry)
            elif not math.isfinite(read):
                self.fault("E109", where, "must be finite", entry)
            else:
                points.append(read)
        if not entries:
            self.fault("E108", where, "an empty list says nothing")
        return tuple(points)
