"""Dropping elements of a block of a task vector: by magnitude, at random, or by variance."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

import torch

from evomerge.merge.passes.blocks import Scratch
from evomerge.merge.passes.masks import apply_mask, apply_ranked_mask
from evomerge.merge.passes.sparsity import Sparsity


def sparsify(
    delta: torch.Tensor,
    sparsity: Sparsity,
    start: int,
    columns: int,
    scratch: Scratch,
    spare: torch.Tensor,
    ranks: torch.Tensor | None = None,
) -> torch.Tensor:
    """Sparsify a block of a task vector; the result is `delta` or `spare` (both float32 [n]).

    Args:
        delta: elements `start` to `start + n` of the flattened task vector; overwritten.
        sparsity: what survives.
        start: where the block begins.
        columns: length of a row; with a `spread`, blocks hold whole rows.
        scratch: for the random numbers.
        spare: overwritten.
        ranks: with a `spread`, `block_ranks` of the block where they are known; else it is sorted.
    """
    if sparsity.ceiling < math.inf:
        # What is left of x without its part above the ceiling: 0 there, and x - 0 elsewhere.
        torch.ops.aten.hardshrink.out(delta, sparsity.ceiling, out=spare)
        delta.sub_(spare)
    if sparsity.threshold > 0.0:
        # hardshrink zeroes |x| <= bound; the float32 below the threshold keeps |x| >= threshold.
        bound = float32_below(sparsity.threshold)
        torch.ops.aten.hardshrink.out(delta, bound, out=spare)
        delta, spare = spare, delta
    if sparsity.keep < 1.0:
        counter, bits, words = scratch.words(delta.numel())
        if sparsity.spread > 0.0:
            if ranks is None:
                ranks = block_ranks(delta, columns)
            _drop_by_rank(delta, sparsity, start, columns, ranks, (counter, bits, words))
        else:
            apply_mask(delta, sparsity.key, sparsity.keep, start, counter, bits, words)
    if sparsity.rescale != 1.0:
        delta.mul_(sparsity.rescale)
    return delta


def float32_below(value: float) -> float:
    """The next float32 below a positive float32."""
    (bits,) = struct.unpack("<i", struct.pack("<f", value))
    return float(struct.unpack("<f", struct.pack("<i", bits - 1))[0])


def rank_dtype(columns: int) -> torch.dtype:
    """The smallest element type that holds the ranks of a row."""
    return torch.int16 if columns <= 1 << 15 else torch.int32


def block_ranks(delta: torch.Tensor, columns: int) -> torch.Tensor:
    """Rank of each magnitude within its row, 0 for the smallest; equal ones rank by their position.

    Args:
        delta: float32 [n], whole rows.
        columns: length of a row.

    Returns:
        [n] in `rank_dtype`.
    """
    order = delta.view(-1, columns).abs().argsort(dim=1, stable=True)
    places = torch.arange(columns, dtype=rank_dtype(columns), device=delta.device)
    ranks = torch.empty_like(order, dtype=places.dtype)
    return ranks.scatter_(1, order, places.expand_as(order)).view(-1)


def _drop_by_rank(
    delta: torch.Tensor,
    sparsity: Sparsity,
    start: int,
    columns: int,
    ranks: torch.Tensor,
    words: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
) -> None:
    """MagPrune (Deep et al. 2024, arXiv:2406.11617)."""
    ladder = keep_ladder(sparsity.keep, sparsity.spread, columns)
    limits = (ladder * 2.0**31).round_().clamp_(max=2.0**31 - 1).to(torch.int32)
    places = ranks.to(torch.int32)
    if sparsity.unbiased:
        factors = ladder.reciprocal().to(torch.float32).to(delta.device)
        delta.mul_(factors.index_select(0, places))
    by_place = limits.to(delta.device).index_select(0, places)
    apply_ranked_mask(delta, sparsity.key, by_place, start, *words)


def keep_ladder(keep: float, spread: float, columns: int) -> torch.Tensor:
    """Keep probabilities by rank of magnitude, float64 [columns]: smallest magnitude first."""
    if columns == 1:
        return torch.full((1,), keep, dtype=torch.float64)
    ranks = torch.arange(columns, dtype=torch.float64) / (columns - 1)
    return ranks.mul_(2.0 * spread).add_(keep - spread)


def variance(
    deltas: Sequence[torch.Tensor], out: torch.Tensor, mean: torch.Tensor, spare: torch.Tensor
) -> None:
    """Population variance over task vectors into `out`; all float32 [n].

    One rounding an operation and no fused multiply-add, so that a prepared threshold meets the same
    bits in any block.
    """
    mean.copy_(deltas[0])
    for delta in deltas[1:]:
        mean.add_(delta)
    mean.div_(float(len(deltas)))
    out.zero_()
    for delta in deltas:
        torch.sub(delta, mean, out=spare)
        spare.mul_(spare)
        out.add_(spare)
    out.div_(float(len(deltas)))


def keep_varying(
    deltas: Sequence[torch.Tensor],
    least: float,
    out: torch.Tensor,
    mean: torch.Tensor,
    spare: torch.Tensor,
) -> None:
    """Zero the entries of all task vectors whose variance over them is below `least`, in place."""
    variance(deltas, out, mean, spare)
    torch.ops.aten.hardshrink.out(out, float32_below(least), out=spare)
    spare.sign_()
    for delta in deltas:
        delta.mul_(spare)
