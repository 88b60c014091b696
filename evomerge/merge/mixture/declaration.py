"""The file of a mixture, with the names of mergekit-moe's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from evomerge.files.yaml_file import load_yaml, validate
from evomerge.recipe.mixture import Gate, Mixture, Prompts, Sides, is_prompted


class MixtureExpert(BaseModel):
    """A model whose MLPs are one expert of every layer, and prompts that it is for and not for."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    source_model: str
    positive_prompts: list[str] = []
    negative_prompts: list[str] = []


class MixtureDeclaration(BaseModel):
    """What a mixture is made of; all that is no MLP is the base's.

    Attributes:
        gate_mode: how the router's rows are made; see `gates` and `experts`.
        sides: of `arrow`, whether an expert is written twice, with its direction and the opposite one, which
            is Arrow's score exactly; or once, on the side of its prompts.
        temperature: divides what the router says: below 1 it is more decided.
        layers: numbers of the layers whose MLPs become experts, the others keep the base's; all if absent.
        rank: of what an expert learned, so many singular triplets of each matrix are kept; all if absent.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    base_model: str
    experts: Annotated[list[MixtureExpert], Field(min_length=2)]
    gate_mode: Gate = "hidden"
    sides: Sides = "both"
    temperature: Annotated[FiniteFloat, Field(gt=0)] = 1.0
    rank: Annotated[int, Field(ge=1)] | None = None
    layers: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] | None = None
    experts_per_token: Annotated[int, Field(ge=1)] = 2
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    seed: int = 0

    @model_validator(mode="after")
    def _consistent(self) -> MixtureDeclaration:
        if self.experts_per_token > len(self.experts):
            found = f"{self.experts_per_token} of {len(self.experts)}"
            raise ValueError(
                "E110", f"experts_per_token is at most the number of experts; found {found}"
            )
        if self.sides == "prompts" and self.gate_mode != "arrow":
            raise ValueError("E119", f"`sides` goes with gate_mode arrow, not {self.gate_mode}")
        missing = [e.source_model for e in self.experts if not e.positive_prompts]
        if self.is_prompted and missing:
            mode = self.gate_mode + (", sides prompts," if self.gate_mode == "arrow" else "")
            wrong = f"gate_mode {mode} needs positive_prompts of every expert"
            raise ValueError("E119", f"{wrong}; {missing[0]} has none")
        return self

    @property
    def is_prompted(self) -> bool:
        """Whether the router's rows come from prompts."""
        return is_prompted(self.gate_mode, self.sides)

    def mixture(self, names: Sequence[str], layers: int) -> Mixture:
        """The mixture, its experts under these names, of a base with so many layers."""
        prompts = {
            name: Prompts(tuple(each.positive_prompts), tuple(each.negative_prompts))
            for name, each in zip(names, self.experts, strict=True)
        }
        return Mixture(
            experts=tuple(names),
            layers=tuple(sorted(set(range(layers) if self.layers is None else self.layers))),
            per_token=self.experts_per_token,
            gate=self.gate_mode,
            temperature=self.temperature,
            sides=self.sides,
            rank=self.rank,
            seed=self.seed,
            prompts=prompts if self.is_prompted else {},
        )


def load_mixture(path: Path) -> MixtureDeclaration:
    """Read a mixture's file.

    Raises:
        ConfigError: with every fault found.
    """
    data, positions = load_yaml(path)
    return validate(MixtureDeclaration, data, positions, str(path))
