"""Numbers over one tensor of several experts: inner products, variances, energies, masked norms.

All walk the tensors in the blocks of the passes and form task vectors as the passes do.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from evomerge.checkpoint.reader import Reader
from evomerge.merge.passes.blocks import Dense, Operand, Scratch, block_ranges, operand_of
from evomerge.merge.passes.masks import draw, keep_limit
from evomerge.merge.passes.sparsify import block_ranks, keep_varying, rank_dtype, sparsify, variance
from evomerge.merge.passes.sparsity import Sparsity
from evomerge.merge.statistics.order import GRID, Totals


class TaskVectors:
    """One tensor of some experts, block by block, as float32.

    Args:
        tensor: its name.
        readers: one an expert.
        base: reader of the base, for task vectors; None for the tensors themselves.
        columns: length of a row that must stay whole.
    """

    def __init__(
        self, tensor: str, readers: Sequence[Reader], base: Reader | None, columns: int = 1
    ) -> None:
        self._operands: list[Operand] = [operand_of(reader, tensor) for reader in readers]
        self._origin = None if base is None else Dense(base.read(tensor).reshape(-1))
        self.size = self._operands[0].flat.numel()
        self._columns = columns
        self.scratch = Scratch()

    def blocks(self, spare: int = 0) -> Iterator[tuple[int, list[torch.Tensor], list[torch.Tensor]]]:
        """(start, one row an expert, `spare` further rows) of each block; rows may be overwritten."""
        for start, stop in block_ranges(self.size, self._operands, self._columns):
            count = len(self._operands)
            origin, *rows = self.scratch.rows(1 + count + spare, stop - start)
            if self._origin is not None:
                self._origin.value(origin, start, stop)
            for operand, row in zip(self._operands, rows, strict=False):
                if self._origin is None:
                    operand.value(row, start, stop)
                else:
                    operand.delta(row, origin, start, stop)
            yield start, rows[:count], rows[count:]

    def gram(self) -> np.ndarray:
        """Inner products, float64 [T, T]."""
        total = torch.zeros(len(self._operands), len(self._operands), dtype=torch.float64)
        for _, rows, _ in self.blocks():
            stack = torch.stack(rows).double()
            total += stack @ stack.T
        return total.numpy()

    def variances(self) -> np.ndarray:
        """Variance over the experts of each element, float32 [size]."""
        out = torch.empty(self.size)
        for start, rows, (found, mean, other) in self.blocks(3):
            variance(rows, found, mean, other)
            out[start : start + found.numel()] = found
        return out.numpy()

    def energies(self, least_variance: float) -> list[float]:
        """Sum of squares of each task vector's entries that vary at least so much, float64."""
        total = torch.zeros(len(self._operands), dtype=torch.float64)
        for _, rows, spare in self.blocks(3):
            if least_variance > 0.0:
                keep_varying(rows, least_variance, *spare)
            total += torch.stack([row.double().square().sum() for row in rows])
        return [float(value) for value in total]

    def energies_above(self, variances: np.ndarray) -> np.ndarray:
        """`energies` for many least variances [n] in one pass: float64 [T, n]."""
        totals = Totals(variances, len(self._operands))
        for _, rows, (found, mean, other) in self.blocks(3):
            variance(rows, found, mean, other)
            totals.add(found.numpy(), torch.stack(rows).double().square().numpy())
        return totals.result()

    def magnitudes_above(self, thresholds: np.ndarray) -> np.ndarray:
        """Sums of the first task vector's magnitudes that reach each threshold [n]: float64 [n]."""
        totals = Totals(thresholds, 1)
        for _, (row, *_), _ in self.blocks():
            values = row.abs_()
            totals.add(values.numpy(), values.double().numpy()[None])
        return np.asarray(totals.result()[0])

    def magnitudes_drawn(self, key: int) -> np.ndarray:
        """Sums of the first task vector's magnitudes under the masks of a key, float64 [GRID].

        One for each probability `1/GRID ... 1` of keeping an element.
        """
        limits = np.array([keep_limit(place / GRID) for place in range(1, GRID)] + [1 << 31])
        # Kept is what is drawn below the limit: its negative reaches one more than the limit's.
        totals = Totals(1 - limits, 1)
        for start, (row, *_), _ in self.blocks():
            counter, bits, spare = self.scratch.words(row.numel())
            draw(key, start, counter, bits, spare)
            totals.add(-bits.numpy().astype(np.int64), row.abs_().double().numpy()[None])
        return np.asarray(totals.result()[0])

    def ranks(self) -> torch.Tensor:
        """Ranks within rows of the first task vector's magnitudes, [size]; see `block_ranks`."""
        out = torch.empty(self.size, dtype=rank_dtype(self._columns))
        for start, (row, *_), _ in self.blocks():
            out[start : start + row.numel()] = block_ranks(row, self._columns)
        return out

    def l1_factor(self, sparsity: Sparsity, ranks: torch.Tensor | None = None) -> float:
        """Sum of magnitudes of the first task vector, divided by that of what survives.

        mergekit's L1 rescaling, with sums in float64. `ranks`, if known, are those of `ranks()`.
        """
        whole, kept = [], []
        for start, (row, *_), (spare,) in self.blocks(1):
            whole.append(float(row.abs().sum(dtype=torch.float64)))
            known = None if ranks is None else ranks[start : start + row.numel()]
            left = sparsify(row, sparsity, start, self._columns, self.scratch, spare, known)
            kept.append(float(left.abs().sum(dtype=torch.float64)))
        return rescaling(math.fsum(whole), math.fsum(kept))


def rescaling(before: float, after: float) -> float:
    """What makes a sum of magnitudes what it was; 1 where either is next to nothing (mergekit's rule)."""
    return before / after if min(before, after) >= 1e-7 else 1.0
