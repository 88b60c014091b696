"""Mixtures of experts as genes: which layers and experts are up-cycled, how many a token meets, how decided.

The mixture stands on the merge that the other genes say: all that is no MLP of its layers is the merge's.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from evomerge.errors import ConfigError, Problem
from evomerge.recipe.mixture import Mixture, Prompts, is_prompted
from evomerge.recipe.recipe import MERGED, CheckpointSource, Recipe
from evomerge.search_space.genes import Gene, Genome
from evomerge.search_space.layer_path import EXPERTS
from evomerge.search_space.mixture_fields import MixtureSection
from evomerge.search_space.model_layout import ModelLayout

FEWEST = 2
"""Experts of a mixture."""


@dataclass(frozen=True)
class Mixtures:
    """The mixtures of one campaign.

    Rows of genes hold 0 or 1 for each run of layers and each expert, then how many a token meets, then, if it
    is searched, the temperature.

    Attributes:
        experts: sources that may be experts, in order.
        runs: of layers that become experts together.
        whole: the mixture of all of them, whose gates and rank all have.
        temperature: (low, high, step), or None for 1.
        places: of each run, the places of its MLPs.
    """

    experts: tuple[str, ...]
    runs: tuple[tuple[int, ...], ...]
    whole: Mixture
    temperature: tuple[float, float, float] | None
    places: tuple[tuple[str, ...], ...]

    @cached_property
    def genes(self) -> tuple[Gene, ...]:
        """In the order of a row."""
        width = len(str(self.runs[-1][-1]))

        def span(run: Sequence[int]) -> str:
            first, last = f"{run[0]:0{width}d}", f"{run[-1]:0{width}d}"
            return first if first == last else f"{first}-{last}"

        # Together from the start, half of all points would be no mixture.
        found = [
            Gene(
                f"mixture.layers.{span(run)}", 0.0, 1.0, 1.0, "mixture.layers", "*", places, single=True
            )
            for run, places in zip(self.runs, self.places, strict=True)
        ]
        found += [
            Gene(f"mixture.experts.{name}", 0.0, 1.0, 1.0, "mixture.experts", name, ())
            for name in self.experts
        ]
        if self.whole.per_token > 1:
            most = float(self.whole.per_token)
            found.append(Gene("mixture.per_token", 1.0, most, 1.0, "mixture.per_token", "*", ()))
        if self.temperature is not None:
            bounds = self.temperature
            found.append(Gene("mixture.temperature", *bounds, "mixture.temperature", "*", ()))
        return tuple(found)

    def __len__(self) -> int:
        """How many genes a row has."""
        return len(self.genes)

    @property
    def dense(self) -> Genome:
        """The row of no mixture at all: every layer off, all else as `every` has it."""
        return (*[0.0] * len(self.runs), *self.every[len(self.runs) :])

    @property
    def every(self) -> Genome:
        """The row of all layers and experts."""
        on = [1.0] * (len(self.runs) + len(self.experts))
        more = [float(self.whole.per_token)] if self.whole.per_token > 1 else []
        return (*on, *more, *([1.0] if self.temperature is not None else []))

    def mixture(self, row: Sequence[float]) -> Mixture | None:
        """The mixture of a row whose values lie on their grids; None where no layer is up-cycled.

        With fewer than two experts the first others join; no more of them than there are meet a token; and
        where one does, no temperature changes what it gets.
        """
        count, runs = len(self.experts), len(self.runs)
        layers = [n for run, on in zip(self.runs, row, strict=False) if on > 0.0 for n in run]
        if not layers:
            return None
        chosen = [on > 0.0 for on in row[runs : runs + count]]
        for index in range(count):
            if sum(chosen) < FEWEST:
                chosen[index] = True
        experts = tuple(name for name, on in zip(self.experts, chosen, strict=True) if on)
        rest = list(row[runs + count :])
        most = int(rest.pop(0)) if self.whole.per_token > 1 else 1
        per_token = min(most, len(experts))
        temperature = rest[0] if rest and per_token > 1 else 1.0
        return replace(
            self.whole,
            experts=experts,
            layers=tuple(layers),
            per_token=per_token,
            temperature=temperature,
            prompts={name: self.whole.prompts[name] for name in experts if self.whole.prompts},
        )

    def row(self, mixture: Mixture | None) -> Genome | None:
        """The row of a recipe's mixture; None if it is not among these."""
        if mixture is None:
            return self.dense
        found = [float(run[0] in mixture.layers) for run in self.runs]
        found += [float(name in mixture.experts) for name in self.experts]
        found += [float(mixture.per_token)] if self.whole.per_token > 1 else []
        found += [mixture.temperature] if self.temperature is not None else []
        row = tuple(gene.snap(value) for gene, value in zip(self.genes, found, strict=True))
        return row if self.mixture(row) == mixture else None


def build_mixtures(
    section: MixtureSection, layout: ModelLayout, experts: Sequence[str], seed: int, file: str
) -> Mixtures:
    """Lay a section over a model.

    Raises:
        ConfigError: E119 a source that is none, fewer than two, more bands than layers, or an expert without
            prompts where rows are made of them.
    """

    def fault(wrong: str, found: str, todo: str, field: str) -> ConfigError:
        return ConfigError(Problem("E119", wrong, found, todo, file, field=f"mixture.{field}"))

    known = ("base", *experts)
    stated = [
        name
        for each in section.experts
        for name in (experts if each == EXPERTS and EXPERTS not in experts else (each,))
    ]
    for name in stated:
        if name not in known:
            raise fault("names no source", f"found {name!r}", f"sources: {', '.join(known)}", "experts")
    names = tuple(dict.fromkeys(stated))
    if len(names) < FEWEST:
        raise fault("a mixture takes two experts or more", f"found {len(names)}", "", "experts")
    layers = layout.layers
    bands = layers if section.bands is None else section.bands
    if bands > layers:
        raise fault("more bands than layers", f"{bands} bands, {layers} layers", "", "bands")
    needed = names if is_prompted(section.gate_mode, section.sides) else ()
    for name in (*needed, *section.prompts):
        if name not in section.prompts or name not in names:
            wrong = f"gate_mode {section.gate_mode} needs prompts of every expert, and of no other"
            raise fault(wrong, f"found {', '.join(section.prompts) or 'none'}", "", "prompts")
    edges = [band * layers // bands for band in range(bands + 1)]
    runs = tuple(tuple(range(a, b)) for a, b in itertools.pairwise(edges))
    prompts = {
        name: Prompts(tuple(own.positive), tuple(own.negative)) for name, own in section.prompts.items()
    }
    whole = Mixture(
        experts=names,
        layers=tuple(range(layers)),
        per_token=min(section.max_per_token, len(names)),
        gate=section.gate_mode,
        sides=section.sides,
        rank=section.rank,
        seed=seed if section.gate_mode == "random" else 0,
        prompts={name: prompts[name] for name in needed},
    )
    heat = section.temperature
    bounds = None
    if heat is not None:
        steps = int((heat.high - heat.low) / heat.step + 1e-9)
        bounds = heat.low, round(heat.low + steps * heat.step, 12), heat.step
    places = tuple(
        tuple(
            place
            for layer in run
            for place in layout.places
            if f"{place}.".startswith(f"layers.{layer}.mlp.")
        )
        for run in runs
    )
    return Mixtures(names, runs, whole, bounds, places)


def upcycled(mixture: Mixture | None, merge: Recipe, sources: Mapping[str, CheckpointSource]) -> Recipe:
    """The recipe of a mixture on a merge; without a mixture the merge itself."""
    if mixture is None:
        return merge
    own = {name: sources[name] for name in ("base", *mixture.experts)}
    return replace(merge, sources={**own, **merge.sources}, mixture=mixture)


def dense_part(recipe: Recipe, experts: Sequence[str]) -> Recipe:
    """The merge that a recipe's mixture stands on, with the sources that it needs alone."""
    if recipe.mixture is None:
        return recipe
    merged = recipe.sources.get(MERGED)
    used = {"base", *(step.source for step in recipe.path)}
    used |= set(experts) if merged is not None else set()
    kept = {name: source for name, source in recipe.sources.items() if name in used}
    return replace(recipe, sources=kept, mixture=None)
