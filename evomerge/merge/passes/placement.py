"""Where experts lie while merges run on another device, and how their tensors get there.

*mapped*: in the files' pages, copied when a pass needs them. *pinned*: the same pages, locked for the device,
so that copies run beside the pass; they are the page cache's, one set for all workers of a node.
*resident*: on the device for good. A processor's passes read the mapped files in place.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from evomerge.errors import EnvironmentFault, Problem

if TYPE_CHECKING:
    from evomerge.checkpoint.reader import Reader

Placement = Literal["mapped", "pinned", "resident"]
Wanted = Literal["auto", "mapped", "pinned", "resident"]

SHARE = 0.5
"""Of what is free, how much experts may take unasked: evaluating needs memory too."""

_HOW_LOCKED = 8 | 1
"""`cudaHostRegisterReadOnly`, since files are mapped without the right to write, and
`cudaHostRegisterPortable`, for all devices of this process."""

_CUDA: Any = torch.cuda
"""`torch.cuda`, untyped: some of what is used of it has no type hints."""

_LOCKED: dict[int, torch.UntypedStorage] = {}
"""Mapped files whose pages are locked, by address. What is locked stays mapped: where another mapping took
the address, a device would read the pages of the first."""

log = logging.getLogger(__name__)


def choose_placement(
    wanted: Wanted, device: str, needed: int, free_on_device: int, free_on_host: int
) -> Placement:
    """Where experts go.

    Args:
        wanted: as the campaign says; `auto` takes the fastest that fits.
        device: where merges run.
        needed: bytes of base and experts.
        free_on_device: bytes free there beside the live model.
        free_on_host: bytes free in the host's memory.

    Raises:
        EnvironmentFault: E402, what is wanted does not fit.
    """
    if device == "cpu":
        return "mapped"
    if wanted == "auto":
        if needed <= SHARE * free_on_device:
            return "resident"
        return "pinned" if needed <= SHARE * free_on_host else "mapped"
    free = {"mapped": needed, "pinned": free_on_host, "resident": free_on_device}[wanted]
    if needed > free:
        wrong = f"experts do not fit as `{wanted}`"
        found = f"they need {needed / 1e9:.1f} GB, {max(free, 0) / 1e9:.1f} GB are free"
        todo = "use `experts: auto`"
        raise EnvironmentFault(Problem("E402", wrong, found, todo, field="workers.experts"))
    return wanted


def free_host_bytes(meminfo: Path = Path("/proc/meminfo")) -> int:
    """Memory the host can still give; 0 where it does not tell."""
    try:
        lines = meminfo.read_text().splitlines()
    except OSError:
        return 0
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(found[0]) * 1024 if found else 0


def place_experts(wanted: Wanted, devices: Sequence[str], needed: int, live: int) -> Placement:
    """`choose_placement` for this machine as it is, with `live` bytes of a model still to come.

    Over several devices, each holds an equal share of both; what does not fit on one is done on none.

    Raises:
        EnvironmentFault: E402.
    """
    if not devices[0].startswith("cuda"):
        return "mapped"
    free = len(devices) * min(torch.cuda.mem_get_info(device)[0] for device in devices)
    return choose_placement(wanted, devices[0], needed, free - live, free_host_bytes())


class Weights:
    """Stored tensors, flattened, on the device of the passes.

    Args:
        device: where passes run.
        placement: see the module; without effect on a processor.
    """

    def __init__(self, device: torch.device | str = "cpu", placement: Placement = "mapped") -> None:
        self.device = torch.device(device)
        self.placement = placement
        self._in_place = self.device.type == "cpu" and placement == "mapped"
        self._resident: dict[tuple[Reader, str], torch.Tensor] = {}
        self._coming: dict[tuple[Reader, str], tuple[torch.Tensor, torch.cuda.Event]] = {}
        self._refused: set[int] = set()
        self._copies = _CUDA.Stream(self.device) if self.device.type == "cuda" else None

    def read(self, reader: Reader, tensor: str) -> torch.Tensor:
        """A stored tensor, [n] in its storage dtype."""
        key = (reader, tensor)
        found = self._resident.get(key)
        if found is None:
            if self._in_place:
                found = reader.read(tensor).reshape(-1)
                # A view of its file takes no memory; what had to be copied is not kept.
                if found.untyped_storage().nbytes() > found.nbytes:
                    self._resident[key] = found
                return found
            if key in self._coming:
                found, arrived = self._coming.pop(key)
                stream = torch.cuda.current_stream(self.device)
                stream.wait_event(arrived)
                found.record_stream(stream)
            else:
                found = reader.read(tensor).reshape(-1).to(self.device, copy=True)
            if self.placement == "resident":
                self._resident[key] = found
        return found

    def prefetch(self, wanted: Sequence[tuple[Reader, str]]) -> None:
        """Begin to copy what the next pass reads, beside the one that runs."""
        if self._copies is None:
            return
        with torch.cuda.stream(self._copies):
            for key in dict.fromkeys(wanted):
                if key in self._resident or key in self._coming:
                    continue
                stored = key[0].read(key[1]).reshape(-1)
                if self.placement == "pinned":
                    self._pin(stored)
                moved = stored.to(self.device, non_blocking=True)
                self._coming[key] = (moved, self._copies.record_event())

    def forget(self) -> None:
        """Drop what was copied, and let go of locked pages: files may be others now."""
        self._resident.clear()
        self._coming.clear()
        self._refused.clear()
        if self._copies is not None and _LOCKED:
            _CUDA.synchronize(self.device)
            for where in list(_LOCKED):
                _CUDA.cudart().cudaHostUnregister(where)
                del _LOCKED[where]

    def _pin(self, stored: torch.Tensor) -> None:
        """Lock the pages of the file a tensor lies in; where that is refused, copies only take longer.

        What is no view of a file (it was computed, or was misaligned) is not locked: it will not stay.
        """
        storage = stored.untyped_storage()
        where = storage.data_ptr()
        if where in _LOCKED or where in self._refused or storage.nbytes() == stored.nbytes:
            return
        code = int(_CUDA.cudart().cudaHostRegister(where, storage.nbytes(), _HOW_LOCKED))
        if code == 0:
            _LOCKED[where] = storage
            return
        self._refused.add(where)
        log.warning("the device cannot lock a file's pages (CUDA error %d): copied as mapped", code)
        # The runtime remembers an error until it is asked, and torch asks after its next kernel.
        with contextlib.suppress(RuntimeError):
            torch.zeros(1, device=self.device)
