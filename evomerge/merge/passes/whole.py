"""Built-in merge methods that one function of a whole tensor makes; `recipe.whole_tensor` declares them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from evomerge.merge.passes import calibrated, contested, low_rank

Merge = Callable[..., torch.Tensor]
"""Task vectors float32 [T, ...] and coefficients by name to the merged task vector, float32 [...]."""

FUNCTIONS: Mapping[str, Merge] = {
    "tsv_m": low_rank.tsv_m,
    "iso_c": low_rank.iso_c,
    "iso_cts": low_rank.iso_cts,
    "knots": low_rank.knots,
    "star": low_rank.star,
    "wudi": low_rank.wudi,
    "regmean": calibrated.regmean,
    "fisher": calibrated.fisher,
    "consensus": contested.consensus,
    "pcb": contested.pcb,
    "magmax": contested.magmax,
    "tatr": contested.tatr,
    "ram": contested.ram,
}
"""By the name of the method; those on calibration inputs are `given` their statistics too.

`lambda` is not among the coefficients: it multiplies what they give.
"""
