"""Who drives a campaign folder, as far as its lock file says."""

from __future__ import annotations

import json
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from evomerge.ledger.history import LEDGER_FILE


@dataclass(frozen=True)
class Holder:
    """Who has signed the lock file; `alive` is None where that cannot be seen from this host."""

    host: str
    pid: int
    since: str
    alive: bool | None


def lock_holder(path: Path) -> Holder | None:
    """The driver that signed a campaign folder's lock file and did not sign off, if any.

    The lock itself is not tried: even a short try could turn a starting driver away.
    """
    try:
        signed = json.loads((path / f"{LEDGER_FILE}.lock").read_bytes())
        host, pid, since = str(signed["host"]), int(signed["pid"]), str(signed["since"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Holder(host, pid, since, _is_alive(pid) if host == socket.gethostname() else None)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
