"""The passes of merging as one elementwise function each, for torch's compiler to fuse.

One source for every device: `FusedPass` states in torch operators what `weighted_sum` and
`sparsified_sum` do block by block, operation by operation in the same order, each rounded to float32, so
that the two give the same bits. Contraction of multiply and add is turned off for that reason.

Run as a module, this file compiles one pass ahead of time, in a process of its own:

    python -m evomerge.merge.passes.kernels SPEC.json OUT.pt2
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from evomerge.merge.passes.masks import FIRST_FACTOR, SECOND_FACTOR, signed_word

VERSION = 2
"""Raised when a pass's operands or arithmetic change: compiled passes are kept between runs."""

ROW = 512
"""Elements of a row: passes are compiled for any number of whole rows."""

MOST_ELEMENTS = 2**31 - ROW
"""Counters of random masks are 32-bit words; longer tensors are for the plain path."""

DEVICE_SETTINGS = {"eager_numerics.division_rounding": True, "eager_numerics.disable_ftz": True}
"""Inductor's settings besides `settings`, where it has them, for a device: Triton's own division is not
rounded to nearest, and its functions may take the smallest numbers for zero."""

PER_INPUT = 4
PER_PASS = 6


@dataclass(frozen=True)
class KernelSpec:
    """What makes one compiled pass another; everything else is a number it is given.

    Attributes:
        inputs: storage dtypes of the experts.
        base: storage dtype of the base; empty for a weighted sum without one.
        storage: dtype results are rounded to; `out` the dtype they are held in.
        trims: whether small magnitudes are dropped; `caps` whether large ones are; `masks` whether
            random numbers decide; `rescales` whether survivors are scaled.
        election: see `sparsified_sum`; `divisor` likewise.
        varying: whether entries must vary over the experts (SCE).
        scales: whether the result or the merged task vector has a factor other than 1.
    """

    inputs: tuple[str, ...]
    base: str
    storage: str
    out: str
    trims: bool = False
    caps: bool = False
    masks: bool = False
    rescales: bool = False
    election: Literal["none", "before", "after"] = "none"
    divisor: Literal["none", "count", "weight"] = "none"
    varying: bool = False
    scales: bool = False

    def to_json(self) -> str:
        """Canonical JSON."""
        return json.dumps(asdict(self), sort_keys=True)

    @staticmethod
    def from_json(text: str) -> KernelSpec:
        """The inverse of `to_json`."""
        values = json.loads(text)
        return KernelSpec(**{**values, "inputs": tuple(values["inputs"])})


class FusedPass(torch.nn.Module):
    """One pass over finite tensors whose result is known to be finite.

    Called with the base (if any) and the experts, all [rows, ROW] in their storage dtypes; `numbers`,
    float32 [PER_INPUT * K + PER_PASS]: for each expert weight, the bound magnitudes must exceed, the
    ceiling they may not exceed and the factor of survivors, then scale, factor, the bound variances
    must exceed, least divisor, what replaces smaller ones, and +0.0; with `masks`, `words`, int32 [3 K + 1]:
    the halves of each mask's key and the limit of its random numbers (`compiled.mask_words`), then the
    counter of the first element, and `steps`, int32 [ROW], 0, 1, 2, ...; `out`, [rows, ROW], written.
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
        words = counter = None
        if spec.masks:
            words, steps = rest.pop(0), rest.pop(0)
            # Steps are loaded rather than counted: the compiler counts one element at a time.
            rows = torch.arange(experts[0].shape[0], dtype=torch.int32, device=steps.device)
            counter = (rows * ROW + words[3 * len(experts)])[:, None] + steps
        (out,) = rest
        if base is not None:
            experts = [expert - base for expert in experts]
        kept = [self._sparsified(x, k, numbers, words, counter) for k, x in enumerate(experts)]
        weights = [numbers[PER_INPUT * k] for k in range(len(kept))]
        scale, factor, variance, least, instead, zero = numbers[PER_INPUT * len(kept) :].unbind()
        if spec.election != "none":
            assert base is not None
            if spec.varying:
                kept = _varying(kept, variance)
            total = _elected_sum(kept, weights, spec, least, instead)
            if spec.scales:
                total = total * factor
            # Adding zero makes -0.0 the +0.0 it is in the plain path; compilers drop a zero they know.
            total = (total + zero) + base
        elif base is not None:
            total = base
            for value, weight in zip(kept, weights, strict=True):
                total = total + value * weight
        else:
            total = kept[0] * weights[0]
            for value, weight in zip(kept[1:], weights[1:], strict=True):
                total = total + value * weight
        if spec.scales:
            total = total * scale
        out.copy_(total.to(getattr(torch, spec.storage)))
        # A graph must return something.
        return scale + 1.0

    def _sparsified(
        self,
        value: torch.Tensor,
        k: int,
        numbers: torch.Tensor,
        words: torch.Tensor | None,
        counter: torch.Tensor | None,
    ) -> torch.Tensor:
        row = numbers[PER_INPUT * k :]
        if self.spec.caps:
            value = value - torch.where(value.abs() > row[2], value, 0.0)
        if self.spec.trims:
            value = torch.where(value.abs() <= row[1], 0.0, value)
        if words is not None and counter is not None:
            drawn = _draw(counter, words[3 * k], words[3 * k + 1])
            value = torch.where(drawn <= words[3 * k + 2], value, 0.0)
        if self.spec.rescales:
            value = value * row[3]
        return value


def _draw(counter: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """The random numbers of `masks` before their last shift, ordered as signed words."""
    bits = counter ^ low
    bits = bits ^ ((bits >> 16) & 0xFFFF)
    bits = bits * FIRST_FACTOR + high
    bits = bits ^ ((bits >> 15) & 0x1FFFF)
    return (bits * signed_word(SECOND_FACTOR)) ^ signed_word(1 << 31)


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
    sign = ballot.view(torch.int32) & signed_word(1 << 31)
    total = torch.zeros_like(ballot)
    count = torch.zeros_like(ballot)
    for vote, weight in zip(votes, weights, strict=True):
        # As bits, the sign is one instruction; what agrees stays a mask, which costs none.
        turned = _turned(vote, sign)
        agrees = turned > 0.0
        total = total + torch.where(
            agrees, turned if spec.election == "after" else turned * weight, 0.0
        )
        if spec.divisor != "none":
            count = count + torch.where(agrees, weight if spec.divisor == "weight" else 1.0, 0.0)
    total = _turned(total, sign)
    if spec.divisor == "count":
        return total / torch.where(count > 1.0, count, 1.0)
    if spec.divisor == "weight":
        return total / torch.where(count.abs() < least, instead, count)
    return total


def _turned(value: torch.Tensor, sign: torch.Tensor) -> torch.Tensor:
    """`value` with its sign bit changed where `sign` has one."""
    return (value.view(torch.int32) ^ sign).view(torch.float32)


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


def example(spec: KernelSpec, rows: int, device: str = "cpu") -> tuple[torch.Tensor, ...]:
    """Operands of the right kinds, for tracing."""
    names = [*([spec.base] if spec.base else []), *spec.inputs]
    tensors = [torch.zeros(rows, ROW, dtype=getattr(torch, name), device=device) for name in names]
    count = len(spec.inputs)
    tensors.append(torch.ones(PER_INPUT * count + PER_PASS, device=device))
    if spec.masks:
        tensors.append(torch.zeros(3 * count + 1, dtype=torch.int32, device=device))
        tensors.append(torch.zeros(ROW, dtype=torch.int32, device=device))
    tensors.append(torch.zeros(rows, ROW, dtype=getattr(torch, spec.out), device=device))
    return tuple(tensors)


def settings() -> dict[str, Any]:
    """Inductor's settings under which compiled and plain path agree to the bit, and passes are fast."""
    chosen: dict[str, Any] = {
        "cpp.enable_floating_point_contract_flag": "off",
        "cpp.enable_unsafe_math_opt_flag": False,
        "emulate_precision_casts": True,
        "triton.codegen_upcast_to_fp32": True,
        # Headers compiled beforehand take 13 s of processor time, once, and save none of the 20 of a pass.
        "aot_inductor.precompile_headers": False,
    }
    if sys.platform == "linux" and platform.machine() == "x86_64":
        # Inductor's own vectors turn each mask into a vector and back, four instructions for every
        # `where`. The C++ compiler keeps masks as masks, if it is given plain loops and allowed to.
        chosen["cpp.simdlen"] = 1
        # Random numbers wrap around, which in C++ is undefined without being asked for.
        chosen["cpp.march"] = "native -ftree-loop-vectorize -mprefer-vector-width=512 -fwrapv"
    return chosen


def variables() -> dict[str, str]:
    """Variables of the process that compiles under these settings."""
    # Plain loops need none of Inductor's vectors: it need not compile a trial of each kind.
    return {"TORCHINDUCTOR_VEC_ISA_OK": "0"} if settings().get("cpp.simdlen") == 1 else {}


def compile_ahead(spec: KernelSpec, out: Path) -> None:
    """Compile a pass for this machine's processor into a package that `AOTIModelPackageLoader` loads."""
    from torch._inductor import aoti_compile_and_package

    rows: Any = torch.export.Dim("rows", min=1, max=MOST_ELEMENTS // ROW)
    tensors = example(spec, 1000)
    shapes = tuple({0: rows} if tensor.dim() == 2 else None for tensor in tensors)
    with torch.no_grad(), contextlib.redirect_stdout(sys.stderr):
        exported = torch.export.export(FusedPass(spec), tensors, dynamic_shapes=(shapes,), strict=False)
        aoti_compile_and_package(exported, package_path=str(out), inductor_configs=settings())


def main() -> None:
    """Compile what the command line names."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    compile_ahead(KernelSpec.from_json(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))


if __name__ == "__main__":
    main()
