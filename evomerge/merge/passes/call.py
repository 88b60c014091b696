"""A call of a person's own merge function, as data. Torch-free, so that plans can say it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Call:
    """A registered merge method with its numbers for one tensor.

    Attributes:
        method: its name.
        function: SHA-256 (hex) of its source, so that another function is another plan.
        coefficients: name and number, or one number an expert for those that are `per_input`.
    """

    method: str
    function: str
    coefficients: tuple[tuple[str, float | tuple[float, ...]], ...] = ()

    def arguments(self) -> dict[str, float | list[float]]:
        """The coefficients as the function is given them; lists are its own."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in self.coefficients
        }
