"""Values of mergekit parameters: scalars, gradients over the layers of a slice, and filter lists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Value = float | bool

_YES = frozenset({"1", "true", "t", "yes", "y", "on"})
_NO = frozenset({"0", "false", "f", "no", "n", "off"})


def as_flag(value: object) -> bool | None:
    """A flag as mergekit reads it: true and false, 1 and 0, and words for them; else None."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return bool(value) if value in (0, 1) else None
    if isinstance(value, str):
        word = value.lower()
        return True if word in _YES else False if word in _NO else None
    return None


def as_number(value: object) -> float | None:
    """A number as mergekit reads it, texts such as `1e-5` (which YAML takes for text) too; else None."""
    if not isinstance(value, bool | int | float | str):
        return None
    try:
        return float(value)
    except ValueError:
        return None


@dataclass(frozen=True)
class Setting:
    """A parameter as written: rules in order, the first whose filter matches holds.

    A rule is (substring of the tensor's name or None for every tensor, points of a gradient); a single
    point is a constant.
    """

    rules: tuple[tuple[str | None, tuple[Value, ...]], ...]
    line: int = 0

    def at(self, tensor: str, t: float) -> Value | None:
        """The value for a tensor at position `t` in [0, 1] of its slice; None if no filter matches."""
        for text, points in self.rules:
            if text is None or text in tensor:
                return gradient(points, t)
        return None


def gradient(points: Sequence[Value], t: float) -> Value:
    """Piecewise linear through equally spaced points; flags take the last point passed."""
    place = t * (len(points) - 1)
    below = int(place)
    if isinstance(points[0], bool):
        return points[below]
    above = min(below + 1, len(points) - 1)
    part = place - below
    return (1.0 - part) * points[below] + part * points[above]
