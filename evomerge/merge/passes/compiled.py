"""Compiled passes: found, compiled when they pay, loaded, called; never a reason to fail.

On a CPU a pass is compiled ahead of time by a process of its own and kept in a folder, so that workers
of a node share it, none of them carries the compiler in memory, and a call costs a few microseconds.
On a GPU `torch.compile` does the same in the process. Whatever goes wrong, the plain path takes over:
its results have the same bits.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from filelock import FileLock, Timeout

from evomerge.files.storage import publish_file
from evomerge.merge.passes.kernels import (
    DEVICE_SETTINGS,
    MOST_ELEMENTS,
    ROW,
    VERSION,
    FusedPass,
    KernelSpec,
    settings,
    variables,
)
from evomerge.merge.passes.masks import keep_limit, signed_word

Mode = Literal["auto", "plain", "compiled"]
Call = Callable[[list[torch.Tensor]], Any]

PAYS = 2e10
"""Elements a run is expected to merge, above which `auto` compiles: each saves one nanosecond or more,
and compiling the passes of a campaign takes about half a minute of one core."""

SETTLED = 2e8
"""Elements a kind of pass must have carried before `auto` compiles it; rare kinds never are."""

_COMPILE_SECONDS = 900.0
_RETRY_SECONDS = 2.0

log = logging.getLogger(__name__)


@dataclass
class _Known:
    """What is known of one kind of pass."""

    call: Call | None = None
    elements: int = 0
    retry_at: float = 0.0


class Kernels:
    """The compiled passes of one process: a kernel for each combination of dtypes and operators it met.

    Args:
        directory: where compiled passes are kept, shared by the processes of a node; without one
            nothing is compiled for a CPU.
        mode: `compiled` compiles every kind of pass when it is first needed, `auto` those that pay,
            `plain` none.
        expected: elements the run is going to merge: parameters times candidates.
        threads: of a pass on a CPU.
        device: where the passes run.
    """

    def __init__(
        self,
        directory: Path | None = None,
        mode: Mode = "auto",
        expected: float = 0.0,
        threads: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        self.device = torch.device(device)
        self.threads = threads
        self.seconds = 0.0
        self._directory = directory
        self._mode = mode
        self._known: dict[KernelSpec, _Known] = {}
        self._steps = torch.arange(ROW, dtype=torch.int32, device=self.device)
        self._pads: dict[tuple[int, torch.dtype], torch.Tensor] = {}
        self._works = mode == "compiled" or (mode == "auto" and expected >= PAYS)
        if self._works and self.device.type == "cpu":
            self._works = directory is not None and _compiler() is not None
            if not self._works:
                log.info("no folder or no C++ compiler: merging by the plain path")

    def on(self, device: torch.device) -> Kernels:
        """The same for passes on another device; itself for its own."""
        if device.type == self.device.type and self.device.index in (None, device.index):
            return self
        other = copy.copy(self)
        other.device, other._steps = device, self._steps.to(device)
        other._known, other._pads = {}, {}
        return other

    @property
    def works(self) -> bool:
        """Whether passes may be compiled at all."""
        return self._works

    def run(
        self,
        spec: KernelSpec,
        operands: Sequence[torch.Tensor],
        numbers: Sequence[float],
        words: Sequence[int],
        out: torch.Tensor,
    ) -> bool:
        """Carry out a pass if it is compiled, or now is the time to compile it.

        Args:
            spec: its kind.
            operands: the base (if any) and the experts, [n] each.
            numbers: `FusedPass`'s numbers.
            words: `FusedPass`'s words without the counter; empty without masks.
            out: [n] contiguous.

        Returns:
            Whether it was carried out; if not, `out` is undefined.
        """
        size = out.numel()
        if not self._works or size > MOST_ELEMENTS:
            return False
        call = self._call(spec, size)
        if call is None:
            return False
        values = self._moved(numbers, torch.float32)
        whole = size // ROW * ROW
        try:
            if whole == size:
                views = [operand.view(-1, ROW) for operand in operands]
                call([*views, values, *self._words(words, 0), out.view(-1, ROW)])
            elif whole:
                views = [operand[:whole].view(-1, ROW) for operand in operands]
                call([*views, values, *self._words(words, 0), out[:whole].view(-1, ROW)])
            if whole < size:
                rest = [self._padded(i, operand[whole:]) for i, operand in enumerate(operands)]
                last = self._padded(len(operands), out[whole:])
                call([*rest, values, *self._words(words, whole), last])
                out[whole:].copy_(last.view(-1)[: size - whole])
        except Exception as error:  # a compiled pass that does not run must not cost a candidate
            self._give_up(error)
            return False
        return True

    def _words(self, words: Sequence[int], start: int) -> list[torch.Tensor]:
        if not words:
            return []
        return [self._moved([*words, start], torch.int32), self._steps]

    def _moved(self, numbers: Sequence[float], dtype: torch.dtype) -> torch.Tensor:
        """Numbers on the device of the passes, without waiting for the passes that run there."""
        found = torch.tensor(numbers, dtype=dtype)
        if self.device.type == "cpu":
            return found
        return found.pin_memory().to(self.device, non_blocking=True)

    def _padded(self, index: int, rest: torch.Tensor) -> torch.Tensor:
        pad = self._pads.get((index, rest.dtype))
        if pad is None:
            pad = torch.zeros(1, ROW, dtype=rest.dtype, device=self.device)
            self._pads[index, rest.dtype] = pad
        pad.view(-1)[: rest.numel()].copy_(rest)
        return pad

    def _call(self, spec: KernelSpec, size: int) -> Call | None:
        known = self._known.get(spec)
        if known is None:
            known = self._known[spec] = _Known()
        if known.call is not None:
            return known.call
        known.elements += size
        if self._mode == "auto" and known.elements < SETTLED:
            return None
        if time.monotonic() < known.retry_at:
            return None
        started = time.perf_counter()
        try:
            known.call = self._jit(spec) if self.device.type != "cpu" else self._ahead(spec)
        except Exception as error:  # whatever a compiler may do, the plain path is there
            self._give_up(error)
        known.retry_at = time.monotonic() + _RETRY_SECONDS
        self.seconds += time.perf_counter() - started
        return known.call

    def _give_up(self, error: Exception) -> None:
        self._works = False
        lines = str(error).strip().splitlines()
        told = f"{type(error).__name__}: {lines[-1] if lines else ''}"
        log.warning("compiling a merge pass failed, merging by the plain path: %s", told)

    def _jit(self, spec: KernelSpec) -> Call:
        known = set(torch._inductor.list_options())
        options = {key: value for key, value in (settings() | DEVICE_SETTINGS).items() if key in known}
        compiled: Any = torch.compile(_own_pass(spec), dynamic=True, options=options)
        met: set[bool] = set()

        def call(tensors: list[torch.Tensor]) -> None:
            started = time.perf_counter()
            compiled(*tensors)
            # What is compiled at the first call: one row apart from any other number of them.
            if (single := len(tensors[-1]) == 1) not in met:
                met.add(single)
                self.seconds += time.perf_counter() - started

        return call

    def _ahead(self, spec: KernelSpec) -> Call | None:
        """The loaded pass; None while another process compiles it and this one need not wait."""
        assert self._directory is not None
        path = self._directory / f"{_name(spec, self.threads)}.pt2"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            wait = _COMPILE_SECONDS if self._mode == "compiled" else 0.0
            try:
                with FileLock(path.with_suffix(".lock"), timeout=wait):
                    if not path.exists():
                        _compile(spec, path, self.threads)
            except Timeout:
                return None
        # The thin C++ loader under `torch._inductor.aoti_load_package`, which would import the compiler.
        from torch._C import _aoti

        loader = _aoti.AOTIModelPackageLoader(str(path), "model", True, 1, -1)
        run: Call = loader.run
        return run


def _own_pass(spec: KernelSpec) -> FusedPass:
    """A pass whose code is no other's.

    torch counts by code object what it compiled, and after the eighth only warns.
    """
    source: Any = FusedPass.forward
    forward = types.FunctionType(source.__code__.replace(), source.__globals__, "forward")
    own: Any = type("OwnPass", (FusedPass,), {"forward": forward})
    made: FusedPass = own(spec)
    return made


def mask_words(key: int, keep: float) -> list[int]:
    """Halves of a mask's key, and the limit of its random numbers as `kernels` orders them."""
    limit = 2**31 - 1
    if keep < 1.0:
        limit = signed_word((2 * keep_limit(keep) - 1) ^ (1 << 31))
    return [signed_word(key), signed_word(key >> 32), limit]


def _compiler() -> str | None:
    return shutil.which(os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++"))


def _processor() -> str:
    """What compiled code depends on: the architecture and, where it is told, the instructions."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    wanted = {"model name", "flags", "Features"}
    found = {key.strip(): value for key, _, value in (line.partition(":") for line in lines)}
    return " ".join([platform.machine(), *(found.get(name, "") for name in sorted(wanted))])


def _name(spec: KernelSpec, threads: int) -> str:
    chosen = json.dumps(settings(), sort_keys=True)
    parts = [str(VERSION), torch.__version__, _processor(), str(threads), chosen, spec.to_json()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def _compile(spec: KernelSpec, path: Path, threads: int) -> None:
    """Compile into `path` in a process of its own.

    Raises:
        RuntimeError: with the compiler's last line, if it fails.
    """
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=path.parent, prefix="compiling-") as folder:
        stated, made = Path(folder) / "spec.json", Path(folder) / "pass.pt2"
        stated.write_text(spec.to_json())
        environment = {
            **os.environ,
            **variables(),
            "OMP_NUM_THREADS": str(threads),
            "TORCHINDUCTOR_CACHE_DIR": str(path.parent.resolve() / "inductor"),
        }
        command = [sys.executable, "-m", "evomerge.merge.passes.kernels", str(stated), str(made)]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=_COMPILE_SECONDS
        )
        if done.returncode or not made.exists():
            raise RuntimeError(done.stderr.strip() or f"exit status {done.returncode}")
        publish_file(made, path)
    log.info("compiled a merge pass in %.0f s", time.perf_counter() - started)
