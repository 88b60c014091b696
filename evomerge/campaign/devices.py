"""Devices: their names, whether this machine has them, and whether workers are given what they ask for."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from evomerge.errors import EnvironmentFault, Problem, UsageError

Fault = tuple[tuple[str, str], str, str, str]
"""The field, what is wrong, what was found, what to do."""


def is_device(text: str) -> bool:
    """Whether this names a device that models are scored on: `cpu`, `cuda` or `cuda:N`."""
    return re.fullmatch(r"cpu|cuda(:\d+)?", text) is not None


def device_faults(workers: Mapping[str, Any], evaluation: Mapping[str, Any]) -> Iterator[Fault]:
    """Faults of `workers.gpus`, looked for in the raw sections.

    A share of a device is at most one; more than one are whole ones, over which a model is spread.
    """
    gpus = workers.get("gpus")
    if not isinstance(gpus, int | float) or isinstance(gpus, bool) or not 0 < gpus < math.inf:
        return
    pool, device = workers.get("pool", "local"), evaluation.get("device", "cpu")
    field, found = ("workers", "gpus"), f"found {gpus:g}"
    if gpus > 1 and gpus != int(gpus):
        yield field, "more than one device is a whole number of them", found, ""
    if pool != "ray":
        todo = "write `pool: ray`, or leave `gpus` out"
        yield field, "only workers on Ray are given devices", f"{found} with pool {pool!r}", todo
    if device == "cpu":
        wrong = "workers are given devices and evaluate on the processor"
        yield ("evaluation", "device"), wrong, f"{found} GPUs for each", "write `device: cuda`"
    elif gpus > 1 and device != "cuda":
        wrong = "a model over several devices lies on all that its worker is given"
        yield ("evaluation", "device"), wrong, f"found {device!r}", "write `device: cuda`"


def check_device(device: str, todo: str = "give `cpu`") -> None:
    """See that a CUDA device exists before workers are started; loads torch only for such a device.

    Args:
        device: its name.
        todo: what helps where there is no such device.

    Raises:
        EnvironmentFault: E401.
        UsageError: E500, if this is no name of a device.
    """
    if device == "cpu":
        return
    if not is_device(device):
        names = "give cpu, cuda or cuda:N"
        raise UsageError(Problem("E500", f"`{device}` is no device", "", names))
    import torch

    count, index = torch.cuda.device_count(), int(device.partition(":")[2] or 0)
    if index >= count:
        wrong, found = f"no device `{device}` here", f"{count} CUDA devices"
        raise EnvironmentFault(Problem("E401", wrong, found, todo))
