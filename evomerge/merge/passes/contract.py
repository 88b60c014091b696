"""Inner products of a gradient with what each expert adds to a tensor, in one streaming run.

The counterpart of the passes that merge: they add `w_t d_t`, this gives `<g, d_t>`, where `d_t` is the task
vector as the merge has it (masked, rescaled, elected), or the part that a function of whole tensors made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from evomerge.checkpoint.reader import Reader
from evomerge.merge.passes.blocks import (
    Dense,
    LowRankDelta,
    Operand,
    Scratch,
    block_ranges,
    operand_of,
)
from evomerge.merge.passes.call import Call
from evomerge.merge.passes.execute import parts_of, ranks_of
from evomerge.merge.passes.sparsified_sum import agreeing
from evomerge.merge.passes.sparsify import sparsify
from evomerge.merge.plan import TensorPlan


def contract(
    entry: TensorPlan,
    readers: Mapping[str, Reader],
    gradient: torch.Tensor,
    scratch: Scratch,
    rows: int = 1,
) -> np.ndarray:
    """The derivative of a loss by each input's weight, of an entry planned with `directions`.

    Products are float32, their sums float64. A low-rank delta `L R` that nothing is dropped from stays
    factored: `<g, L R> = <L^T g, R>`, and of each row `<g_i, L_i R> = <R g_i, L_i>`, with `L^T g` and `R g_i`
    as float32 matrix products. Adapters that PEFT merges are full experts.

    Args:
        entry: linear in the weights of its inputs; elected before the weights or not at all.
        readers: by source name.
        gradient: [n] contiguous, of the loss by the tensor, on the scratch's device.
        scratch: reused over entries.
        rows: 1, or the extent of the first axis, for a derivative by the weight of each row.

    Returns:
        float64 [inputs, rows]; NaN where parts cannot be made of task vectors that are not finite.

    Raises:
        CandidateError: `merge_method`, as `merge.passes.by_function.task_parts`.
    """
    if entry.call is not None:
        return _by_parts(entry, entry.call, readers, gradient, scratch, rows)
    weights = scratch.weights
    operands = [operand_of(readers[one.source], one.tensor, weights) for one in entry.inputs]
    base = None if entry.base is None else weights.read(readers[entry.base[0]], entry.base[1])
    totals = torch.zeros(len(operands), rows, dtype=torch.float64, device=gradient.device)
    if entry.is_sparse:
        assert base is not None
        _sparse(entry, base, operands, gradient, scratch, totals)
    else:
        streamed = []
        for number, operand in enumerate(operands):
            if base is not None and isinstance(operand, LowRankDelta):
                _factored(operand, gradient, scratch, totals[number])
            else:
                streamed.append(number)
        _plain(base, operands, streamed, gradient, scratch, totals)
    weights_of = np.array([one.weight for one in entry.inputs])
    found: np.ndarray = totals.cpu().numpy() * weights_of[:, None] * (entry.factor * entry.scale)
    return found


def _by_parts(
    entry: TensorPlan,
    call: Call,
    readers: Mapping[str, Reader],
    gradient: torch.Tensor,
    scratch: Scratch,
    rows: int,
) -> np.ndarray:
    """Parts that lie on the CPU, a block at a time on the gradient's device."""
    if not gradient.numel():
        return np.zeros((len(entry.inputs), rows))
    parts = parts_of(entry, readers, scratch)
    if parts is None:
        return np.full((len(entry.inputs), rows), np.nan)
    totals = torch.zeros(len(parts), rows, dtype=torch.float64, device=gradient.device)
    operands = [Dense(part.reshape(-1)) for part in parts]
    _plain(None, operands, range(len(parts)), gradient, scratch, totals)
    found: np.ndarray = totals.cpu().numpy() * (call.strength * entry.scale)
    return found


def _add(total: torch.Tensor, gradient: torch.Tensor, direction: torch.Tensor) -> None:
    """Add the inner product of two float32 blocks, row by row; the second is overwritten."""
    total.add_(direction.mul_(gradient).view(len(total), -1).sum(1, dtype=torch.float64))


def _plain(
    base: torch.Tensor | None,
    operands: Sequence[Operand],
    numbers: Sequence[int],
    gradient: torch.Tensor,
    scratch: Scratch,
    totals: torch.Tensor,
) -> None:
    """Whole task vectors, or whole weights where there is no base."""
    if not numbers:
        return
    origin_of = None if base is None else Dense(base)
    columns = gradient.numel() // totals.shape[1] if totals.shape[1] > 1 else 1
    streamed = [operands[n] for n in numbers]
    for start, stop in block_ranges(gradient.numel(), streamed, columns, scratch.block):
        # All elements of the block are of these rows, or there is one sum.
        rows = slice(start // columns, stop // columns) if totals.shape[1] > 1 else slice(0, 1)
        slope, origin, term = scratch.rows(3, stop - start)
        slope.copy_(gradient[start:stop])
        if origin_of is not None:
            origin_of.value(origin, start, stop)
        for number in numbers:
            if origin_of is None:
                operands[number].value(term, start, stop)
            else:
                operands[number].delta(term, origin, start, stop)
            _add(totals[number, rows], slope, term)


def _factored(
    operand: LowRankDelta, gradient: torch.Tensor, scratch: Scratch, total: torch.Tensor
) -> None:
    """`<g, L R>` as `<L^T g, R>`, or of each row as `<R g_i, L_i>`, a stretch of rows at a time."""
    columns = operand.columns
    rows = gradient.view(-1, columns)
    step = max(1, scratch.block // columns)
    for first in range(0, len(rows), step):
        part = rows[first : first + step]
        (slope,) = scratch.rows(1, part.numel())
        slope = slope.view(part.shape).copy_(part)
        left = operand.left[first : first + step]
        if len(total) > 1:
            _add(total[first : first + step], left, slope @ operand.right.T)
        else:
            _add(total, operand.right, left.T @ slope)


def _sparse(
    entry: TensorPlan,
    base: torch.Tensor,
    operands: Sequence[Operand],
    gradient: torch.Tensor,
    scratch: Scratch,
    totals: torch.Tensor,
) -> None:
    """Task vectors of which some is dropped, and which may have to agree in sign."""
    ranks = [ranks_of(entry, one, scratch) for one in entry.inputs]
    origin_of = Dense(base)
    for start, stop in block_ranges(gradient.numel(), operands, entry.columns, scratch.block):
        slope, origin, spare, *rows = scratch.rows(3 + len(operands), stop - start)
        slope.copy_(gradient[start:stop])
        origin_of.value(origin, start, stop)
        kept = []
        for one, operand, row, rank in zip(entry.inputs, operands, rows, ranks, strict=True):
            operand.delta(row, origin, start, stop)
            known = None if rank is None else rank[start:stop]
            survivors = sparsify(row, one.sparsity, start, entry.columns, scratch, spare, known)
            if survivors is spare:
                row, spare = spare, row
            kept.append(row)
        if entry.elect:
            agreeing(kept, entry.divisor, spare, origin)
        for total, direction in zip(totals, kept, strict=True):
            _add(total, slope, direction)
