"""One recipe for equal merges: what has no effect is made neutral, and baselines are known again.

Different genomes may stand for the same merge: a weight where the expert equals the base, a density beside a
weight of 0, or coefficients that make an expert, the base or the uniform average. They get one recipe, so
that it is evaluated once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from evomerge.recipe.method import MergeMethod, MethodOptions
from evomerge.search_space.genes import Gene
from evomerge.search_space.model_layout import ModelLayout
from evomerge.search_space.spread import PlaceValues

NEAR_SHARE = 5e-4
"""Half a step of the usual grid: a coarser grid's nearest point is another merge than the average."""


def only_where_active(method: MergeMethod, options: MethodOptions) -> bool:
    """Whether a weight does nothing where its expert equals the base; shares count everywhere."""
    return method.uses_base(options) and method.scalars_with(options) == "weights"


def all_equal(by_input: Mapping[str, Sequence[float]], value: float) -> bool:
    """Whether all inputs have this value at every place."""
    return all(table.count(value) == len(table) for table in by_input.values())


@dataclass(frozen=True)
class OneForEqual:
    """What of a merge's coefficients counts, by the formula of its method.

    Values are tables by place: coefficient to input to a value for each leaf of the layout.
    """

    method: MergeMethod
    options: MethodOptions
    layout: ModelLayout
    experts: tuple[str, ...]
    genes: tuple[Gene, ...]

    @cached_property
    def _idle(self) -> dict[str, list[int]]:
        """Expert to the indices of places where its weight does nothing."""
        active = self.layout.active_leaves
        if active is None or not only_where_active(self.method, self.options):
            return {}
        return {
            name: [i for i, place in enumerate(self.layout.leaves) if place not in active[name]]
            for name in self.experts
        }

    def neutralise(self, values: PlaceValues) -> None:
        """Neutral values where a coefficient does nothing: inactive places, density at weight 0.

        Not where signs are elected: there an expert votes and is counted whatever its weight. Nor where a
        function makes the whole tensor, for the same reason.
        """
        if self.method.elect or self.method.makes_whole:
            return
        for expert, weights in values.get("weight", {}).items():
            for index in self._idle.get(expert, ()):
                weights[index] = 0.0
            if 0.0 not in weights:
                continue
            for name, by_input in values.items():
                declared = self.method.coefficient(name)
                if name == "weight" or expert not in by_input or declared is None:
                    continue
                for index, weight in enumerate(weights):
                    if weight == 0.0:
                        by_input[expert][index] = declared.default

    def checkpoint(self, values: PlaceValues) -> str | None:
        """`base` or the expert that the merge is by its formula, or None.

        So that such a candidate has the recipe of the baseline and is not computed twice.
        """
        scalars = self.method.scalars_with(self.options)
        if scalars == "slerp":
            ends = set(values["t"]["*"])
            return self.experts[int(ends.pop())] if ends in ({0.0}, {1.0}) else None
        if "weight" not in values or self.method.function:
            return None
        tables = values["weight"]
        used = [name for name, table in tables.items() if any(table)]
        based = self.method.uses_base(self.options)
        if based and not used and (scalars in ("weights", "normalised") or self.method.makes_whole):
            return "base"
        if self.method.makes_whole:
            return None
        if self.method.elect or len(used) != 1:
            return None
        if not all(all_equal(values.get(name, {}), 1.0) for name in ("density", "lambda")):
            return None
        table = tables[used[0]]
        if scalars != "weights":
            shares = self.options.normalise != "no"
            return used[0] if shares and all(table) else None
        places, active = self.layout.leaves, self.layout.active_leaves
        needed = set(places) if active is None or not based else active[used[0]]
        ones = all(v == 1.0 for place, v in zip(places, table, strict=True) if place in needed)
        return used[0] if ones else None

    def single_coefficient(self, values: PlaceValues) -> float | None:
        """The c for which the merge is `base + c * sum of task vectors` by its formula, or None.

        1/3 is on no decimal grid: its nearest point stands for the uniform average. So that such a candidate
        is the baseline too.
        """
        if self.method.elect or not {"weight"} <= set(values) <= {"weight", "density", "lambda"}:
            return None
        if not all(all_equal(values.get(name, {}), 1.0) for name in ("density", "lambda")):
            return None
        tables, share = values["weight"], 1.0 / len(self.experts)
        scalars, based = self.method.scalars_with(self.options), self.method.uses_base(self.options)
        if scalars == "normalised":
            alike = all(len(set(column)) == 1 for column in zip(*tables.values(), strict=True))
            return share if alike and all(tables[self.experts[0]]) else None
        if scalars != "weights" or not based:
            return None
        active = self.layout.active_leaves
        found = {
            value
            for name, table in tables.items()
            for place, value in zip(self.layout.leaves, table, strict=True)
            if active is None or place in active[name]
        }
        if len(found) != 1:
            return None
        (value,) = found
        nearest = {gene.snap(share) for gene in self.genes if gene.coefficient == "weight"}
        return share if value in nearest and abs(value - share) <= NEAR_SHARE else value
