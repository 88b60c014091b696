"""Where a campaign stands, in lines for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evomerge.cli.worker_lines import crew_text, worker_lines

if TYPE_CHECKING:
    from evomerge.cli.lock_holder import Holder
    from evomerge.cli.seen import Seen
    from evomerge.run.standing import Standing


def status_rows(seen: Seen) -> list[tuple[str, str]]:
    """Name and text of each line about one campaign."""
    from evomerge.front.tables import shown_value
    from evomerge.front.words import duration
    from evomerge.run.limits import ahead_text, ended_text
    from evomerge.run.standing import failures_text

    now = seen.standing
    of = "" if now.budget is None or now.raced else f" of {now.budget}"
    rows = [
        ("campaign", now.campaign),
        (
            "phase",
            f"{now.phase}, {'steady state' if now.steady else _generations(now.generation)}",
        ),
        (
            "evaluations",
            f"{now.evaluations}{of}, and {now.baselines[0]} of {now.baselines[1]} baselines",
        ),
    ]
    if now.pace is not None:
        rows.append(("pace", f"{now.pace:.1f} evaluations/min"))
    if now.seconds_left and now.phase in ("search", "baselines", "selection"):
        rows.append(("time left", duration(now.seconds_left)))
    if now.hypervolume is not None:
        rows.append(("hypervolume", f"{now.hypervolume:.4f} (search scores)"))
    if now.feasible is not None:
        rows.append(("feasible", f"{now.feasible[0]} of {now.feasible[1]} keep all constraints"))
    for best in now.best:
        value, expert = (shown_value(best.metric, v) for v in (best.value, best.expert_value))
        rows.append(("best", f"{best.metric} {value} ({best.id}); {best.expert} has {expert}"))
    if now.rescored[1]:
        rows.append(("held out", f"{now.rescored[0]} of {now.rescored[1]} models scored"))
    if now.raced:
        given_up = f"{now.raced} given up early; all cost {now.cost:.1f} evaluations"
        rows.append(("raced", given_up))
    if now.slopes or now.slopes_failed:
        told = f"{now.slopes} gradients and losses; with the merges {now.cost:.1f} evaluations"
        rows.append(("slopes", told))
    if now.slopes_failed:
        rows.append(("", f"{now.slopes_failed} more failed, mostly {now.slope_failure}"))
    if now.starts:
        rows.append(("starts", f"{now.starts} points of `start_from`, asked first"))
    if now.free:
        rows.append(
            ("known", f"{now.free} candidates have their scores from there, which cost nothing")
        )
    if now.shared:
        rows.append(("shared", f"{now.shared} found among the results of other campaigns"))
    if now.ahead is not None and now.ended_by != "plateau":
        rows.append(("forecast", ahead_text(now.ahead)))
    if now.ended_by is not None:
        rows.append(("ended by", ended_text(now.ended_by, plateau=now.plateau)))
    rows += [("refined", text) for text in now.refinements]
    rows.append(("failed", failures_text(now)))
    if now.lost:
        rows.append(("lost work", lost_text(now)))
    rows.append(("last event", f"{duration(seen.age)} ago"))
    rows.append(("driver", _driver_text(seen.holder)))
    rows += [("" if number else "workers", text) for number, text in enumerate(crew_lines(seen))]
    return rows


def _generations(told: int) -> str:
    return "1 generation told" if told == 1 else f"{told} generations told"


def lost_text(now: Standing) -> str:
    """Attempts that ended with their workers, why, and what of the work that was."""
    from evomerge.front.words import duration

    parts = [
        f"{attempts} {LOST_TO.get(kind, kind)}, {duration(seconds)} of work"
        for kind, (attempts, seconds) in sorted(now.lost_to.items())
    ]
    if now.repeated is not None:
        parts.append(f"{100 * now.repeated:.1f} % of all was repeated")
    return "; ".join(parts)


LOST_TO = {
    "node_lost": "with a machine that went away (node_lost)",
    "worker_died": "with a worker that died (worker_died)",
    "deadline": "past the deadline (deadline)",
    "out_of_memory": "out of memory (out_of_memory)",
}
"""Classes of lost attempts in words."""


def crew_lines(seen: Seen) -> list[str]:
    """What the workers do, all in a line and then each; nothing where nobody told."""
    if seen.crew is None:
        return []
    workers = seen.crew.workers
    if seen.is_stale:
        told = duration_ago(seen.crew_age)
        return [f"{len(workers)}, as told {told} by a driver that may be gone (stale)"]
    return [crew_text(workers), *worker_lines(workers)]


def duration_ago(seconds: float) -> str:
    """How long ago."""
    from evomerge.front.words import duration

    return f"{duration(seconds)} ago"


def _driver_text(holder: Holder | None) -> str:
    if holder is None:
        return "none running"
    who = f"pid {holder.pid} on {holder.host} since {holder.since}"
    if holder.alive is None:
        return f"{who} (another host; cannot see whether it still runs)"
    return f"running, {who}" if holder.alive else f"none running; {who} ended without signing off"
