"""Named places in the code where a test can make the process die, fail or leave.

Armed only by the environment, `EVOMERGE_FAILPOINTS="ledger.after_fsync=kill@3,export.rename=raise"`:
at the third hit of the first the process sends itself SIGKILL, at the first hit of the second
`FailpointHit` is raised. Actions: `kill` (SIGKILL), `stop` (SIGTERM), `raise`, `exit` (leave at once with
code 70, no clean-up). Each fires once. Unarmed, a call is one test of an empty dict.
"""

from __future__ import annotations

import os
import signal
import sys

VARIABLE = "EVOMERGE_FAILPOINTS"
ACTIONS = ("kill", "stop", "raise", "exit")
EXIT_CODE = 70


class FailpointHit(RuntimeError):
    """An armed failpoint with the action `raise` was reached."""


def parse(text: str) -> dict[str, tuple[str, int]]:
    """Failpoint name to (action, hits left until it fires) from `NAME=ACTION[@N],...`.

    Raises:
        ValueError: naming the part that is not of this form.
    """
    armed_points: dict[str, tuple[str, int]] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, _, rest = part.partition("=")
        action, _, count = rest.partition("@")
        if not name or action not in ACTIONS or not (count or "1").isdigit() or count == "0":
            raise ValueError(
                f"{VARIABLE}: {part!r} is not NAME=ACTION[@N] with N >= 1 "
                f"and an action of {', '.join(ACTIONS)}"
            )
        armed_points[name] = (action, int(count or "1"))
    return armed_points


_armed = parse(os.environ.get(VARIABLE, ""))


def armed(name: str) -> bool:
    """Whether the failpoint waits for a hit; for places that act differently to be hit halfway."""
    return name in _armed


def failpoint(name: str) -> None:
    """Do nothing, or what the environment says for this name.

    Raises:
        FailpointHit: if armed with the action `raise`.
    """
    if _armed and name in _armed:
        _hit(name)


def _hit(name: str) -> None:
    action, left = _armed[name]
    if left > 1:
        _armed[name] = (action, left - 1)
        return
    del _armed[name]
    if action == "raise":
        raise FailpointHit(f"failpoint {name}")
    if action == "exit":
        sys.stderr.flush()
        os._exit(EXIT_CODE)
    os.kill(os.getpid(), signal.SIGTERM if action == "stop" else signal.SIGKILL)
