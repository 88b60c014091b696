"""Merge methods that ask of each entry who may have it: consensus, PCB, MagMax, trust region and RAM.

Each takes the task vectors of one tensor, float32 [T, ...], and gives the merged one, float32 [...], or the
part of each task, whose sum by the weights it is.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from evomerge.merge.statistics.order import rank, share

Weights = Sequence[float]

_CLAMPED = 1e-4
"""PCB: the fraction of each end of the magnitudes that is clamped."""


def consensus(deltas: torch.Tensor, tall: float) -> torch.Tensor:
    """Consensus merging (Wang et al. 2024, arXiv:2405.07813).

    An entry is in the mask of task t where `|d_t| > tall * |sum_s d_s - d_t|`; what is in less than two
    masks, no task or one alone needs, is dropped.

    Returns:
        What is left of each task vector, float32 [T, ...].
    """
    total = deltas.sum(0)
    needed = torch.zeros(total.shape, dtype=torch.int32)
    for delta in deltas:
        needed += delta.abs() > tall * (total - delta).abs()
    return deltas * (needed >= 2)


def pcb(deltas: torch.Tensor, density: float) -> torch.Tensor:
    """Parameter competition balancing (Du et al. 2024, arXiv:2410.02396), in each tensor by itself.

    An entry's score is `exp(T * m^2) * tanh(d_t * sum_s d_s)`, m its magnitude on the scale from the
    tensor's least to its largest: importance within the task times agreement with all. The `density` largest
    scores, on the scale from the least of them to the largest, weigh the mean.

    Returns:
        The part of each task vector in that mean, float32 [T, ...].
    """
    flat = deltas.reshape(len(deltas), -1)
    size = flat.shape[1]
    total = flat.sum(0)
    parts, scores = torch.empty(flat.shape), torch.zeros(size)
    for part, values in zip(parts, flat, strict=True):
        if not values.any():
            # Who does not touch the tensor does not compete: it would halve what the others change.
            part.zero_()
            continue
        sizes = values.abs()
        rising = sizes.sort().values
        least = rising[int(size * _CLAMPED)]
        most = rising[max(int(size * (1 - _CLAMPED) - 1), 0)]
        sizes = sizes.clamp(min=least, max=torch.maximum(least, most))
        score = torch.exp(len(flat) * _scaled(sizes).square()) * torch.tanh(values * total)
        least = score.sort().values[size - rank(density, size)]
        score = _scaled(score.clamp(min=least))
        part.copy_(torch.sign(values) * sizes * score)
        scores += score
    return (parts / scores.clamp(min=1e-12)).view(deltas.shape)


def magmax(deltas: torch.Tensor, weight: Weights) -> torch.Tensor:
    """Of each entry the weighted task vector that is largest (Marczak et al. 2024, arXiv:2407.06322).

    Of equal ones that of the first expert by name.
    """
    best = deltas[0] * weight[0]
    for delta, factor in zip(deltas[1:], weight[1:], strict=True):
        other = delta * factor
        best = torch.where(other.abs() > best.abs(), other, best)
    return best


def tatr(deltas: torch.Tensor, trust: float) -> torch.Tensor:
    """Task arithmetic in the trust region, zero-shot (Sun et al. 2025, arXiv:2501.15065).

    Conflict is `sum over s != t of |g_s| |d_t|`; with the task vector for the gradient `g_s` it needs no
    data. The `trust` entries of a tensor of least conflict take part.

    Returns:
        What is left of each task vector, float32 [T, ...].
    """
    sizes = deltas.abs()
    total = sizes.sum(0)
    conflict = torch.zeros_like(total)
    for each in sizes:
        conflict += each * (total - each)
    limit = conflict.flatten().kthvalue(max(1, share(trust, conflict.numel()))).values
    return deltas * (conflict <= limit)


def ram(deltas: torch.Tensor, r: float, alpha: float, epsilon: float) -> torch.Tensor:
    """Reinforced agent merging (Yuan et al. 2026, arXiv:2601.13572), tensor by tensor.

    Changes above `epsilon` count. Those of several experts are averaged, those of one are kept whole, times
    `1 + r * min(shared / unique, alpha)` of that expert's numbers of such entries (RAM+; with r 0 it is RAM).
    """
    changed = deltas.abs() > epsilon
    count = changed.sum(0)
    merged = torch.zeros(deltas.shape[1:])
    for delta, own in zip(deltas, changed, strict=True):
        unique = own & (count == 1)
        shared = int((own & (count > 1)).sum())
        ratio = min(shared / max(int(unique.sum()), 1), alpha)
        merged += torch.where(unique, delta * (1.0 + r * ratio), 0.0)
        merged += torch.where(own & ~unique, delta / count.clamp(min=1), 0.0)
    return merged


def _scaled(values: torch.Tensor) -> torch.Tensor:
    """Onto [0, 1], the least at 0 and the largest at 1; ones where all are equal."""
    least, most = torch.aminmax(values)
    return (values - least) / (most - least) if most > least else torch.ones_like(values)
