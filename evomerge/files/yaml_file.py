"""YAML files people write: a YAML 1.2 loader with positions, and validation that lists every fault.

PyYAML reads `1e-3` as text, `no` as a boolean and keeps the last of two equal keys without a word, so
ruamel.yaml (YAML 1.2) is used. Tags, duplicate keys, huge and deeply nested documents are refused.
"""

from __future__ import annotations

import contextlib
import copy
import difflib
import functools
import itertools
import math
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from evomerge.errors import ConfigError, Problem
from evomerge.files.mending import fields_at, instead, own_fields

MAX_BYTES = 1_000_000
MAX_DEPTH = 32
MAX_NODES = 100_000

_PLAIN_TAGS = frozenset(
    f"tag:yaml.org,2002:{kind}"
    for kind in ("str", "int", "float", "bool", "null", "map", "seq", "merge")
)
_SECRET = re.compile(r"\b(hf_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9_-]{20,}|gh[pousr]_[A-Za-z0-9]{20,})")

Positions = Mapping[tuple[str | int, ...], tuple[int, int]]
"""Path into the document to (line, column), 1-based."""

Model = TypeVar("Model", bound=BaseModel)

_FORMS = {
    "search_space": "a campaign",
    "genome": "a mergekit-evolve file",
    "merge_method": "a mergekit YAML, which states one merge",
    "arms": "the arms of a study",
    "method": "a search space",
    "kind": "an evaluator",
    "output_type": "a task of lm-eval, which an evaluator names",
    "doc_to_text": "a task of lm-eval, which an evaluator names",
}
"""A field that only one form of file has, and what that form is; whoever names one file for another gets
one error, and not one for each field."""

_ENDING = ("a simple key", "a flow mapping", "a flow sequence", "a quoted scalar")
"""What a parser was in when it came upon a fault further down, whose cause is where it began."""

_SHARED = frozenset({"schema", "name", "base", "experts", "tasks"})
"""Fields of several forms, which do not say that a file is of one."""


def load_yaml(path: Path) -> tuple[dict[str, Any], Positions]:
    """Read a YAML mapping and the position of every field.

    Raises:
        ConfigError: E101 missing or unreadable, E102 syntax, E103 not a mapping, E105 duplicate keys,
            E106 tags, E107 too large, too deep or too many aliases, E140 an access token; all faults
            found, together.
    """
    file = str(path)
    text = _read_text(path, file)
    try:
        data, positions = _parsed(text)
    except ConfigError as error:
        raise ConfigError([replace(problem, file=file) for problem in error.problems]) from None
    return copy.deepcopy(data), positions


@functools.lru_cache(maxsize=32)
def _parsed(text: str) -> tuple[dict[str, Any], Positions]:
    """What stands in a text; kept, since one command reads a campaign's files several times.

    Raises:
        ConfigError: without the file's name.
    """
    yaml = YAML(typ="safe", pure=True)
    yaml.Composer = _Bounded
    try:
        node = yaml.compose(text)
    except _TooDeep as error:
        where = ("", error.mark.line + 1, error.mark.column + 1)
        raise ConfigError(
            Problem("E107", f"nested more than {MAX_DEPTH} deep", "", "", *where)
        ) from None
    except YAMLError as error:
        raise ConfigError(_syntax(error, text)) from None
    if not isinstance(node, MappingNode):
        found = "the file is empty" if node is None else f"found a {node.id}"
        wrong, todo = "the document must be a mapping of fields", "write `field: value` lines"
        raise ConfigError(Problem("E103", wrong, found, todo))
    walk = _Walk()
    walk.visit(node, (), 0)
    if walk.problems:
        raise ConfigError(walk.problems)
    try:
        data = yaml.constructor.construct_document(node)
    except YAMLError as error:
        raise ConfigError(_syntax(error, text)) from None
    except ValueError as error:  # a number of thousands of digits
        raise ConfigError(Problem("E102", "YAML syntax", str(error))) from None
    return data, walk.positions


def _read_text(path: Path, file: str) -> str:
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(Problem("E101", "no such file", todo="check the path", file=file)) from None
    except IsADirectoryError:
        todo = "name the YAML file in it"
        raise ConfigError(Problem("E101", "this is a folder, no file", "", todo, file)) from None
    except (OSError, ValueError) as error:  # no permission, a file for a folder, NUL in the name
        found = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ConfigError(Problem("E101", "cannot read the file", found, file=file)) from None
    if len(content) > MAX_BYTES:
        raise ConfigError(Problem("E107", f"the file is larger than {MAX_BYTES} bytes", file=file))
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        found = f"byte 0x{content[error.start]:02x} in line {line}"
        todo = "save it as UTF-8"
        raise ConfigError(Problem("E101", "this is no UTF-8 text", found, todo, file)) from None


class _TooDeep(Exception):
    """A collection in more of them than may be; `mark` is where it begins."""

    def __init__(self, mark: Any) -> None:
        self.mark = mark


class _Bounded(Composer):
    """Stops at the first collection too many: composing takes time that grows with depth, and recurses."""

    nested = 0

    def compose_sequence_node(self, anchor: Any) -> Any:
        with self._one_more():
            return super().compose_sequence_node(anchor)

    def compose_mapping_node(self, anchor: Any) -> Any:
        with self._one_more():
            return super().compose_mapping_node(anchor)

    @contextlib.contextmanager
    def _one_more(self) -> Iterator[None]:
        if self.nested == MAX_DEPTH:
            raise _TooDeep(self.parser.peek_event().start_mark)
        self.nested += 1
        yield
        self.nested -= 1


def _syntax(error: YAMLError, text: str) -> Problem:
    """The problem a parser error stands for, with the line it is about."""
    mark = error.problem_mark if isinstance(error, MarkedYAMLError) else None
    if mark is None:
        return Problem("E102", "YAML syntax", " ".join(str(error).split()))
    said = error.problem or error.context if isinstance(error, MarkedYAMLError) else ""
    lines = text.splitlines()
    shown = lines[mark.line].strip() if mark.line < len(lines) else ""
    found = f"the line is {shown!r}" if shown else ""
    begun, inside = None, ""
    if isinstance(error, MarkedYAMLError):
        begun, inside = error.context_mark, str(error.context)
    if begun is not None and begun.line < mark.line and inside.endswith(_ENDING):
        line = lines[begun.line].strip()
        found = "; ".join(
            filter(None, (found, f"what begins in line {begun.line + 1}, {line!r}, does not end"))
        )
    wrong = f"YAML syntax: {said or 'cannot parse'}"
    todo = "indent with spaces" if "'\\t'" in wrong else ""
    return Problem("E102", wrong, found, todo, "", mark.line + 1, mark.column + 1)


class _Walk:
    """Collects positions and faults of a composed document."""

    def __init__(self) -> None:
        self.positions: dict[tuple[str | int, ...], tuple[int, int]] = {}
        self.problems: list[Problem] = []
        self.nodes = 0

    def fault(self, code: str, wrong: str, node: Node, path: tuple[str | int, ...]) -> None:
        mark = node.start_mark
        self.problems.append(
            Problem(code, wrong, "", "", "", mark.line + 1, mark.column + 1, dotted(path))
        )

    def commas(self, node: MappingNode, path: tuple[str | int, ...]) -> None:
        """`{low: 0,1}` is a field `1` without a value, by a comma that was to be a dot."""
        for (key, value), (digits, nothing) in itertools.pairwise(node.value):
            parts = (key, value, digits, nothing)
            # The text of a node that is no scalar would be all below it, with aliases spelled out.
            if not all(isinstance(part, ScalarNode) for part in parts):
                continue
            name, whole, rest, empty = (part.value for part in parts)
            if empty == "" and rest.isdecimal() and re.fullmatch(r"[-+]?\d+", whole):
                wrong = f"`{whole},{rest}` has a comma; write it with a dot"
                self.fault("E108", wrong, key, (*path, name))

    def visit(self, node: Node, path: tuple[str | int, ...], depth: int) -> None:
        self.nodes += 1
        if self.nodes > MAX_NODES or depth > MAX_DEPTH:
            if not any(problem.code == "E107" for problem in self.problems):
                self.fault("E107", "the document is too large or too nested", node, path)
            return
        self.positions.setdefault(path, (node.start_mark.line + 1, node.start_mark.column + 1))
        tag = str(node.tag)
        if tag == "tag:yaml.org,2002:timestamp":
            self.fault("E108", "a date; put it in quotes if it is meant as text", node, path)
            return
        if tag not in _PLAIN_TAGS:
            self.fault("E106", f"YAML tags are not allowed ({tag})", node, path)
            return
        if isinstance(node, ScalarNode) and _SECRET.search(str(node.value)):
            self.fault(
                "E140", "this looks like an access token; keep it in the environment", node, path
            )
        if isinstance(node, MappingNode):
            seen: dict[str, int] = {}
            if node.flow_style:
                self.commas(node, path)
            for key, value in node.value:
                if not isinstance(key, ScalarNode):
                    self.fault("E102", "a field name must be plain text", key, path)
                    continue
                name = str(key.value)
                line = key.start_mark.line + 1
                if name in seen:
                    wrong = f"`{name}` given twice, lines {seen[name]} and {line}"
                    self.fault("E105", wrong, key, (*path, name))
                seen[name] = line
                self.positions[(*path, name)] = (line, key.start_mark.column + 1)
                self.visit(value, (*path, name), depth + 1)
        elif isinstance(node, SequenceNode):
            for index, value in enumerate(node.value):
                self.visit(value, (*path, index), depth + 1)


def dotted(path: tuple[str | int, ...]) -> str:
    """`("experts", 0, "path")` as `experts[0].path`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def position(positions: Positions, path: tuple[str | int, ...]) -> tuple[int, int]:
    """The position of `path` or of its nearest known parent; (0, 0) if there is none."""
    for length in range(len(path), -1, -1):
        if path[:length] in positions:
            return positions[path[:length]]
    return (0, 0)


def place(positions: Positions, file: Path, *path: str | int) -> tuple[str, int, int, str]:
    """File, line, column and dotted name of a field, as `Problem` takes them last."""
    line, column = position(positions, path)
    return str(file), line, column, dotted(path)


def validate(model: type[Model], data: Any, positions: Positions, file: str) -> Model:
    """Check `data` against a pydantic model.

    Raises:
        ConfigError: with one problem for each fault, in the order of the file.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        fields = {field.alias or name: field for name, field in model.model_fields.items()}
        needed = [n for n, field in fields.items() if field.is_required() and n not in _SHARED]
        if (other := other_form(data, fields, needed, file)) is not None:
            raise ConfigError(other) from None
        problems: dict[tuple[str, str], Problem] = {}
        for fault in error.errors():
            problem = _problem(model, fault, positions, file)
            key = (problem.code, problem.field)
            # Each member of a union complains for itself: one fault, several ways to mend it.
            if key in problems and problem.field:
                problem = replace(problem, wrong=f"{problems[key].wrong} or {problem.wrong}")
            problems[key] = problem
        listed = sorted(problems.values(), key=lambda problem: (problem.line, problem.column))
        raise ConfigError(listed) from None


def other_form(
    data: Any, known: Collection[str], needed: Collection[str], file: str, todo: str = ""
) -> Problem | None:
    """The one problem of a file that has nothing of the form it is read as, and is one of another.

    Args:
        data: what stands in the file.
        known: the fields of the form it is read as.
        needed: those of which a file of that form has one at least.
        file: its name.
        todo: what to give; a file with the fields needed if it is empty.
    """
    if not isinstance(data, dict) or not needed or any(name in data for name in needed):
        return None
    mark = next((name for name in _FORMS if name in data and name not in known), None)
    if mark is None:
        return None
    todo = todo or f"name a file that has {', '.join(f'`{name}`' for name in needed)}"
    return Problem("E103", f"this is {_FORMS[mark]}", f"it has `{mark}`", todo, file)


def _problem(model: type[BaseModel], fault: Any, positions: Positions, file: str) -> Problem:
    # pydantic marks the fault of a mapping's key, as opposed to that of its value, by a last part.
    loc = fault["loc"][:-1] if fault["loc"][-1:] == ("[key]",) else fault["loc"]
    path = _path_in_file(loc, positions, fault["type"] == "missing")
    line, column = position(positions, path)
    where = (file, line, column, dotted(path))
    kind = fault["type"]
    shown = fault.get("input")
    found = f"found {shown!r}" if not isinstance(shown, dict | list) else ""
    if kind == "extra_forbidden":
        known = fields_at(model, loc[:-1])
        near = difflib.get_close_matches(str(path[-1]), known, n=1)
        todo = f"did you mean `{near[0]}`?" if near else f"known fields: {', '.join(sorted(known))}"
        return Problem("E104", "unknown field", "", todo, *where)
    if kind == "missing":
        return Problem("E103", "missing field", "", f"add `{_stated(model, loc)}`", *where)
    code = "E109" if isinstance(shown, float) and not math.isfinite(shown) else "E108"
    context = fault.get("ctx", {}).get("error")
    if isinstance(context, ValueError) and len(context.args) == 2:
        code, message = context.args
        return Problem(str(code), str(message), found, "", *where)
    message = str(fault["msg"]).removeprefix("Value error, ")
    if kind in ("model_type", "dict_type"):
        message = "this needs fields of its own"
    if isinstance(shown, dict | list):
        found = "found a list" if isinstance(shown, list) else "found fields"
    todo = instead(kind, shown, own_fields(model, loc))
    return Problem(code, message[:1].lower() + message[1:], found, todo, *where)


def _stated(model: type[BaseModel], loc: tuple[str | int, ...]) -> str:
    """A missing field's name, with its value where there is only one (`schema: 1`)."""
    for name, field in model.model_fields.items() if len(loc) == 1 else ():
        values = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
        if loc[0] in (name, field.alias) and len(values) == 1:
            return f"{loc[0]}: {values[0]}"
    return str(loc[-1])


def _path_in_file(
    loc: tuple[str | int, ...], positions: Positions, missing: bool
) -> tuple[str | int, ...]:
    """`loc` without the labels pydantic adds for the members of a union; a missing field stays."""
    if not positions:
        return loc  # what came from no file
    path: tuple[str | int, ...] = ()
    for index, part in enumerate(loc):
        if (*path, part) in positions or (missing and index == len(loc) - 1):
            path = (*path, part)
    return path
