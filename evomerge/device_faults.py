"""Faults between what a campaign's workers are given and what they evaluate on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

Fault = tuple[tuple[str, str], str, str, str]
"""The field, what is wrong, what was found, what to do."""


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
