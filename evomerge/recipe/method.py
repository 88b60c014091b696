"""Merge methods as data: which operators each one is made of, its coefficients and its paper.

A method is a chain *sparsify, elect, reduce, scale* over the task vectors `delta_t = expert_t - base`,
a weighted sum whose numbers come from the inner products of the tensors, or one function of whole tensors.
This module says what a declaration is, `recipe.catalogue` declares, `evomerge.merge.passes` carries out.
Torch-free, so that drivers and `check` can read it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Sparsify = Literal["none", "magnitude", "bernoulli", "band", "ranked", "variance"]
Scalars = Literal[
    "weights", "normalised", "slerp", "karcher", "multislerp", "model_stock", "energy",
    "parts", "function", "function_of_shares",
]  # fmt: skip
Options = Mapping[str, str | float | bool]
COMPAT = "compat"
"""Option every method takes: `mergekit` for mergekit's semantics instead of the paper's."""


@dataclass(frozen=True)
class Coefficient:
    """A number a method takes, searched over [low, high] by default.

    `per_input` tells whether every expert has its own. `default` is also the value it has where the
    weight is 0 and it has no effect, so that equal merges have equal recipes. A coefficient that is not
    `free` keeps its default unless a search space names it.
    """

    name: str
    low: float
    high: float
    default: float
    per_input: bool = False
    meaning: str = ""
    free: bool = True

    @property
    def may_be_left_out(self) -> bool:
        """Whether a recipe need not state it: one number for all, at its default."""
        return not self.per_input and not self.free


@dataclass(frozen=True)
class MethodOptions:
    """The discrete settings of a merge; None where its method has no such setting.

    Attributes:
        around: what spherical methods take the models relative to.
        along: what of a tensor counts as one vector.
        normalise: whether weights are divided by their sum.
        divisor: what the sum over experts is divided by: nothing, the number of experts that agree, or
            their weights.
        election: whether signs are elected before or after the weights are applied.
        rescale: how what was dropped is made up for: by 1/p, by the sum of magnitudes, or not.
        trim: whether the largest entries are those of a tensor or of the whole model.
        rounding: how the number of kept entries is rounded.
    """

    around: Literal["base", "zero"] | None = None
    along: Literal["tensor", "rows", "columns"] | None = None
    normalise: Literal["yes", "no"] | None = None
    divisor: Literal["none", "count", "weight"] | None = None
    election: Literal["before", "after"] | None = None
    rescale: Literal["inverse", "l1", "none"] | None = None
    trim: Literal["tensor", "model"] | None = None
    rounding: Literal["decimal", "binary"] | None = None

    def to_json(self) -> dict[str, str]:
        """Name to value of those the method has."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class MergeMethod:
    """One published method.

    Attributes:
        scalars: how the coefficients become one number per input of the pass. With `function` one function
            makes the whole tensor of them, with `function_of_shares` one whose weights are at least 0, and
            with `parts` one that does not know the weights makes what each expert adds per unit of its own.
        sparsify: which entries of a task vector survive: the largest (`magnitude`), random ones
            (`bernoulli`), a band of magnitudes (`band`), random ones by rank in their row (`ranked`), or
            those that vary most over the experts (`variance`).
        elect: whether entries must agree with the elected sign (TIES).
        needs_base: whether the method works on task vectors, unless its option `around` is `zero`.
        inputs: least and largest number of experts (None: no limit).
        statistics: what `prepare` must provide: `gram` (inner products per tensor), `magnitudes`
            (exact order statistics of the task vectors), `ranks` (of magnitudes within rows), `variances`
            (order statistics of the variance over experts, and energies), or on the inputs of a
            calibration text: `input_grams` (of linear layers), `fisher` (diagonals of the information).
        options: discrete settings and their allowed values, the default first.
        mergekit: the settings that are mergekit's where they are not the defaults.
        function: SHA-256 (hex) of the source of a person's own function; empty for the methods here, whose
            functions are in `merge.passes.whole` and `beside_base`. See `recipe.registered`.
    """

    name: str
    paper: str
    coefficients: tuple[Coefficient, ...]
    scalars: Scalars = "weights"
    sparsify: Sparsify = "none"
    elect: bool = False
    needs_base: bool = True
    inputs: tuple[int, int | None] = (1, None)
    statistics: frozenset[str] = frozenset()
    options: tuple[tuple[str, tuple[str, ...]], ...] = ()
    mergekit: tuple[tuple[str, str], ...] = ()
    function: str = ""

    def coefficient(self, name: str) -> Coefficient | None:
        """The coefficient called `name`, or None."""
        for declared in self.coefficients:
            if declared.name == name:
                return declared
        return None

    def resolve(self, options: Options) -> MethodOptions:
        """Every option with its value: the one given, else mergekit's if asked for, else the default.

        Raises:
            TypeError: if the options have faults; see `faults`.
        """
        compat = dict(self.mergekit) if options.get(COMPAT) == "mergekit" else {}
        given = {name: str(value) for name, value in options.items() if name != COMPAT}
        chosen: dict[str, Any] = {name: values[0] for name, values in self.options} | compat | given
        return MethodOptions(**chosen)

    @property
    def allowed_options(self) -> dict[str, tuple[str, ...]]:
        """Every option a file may give, with its values, the default first."""
        return {**dict(self.options), COMPAT: ("none", "mergekit")}

    def faults(self, options: Options) -> list[str]:
        """What is wrong with a set of options, in words."""
        allowed = self.allowed_options
        found = []
        for name, value in options.items():
            if name not in allowed:
                known = ", ".join(allowed)
                found.append(f"{self.name} has no option `{name}`; it has {known}")
            elif value not in allowed[name]:
                choices = ", ".join(allowed[name])
                found.append(f"option `{name}` must be one of {choices}, found {value!r}")
        return found

    def uses_base(self, options: MethodOptions | None = None) -> bool:
        """Whether the merge is of task vectors."""
        around = (options or self.resolve({})).around
        return self.needs_base if around is None else around == "base"

    def scalars_with(self, options: MethodOptions | None = None) -> Scalars:
        """How coefficients become numbers, given the options."""
        chosen = options or self.resolve({})
        if self.scalars == "normalised" and chosen.normalise == "no":
            return "weights"
        if self.scalars == "weights" and not self.elect and chosen.divisor == "weight":
            return "normalised"
        return self.scalars

    def is_linear(self, options: MethodOptions | None = None) -> bool:
        """Whether the result is linear in the weights once all other coefficients are fixed."""
        chosen = options or self.resolve({})
        voted = self.elect and (chosen.election == "after" or chosen.divisor == "weight")
        return self.scalars_with(options) in ("weights", "parts") and not voted

    def has_slopes(self, options: MethodOptions | None = None) -> bool:
        """Whether a gradient by the merged weights gives that by the weights of the experts.

        It does for what is linear in them (`is_linear`), or in them divided by their sum.
        """
        shares = self.scalars_with(options) == "normalised" and not self.elect
        return self.is_linear(options) or shares

    @property
    def linear(self) -> bool:
        """`is_linear` of the default options."""
        return self.is_linear()

    def out_of_range(self, coefficient: str, value: float) -> str:
        """What range a coefficient's value breaks, in words; empty if none, as for a person's own method."""
        if self.function:
            return ""
        if self.name == "nearswap" and coefficient == "t" and value < 0.0:
            return "the t of nearswap is a distance and at least 0"
        return out_of_range(coefficient, value)

    @property
    def makes_whole(self) -> bool:
        """Whether a function makes whole tensors, rather than a pass that streams them in blocks."""
        return self.scalars in ("parts", "function", "function_of_shares")

    @property
    def on_inputs(self) -> Literal["input_grams", "fisher"] | None:
        """Which statistic of calibration inputs it needs, if any."""
        if "input_grams" in self.statistics:
            return "input_grams"
        return "fisher" if "fisher" in self.statistics else None

    @property
    def is_random(self) -> bool:
        """Whether the merge depends on a seed."""
        return self.sparsify in ("bernoulli", "ranked")


def out_of_range(coefficient: str, value: float) -> str:
    """What range a coefficient's value breaks, in words; empty if none."""
    if coefficient == "density" and not 0.0 < value <= 1.0:
        return "a density lies above 0 and at most at 1"
    if coefficient == "gamma" and not 0.0 <= value < 1.0:
        return "a gamma is at least 0 and below 1"
    if coefficient == "epsilon" and not 0.0 <= value < 0.5:
        return "an epsilon is at least 0 and below 0.5"
    return ""


def ranked_out_of_range(least_density: float, density: float, epsilon: float) -> str:
    """The same for the keep probabilities that densities and an epsilon make together."""
    # Sums of short decimals: 0.8 + 0.2 must count as 1.
    low, high = round(least_density - epsilon, 12), round(density + epsilon, 12)
    if epsilon and (low <= 0.0 or high > 1.0):
        return "density - epsilon must lie above 0 and density + epsilon at most at 1"
    return ""
