"""Merge methods that one function of whole tensors makes, as data; `merge.passes.whole` has the functions."""

from __future__ import annotations

from evomerge.recipe.method import Coefficient, MergeMethod

_WEIGHT = Coefficient("weight", 0.0, 1.5, 1.0, True, "factor of the expert's task vector")
_SHARE = Coefficient("weight", 0.0, 1.0, 1.0, True, "share of the expert, divided by the sum")
_LAMBDA = Coefficient("lambda", 0.2, 1.5, 1.0, False, "factor of the merged task vector", free=False)
_TRIMMED = Coefficient("density", 0.05, 1.0, 1.0, False, "fraction of the right factors kept", False)
_COMPETING = Coefficient("density", 0.01, 0.2, 0.1, False, "fraction that wins the competition")

_ISO = "Marczak et al. 2025, No Task Left Behind: Isotropic Model Merging, arXiv:2502.04959"

WHOLE_TENSOR: tuple[MergeMethod, ...] = (
    MergeMethod(
        name="tsv_m",
        paper="Gargiulo et al. 2025, Task Singular Vectors, arXiv:2412.00081",
        coefficients=(_WEIGHT, _LAMBDA),
        scalars="parts",
        inputs=(2, None),
    ),
    MergeMethod(
        name="iso_c",
        paper=_ISO,
        coefficients=(_WEIGHT, _LAMBDA),
        scalars="function",
        inputs=(2, None),
    ),
    MergeMethod(
        name="iso_cts",
        paper=_ISO,
        coefficients=(
            _WEIGHT,
            Coefficient("common", 0.5, 0.95, 0.8, False, "fraction of the rank that all share", False),
            _LAMBDA,
        ),
        scalars="function",
        inputs=(2, None),
    ),
    MergeMethod(
        name="knots",
        paper="Stoica et al. 2024, Model merging with SVD to tie the Knots, arXiv:2410.19735",
        coefficients=(_WEIGHT, _TRIMMED, _LAMBDA),
        scalars="parts",
        inputs=(2, None),
    ),
    MergeMethod(
        name="star",
        paper="Lee et al. 2025, STAR: Spectral Truncation and Rescale, arXiv:2502.10339",
        coefficients=(
            _WEIGHT,
            Coefficient("eta", 0.2, 0.9, 0.4, False, "fraction of the nuclear norm that is kept"),
            _LAMBDA,
        ),
        scalars="parts",
        inputs=(2, None),
    ),
    MergeMethod(
        name="wudi",
        paper="Cheng et al. 2025, Whoever started the interference should end it (WUDI), "
        "arXiv:2503.08099, in closed form",
        coefficients=(_SHARE, _LAMBDA),
        scalars="function_of_shares",
        inputs=(2, None),
    ),
    MergeMethod(
        name="regmean",
        paper="Jin et al. 2023, Dataless knowledge fusion (RegMean), arXiv:2212.09849",
        coefficients=(
            _SHARE,
            Coefficient("alpha", 0.1, 1.0, 0.9, False, "factor of Gram entries off the diagonal", False),
            _LAMBDA,
        ),
        scalars="function_of_shares",
        inputs=(2, None),
        statistics=frozenset({"input_grams"}),
    ),
    MergeMethod(
        name="fisher",
        paper="Matena and Raffel 2022, Fisher-weighted averaging, arXiv:2111.09832",
        coefficients=(_SHARE, _LAMBDA),
        scalars="function_of_shares",
        inputs=(2, None),
        statistics=frozenset({"fisher"}),
    ),
    MergeMethod(
        name="consensus",
        paper="Wang et al. 2024, Localizing task information (TALL masks), arXiv:2405.07813",
        coefficients=(
            _WEIGHT,
            Coefficient("tall", 0.2, 1.0, 0.4, False, "how much of the rest an entry must outweigh"),
            _LAMBDA,
        ),
        scalars="parts",
        inputs=(2, None),
    ),
    MergeMethod(
        name="pcb",
        paper="Du et al. 2024, Parameter Competition Balancing, arXiv:2410.02396",
        coefficients=(_WEIGHT, _COMPETING, _LAMBDA),
        scalars="parts",
        inputs=(2, None),
    ),
    MergeMethod(
        name="magmax",
        paper="Marczak et al. 2024, MagMax, arXiv:2407.06322",
        coefficients=(_WEIGHT, _LAMBDA),
        scalars="function",
        inputs=(2, None),
    ),
    MergeMethod(
        name="tatr",
        paper="Sun et al. 2025, Task Arithmetic in Trust Region, zero-shot, arXiv:2501.15065",
        coefficients=(
            _WEIGHT,
            Coefficient("trust", 0.9, 1.0, 0.99, False, "fraction of entries in the trust region"),
            _LAMBDA,
        ),
        scalars="parts",
        inputs=(2, None),
    ),
    MergeMethod(
        name="ram",
        paper="Yuan et al. 2026, Reinforced Agent Merging (RAM), arXiv:2601.13572",
        coefficients=(
            Coefficient("r", 0.0, 1.0, 0.0, False, "how much more entries of one expert count (RAM+)"),
            Coefficient("alpha", 0.0, 1.0, 0.2, False, "most that is added to their factor, over r", False),
            Coefficient("epsilon", 0.0, 0.001, 1e-5, False, "least change that counts", False),
            _LAMBDA,
        ),
        scalars="function",
        inputs=(2, None),
    ),
)  # fmt: skip
"""In the order of `evomerge list methods`: spectral ones, those on calibration inputs, masks."""
