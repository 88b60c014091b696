"""The passes of merging as one elementwise function each, for torch's compiler to fuse.

One source for every device: `FusedPass` states in torch operators what `weighted_sum` and
`sparsified_sum` do block by block, operation by operation in the same order, each rounded to float32, so
that the two give the same bits. Contraction of multiply and add is turned off for that reason.

Run as a module, this file compiles one pass ahead of time, in a process of its own:

    python -m evomerge.methods.kernels SPEC.json OUT.pt2
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from evomerge.methods.masks import FIRST_FACTOR, SECOND_FACTOR, signed_word

VERSION = 1
"""Raised when a pass's operands or arithmetic change: compiled passes are kept between runs."""

MOST_ELEMENTS = 2**31 - 1
"""Counters of random masks are 32-bit words; longer tensors are for the plain path."""

PER_INPUT = 5
PER_PASS = 5


@dataclass(frozen=True)
class KernelSpec:
    """What makes one compiled pass another; everything else is a number it is given.

    Attributes:
        inputs: storage dtypes of the experts.
        base: storage dtype of the base; empty for a weighted sum without one.
        storage: dtype results are rounded to; `out` the dtype they are held in.
        trims: whether magnitudes decide what survives; `masks` whether random numbers do.
        election: see `sparsified_sum`; `divisor` likewise.
        varying: whether entries must vary over the experts (SCE).
    """

    inputs: tuple[str, ...]
    base: str
    storage: str
    out: str
    trims: bool = False
    masks: bool = False
    election: Literal["none", "before", "after"] = "none"
    divisor: Literal["none", "count", "weight"] = "none"
    varying: bool = False

    def to_json(self) -> str:
        """Canonical JSON."""
        return json.dumps(asdict(self), sort_keys=True)

    @staticmethod
    def from_json(text: str) -> KernelSpec:
        """The inverse of `to_json`."""
        values = json.loads(text)
        return KernelSpec(**{**values, "inputs": tuple(values["inputs"])})


class FusedPass(torch.nn.Module):
    """One pass over whole tensors.

    Called with the base (if any) and the experts, all [n] in their storage dtypes; `numbers`, float32
    [PER_INPUT * K + PER_PASS]: for each expert weight, the bound magnitudes must exceed, the ceiling
    they may not exceed, the factor of survivors and one unused, then scale, factor, the bound variances
    must exceed, least divisor and what replaces smaller ones; `words` (with `masks`), int32 [3 K]: the
    halves of each mask's key and the largest random number that is kept; `out`, [n], which is written.
    """

    def __init__(self, spec: KernelSpec) -> None:
        super().__init__()
        self.spec = spec

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        """Write the last tensor; what is returned means nothing."""
        spec, rest = self.spec, list(tensors)
        base = rest.pop(0).to(torch.float32) if spec.base else None
        experts = [rest.pop(0).to(torch.float32) for _ in spec.inputs]
        numbers = rest.pop(0)
        words = rest.pop(0) if spec.masks else None
        (out,) = rest
        if base is not None:
            experts = [expert - base for expert in experts]
        kept = [self._sparsified(x, k, numbers, words) for k, x in enumerate(experts)]
        weights = [numbers[PER_INPUT * k] for k in range(len(kept))]
        scale, factor, variance, least, instead = numbers[PER_INPUT * len(kept) :].unbind()
        if spec.election != "none":
            assert base is not None
            if spec.varying:
                kept = _varying(kept, variance)
            total = _elected_sum(kept, weights, spec, least, instead) * factor + base
        elif base is not None:
            total = base
            for value, weight in zip(kept, weights, strict=True):
                total = total + value * weight
        else:
            total = kept[0] * weights[0]
            for value, weight in zip(kept[1:], weights[1:], strict=True):
                total = total + value * weight
        rounded = (total * scale).to(getattr(torch, spec.storage))
        out.copy_(rounded)
        # A graph must return something; a number costs nothing.
        return scale + 1.0

    def _sparsified(
        self, value: torch.Tensor, k: int, numbers: torch.Tensor, words: torch.Tensor | None
    ) -> torch.Tensor:
        row = numbers[PER_INPUT * k :]
        if self.spec.trims:
            value = value - torch.where(value.abs() > row[2], value, 0.0)
            value = torch.where(value.abs() <= row[1], 0.0, value)
        if words is not None:
            drawn = _draw(value.shape[0], words[3 * k], words[3 * k + 1], value.device)
            value = torch.where(drawn <= words[3 * k + 2], value, 0.0)
        if self.spec.trims or words is not None:
            value = value * row[3]
        return value


def _draw(size: int, low: torch.Tensor, high: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The random numbers of `masks`, int32 [size]."""
    bits = torch.arange(size, dtype=torch.int32, device=device) ^ low
    bits = bits ^ ((bits >> 16) & 0xFFFF)
    bits = bits * FIRST_FACTOR + high
    bits = bits ^ ((bits >> 15) & 0x1FFFF)
    bits = bits * signed_word(SECOND_FACTOR)
    return (bits >> 1) & 0x7FFFFFFF


def _elected_sum(
    kept: Sequence[torch.Tensor],
    weights: Sequence[torch.Tensor],
    spec: KernelSpec,
    least: torch.Tensor,
    instead: torch.Tensor,
) -> torch.Tensor:
    votes = list(kept)
    if spec.election == "after":
        votes = [value * weight for value, weight in zip(kept, weights, strict=True)]
    ballot = votes[0]
    for vote in votes[1:]:
        ballot = ballot + vote
    sign = torch.copysign(torch.ones_like(ballot), ballot)
    total = torch.zeros_like(ballot)
    count = torch.zeros_like(ballot)
    for vote, weight in zip(votes, weights, strict=True):
        agreeing = (vote * sign).clamp_min(0.0)
        total = total + (agreeing if spec.election == "after" else agreeing * weight)
        if spec.divisor != "none":
            share = weight if spec.divisor == "weight" else 1.0
            count = count + torch.where(agreeing > 0.0, share, 0.0)
    total = total * sign
    if spec.divisor == "count":
        return total / count.clamp_min(1.0)
    if spec.divisor == "weight":
        return total / torch.where(count.abs() < least, instead, count)
    return total


def _varying(kept: Sequence[torch.Tensor], bound: torch.Tensor) -> list[torch.Tensor]:
    mean = kept[0]
    for value in kept[1:]:
        mean = mean + value
    mean = mean / float(len(kept))
    spread = torch.zeros_like(mean)
    for value in kept:
        difference = value - mean
        spread = spread + difference * difference
    spread = spread / float(len(kept))
    # Multiplied, not selected: what is dropped keeps its sign, as in the plain path.
    survives = torch.where(spread > bound, 1.0, 0.0)
    return [value * survives for value in kept]


def example(spec: KernelSpec, size: int, device: str = "cpu") -> tuple[torch.Tensor, ...]:
    """Operands of the right kinds, for tracing."""
    names = [*([spec.base] if spec.base else []), *spec.inputs]
    tensors = [torch.zeros(size, dtype=getattr(torch, name), device=device) for name in names]
    count = len(spec.inputs)
    tensors.append(torch.ones(PER_INPUT * count + PER_PASS, device=device))
    if spec.masks:
        tensors.append(torch.zeros(3 * count, dtype=torch.int32, device=device))
    tensors.append(torch.zeros(size, dtype=getattr(torch, spec.out), device=device))
    return tuple(tensors)


def settings() -> dict[str, Any]:
    """Inductor's settings under which compiled and plain path agree to the bit."""
    return {
        "cpp.enable_floating_point_contract_flag": "off",
        "cpp.enable_unsafe_math_opt_flag": False,
        "emulate_precision_casts": True,
        "triton.codegen_upcast_to_fp32": True,
    }


def compile_ahead(spec: KernelSpec, out: Path) -> None:
    """Compile a pass for this machine's processor into a package that `AOTIModelPackageLoader` loads."""
    from torch._inductor import aoti_compile_and_package

    size: Any = torch.export.Dim("size", min=2, max=MOST_ELEMENTS)
    tensors = example(spec, 100_003)
    fixed = {len(tensors) - 2, *({len(tensors) - 3} if spec.masks else set())}
    shapes = tuple(None if index in fixed else {0: size} for index in range(len(tensors)))
    with torch.no_grad(), contextlib.redirect_stdout(sys.stderr):
        exported = torch.export.export(FusedPass(spec), tensors, dynamic_shapes=(shapes,), strict=False)
        aoti_compile_and_package(exported, package_path=str(out), inductor_configs=settings())


def main() -> None:
    """Compile what the command line names."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    compile_ahead(KernelSpec.from_json(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))


if __name__ == "__main__":
    main()
