"""A call of a function that merges a whole tensor, as data. Torch-free, so that plans can say it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Call:
    """A merge method that makes whole tensors, with its numbers for one of them.

    Attributes:
        method: its name.
        function: SHA-256 (hex) of the source of a person's own, so that another function is another plan;
            empty for those of `merge.passes.whole` and `beside_base`.
        calibration: SHA-256 (hex) of the text whose statistics it is given; empty without.
        given: gives them, one an input.
        coefficients: name and number, or one number an expert for those that are `per_input`.
    """

    method: str
    function: str
    coefficients: tuple[tuple[str, float | tuple[float, ...]], ...] = ()
    calibration: str = ""
    given: Callable[[], list[Any]] | None = field(default=None, compare=False, repr=False)

    @property
    def strength(self) -> float:
        """Lambda, the factor of the merged task vector; 1 where it is not stated."""
        value = dict(self.coefficients).get("lambda", 1.0)
        assert isinstance(value, float)
        return value

    def arguments(self) -> dict[str, float | list[float]]:
        """The coefficients as the function is given them; lists are its own."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in self.coefficients
        }
