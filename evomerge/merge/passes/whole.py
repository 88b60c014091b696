"""Built-in merge methods that one function of a whole tensor makes; `recipe.whole_tensor` declares them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from evomerge.merge.passes import calibrated, contested, low_rank

Merge = Callable[..., torch.Tensor]
"""Task vectors float32 [T, ...] and coefficients by name to the merged task vector, float32 [...]."""

Parts = Callable[..., torch.Tensor]
"""The same, without the weights, to the part of each task, float32 [T, ...]."""

LINEAR: Mapping[str, Parts] = {
    "tsv_m": low_rank.tsv_m,
    "knots": low_rank.knots,
    "star": low_rank.star,
    "consensus": contested.consensus,
    "pcb": contested.pcb,
    "tatr": contested.tatr,
}
"""Methods whose merge is the sum of parts by the weights: the parts are made once for many weights."""

FUNCTIONS: Mapping[str, Merge] = {
    "iso_c": low_rank.iso_c,
    "iso_cts": low_rank.iso_cts,
    "wudi": low_rank.wudi,
    "regmean": calibrated.regmean,
    "fisher": calibrated.fisher,
    "magmax": contested.magmax,
    "ram": contested.ram,
}
"""The others; those on calibration inputs are `given` their statistics too.

`lambda` is not among the coefficients of either: it multiplies what they give.
"""


def weighted(parts: torch.Tensor, weight: Sequence[float]) -> torch.Tensor:
    """`sum w_t part_t`, float32 [...], in the order of the experts."""
    total = parts[0] * weight[0]
    for part, factor in zip(parts[1:], weight[1:], strict=True):
        total += part * factor
    return total
