"""Bounds and a grid of a positive number of which 1 changes nothing, as fields of a search-space file."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator


class AroundOne(BaseModel):
    """Bounds and grid; they must hold 1.

    Attributes:
        low: least value.
        high: largest value.
        step: step of the grid from `low`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    low: Annotated[FiniteFloat, Field(gt=0)]
    high: FiniteFloat
    step: Annotated[FiniteFloat, Field(gt=0)]

    @model_validator(mode="after")
    def _holds_one(self) -> AroundOne:
        index = round((1.0 - self.low) / self.step)
        if not self.low < self.high or not self.low <= 1.0 <= self.high:
            raise ValueError("E110", f"bounds must hold 1; they are [{self.low}, {self.high}]")
        if round(self.low + index * self.step, 12) != 1.0:
            raise ValueError("E110", f"1 must lie on the grid of {self.step} from {self.low}")
        return self
