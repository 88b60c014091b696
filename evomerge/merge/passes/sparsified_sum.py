"""Sparsified sums: task vectors are trimmed or dropped, may have to agree in sign, and are added."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from evomerge.merge.passes.blocks import Dense, Operand, Scratch, Sink, block_ranges
from evomerge.merge.passes.scalars import LEAST_DIVISOR
from evomerge.merge.passes.sparsify import keep_varying, sparsify
from evomerge.merge.passes.sparsity import Sparsity

Election = Literal["none", "before", "after"]
Divisor = Literal["none", "count", "weight"]

_ONE_BITS = 0x3F800000
"""The bits of float32 1.0."""


def sparsified_sum(
    base: torch.Tensor,
    operands: Sequence[Operand],
    weights: Sequence[float],
    sparsities: Sequence[Sparsity],
    election: Election,
    divisor: Divisor,
    factor: float,
    least_variance: float,
    columns: int,
    scale: float,
    size: int,
    out: torch.Tensor,
    storage: torch.dtype,
    scratch: Scratch,
    check: bool = True,
    ranks: Sequence[torch.Tensor | None] | None = None,
) -> bool:
    """`out = scale * (base + factor * sum_t w_t s_t)` over sparsified task vectors, perhaps elected.

    With an election (TIES, Yadav et al. 2023, arXiv:2306.01708) each element's sign is that of
    `sum_t s_t` (`before` the weights, as in the paper) or of `sum_t w_t s_t` (`after` them), a zero sum
    counts as positive, and only elements of that sign take part. Before the weights it sees neither
    weights nor dropped elements, so the result is linear in the weights. The sum is divided by the
    number that take part (`count`) or by the sum of their signed weights (`weight`; one where that
    vanishes). DARE (Yu et al. 2024, arXiv:2311.03099) is a random mask with `rescale = 1 / keep`.

    Args:
        base: [size].
        operands: the experts.
        weights: one factor an operand.
        sparsities: one an operand.
        election: whether signs must agree, and who votes.
        divisor: what elected sums are divided by; without an election, nothing.
        factor: of the merged task vector; only with an election, else it belongs into the weights.
        least_variance: with an election, entries whose variance over all task vectors is below this are
            dropped (SCE); 0 keeps all.
        columns: length of a row, for sparsities with a spread.
        scale: factor of the whole result.
        size: number of elements.
        out: [size] contiguous.
        storage: dtype the result is rounded to before it is held in `out`.
        scratch: on the device of `out`.
        check: whether to look at the result; not needed where it is known to be finite.
        ranks: for sparsities with a spread, one an operand: `block_ranks` of the whole task vector, [size];
            None where they are to be found by sorting.

    Returns:
        Whether every element is finite; true without a check.
    """
    ranges = list(block_ranges(size, operands, columns, scratch.block))
    sink = Sink(out, storage, scratch, len(ranges), check)
    origin_of = Dense(base)
    elect = election != "none"
    count = len(operands)
    ranks = ranks or [None] * count
    for start, stop in ranges:
        origin, total, first, second, third, *deltas = scratch.rows(
            5 + (count if elect else 0), stop - start
        )
        origin_of.value(origin, start, stop)
        if not elect:
            total.copy_(origin)
            for operand, weight, sparsity, rank in zip(
                operands, weights, sparsities, ranks, strict=True
            ):
                operand.delta(first, origin, start, stop)
                known = None if rank is None else rank[start:stop]
                survivors = sparsify(first, sparsity, start, columns, scratch, second, known)
                total.add_(survivors.mul_(weight))
        else:
            kept = []
            for operand, sparsity, row, rank in zip(operands, sparsities, deltas, ranks, strict=True):
                operand.delta(row, origin, start, stop)
                known = None if rank is None else rank[start:stop]
                survivors = sparsify(row, sparsity, start, columns, scratch, first, known)
                if survivors is first:
                    row, first = first, row
                kept.append(row)
            if least_variance > 0.0:
                keep_varying(kept, least_variance, second, first, total)
            _elected_sum(kept, weights, election, divisor, total, first, second, third)
            if factor != 1.0:
                total.mul_(factor)
            # Adding zero makes -0.0 +0.0, whose sign depends on the order of operations.
            total.add_(0.0).add_(origin)
        if scale != 1.0:
            total.mul_(scale)
        sink.store(total, start, stop)
    return sink.is_finite()


def _elected_sum(
    deltas: Sequence[torch.Tensor],
    weights: Sequence[float],
    election: Election,
    divisor: Divisor,
    total: torch.Tensor,
    sign: torch.Tensor,
    count: torch.Tensor,
    term: torch.Tensor,
) -> None:
    """`total = sign * sum_t w_t relu(sign * s_t) / count`; overwrites all but `weights`.

    After the weights, `s_t` is the weighted task vector and the sum has no further weights.
    """
    factors = weights
    if election == "after":
        factors = [1.0] * len(weights)
        for delta, weight in zip(deltas, weights, strict=True):
            delta.mul_(weight)
    _elect(deltas, sign)
    total.zero_()
    if divisor != "none":
        count.zero_()
    for delta, weight, factor in zip(deltas, weights, factors, strict=True):
        delta.mul_(sign).clamp_min_(0.0)
        total.add_(delta if factor == 1.0 else torch.mul(delta, factor, out=term))
        if divisor != "none":
            count.add_(delta.sign_(), alpha=weight if divisor == "weight" else 1.0)
    total.mul_(sign)
    if divisor == "count":
        total.div_(count.clamp_min_(1.0))
    elif divisor == "weight":
        total.div_(_without_zeros(count, weights))


def _elect(deltas: Sequence[torch.Tensor], sign: torch.Tensor) -> None:
    """The sign of each element's sum into `sign`, as +1 or -1."""
    sign.copy_(deltas[0])
    for delta in deltas[1:]:
        sign.add_(delta)
    # From the sign bit. A sum of -0.0 has no agreeing element, so that its sign is free.
    sign.view(torch.int32).bitwise_and_(-(2**31)).bitwise_or_(_ONE_BITS)


def agreeing(
    deltas: Sequence[torch.Tensor], divisor: Divisor, sign: torch.Tensor, count: torch.Tensor
) -> None:
    """What each sparsified task vector adds per unit of its weight, where signs are elected before weights.

    All float32 [n], all overwritten; `deltas` with the result. `divisor` is `none` or `count`.
    """
    _elect(deltas, sign)
    count.zero_()
    for delta in deltas:
        delta.mul_(sign).clamp_min_(0.0)
        count.add_(delta.sign())
    for delta in deltas:
        delta.mul_(sign)
        if divisor == "count":
            delta.div_(count.clamp_min_(1.0))


def _without_zeros(count: torch.Tensor, weights: Sequence[float]) -> torch.Tensor:
    """Sums of weights with those that vanish replaced, in place."""
    least = min((weight for weight in weights if weight != 0.0), default=1.0)
    if least >= LEAST_DIVISOR:
        # Every sum of positive weights is 0, where the dividend is 0 too, or at least the smallest.
        return count.clamp_min_(least)
    return torch.where(count.abs() < LEAST_DIVISOR, torch.ones_like(count), count)
