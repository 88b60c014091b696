"""Built-in merge methods that make a whole tensor of the base and an expert, run by `merge_by_function`.

Each is called as `function(base, experts, **coefficients)` like a person's own function: float32 tensors of
one shape on the CPU, on one thread, so that a live model and an export get the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

_ROWS = 1 << 20
"""Elements of the blocks of rows that are looked at in float64."""

_LEAST_SHARE = 1e-8
"""What is added to the shares of a softmax, as mergekit does."""


def nearswap(base: torch.Tensor, experts: Sequence[torch.Tensor], t: float) -> torch.Tensor:
    """The expert where it lies within `t` of the base, else `t` away from the base towards it.

    With `d = expert - base` this is `base + clip(t / |d|, 0, 1) d = base + clip(d, -t, t)` (NearSwap, of
    QuartetAnemoi-70B 2024; in mergekit as `nearswap`, which divides by 1e-6 at least).

    Args:
        base: float32, any shape; overwritten.
        experts: one, of the same shape; overwritten.
        t: distance, at least 0.
    """
    delta = experts[0].sub_(base)
    return base.add_(delta.clamp_(-t, t))


def arcee_fusion(base: torch.Tensor, experts: Sequence[torch.Tensor], iqr: float) -> torch.Tensor:
    """The expert where its change is important, else the base (Arcee Fusion, of mergekit 2025).

    The importance of an entry is `|expert - base|` times the divergence KL(softmax(expert) || softmax(base))
    of its row (last axis). Entries of at least `median + iqr * (third quartile - first)` of the tensor's
    importances are taken. Quartiles are the entries at `floor(q (n - 1))` of all n in order; mergekit draws a
    million of larger tensors at random.

    Args:
        base: float32, any shape.
        experts: one, of the same shape.
        iqr: interquartile ranges above the median, 1.5 in mergekit.
    """
    expert = experts[0]
    importance = torch.empty_like(base)
    columns = base.shape[-1] if base.dim() else 1
    rows = [tensor.view(-1, columns) for tensor in (base, expert, importance)]
    step = max(1, _ROWS // columns)
    for start in range(0, rows[0].shape[0], step):
        origin, changed = (each[start : start + step].double() for each in rows[:2])
        shares = [torch.softmax(each, -1).add_(_LEAST_SHARE) for each in (changed, origin)]
        divergence = (shares[0] * (shares[0] / shares[1]).log_()).sum(-1, keepdim=True)
        rows[2][start : start + step] = (changed - origin).abs_().mul_(divergence)
    last = importance.numel() - 1
    places = [quarter * last // 4 for quarter in (1, 2, 3)]
    ordered = np.partition(importance.view(-1).numpy(), places)
    first, median, third = (float(ordered[place]) for place in places)
    return torch.where(importance >= median + iqr * (third - first), expert, base)


BESIDE_BASE: Mapping[str, Callable[..., torch.Tensor]] = {
    "nearswap": nearswap,
    "arcee_fusion": arcee_fusion,
}
"""By the name of the method; the coefficients are those of `recipe.catalogue`."""
