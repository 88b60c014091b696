"""Workers in words, for `status` and for the live display."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from evomerge.run.pool.pool import WorkerState

MOST_WORKERS = 16
"""Workers that have a line of their own."""


def crew_text(workers: Sequence[WorkerState]) -> str:
    """All workers in a line: how many do what, on how many machines, and how busy they have been."""
    counts = Counter(each.state for each in workers)
    words = ", ".join(
        f"{counts[state]} {state}" for state in ("busy", "idle", "waiting") if counts[state]
    )
    parts = [f"{len(workers)}: {words}"]
    nodes = {each.node for each in workers if each.node}
    if len(nodes) > 1:
        parts.append(f"on {len(nodes)} machines")
    shares = [each.busy for each in workers if each.busy is not None]
    if shares:
        parts.append(f"busy {100 * sum(shares) / len(shares):.0f} % of their time")
    return "; ".join(parts)


def worker_lines(workers: Sequence[WorkerState], most: int = MOST_WORKERS) -> list[str]:
    """A line for each worker, `most` at most."""
    from evomerge.front.words import duration

    lines = []
    for each in workers[:most]:
        name = f"w{each.place:<3}"
        if each.state == "waiting":
            lines.append(f"{name} waits for a machine with room")
            continue
        where = f"{each.node}:{each.pid}" if each.pid else each.node
        share = "    " if each.busy is None else f"{100 * each.busy:3.0f}%"
        doing = str(each.state)
        if each.state == "busy":
            doing = f"{each.job or 'a job of another campaign'} for {duration(each.seconds)}"
        lines.append(f"{name} {share} {where}  {doing}")
    if len(workers) > most:
        lines.append(f"and {len(workers) - most} more (--json has all)")
    return lines
