"""What to write in a file instead of a value of the wrong type, from the model that reads the file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

_NUMBERS = frozenset({"int_type", "float_type"})
"""Pydantic's faults of a field that is to be a number."""


def instead(kind: str, shown: Any, fields: Sequence[str]) -> str:
    """What to write for a value of the wrong type; `fields` are those of what must stand there."""
    if kind in _NUMBERS and _is_number(shown):
        return "write it without quotes"
    if kind in _NUMBERS and isinstance(shown, str) and re.fullmatch(r"[-+]?\d+,\d+", shown):
        return f"write it with a dot, {shown.replace(',', '.')}"
    if kind == "list_type":
        like = f"{{{', '.join(f'{name}: ...' for name in fields)}}}" if fields else shown
        return f"write a list, `[{like}]`" if isinstance(like, str | int | float) else "write a list"
    if kind == "string_type" and isinstance(shown, bool | int | float):
        return "put it in quotes"
    if kind == "bool_type":
        return "write `true` or `false`"
    if kind == "model_type" and fields:
        return f"its fields: {', '.join(fields)}"
    return "write `NAME: ...` for each" if kind == "dict_type" else ""


def own_fields(model: type[BaseModel], loc: tuple[str | int, ...]) -> list[str]:
    """The fields of what stands at a place, none where it is no section and no list of such."""
    if not loc:
        return []
    outer = loc[:-2] if isinstance(loc[-1], int) else loc[:-1]
    own, around = fields_at(model, loc), fields_at(model, outer)
    return own if own != around else []


def _is_number(shown: Any) -> bool:
    """Whether this is text that YAML would have read as a number."""
    return (
        isinstance(shown, str)
        and re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", shown) is not None
    )


def fields_at(model: type[BaseModel], loc: tuple[str | int, ...]) -> list[str]:
    """The fields of the section at a place, or of the nearest section around it."""
    current: Any = model
    for part in loc:
        fields = getattr(current, "model_fields", {})
        annotation = fields[part].annotation if part in fields else current
        current = next(
            (
                option
                for option in (annotation, *getattr(annotation, "__args__", ()))
                if isinstance(option, type) and issubclass(option, BaseModel)
            ),
            current,
        )
    fields = getattr(current, "model_fields", {})
    return [field.alias or name for name, field in fields.items()]
