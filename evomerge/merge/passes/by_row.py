"""Merges whose weights are found for each row, or each column, of a tensor by itself."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch

from evomerge.merge.passes.blocks import Dense, Operand, Scratch, Sink, block_ranges
from evomerge.merge.passes.row_rule import RowRule
from evomerge.merge.passes.scalars import LEAST_DIVISOR, NEARLY_ONE


def merge_by_row(
    base: torch.Tensor | None,
    operands: Sequence[Operand],
    rule: RowRule,
    shape: tuple[int, ...],
    scale: float,
    out: torch.Tensor,
    storage: torch.dtype,
    scratch: Scratch,
) -> bool:
    """`out = scale * (base + sum_t w_t[row] (x_t - base))`, with weights from the inner products of each row.

    Inner products are summed in float64, weights found in float64 and applied in float32.

    Args:
        base: [n] or None.
        operands: the experts, at least one.
        rule: how inner products become weights, and along which axis they are taken.
        shape: of the tensor; its last axis is a row; columns run along its first axis.
        scale: factor of the whole result.
        out: [n] contiguous.
        storage: dtype the result is rounded to before it is held in `out`.
        scratch: on the device of `out`.

    Returns:
        Whether every element is finite.
    """
    size = out.numel()
    columns = math.prod(shape[-1:] if rule.along == "rows" else shape[1:])
    ranges = list(block_ranges(size, operands, columns, scratch.block))
    sink = Sink(out, storage, scratch, len(ranges))

    def blocks() -> Iterator[tuple[int, int, torch.Tensor, list[torch.Tensor]]]:
        for start, stop in ranges:
            total, *rows = scratch.rows(1 + len(operands), stop - start)
            if base is not None:
                Dense(base).value(total, start, stop)
            for operand, row in zip(operands, rows, strict=True):
                if base is None:
                    operand.value(row, start, stop)
                else:
                    operand.delta(row, total, start, stop)
            if base is None:
                total.zero_()
            yield start, stop, total, [row.view(-1, columns) for row in rows]

    whole = None
    if rule.along == "columns":
        count = len(operands)
        grams = torch.zeros(columns, count, count, dtype=torch.float64, device=out.device)
        for _, _, _, rows in blocks():
            grams += _grams(rows, 0)
        whole = _weights(rule, grams)
    for start, stop, total, rows in blocks():
        weights = whole if whole is not None else _weights(rule, _grams(rows, 1))
        for row, weight in zip(rows, weights, strict=True):
            factors = weight.to(torch.float32)
            row.mul_(factors if rule.along == "columns" else factors[:, None])
            total.add_(row.view(-1))
        if scale != 1.0:
            total.mul_(scale)
        sink.store(total, start, stop)
    return sink.is_finite()


def _grams(rows: Sequence[torch.Tensor], axis: int) -> torch.Tensor:
    """Inner products along an axis of [r, c] blocks, float64 [the other axis, T, T]."""
    wide = [row.double() for row in rows]
    products = [torch.stack([(left * right).sum(axis) for right in wide], -1) for left in wide]
    return torch.stack(products, -2)


def _weights(rule: RowRule, grams: torch.Tensor) -> list[torch.Tensor]:
    """One float64 [n] an expert, from grams [n, T, T]."""
    norms = grams.diagonal(dim1=1, dim2=2).sqrt()
    outer = norms[:, :, None] * norms[:, None, :]
    # A row of zeros has no direction: it counts as perpendicular to all, as in mergekit.
    cosines = torch.where(outer > 0.0, grams / torch.where(outer > 0.0, outer, 1.0), 0.0).clamp(
        -1.0, 1.0
    )
    if rule.kind == "slerp":
        cosine = cosines[:, 0, 1]
        straight = cosine.abs() > NEARLY_ONE
        angle = torch.acos(torch.where(straight, 0.0, cosine))
        arc = [torch.sin(part * angle) / torch.sin(angle) for part in (1.0 - rule.t, rule.t)]
        return [
            torch.where(straight, part, found)
            for part, found in zip((1.0 - rule.t, rule.t), arc, strict=True)
        ]
    count = grams.shape[1]
    upper = torch.triu_indices(count, count, 1, device=grams.device)
    mean = cosines[:, upper[0], upper[1]].mean(1)
    divisor = 1.0 + (count - 1) * mean
    sound = divisor > LEAST_DIVISOR
    ratio = torch.where(sound, count * mean / torch.where(sound, divisor, 1.0), 0.0)
    return [ratio * (rule.factor / count)] * count
