"""The merge methods that are built in, by name: their coefficients, options, operators and papers.

Those carried out by streaming passes stand here, those that one function makes in `recipe.whole_tensor`.
"""

from __future__ import annotations

from evomerge.recipe.method import Coefficient, MergeMethod
from evomerge.recipe.whole_tensor import WHOLE_TENSOR

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

_NEAR = Coefficient("t", 0.0, 0.01, 0.001, False, "how far an entry may move from the base")
_IQR = Coefficient(
    "iqr", -1.0, 4.0, 1.5, False, "interquartile ranges above the median from which changes are kept",
    free=False,
)  # fmt: skip

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
        *WHOLE_TENSOR,
        MergeMethod(
            name="nearswap",
            paper="alchemonaut 2024, QuartetAnemoi-70B (NearSwap)",
            coefficients=(_NEAR,),
            scalars="function",
            inputs=(1, 1),
        ),
        MergeMethod(
            name="arcee_fusion",
            paper="Arcee AI 2025, Arcee Fusion (mergekit 0.1)",
            coefficients=(_IQR,),
            scalars="function",
            inputs=(1, 1),
        ),
    )
}
