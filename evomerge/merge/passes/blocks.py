"""What the passes share: operands, scratch memory, and the sink that rounds and checks.

A pass walks a flattened tensor in blocks that fit the processor's second-level cache, with scratch that
is allocated once. Blocks begin at the tensor's start and their size follows from the tensor and its
operands alone, so the live model and an exported file get the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from evomerge.merge.passes.placement import Placement, Weights

if TYPE_CHECKING:
    from evomerge.checkpoint.reader import Reader
    from evomerge.merge.passes.compiled import Kernels

BLOCK = 1 << 16
"""Elements of a block: five float32 rows of it fit a 1 to 2 MiB cache."""

DEVICE_BLOCK = 1 << 21
"""The same on a GPU: so many that moving them takes as long as starting a kernel; ten rows are 80 MiB.

Blocks of another size give the same bits, except in products of low-rank factors, whose sums a GPU orders
as it likes.
"""

PREPARED_BYTES = 1 << 30
"""What parts of merges may take in the memory of a process; the first tensors that fit are kept."""

_ROUNDS_TO_INFINITY = {
    torch.float16: 65520.0,
    torch.bfloat16: float.fromhex("0x1.ffp127"),
    torch.float32: float("inf"),
}
"""Least float32 magnitude that is infinite once rounded to the dtype."""


@dataclass(frozen=True)
class Dense:
    """A stored tensor, flattened: [n] in its storage dtype."""

    flat: torch.Tensor

    @property
    def columns(self) -> int:
        """Blocks may begin anywhere."""
        return 1

    def value(self, out: torch.Tensor, start: int, stop: int) -> None:
        """Elements `start` to `stop` as float32."""
        out.copy_(self.flat[start:stop])

    def delta(self, out: torch.Tensor, base: torch.Tensor, start: int, stop: int) -> None:
        """The same minus `base` (float32), subtracted in float32."""
        out.copy_(self.flat[start:stop]).sub_(base)


@dataclass(frozen=True)
class LowRankDelta:
    """A base tensor plus `left @ right`, which stays factored until a block is needed.

    Attributes:
        flat: the base, [rows * columns] in its storage dtype.
        left: float32 [rows, r] on the device of the pass; `right` float32 [r, columns].
    """

    flat: torch.Tensor
    left: torch.Tensor
    right: torch.Tensor

    @property
    def columns(self) -> int:
        """Blocks hold whole rows."""
        return int(self.right.shape[1])

    def value(self, out: torch.Tensor, start: int, stop: int) -> None:
        """Base plus delta as float32."""
        self._product(out, start, stop)
        out.add_(self.flat[start:stop])

    def delta(self, out: torch.Tensor, base: torch.Tensor, start: int, stop: int) -> None:
        """The delta as float32, exactly as the factors give it."""
        self._product(out, start, stop)

    def _product(self, out: torch.Tensor, start: int, stop: int) -> None:
        first, last = start // self.columns, stop // self.columns
        torch.mm(self.left[first:last], self.right, out=out.view(last - first, self.columns))


Operand = Dense | LowRankDelta


def operand_of(reader: Reader, tensor: str, weights: Weights | None = None) -> Operand:
    """Tensor `tensor` of a checkpoint or adapter as a pass takes it; on the CPU without `weights`."""
    weights = weights or Weights()
    flat = weights.read(reader, tensor)
    factors = reader.delta(tensor)
    if factors is None:
        return Dense(flat)
    return LowRankDelta(flat, factors[0].to(weights.device), factors[1].to(weights.device))


def block_ranges(
    size: int, operands: Sequence[Operand], columns: int = 1, block: int = 0
) -> Iterator[tuple[int, int]]:
    """(start, stop) of each block of a tensor with `size` elements; blocks hold whole rows.

    `columns` is the length of a row that must stay whole, besides those of low-rank operands; `block` how
    many elements a block has at most, those of the processor's blocks by default.
    """
    columns = max([columns, *(operand.columns for operand in operands)])
    step = max(1, (block or BLOCK) // columns) * columns
    for start in range(0, size, step):
        yield start, min(start + step, size)


def low_rank_delta(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """`left @ right`, flattened, multiplied in the row blocks of the passes: float32 [elements]."""
    size = left.shape[0] * right.shape[1]
    out = torch.empty(size)
    operand = LowRankDelta(out, left, right)
    for start, stop in block_ranges(size, [operand]):
        operand.delta(out[start:stop], out, start, stop)
    return out


Ranks = Callable[[str, str, str], torch.Tensor | None]
"""Prepared ranks by source of the base, source of the expert, and tensor; None where there are none."""


class Scratch:
    """What passes reuse: rows allocated once and grown only when a block needs more, and what is known.

    Args:
        device: where the passes run.
        kernels: compiled passes; the plain path without.
        ranks: prepared ranks within rows; passes that need them sort without.
        placement: where stored tensors lie for this device.
    """

    def __init__(
        self,
        device: torch.device | str = "cpu",
        kernels: Kernels | None = None,
        ranks: Ranks | None = None,
        placement: Placement = "mapped",
    ) -> None:
        self.device = torch.device(device)
        self.weights = Weights(device, placement)
        self.ranks = ranks
        self._rows: list[torch.Tensor] = []
        self._words: list[torch.Tensor] = []
        self._counter = torch.empty(0, dtype=torch.int32, device=self.device)
        self._staged: dict[torch.dtype, torch.Tensor] = {}
        self._extremes = torch.empty(0, device=self.device)
        self.kernels = kernels
        self._largest: dict[tuple[Reader, str], float] = {}
        self._prepared: dict[Hashable, tuple[Hashable, torch.Tensor]] = {}
        self._prepared_bytes = 0

    @property
    def block(self) -> int:
        """Elements of a block here."""
        return BLOCK if self.device.type == "cpu" else DEVICE_BLOCK

    def rows(self, count: int, size: int) -> list[torch.Tensor]:
        """`count` float32 rows of `size` elements; contents are undefined."""
        return _views(self._rows, count, size, torch.float32, self.device)

    def words(self, size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The counter 0, 1, 2, ... and two int32 rows of scratch."""
        if self._counter.numel() < size:
            self._counter = torch.arange(max(size, BLOCK), dtype=torch.int32, device=self.device)
        bits, spare = _views(self._words, 2, size, torch.int32, self.device)
        return self._counter[:size], bits, spare

    def staged(self, dtype: torch.dtype, size: int) -> torch.Tensor:
        """One row in `dtype`."""
        row = self._staged.get(dtype)
        if row is None or row.numel() < size:
            row = torch.empty(max(size, BLOCK), dtype=dtype, device=self.device)
            self._staged[dtype] = row
        return row[:size]

    def largest(self, reader: Reader, tensor: str) -> float:
        """Largest magnitude of a stored tensor, looked up but once; NaN if it has any."""
        found = self._largest.get((reader, tensor))
        if found is None:
            # On a device the passes hold it there already, or bring it once more, once.
            value = self.weights.read(reader, tensor)
            found = 0.0
            if value.numel():
                least, most = torch.aminmax(value)
                found = max(abs(float(least)), abs(float(most))) if least == least else math.nan
            self._largest[reader, tensor] = found
        return found

    def prepared(self, key: Hashable, numbers: Hashable) -> torch.Tensor | None:
        """What `prepare` keeps of a tensor, if that was made with the same numbers."""
        found = self._prepared.get(key)
        return found[1] if found is not None and found[0] == numbers else None

    def prepare(self, key: Hashable, numbers: Hashable, parts: torch.Tensor) -> None:
        """Keep what a merge is the weighted sum of, in place of its tensor's last, while there is room."""
        before = self._prepared.pop(key, None)
        self._prepared_bytes -= 0 if before is None else before[1].nbytes
        if key is not None and self._prepared_bytes + parts.nbytes <= PREPARED_BYTES:
            self._prepared[key] = (numbers, parts)
            self._prepared_bytes += parts.nbytes

    def extremes(self, blocks: int) -> torch.Tensor:
        """Float32 [2, blocks] for the largest and least value of each block."""
        if self._extremes.numel() < 2 * blocks:
            self._extremes = torch.empty(2 * max(blocks, 64), device=self.device)
        return self._extremes[: 2 * blocks].view(2, blocks)


def _views(
    rows: list[torch.Tensor], count: int, size: int, dtype: torch.dtype, device: torch.device
) -> list[torch.Tensor]:
    for index in range(count):
        if index == len(rows):
            rows.append(torch.empty(max(size, BLOCK), dtype=dtype, device=device))
        elif rows[index].numel() < size:
            rows[index] = torch.empty(size, dtype=dtype, device=device)
    return [row[:size] for row in rows[:count]]


class Sink:
    """Takes float32 blocks, rounds them once to the storage dtype and holds them in `out`'s dtype.

    Args:
        out: [n], contiguous; any float dtype.
        storage: the dtype results are rounded to.
        blocks: number of blocks that will come.
        check: whether to remember extremes.
    """

    def __init__(
        self,
        out: torch.Tensor,
        storage: torch.dtype,
        scratch: Scratch,
        blocks: int,
        check: bool = True,
    ) -> None:
        self._check = check
        self._out = out
        self._storage = storage
        self._scratch = scratch
        self._extremes = scratch.extremes(blocks)
        self._next = 0

    def store(self, block: torch.Tensor, start: int, stop: int) -> None:
        """Round and keep elements `start` to `stop`, remembering their extremes."""
        if self._check:
            torch.amax(block, 0, out=self._extremes[0, self._next])
            torch.amin(block, 0, out=self._extremes[1, self._next])
            self._next += 1
        target = self._out[start:stop]
        if self._out.dtype == self._storage:
            target.copy_(block)
        else:
            target.copy_(self._scratch.staged(self._storage, stop - start).copy_(block))

    def is_finite(self) -> bool:
        """Whether every stored element is finite in the storage dtype."""
        if not self._check:
            return True
        limit = _ROUNDS_TO_INFINITY[self._storage]
        extremes = self._extremes[:, : self._next]
        # A NaN makes its block's extreme NaN, and every comparison with it false.
        return bool(((extremes < limit) & (extremes > -limit)).all().item())
