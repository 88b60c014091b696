"""The section `mixture` of a search-space file."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, PositiveInt, model_validator

from evomerge.recipe.mixture import Gate, Sides, is_prompted
from evomerge.search_space.around_one import AroundOne
from evomerge.search_space.layer_path import EXPERTS


class TemperatureField(AroundOne):
    """Bounds and grid of the temperature of the gates; they must hold 1.

    Attributes:
        low: least temperature.
        high: largest temperature.
        step: step of the grid from `low`.
    """

    low: Annotated[FiniteFloat, Field(gt=0)] = 0.25
    high: FiniteFloat = 2.0
    step: Annotated[FiniteFloat, Field(gt=0)] = 0.25


class PromptsField(BaseModel):
    """Texts that an expert is for, and texts that it is not for.

    Attributes:
        positive: at least one text.
        negative: may be none.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    positive: Annotated[list[str], Field(min_length=1)]
    negative: list[str] = []


class MixtureSection(BaseModel):
    """The section `mixture` of a search-space file.

    Attributes:
        experts: whose MLPs may be experts: names, `base`, `experts` for all of the campaign's.
        bands: runs of layers that are up-cycled together, a gene each; each layer has its own if absent.
        max_per_token: most experts that a token meets.
        gate_mode: how the routers' rows are made: `hidden`, `cheap_embed`, `random` or `arrow`.
        sides: of `arrow`, whether each expert is written twice, or once on the side of its prompts.
        temperature: bounds of what divides the routers' scores; 1 if absent.
        rank: of what an expert learned of a matrix, so many singular triplets are kept; all if absent.
        prompts: of each expert, where rows are made of them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    experts: Annotated[list[str], Field(min_length=1)] = [EXPERTS]
    bands: PositiveInt | None = None
    max_per_token: PositiveInt = 2
    gate_mode: Gate = "arrow"
    sides: Sides = "both"
    temperature: TemperatureField | None = None
    rank: PositiveInt | None = None
    prompts: dict[str, PromptsField] = {}

    @model_validator(mode="after")
    def _consistent(self) -> MixtureSection:
        if self.sides == "prompts" and self.gate_mode != "arrow":
            raise ValueError("E119", f"`sides` goes with gate_mode arrow, not {self.gate_mode}")
        if self.prompts and not is_prompted(self.gate_mode, self.sides):
            raise ValueError("E119", f"gate_mode {self.gate_mode} takes no prompts")
        return self
