"""Paths of layers as genes: which a search may take, and how a row of genes spells one.

A path is a list of output layers, each a layer of the base, of an expert or of the merge. Two forms of
genes spell it. `steps`: one gene a slot, the number of a layer or 0 for none, so that inserting, leaving
out, repeating and exchanging layers are small edits. `indicator`: all layers of all sources in series,
several rounds of them, and one gene a slot that says whether it is part of the path (the data-flow space of
Akiba et al. 2024, arXiv:2403.13187, whose scaling matrix is one number a slot here).

A scale multiplies the residual stream where it enters its layer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, PositiveInt, model_validator

from evomerge.errors import ConfigError, Problem
from evomerge.recipe.recipe import MERGED, LayerStep
from evomerge.search_space.around_one import AroundOne

EXPERTS = "experts"
"""Stands for all experts in a list of sources."""

ROUNDS = 3
"""Rounds of the indicator form, as published."""

Step = tuple[int, float]
"""The number of a choice, from 0, and the scale with which the residual stream enters it."""


class ScaleField(AroundOne):
    """Bounds and grid of the scales with which a layer adds to the residual stream; they must hold 1.

    Attributes:
        low: least scale.
        high: largest scale.
        step: step of the grid from `low`.
    """

    low: Annotated[FiniteFloat, Field(gt=0)] = 0.5
    high: FiniteFloat = 1.5
    step: Annotated[FiniteFloat, Field(gt=0)] = 0.05


class LayerPathSection(BaseModel):
    """The section `layer_path` of a search-space file.

    Attributes:
        form: how genes spell a path: `steps`, a layer for each slot, or Sakana's `indicator` array.
        sources: whose layers it may take: `merged`, `base`, names of experts, `experts` for all of them.
        outer: whose embeddings, final norm and head the model has.
        min_layers, max_layers: length; half and one and a half times the base's by default.
        max_repeats: how often one layer may stand in a path.
        rounds: of the indicator form.
        scale: bounds of the scales; without, all are 1.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    form: Literal["steps", "indicator"] = "steps"
    sources: Annotated[list[str], Field(min_length=1)] = [MERGED, "base", EXPERTS]
    outer: str = MERGED
    min_layers: PositiveInt | None = None
    max_layers: PositiveInt | None = None
    max_repeats: PositiveInt = 2
    rounds: PositiveInt | None = None
    scale: ScaleField | None = None

    @model_validator(mode="after")
    def _consistent(self) -> LayerPathSection:
        if self.form != "indicator" and self.rounds is not None:
            raise ValueError("E119", f"`rounds` only goes with `form: indicator`, not {self.form}")
        if len(set(self.sources)) != len(self.sources):
            raise ValueError("E119", "a source is listed twice")
        return self


@dataclass(frozen=True)
class LayerPaths:
    """The paths of one campaign. Rows of genes hold a value for each slot, then, if scaled, a scale for each.

    Attributes:
        choices: (source, layer) that a step may be.
        form: how genes spell a path.
        slots: how many there are.
        least, most: length.
        repeats: how often one choice may stand in a path.
        outer: source of what lies outside the layers.
        scale: (low, high, step) of the scales, or None.
    """

    choices: tuple[tuple[str, int], ...]
    form: Literal["steps", "indicator"]
    slots: int
    least: int
    most: int
    repeats: int
    outer: str
    scale: tuple[float, float, float] | None = None

    def __len__(self) -> int:
        """How many genes a row has."""
        return self.slots * (1 if self.scale is None else 2)

    @cached_property
    def sources(self) -> tuple[str, ...]:
        """Whose layers there are, in order."""
        return tuple(dict.fromkeys(source for source, _ in self.choices))

    @cached_property
    def home(self) -> tuple[Step, ...]:
        """The path that edits start from: the layers in order of `outer`, or else of the first source."""
        return self.identity(self.outer if self.outer in self.sources else self.sources[0])

    def identity(self, source: str) -> tuple[Step, ...]:
        """All layers of a source in order, as far as the limits allow."""
        own = [(n, 1.0) for n, (name, _) in enumerate(self.choices) if name == source]
        try:
            return self.steps(self.spell(self._limited(own)))
        except ValueError:
            # Of an indicator what fills it up stands in any free slot: none may be left behind the layers.
            return self.steps(self.spell([own[place] for place in self._kept(own)]))

    def steps(self, row: Sequence[float]) -> tuple[Step, ...]:
        """The path of a row whose values lie on their grids, brought within the limits.

        What is too often in it or too much is left out from its end; what is too short is filled up with the
        first layers that may be.
        """
        scales = row[self.slots :] if self.scale is not None else [1.0] * self.slots
        slots = list(zip(row[: self.slots], scales, strict=True))
        if self.form == "steps":
            return self._limited([(int(v) - 1, scale) for v, scale in slots if v > 0])
        count = len(self.choices)
        on = {slot: scale for slot, (v, scale) in enumerate(slots) if v > 0}
        kept = self._kept([(slot % count, scale) for slot, scale in on.items()])
        chosen = {list(on)[place]: list(on.values())[place] for place in kept}
        used = Counter(slot % count for slot in chosen)
        for slot in range(self.slots):
            if len(chosen) >= self.least:
                break
            if slot not in chosen and used[slot % count] < self.repeats:
                chosen[slot] = 1.0
                used[slot % count] += 1
        return tuple((slot % count, chosen[slot]) for slot in sorted(chosen))

    def spell(self, steps: Sequence[Step]) -> tuple[float, ...]:
        """The row that spells a path: steps as early as can be, 0 and scale 1 in other slots.

        Raises:
            ValueError: the slots do not suffice for it.
        """
        values, scales = [0.0] * self.slots, [1.0] * self.slots
        place = 0
        for choice, scale in steps:
            if self.form == "indicator":
                place += (choice - place) % len(self.choices)
            if place >= self.slots:
                raise ValueError(f"no slot is left for step {choice} of a path of {len(steps)}")
            values[place] = 1.0 if self.form == "indicator" else float(choice + 1)
            scales[place] = scale
            place += 1
        return (*values, *scales) if self.scale is not None else tuple(values)

    def canonical(self, row: Sequence[float]) -> tuple[float, ...]:
        """The one row that spells the path of a row."""
        return self.spell(self.steps(row))

    def is_spelled(self, steps: Sequence[Step]) -> bool:
        """Whether a path keeps the limits and has a row."""
        try:
            return self.steps(self.spell(steps)) == tuple(steps)
        except ValueError:
            return False

    def layer_steps(self, steps: Sequence[Step]) -> tuple[LayerStep, ...]:
        """A path as a recipe states it.

        A recipe's scale multiplies what a layer adds. With scales s on the way in, `x_t = s_t x_(t-1) +
        f_t(s_t x_(t-1))`. A layer that looks at its input through a norm does not see the scale, so that
        `x_t / (s_1 ... s_t)` grows by `f_t / (s_1 ... s_t)`; the final norm takes the last factor away.
        Both hold up to the epsilon of the norms.
        """
        found = []
        product = 1.0
        for choice, scale in steps:
            product *= scale
            found.append(LayerStep(*self.choices[choice], round(1.0 / product, 12)))
        return tuple(found)

    def read(self, path: Sequence[LayerStep]) -> tuple[Step, ...] | None:
        """The steps of a recipe's path; None if it takes other layers, or scales where there are none."""
        numbers = {choice: number for number, choice in enumerate(self.choices)}
        found: list[Step] = []
        product = 1.0
        for step in path:
            number = numbers.get((step.source, step.layer))
            if number is None or step.scale <= 0.0 or (self.scale is None and step.scale != 1.0):
                return None
            scale = 1.0
            if self.scale is not None:
                low, _, width = self.scale
                scale = round(low + round((1.0 / step.scale / product - low) / width) * width, 12)
            product *= scale
            found.append((number, scale))
        return tuple(found)

    def _kept(self, steps: Sequence[Step]) -> list[int]:
        """Places of the steps that limits of repetition and length leave."""
        used: Counter[int] = Counter()
        kept: list[int] = []
        for place, (choice, _) in enumerate(steps):
            if used[choice] < self.repeats and len(kept) < self.most:
                used[choice] += 1
                kept.append(place)
        return kept

    def _limited(self, steps: Sequence[Step]) -> tuple[Step, ...]:
        found = [steps[place] for place in self._kept(steps)]
        used = Counter(choice for choice, _ in found)
        for choice in range(len(self.choices)):
            while len(found) < self.least and used[choice] < self.repeats:
                found.append((choice, 1.0))
                used[choice] += 1
        return tuple(found)


def build_layer_paths(
    section: LayerPathSection, layers: int, experts: Sequence[str], file: str
) -> LayerPaths:
    """Lay a section over a model of `layers` layers.

    Raises:
        ConfigError: E119 a source that is none, or limits that leave no path.
    """

    def fault(wrong: str, found: str, todo: str, field: str) -> ConfigError:
        return ConfigError(Problem("E119", wrong, found, todo, file, field=f"layer_path.{field}"))

    known = (MERGED, "base", *experts)
    sources = [
        name
        for stated in section.sources
        for name in (experts if stated == EXPERTS and EXPERTS not in experts else (stated,))
    ]
    for name, field in [*((name, "sources") for name in sources), (section.outer, "outer")]:
        if name not in known:
            raise fault("names no source", f"found {name!r}", f"sources: {', '.join(known)}", field)
    choices = tuple((name, layer) for name in dict.fromkeys(sources) for layer in range(layers))
    least = (layers + 1) // 2 if section.min_layers is None else section.min_layers
    most = max(least, layers + layers // 2) if section.max_layers is None else section.max_layers
    slots = len(choices) * (section.rounds or ROUNDS) if section.form == "indicator" else most
    most = min(most, slots, len(choices) * section.max_repeats)
    if least > most:
        found = f"at least {least} layers, at most {most}"
        raise fault("limits leave no path", found, "raise max_layers or max_repeats", "min_layers")
    scale = None
    if section.scale is not None:
        low, step = section.scale.low, section.scale.step
        scale = (low, round(low + int((section.scale.high - low) / step + 1e-9) * step, 12), step)
    return LayerPaths(
        choices, section.form, slots, least, most, section.max_repeats, section.outer, scale
    )
