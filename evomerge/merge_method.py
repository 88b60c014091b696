"""Merge methods as data: which operators each one is made of, its coefficients and its paper.

A method is a chain *sparsify, elect, reduce, scale* over the task vectors `delta_t = expert_t - base`
(or, for methods without a base, a weighted sum over the experts themselves). This module declares;
`evomerge.methods` carries out. Torch-free, so that drivers and `check` can read it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Sparsify = Literal["none", "magnitude", "bernoulli"]
Reduce = Literal["sum", "mean_of_agreeing"]
Scalars = Literal["weights", "normalised", "slerp"]


@dataclass(frozen=True)
class Coefficient:
    """A number a method takes, searched over [low, high] by default.

    `per_input` tells whether every expert has its own. `neutral` is the value it has where the weight
    is 0 and it has no effect, so that equal merges have equal recipes.
    """

    name: str
    low: float
    high: float
    default: float
    per_input: bool
    meaning: str


@dataclass(frozen=True)
class MergeMethod:
    """One published method.

    Attributes:
        scalars: how the coefficients become one number per input of the pass.
        sparsify: which entries of a task vector survive, and whether survivors are rescaled.
        elect: whether entries must agree with the elected sign (TIES), elected on the sparsified
            task vectors before the weights, as in the paper.
        reduce: plain weighted sum, or the mean over agreeing experts (count in the divisor).
        needs_base: whether the method works on task vectors.
        inputs: least and largest number of experts (None: no limit).
        statistics: what `prepare` must provide: `gram` (inner products per tensor) or `magnitudes`
            (exact order statistics of the task vectors).
        linear: whether the result is linear in the weights once other coefficients are fixed.
        options: discrete settings and their allowed values, the default first.
    """

    name: str
    paper: str
    coefficients: tuple[Coefficient, ...]
    scalars: Scalars
    sparsify: Sparsify
    elect: bool
    reduce: Reduce
    needs_base: bool
    inputs: tuple[int, int | None]
    statistics: frozenset[str]
    linear: bool
    options: tuple[tuple[str, tuple[str, ...]], ...] = ()

    def coefficient(self, name: str) -> Coefficient | None:
        """The coefficient called `name`, or None."""
        return next((c for c in self.coefficients if c.name == name), None)


_WEIGHT = Coefficient("weight", 0.0, 1.5, 1.0, True, "factor of the expert's task vector")
_SHARE = Coefficient("weight", 0.0, 1.0, 1.0, True, "share of the expert, divided by the sum")
_DENSITY = Coefficient("density", 0.05, 1.0, 1.0, True, "fraction of the task vector that is kept")
_T = Coefficient("t", 0.0, 1.0, 0.5, False, "position between the first (0) and second (1) expert")

METHODS: dict[str, MergeMethod] = {
    method.name: method
    for method in (
        MergeMethod(
            name="linear",
            paper="Wortsman et al. 2022, Model soups, arXiv:2203.05482",
            coefficients=(_SHARE,),
            scalars="normalised",
            sparsify="none",
            elect=False,
            reduce="sum",
            needs_base=False,
            inputs=(1, None),
            statistics=frozenset(),
            linear=False,
        ),
        MergeMethod(
            name="task_arithmetic",
            paper="Ilharco et al. 2023, Editing models with task arithmetic, arXiv:2212.04089",
            coefficients=(_WEIGHT,),
            scalars="weights",
            sparsify="none",
            elect=False,
            reduce="sum",
            needs_base=True,
            inputs=(1, None),
            statistics=frozenset(),
            linear=True,
        ),
        MergeMethod(
            name="slerp",
            paper="Shoemake 1985, Animating rotation with quaternion curves",
            coefficients=(_T,),
            scalars="slerp",
            sparsify="none",
            elect=False,
            reduce="sum",
            needs_base=False,
            inputs=(2, 2),
            statistics=frozenset({"gram"}),
            linear=False,
        ),
        MergeMethod(
            name="ties",
            paper="Yadav et al. 2023, TIES-Merging, arXiv:2306.01708",
            coefficients=(_WEIGHT, _DENSITY),
            scalars="weights",
            sparsify="magnitude",
            elect=True,
            reduce="mean_of_agreeing",
            needs_base=True,
            inputs=(1, None),
            statistics=frozenset({"magnitudes"}),
            linear=True,
            options=(("trim", ("tensor", "model")),),
        ),
        MergeMethod(
            name="dare_ties",
            paper="Yu et al. 2024, Language models are Super Mario (DARE), arXiv:2311.03099, "
            "with the sign election of TIES",
            coefficients=(_WEIGHT, _DENSITY),
            scalars="weights",
            sparsify="bernoulli",
            elect=True,
            reduce="sum",
            needs_base=True,
            inputs=(1, None),
            statistics=frozenset(),
            linear=True,
        ),
    )
}
