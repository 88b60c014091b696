"""Verbs that read a campaign folder, also while a run goes on."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evomerge.cli.output import PICK_HELP, Folder, Json, print_json, say, table_console
from evomerge.errors import LedgerDamaged, Problem, UsageError

if TYPE_CHECKING:
    from rich.table import Table

    from evomerge.cli.lock_holder import Holder
    from evomerge.front.folder import OpenedFolder
    from evomerge.ledger.candidate import Candidate
    from evomerge.run.standing import Standing


def status(
    directories: Annotated[
        list[Path],
        typer.Argument(metavar="DIR...", help="Campaign folders.", show_default=False),
    ],
    failed: Annotated[
        bool, typer.Option("--failed", help="List failed candidates: class, message, traceback.")
    ] = False,
    follow: Annotated[
        bool, typer.Option("--follow", help="Show it again as it goes on, until nothing runs.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show how far a campaign is, or several, a line each."""
    from evomerge.cli.failures import failures_json, print_failures
    from evomerge.front.folder import open_campaign_folder

    if failed:
        if len(directories) > 1:
            raise UsageError(Problem("E500", "--failed is of one campaign folder", "", "give one"))
        history = open_campaign_folder(directories[0]).history
        if as_json:
            print_json({"failed": failures_json(history)})
        else:
            print_failures(history)
        return
    if follow:
        from evomerge.cli.follow import follow as follow_on

        follow_on(directories, _status_of, _status_rows, _status_json if as_json else None)
        return
    seen = [_status_of(directory) for directory in directories]
    if as_json:
        listed = [_status_json(*pair) for pair in zip(directories, seen, strict=True)]
        print_json(listed[0] if len(listed) == 1 else {"campaigns": listed})
        return
    console = table_console()
    if len(seen) > 1:
        console.print(_status_table(directories, seen))
        return
    for name, text in _status_rows(*seen[0]):
        console.print(f"{name:<13} {text}", markup=False, soft_wrap=True)


def _status_json(directory: Path, seen: tuple[Standing, Holder | None, float]) -> dict[str, Any]:
    now, holder, age = seen
    return {
        **now.to_json(),
        "folder": str(directory),
        "last_event_seconds_ago": round(age, 1),
        "driver": None if holder is None else dataclasses.asdict(holder),
    }


def _status_of(directory: Path) -> tuple[Standing, Holder | None, float]:
    """Where a campaign stands, who runs it, and the seconds since its last event."""
    import time

    from evomerge.cli.lock_holder import lock_holder
    from evomerge.front.folder import open_campaign_folder
    from evomerge.run.pace import recorded_pace
    from evomerge.run.standing import standing

    opened = open_campaign_folder(directory)
    budget = opened.history.budget
    if budget is not None and opened.history.cost >= budget + 1:
        budget = None  # it was raised since, and the ledger keeps the first one only
    now = standing(opened.history, budget=budget, pace=recorded_pace(opened.events))
    return now, lock_holder(directory), max(0.0, time.time() - opened.history.last)


def _status_table(
    directories: Sequence[Path], seen: Sequence[tuple[Standing, Holder | None, float]]
) -> Table:
    """A line for each campaign folder."""
    from rich.table import Table

    from evomerge.front.words import duration
    from evomerge.run.standing import failures_text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("folder", "phase", "evaluations", "per min", "hypervolume", "failed", "last event"):
        table.add_column(name)
    for directory, (now, _, age) in zip(directories, seen, strict=True):
        table.add_row(
            str(directory),
            now.phase,
            f"{now.evaluations}" if now.budget is None else f"{now.evaluations} of {now.budget}",
            "" if now.pace is None else f"{now.pace:.1f}",
            "" if now.hypervolume is None else f"{now.hypervolume:.4f}",
            failures_text(now),
            f"{duration(age)} ago",
        )
    return table


def _status_rows(now: Standing, holder: Holder | None, age: float) -> list[tuple[str, str]]:
    from evomerge.front.tables import shown_value
    from evomerge.front.words import duration
    from evomerge.run.standing import failures_text

    of = "" if now.budget is None or now.raced else f" of {now.budget}"
    rows = [
        ("campaign", now.campaign),
        (
            "phase",
            f"{now.phase}, {'steady state' if now.steady else f'{now.generation} generations told'}",
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
    if now.slopes:
        told = f"{now.slopes} gradients and losses; all cost {now.cost:.1f} evaluations"
        rows.append(("slopes", told))
    if now.shared:
        rows.append(("shared", f"{now.shared} found among the results of other campaigns"))
    if now.ended_by is not None:
        rows.append(("ended by", ENDED.get(now.ended_by, now.ended_by)))
    rows += [("refined", text) for text in now.refinements]
    rows.append(("failed", failures_text(now)))
    rows.append(("last event", f"{duration(age)} ago"))
    rows.append(("driver", _driver_text(holder)))
    return rows


ENDED = {
    "budget": "its evaluations",
    "items": "its items",
    "hours": "its hours",
    "plateau": "a plateau: the last candidates added too little hypervolume",
    "exhausted": "its search space: every point was asked",
}
"""Limits in words."""


def _driver_text(holder: Holder | None) -> str:
    if holder is None:
        return "none running"
    who = f"pid {holder.pid} on {holder.host} since {holder.since}"
    if holder.alive is None:
        return f"{who} (another host; cannot see whether it still runs)"
    return f"running, {who}" if holder.alive else f"none running; {who} ended without signing off"


def show(
    directory: Folder,
    name: Annotated[str, typer.Argument(metavar="PICK", help=PICK_HELP, show_default=False)],
    as_json: Json = False,
) -> None:
    """Show one candidate: its genes and scores, or why it failed."""
    from evomerge.cli.candidate import candidate_json, print_candidate
    from evomerge.front.candidate import find_candidate
    from evomerge.front.folder import open_campaign_folder

    opened: OpenedFolder = open_campaign_folder(directory)
    candidate: Candidate = find_candidate(opened.history, opened.front, name)
    if as_json:
        print_json(candidate_json(opened.history, candidate))
    else:
        print_candidate(opened.history, candidate)


def optuna(
    directory: Folder,
    output: Annotated[
        Path,
        typer.Option("-o", "--output", metavar="FILE", help="An SQLite file, or a journal (.log)."),
    ] = Path("study.db"),
) -> None:
    """Write an Optuna study of a campaign, to look at with optuna-dashboard."""
    from evomerge.campaign.campaign import campaign_from_json
    from evomerge.campaign.recorded import recorded_space
    from evomerge.front.folder import open_campaign_folder
    from evomerge.optimizers.study import write_study

    history = open_campaign_folder(directory).history
    if history.prepared is None:
        problem = Problem("E500", "the campaign is not prepared yet", str(directory), "run it first")
        raise UsageError(problem)
    objectives = campaign_from_json(history.config).objectives
    count = write_study(history, recorded_space(history).genes, objectives, output)
    say(f"wrote {count} trials to {output}; see them with `optuna-dashboard {output}`")


def verify(directory: Folder, as_json: Json = False) -> None:
    """Recompute every invariant of a campaign folder."""
    from evomerge.cli.verify.invariants import examine
    from evomerge.front.folder import open_campaign_folder

    open_campaign_folder(directory)
    found = examine(directory)
    if found.problems:
        raise LedgerDamaged(found.problems)
    if as_json:
        result: dict[str, Any] = {"checked": dict(found.checked), "problems": []}
        print_json(result)
        return
    console = table_console()
    for what, count in found.checked.items():
        console.print(f"{count:>8}  {what}", markup=False, soft_wrap=True)
    console.print("everything holds")


def repair(
    directory: Folder,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The new folder.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Copy what is sound of a damaged campaign folder; `run` goes on with the copy."""
    import dataclasses

    from evomerge.ledger.repair import repair_folder

    found = repair_folder(directory, out)
    if as_json:
        print_json(dataclasses.asdict(found))
        return
    rows = [
        ("copied", f"{found.events} ledger events, {found.evaluations} of them results"),
        (
            "not copied",
            f"{found.lost_bytes:,} bytes behind them, with {found.lost_events} sound events",
        ),
    ]
    if found.damaged_items:
        rows.append(("damaged", f"the per-item results of {found.damaged_items}"))
    if found.exports or found.lost_exports:
        rows.append(("exports", f"{found.exports} events copied, {found.lost_exports} bytes not"))
    rows.append(("go on with", f"evomerge run FILE --dir {out}"))
    console = table_console()
    for name, text in rows:
        console.print(f"{name:<13} {text}", markup=False, soft_wrap=True)
