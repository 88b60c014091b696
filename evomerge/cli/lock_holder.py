"""Who drives a campaign folder, as far as its lock file says."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from pathlib import Path

from evomerge.ledger.history import LEDGER_FILE
from evomerge.ledger.process import is_alive


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
    here = host == socket.gethostname()
    return Holder(host, pid, since, is_alive(pid, signed.get("started")) if here else None)
