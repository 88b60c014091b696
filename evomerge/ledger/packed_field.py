"""Fields of dataclasses with slots that are held in less memory than what goes in and comes out."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

Kind = TypeVar("Kind", bound=type)
Pack = Callable[[Any], Any]

_SHA256 = re.compile("[0-9a-f]{64}")


def packed(**fields: tuple[Pack, Pack]) -> Callable[[Kind], Kind]:
    """Of a dataclass with slots, hold fields as the first function makes them; the second gives them back."""

    def decorated(kind: Kind) -> Kind:
        for name, (pack, whole) in fields.items():
            setattr(kind, name, _Field(getattr(kind, name), pack, whole))
        return kind

    return decorated


class _Field:
    """In the place of the slot of a field."""

    def __init__(self, slot: Any, pack: Pack, whole: Pack) -> None:
        self._slot, self._pack, self._whole = slot, pack, whole

    def held(self, owner: Any) -> Any:
        """What stands in the slot."""
        return self._slot.__get__(owner, type(owner))

    def __get__(self, owner: Any, kind: type) -> Any:
        return self if owner is None else self._whole(self.held(owner))

    def __set__(self, owner: Any, value: Any) -> None:
        self._slot.__set__(owner, self._pack(value))


def held(owner: Any, name: str) -> Any:
    """What is held of a packed field."""
    return getattr(type(owner), name).held(owner)


def packed_digest(text: str | None) -> bytes | str | None:
    """The 32 bytes of a SHA-256 in hex; any other text as it is."""
    return bytes.fromhex(text) if text is not None and _SHA256.fullmatch(text) else text


def whole_digest(held: bytes | str | None) -> str | None:
    """What was packed."""
    return held.hex() if isinstance(held, bytes) else held


DIGEST = packed_digest, whole_digest
