"""Merge methods as data: which operators each one is made of, its coefficients and its paper.

A method is a chain *sparsify, elect, reduce, scale* over the task vectors `delta_t = expert_t - base`,
or a weighted sum whose numbers come from the inner products of the tensors. This module declares;
`evomerge.merge.passes` carries out. Torch-free, so that drivers and `check` can read it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Sparsify = Literal["none", "magnitude", "bernoulli", "band", "ranked", "variance"]
Scalars = Literal[
    "weights", "normalised", "slerp", "karcher", "multislerp", "model_stock", "energy", "function"
]
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
        scalars: how the coefficients become one number per input of the pass.
        sparsify: which entries of a task vector survive: the largest (`magnitude`), random ones
            (`bernoulli`), a band of magnitudes (`band`), random ones by rank in their row (`ranked`), or
            those that vary most over the experts (`variance`).
        elect: whether entries must agree with the elected sign (TIES).
        needs_base: whether the method works on task vectors, unless its option `around` is `zero`.
        inputs: least and largest number of experts (None: no limit).
        statistics: what `prepare` must provide: `gram` (inner products per tensor), `magnitudes`
            (exact order statistics of the task vectors), `ranks` (of magnitudes within rows), `variances`
            (order statistics of the variance over experts, and energies).
        options: discrete settings and their allowed values, the default first.
        mergekit: the settings that are mergekit's where they are not the defaults.
        function: SHA-256 (hex) of the source of a person's own function, which then makes the whole tensor;
            empty for the methods here. See `recipe.registered`.
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

    def faults(self, options: Options) -> list[str]:
        """What is wrong with a set of options, in words."""
        allowed = {**dict(self.options), COMPAT: ("none", "mergekit")}
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
        return self.scalars_with(options) == "weights" and not voted

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
        return "" if self.function else out_of_range(coefficient, value)

    @property
    def is_random(self) -> bool:
        """Whether the merge depends on a seed."""
        return self.sparsify in ("bernoulli", "ranked")


_WEIGHT = Coefficient("weight", 0.0, 1.5, 1.0, True, "factor of the expert's task vector")
_SHARE = Coefficient("weight", 0.0, 1.0, 1.0, True, "share of the expert, divided by the sum")
_DENSITY = Coefficient(
    "density", 0.05, 1.0, 1.0, True, "fraction of the task vector that is kept", free=False
)
_BAND = Coefficient("density", 0.5, 1.0, 0.9, True, "fraction of the task vector that is kept", False)
_RANKED = Coefficient("density", 0.2, 0.8, 0.5, True, "mean probability of keeping an entry", False)
_POSITIONS = Coefficient("density", 0.05, 1.0, 1.0, False, "fraction of the varying entries kept")
_GAMMA = Coefficient("gamma", 0.0, 0.05, 0.01, True, "fraction dropped as the largest", free=False)
_EPSILON = Coefficient(
    "epsilon", 0.0, 0.15, 0.1, True, "keep probabilities run from density-epsilon to density+epsilon",
    free=False,
)  # fmt: skip
_LAMBDA = Coefficient("lambda", 0.2, 1.5, 1.0, False, "factor of the merged task vector", free=False)
_T = Coefficient("t", 0.0, 1.0, 0.5, False, "position between the first (0) and second (1) expert")

_TRIM = ("trim", ("tensor", "model"))
_ELECTION = ("election", ("before", "after"))
_ROUNDING = ("rounding", ("decimal", "binary"))
_MEAN_FIRST = ("divisor", ("count", "weight", "none"))
_SUM_FIRST = ("divisor", ("none", "count", "weight"))
_SUM_OR_SHARES = ("divisor", ("none", "weight"))
_INVERSE_FIRST = ("rescale", ("inverse", "l1", "none"))
_PLAIN_FIRST = ("rescale", ("none", "l1"))

_DARE = "Yu et al. 2024, Language models are Super Mario (DARE), arXiv:2311.03099"
_DELLA = "Deep et al. 2024, DELLA-Merging, arXiv:2406.11617"
_CRUMBS = "Davari and Belilovsky 2023, Model Breadcrumbs, arXiv:2312.06795"

METHODS: dict[str, MergeMethod] = {
    method.name: method
    for method in (
        MergeMethod(
            name="linear",
            paper="Wortsman et al. 2022, Model soups, arXiv:2203.05482",
            coefficients=(_SHARE,),
            scalars="normalised",
            needs_base=False,
            options=(("normalise", ("yes", "no")),),
        ),
        MergeMethod(
            name="task_arithmetic",
            paper="Ilharco et al. 2023, Editing models with task arithmetic, arXiv:2212.04089",
            coefficients=(_WEIGHT, _LAMBDA),
            options=(_SUM_OR_SHARES,),
        ),
        MergeMethod(
            name="slerp",
            paper="Shoemake 1985, Animating rotation with quaternion curves",
            coefficients=(_T,),
            scalars="slerp",
            needs_base=False,
            inputs=(2, 2),
            statistics=frozenset({"gram"}),
        ),
        MergeMethod(
            name="nuslerp",
            paper="Shoemake 1985, Animating rotation with quaternion curves, on task vectors "
            "(NuSLERP, mergekit 2024)",
            coefficients=(_T,),
            scalars="slerp",
            inputs=(2, 2),
            statistics=frozenset({"gram"}),
            options=(("around", ("base", "zero")), ("along", ("tensor", "rows", "columns"))),
        ),
        MergeMethod(
            name="karcher",
            paper="Karcher 1977, Riemannian center of mass and mollifier smoothing, "
            "doi:10.1002/cpa.3160300502",
            coefficients=(_SHARE,),
            scalars="karcher",
            needs_base=False,
            statistics=frozenset({"gram"}),
            options=(("around", ("zero", "base")),),
        ),
        MergeMethod(
            name="multislerp",
            paper="Goddard 2025, Multi-SLERP (goddard.blog/posts/multislerp-wow-what-a-cool-idea)",
            coefficients=(_SHARE,),
            scalars="multislerp",
            statistics=frozenset({"gram"}),
            options=(("around", ("base", "zero")), ("normalise", ("yes", "no"))),
        ),
        MergeMethod(
            name="model_stock",
            paper="Jang et al. 2024, Model Stock, arXiv:2403.19522",
            coefficients=(_LAMBDA,),
            scalars="model_stock",
            inputs=(2, None),
            statistics=frozenset({"gram"}),
            options=(("along", ("tensor", "rows")),),
        ),
        MergeMethod(
            name="ties",
            paper="Yadav et al. 2023, TIES-Merging, arXiv:2306.01708",
            coefficients=(_WEIGHT, _DENSITY, _LAMBDA),
            sparsify="magnitude",
            elect=True,
            statistics=frozenset({"magnitudes"}),
            options=(_TRIM, _ELECTION, _MEAN_FIRST, _PLAIN_FIRST, _ROUNDING),
            mergekit=(("election", "after"), ("divisor", "weight"), ("rounding", "binary")),
        ),
        MergeMethod(
            name="dare_linear",
            paper=_DARE,
            coefficients=(_WEIGHT, _DENSITY, _LAMBDA),
            sparsify="bernoulli",
            options=(_INVERSE_FIRST, _SUM_OR_SHARES),
            mergekit=(("rescale", "l1"),),
        ),
        MergeMethod(
            name="dare_ties",
            paper=f"{_DARE}, with the sign election of TIES",
            coefficients=(_WEIGHT, _DENSITY, _LAMBDA),
            sparsify="bernoulli",
            elect=True,
            options=(_ELECTION, _SUM_FIRST, _INVERSE_FIRST),
            mergekit=(("election", "after"), ("rescale", "l1")),
        ),
        MergeMethod(
            name="breadcrumbs",
            paper=_CRUMBS,
            coefficients=(_WEIGHT, _BAND, _GAMMA, _LAMBDA),
            sparsify="band",
            statistics=frozenset({"magnitudes"}),
            options=(_SUM_OR_SHARES, _PLAIN_FIRST, _ROUNDING),
            mergekit=(("rounding", "binary"),),
        ),
        MergeMethod(
            name="breadcrumbs_ties",
            paper=f"{_CRUMBS}, with the sign election of TIES",
            coefficients=(_WEIGHT, _BAND, _GAMMA, _LAMBDA),
            sparsify="band",
            elect=True,
            statistics=frozenset({"magnitudes"}),
            options=(_ELECTION, _SUM_FIRST, _PLAIN_FIRST, _ROUNDING),
            mergekit=(("election", "after"), ("rounding", "binary")),
        ),
        MergeMethod(
            name="della_linear",
            paper=f"{_DELLA}, without election",
            coefficients=(_WEIGHT, _RANKED, _EPSILON, _LAMBDA),
            sparsify="ranked",
            statistics=frozenset({"ranks"}),
            options=(_INVERSE_FIRST, _SUM_OR_SHARES),
            mergekit=(("rescale", "l1"),),
        ),
        MergeMethod(
            name="della",
            paper=_DELLA,
            coefficients=(_WEIGHT, _RANKED, _EPSILON, _LAMBDA),
            sparsify="ranked",
            elect=True,
            statistics=frozenset({"ranks"}),
            options=(_ELECTION, _MEAN_FIRST, _INVERSE_FIRST),
            mergekit=(("election", "after"), ("divisor", "weight"), ("rescale", "l1")),
        ),
        MergeMethod(
            name="sce",
            paper="Wan et al. 2024, FuseChat, arXiv:2408.07990",
            coefficients=(_POSITIONS,),
            scalars="energy",
            sparsify="variance",
            elect=True,
            statistics=frozenset({"variances"}),
            options=(("divisor", ("weight",)),),
        ),
    )
}


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
