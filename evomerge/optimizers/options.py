"""Options of optimizers: what a campaign file states of them, checked against a dataclass of settings.

A field's annotation says what an option may be. It is one of: words (`Literal["a", "b"]`), `bool`, `str`,
`int`, `float`, or a number within bounds (`Annotated[float, Between(1, 100)]`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from evomerge.errors import ConfigError, Problem

Option = str | float | bool
"""A setting as a campaign file and a ledger hold it."""

Settings = TypeVar("Settings")


@dataclass(frozen=True)
class Between:
    """Bounds of a number, both allowed."""

    least: float
    most: float


def read_settings(kind: str, form: type[Settings], given: Mapping[str, Option]) -> Settings:
    """Settings of a kind from what a file says, defaults filled in.

    Args:
        kind: the optimizer, for messages.
        form: its settings class.
        given: option to value.

    Raises:
        ConfigError: with every fault: E104 for unknown names, E108 for wrong values. `field` of each
            is `optimizer.options.NAME`.
    """
    allowed = get_type_hints(form, include_extras=True)
    names = [field.name for field in fields(form)]  # type: ignore[arg-type]
    problems = []
    values: dict[str, Any] = {}
    for name, value in given.items():
        where = f"optimizer.options.{name}"
        if name not in names:
            todo = f"options of {kind}: {', '.join(names) or 'none'}"
            problems.append(Problem("E104", "unknown option", "", todo, field=where))
        elif expected := _fault(allowed[name], value):
            problems.append(Problem("E108", f"must be {expected}", f"found {value!r}", field=where))
        else:
            number = option_form(allowed[name])[0]
            values[name] = number(value) if number in (int, float) else value
    if problems:
        raise ConfigError(problems)
    return form(**values)


def option_form(annotation: Any) -> tuple[Any, Between | None]:
    """A field's type without bounds, and its bounds."""
    if get_origin(annotation) is not Annotated:
        return annotation, None
    kind, *extras = get_args(annotation)
    return kind, next((extra for extra in extras if isinstance(extra, Between)), None)


def _fault(annotation: Any, value: Option) -> str:
    """What a value should have been, in words; empty if it fits."""
    if get_origin(annotation) is Literal:
        words = get_args(annotation)
        return "" if value in words else f"one of {', '.join(map(str, words))}"
    kind, bounds = option_form(annotation)
    if kind in (bool, str):
        return "" if type(value) is kind else {bool: "true or false", str: "text"}[kind]
    if isinstance(value, bool | str) or (kind is int and value != int(value)):
        fits = False
    else:
        least, most = (bounds.least, bounds.most) if bounds else (-math.inf, math.inf)
        fits = math.isfinite(value) and least <= value <= most
    if fits:
        return ""
    what = "a number" if kind is float else "a whole number"
    return f"{what} from {bounds.least:g} to {bounds.most:g}" if bounds else what
