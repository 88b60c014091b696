"""Processes of this host: a pid alone may be another's by now, with its start it is one for good."""

from __future__ import annotations

import os
from pathlib import Path


def started_at(pid: int) -> str | None:
    """When a process began: the boot of this host and clock ticks since then; None if that is not known."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        # The second field, the name in parentheses, may hold anything; the 22nd is the start (proc(5)).
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return f"{boot}/{fields[19]}"
    except (OSError, IndexError):
        return None


def is_alive(pid: int, started: str | None = None) -> bool:
    """Whether a process of this host runs; with `started`, whether it is the one that began then."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # it is another user's
    now = started_at(pid)
    return started is None or now is None or now == started
