"""Sparsified sums: task vectors are trimmed or dropped, may have to agree in sign, and are added."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from evomerge.methods.blocks import Dense, Operand, Scratch, Sink, block_ranges
from evomerge.methods.masks import apply_mask

_ONE_BITS = 0x3F800000
"""The bits of float32 1.0."""


@dataclass(frozen=True)
class Sparsity:
    """Which elements of one task vector survive.

    Attributes:
        threshold: least magnitude that survives (float32); 0 keeps all.
        keep: probability of surviving; 1 keeps all.
        rescale: factor of the survivors.
        key: key of the random mask (`masks.mask_key`).
    """

    threshold: float = 0.0
    keep: float = 1.0
    rescale: float = 1.0
    key: int = 0


def sparsify(
    delta: torch.Tensor, sparsity: Sparsity, start: int, scratch: Scratch, spare: torch.Tensor
) -> torch.Tensor:
    """Sparsify a block of a task vector; the result is `delta` or `spare` (both float32 [n])."""
    if sparsity.threshold > 0.0:
        # hardshrink zeroes |x| <= bound; the float32 below the threshold keeps |x| >= threshold.
        bound = _float32_below(sparsity.threshold)
        torch.ops.aten.hardshrink.out(delta, bound, out=spare)
        delta, spare = spare, delta
    if sparsity.keep < 1.0:
        counter, bits, words = scratch.words(delta.numel())
        apply_mask(delta, sparsity.key, sparsity.keep, start, counter, bits, words)
    if sparsity.rescale != 1.0:
        delta.mul_(sparsity.rescale)
    return delta


def _float32_below(value: float) -> float:
    (bits,) = struct.unpack("<i", struct.pack("<f", value))
    return float(struct.unpack("<f", struct.pack("<i", bits - 1))[0])


def sparsified_sum(
    base: torch.Tensor,
    operands: Sequence[Operand],
    weights: Sequence[float],
    sparsities: Sequence[Sparsity],
    elect: bool,
    mean_of_agreeing: bool,
    scale: float,
    size: int,
    out: torch.Tensor,
    storage: torch.dtype,
    scratch: Scratch,
) -> bool:
    """`out = scale * (base + sum_t w_t s_t)` over sparsified task vectors `s_t`, perhaps elected.

    With `elect` (TIES, Yadav et al. 2023, arXiv:2306.01708) each element's sign is that of `sum_t s_t`,
    a zero sum counts as positive, and only elements of that sign take part; the election sees neither
    weights nor dropped elements, so the result is linear in the weights. With `mean_of_agreeing` the
    sum is divided by the number that take part. DARE (Yu et al. 2024, arXiv:2311.03099) is a random
    mask with `rescale = 1 / keep`.

    Args:
        base: [size].
        operands: the experts.
        weights: one factor an operand.
        sparsities: one an operand.
        elect: whether signs must agree.
        mean_of_agreeing: whether to divide by the count; only with `elect`.
        scale: factor of the whole result.
        size: number of elements.
        out: [size] contiguous.
        storage: dtype the result is rounded to before it is held in `out`.
        scratch: on the device of `out`.

    Returns:
        Whether every element is finite.
    """
    ranges = list(block_ranges(size, operands))
    sink = Sink(out, storage, scratch, len(ranges))
    origin_of = Dense(base)
    count = len(operands)
    for start, stop in ranges:
        origin, total, first, second, *deltas = scratch.rows(4 + (count if elect else 1), stop - start)
        origin_of.value(origin, start, stop)
        if not elect:
            total.copy_(origin)
            for operand, weight, sparsity in zip(operands, weights, sparsities, strict=True):
                operand.delta(first, origin, start, stop)
                total.add_(sparsify(first, sparsity, start, scratch, second), alpha=weight)
        else:
            kept = []
            for operand, sparsity, row in zip(operands, sparsities, deltas, strict=True):
                operand.delta(row, origin, start, stop)
                survivors = sparsify(row, sparsity, start, scratch, first)
                if survivors is first:
                    row, first = first, row
                kept.append(row)
            _elected_sum(kept, weights, mean_of_agreeing, total, first, second)
            total.add_(origin)
        if scale != 1.0:
            total.mul_(scale)
        sink.store(total, start, stop)
    return sink.is_finite()


def _elected_sum(
    deltas: Sequence[torch.Tensor],
    weights: Sequence[float],
    mean: bool,
    total: torch.Tensor,
    sign: torch.Tensor,
    count: torch.Tensor,
) -> None:
    """`total = sign * sum_t w_t relu(sign * s_t) / count`; overwrites `deltas`, `sign` and `count`."""
    sign.copy_(deltas[0])
    for delta in deltas[1:]:
        sign.add_(delta)
    # +1 or -1 from the sign bit. A sum of -0.0 has no agreeing element, so that its sign is free.
    sign.view(torch.int32).bitwise_and_(-(2**31)).bitwise_or_(_ONE_BITS)
    total.zero_()
    if mean:
        count.zero_()
    for delta, weight in zip(deltas, weights, strict=True):
        delta.mul_(sign).clamp_min_(0.0)
        total.add_(delta, alpha=weight)
        if mean:
            count.add_(delta.sign_())
    total.mul_(sign)
    if mean:
        total.div_(count.clamp_min_(1.0))
