"""Changes: fields of a campaign file stated otherwise for one run, as `optimizer.population=48`."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from evomerge.errors import ConfigError, Problem, UsageError
from evomerge.files.yaml_file import Positions, position


@dataclass(frozen=True)
class Change:
    """A field (a place in a list is its number, from 0), its value, and the words that said so."""

    path: tuple[str, ...]
    value: Any
    words: str


def parse_change(text: str) -> Change:
    """A change from `FIELD=VALUE`; the value is YAML.

    Raises:
        UsageError: E500.
    """
    name, equals, value = text.partition("=")
    path = tuple(name.strip().split("."))
    if not equals or not all(path):
        todo = "write --set optimizer.population=48"
        raise UsageError(
            Problem("E500", "a change is FIELD=VALUE", f"found `{text}`", todo, field="--set")
        )
    try:
        return Change(path, YAML(typ="safe", pure=True).load(value), text)
    except (YAMLError, ValueError, RecursionError) as error:  # a ValueError: the 31st of February
        found = str(error).splitlines()[0]
        raise UsageError(Problem("E500", f"`{text}` has no value", found, field="--set")) from error


def changed(
    data: Mapping[str, Any], positions: Positions, changes: Sequence[Change], file: str
) -> tuple[dict[str, Any], Positions]:
    """A copy of a campaign file's content with changes made in order; what is new stands at its section.

    Raises:
        ConfigError: E104, where a change goes into what is no section or list. Whether fields are known and
            values right is seen by who reads the result.
    """
    result, places = copy.deepcopy(dict(data)), dict(positions)
    for change in changes:
        into: Any = result
        for place in change.path[:-1]:
            into = _inner(into, place, change, file)
        last = change.path[-1]
        if isinstance(into, dict):
            into[last] = change.value
        else:
            into[_index(into, last, change, file)] = change.value
        path = tuple(int(part) if part.isdecimal() else part for part in change.path)
        for length in range(1, len(path) + 1):
            places.setdefault(path[:length], position(positions, path[:length]))
    return result, places


def _inner(into: Any, place: str, change: Change, file: str) -> Any:
    """What lies in a section or list; a section that is left out in the file is empty."""
    if isinstance(into, dict):
        return into.setdefault(place, {})
    return into[_index(into, place, change, file)]


def _index(into: Any, place: str, change: Change, file: str) -> int:
    if isinstance(into, list) and place.isdecimal() and int(place) < len(into):
        return int(place)
    wrong = f"--set {change.words}: `{place}` is no field here"
    found = f"a list of {len(into)}" if isinstance(into, list) else f"found {into!r}"
    raise ConfigError(Problem("E104", wrong, found, "", file, field=".".join(change.path)))
