"""Weighted sums: soups, task arithmetic, and every method that is scalars first and one pass after."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from evomerge.merge.passes.blocks import Dense, Operand, Scratch, Sink, block_ranges


def weighted_sum(
    base: torch.Tensor | None,
    operands: Sequence[Operand],
    weights: Sequence[float],
    scale: float,
    size: int,
    out: torch.Tensor,
    storage: torch.dtype,
    scratch: Scratch,
    check: bool = True,
) -> bool:
    """`out = scale * (base + sum_t w_t (x_t - base))`, or `scale * sum_t w_t x_t` without a base.

    Model soups (Wortsman et al. 2022, arXiv:2203.05482) and task arithmetic (Ilharco et al. 2023,
    arXiv:2212.04089). Deltas are formed and summed in float32, the result is rounded once to `storage`.

    Args:
        base: [size] or None.
        operands: the experts, at least one.
        weights: one factor an operand.
        scale: factor of the whole result.
        size: number of elements.
        out: [size] contiguous.
        storage: dtype the result is rounded to before it is held in `out`.
        scratch: on the device of `out`.
        check: whether to look at the result; not needed where it is known to be finite.

    Returns:
        Whether every element is finite; true without a check.
    """
    ranges = list(block_ranges(size, operands, block=scratch.block))
    sink = Sink(out, storage, scratch, len(ranges), check)
    start_dense = None if base is None else Dense(base)
    for start, stop in ranges:
        total, origin, term = scratch.rows(3, stop - start)
        if start_dense is not None:
            start_dense.value(origin, start, stop)
            total.copy_(origin)
            for operand, weight in zip(operands, weights, strict=True):
                operand.delta(term, origin, start, stop)
                # Not `add_(alpha=...)`, which fuses: compiled passes round products on every machine.
                total.add_(term.mul_(weight))
        else:
            operands[0].value(total, start, stop)
            if weights[0] != 1.0:
                total.mul_(weights[0])
            for operand, weight in zip(operands[1:], weights[1:], strict=True):
                operand.value(term, start, stop)
                total.add_(term.mul_(weight))
        if scale != 1.0:
            total.mul_(scale)
        sink.store(total, start, stop)
    return sink.is_finite()


def weighted_rows(
    base: torch.Tensor,
    operands: Sequence[Operand],
    factors: Sequence[torch.Tensor],
    scale: float,
    size: int,
    out: torch.Tensor,
    storage: torch.dtype,
    scratch: Scratch,
) -> bool:
    """`weighted_sum` with a weight a row: `out[r] = scale * (base[r] + sum_t w_t[r] (x_t[r] - base[r]))`.

    Rows have the bits that `weighted_sum` gives with their weights.

    Args:
        base: [size].
        operands: the experts, at least one.
        factors: float32 [rows] or [1] an operand.
        scale: factor of the whole result.
        size: number of elements.
        out: [size] contiguous.
        storage: dtype the result is rounded to before it is held in `out`.
        scratch: on the device of `out`.

    Returns:
        Whether every element is finite.
    """
    columns = size // max(len(each) for each in factors)
    ranges = list(block_ranges(size, operands, columns, scratch.block))
    sink = Sink(out, storage, scratch, len(ranges))
    origin_of = Dense(base)
    for start, stop in ranges:
        total, origin, term = scratch.rows(3, stop - start)
        origin_of.value(origin, start, stop)
        total.copy_(origin)
        for operand, each in zip(operands, factors, strict=True):
            operand.delta(term, origin, start, stop)
            own = each if len(each) == 1 else each[start // columns : stop // columns, None]
            total.add_(term.view(-1, columns).mul_(own).view(-1))
        if scale != 1.0:
            total.mul_(scale)
        sink.store(total, start, stop)
    return sink.is_finite()
