"""How far two checkpoints are apart, and how far they may be.

float32 results are held to a bound relative to the tensor's largest element. bfloat16 results, rounded once
from such float32 numbers, may then differ by one step (the next number but none between); only elements so
near zero that a bfloat16 step there is smaller than the float32 bound may differ by more steps, and are held
to twice that bound. Nothing else is forgiven: the models of the comparison have no two entries of a task
vector with the same magnitude (`models.py`), so that no threshold leaves a choice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

ELEMENTWISE, ITERATIVE = 1e-6, 1e-5
"""Largest float32 difference relative to the tensor's largest element; the second where mergekit stops an
iteration early (Karcher's, after ten steps)."""

Tensors = Mapping[str, torch.Tensor]


@dataclass
class Distance:
    """Of one merge, over all its tensors.

    Attributes:
        bound: on `relative`.
        relative: largest float32 difference by the tensor's largest element.
        steps: largest bfloat16 difference in steps, where a step is larger than the bound.
        differing: bfloat16 elements that are not the same number.
        elements: all of them.
        error: why there is nothing to compare.
    """

    bound: float = ELEMENTWISE
    relative: float = 0.0
    steps: int = 0
    differing: int = 0
    elements: int = 0
    error: str = ""

    @property
    def is_sound(self) -> bool:
        """Whether all was compared and is within the bounds."""
        return not self.error and self.elements > 0 and self.relative <= self.bound and self.steps <= 1

    def add(self, ours: Tensors, theirs: Tensors) -> None:
        """Take in two checkpoints of one storage dtype, float32 or bfloat16."""
        if set(ours) != set(theirs):
            self.error = f"other tensors: {sorted(set(ours) ^ set(theirs))[:3]}"
            return
        for name, mine in ours.items():
            yours = theirs[name]
            if mine.shape != yours.shape or mine.dtype != yours.dtype:
                said = [f"{t.dtype} {list(t.shape)}" for t in (mine, yours)]
                self.error = f"{name}: {said[0]} and {said[1]}"
                return
            if mine.dtype == torch.float32:
                self._float32(mine, yours)
            else:
                self._bfloat16(mine, yours)

    def _float32(self, mine: torch.Tensor, yours: torch.Tensor) -> None:
        largest = float(mine.abs().max()) or 1.0
        self.relative = max(self.relative, float((mine - yours).abs().max()) / largest)

    def _bfloat16(self, mine: torch.Tensor, yours: torch.Tensor) -> None:
        allowed = self.bound * float(mine.abs().max())
        larger = torch.maximum(mine.abs(), yours.abs()).float()
        step = torch.exp2(torch.frexp(larger).exponent - 8.0)
        forgiven = (step < allowed) & ((mine.float() - yours.float()).abs() <= 2 * allowed)
        self.steps = max(self.steps, int(torch.where(forgiven, 0, steps(mine, yours)).max()))
        self.differing += int((mine != yours).sum())
        self.elements += mine.numel()

    def __str__(self) -> str:
        if self.error:
            return f"{self.error} | | "
        share = self.differing / max(self.elements, 1)
        return f"{self.relative:.1e} | {self.steps} | {share:.0e}"


def steps(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Distance of two bfloat16 tensors in representable numbers, int32."""

    def place(values: torch.Tensor) -> torch.Tensor:
        bits = values.contiguous().view(torch.int16).to(torch.int32)
        return torch.where(bits < 0, -(bits & 0x7FFF), bits)

    return (place(left) - place(right)).abs()
