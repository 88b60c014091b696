"""What all events have, and how one becomes JSON and is read back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from typing import Any, ClassVar, Self

from pydantic import TypeAdapter, ValidationError


@dataclass(frozen=True, kw_only=True)
class Event:
    """What all events have; each is None until the event is written down.

    Attributes:
        kind: the name of the kind in JSON.
        n: its number in the file, from 0.
        time: wall-clock seconds since the epoch.
        elapsed: seconds the campaign had been running, over all its sessions and without the pauses.
    """

    kind: ClassVar[str]

    n: int | None = None
    time: float | None = None
    elapsed: float | None = None

    def to_json(self) -> dict[str, Any]:
        """As JSON data."""
        return {"event": self.kind, **_plain_fields(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote.

        Raises:
            ValueError: if a field is missing or of another type; it says which.
        """
        try:
            event: Self = _adapter(cls).validate_python(data)  # type: ignore[arg-type]
        except ValidationError as error:
            faults = (f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise ValueError(f"`{cls.kind}`: {'; '.join(faults)}") from None
        return event


@cache
def _adapter(kind: type[Event]) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


@cache
def _names(kind: Any) -> tuple[str, ...]:
    """Fields of a dataclass; to ask it each time takes longer than to read them."""
    return tuple(each.name for each in fields(kind))


def _plain_fields(data: Any) -> dict[str, Any]:
    found = ((name, getattr(data, name)) for name in _names(data.__class__))
    return {name: _plain(value) for name, value in found if value is not None}


_NUMBERS = frozenset({int, float})
_SCALARS = frozenset({str, bool, *_NUMBERS})


def _plain(value: Any) -> Any:
    if type(value) in _SCALARS or isinstance(value, str | int | float):
        return value
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, tuple | list):
        if _NUMBERS.issuperset(map(type, value)):
            return list(value)  # a genome has hundreds
        return [_plain(each) for each in value]
    return _plain_fields(value) if is_dataclass(value) else value
