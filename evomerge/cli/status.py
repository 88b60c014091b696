"""The verb `status`: how far a campaign is and what its workers do, also while it runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evomerge.cli.follow import follow as follow_on
from evomerge.cli.output import Json, print_json, table_console
from evomerge.cli.status_rows import duration_ago, status_rows
from evomerge.errors import Problem, UsageError

if TYPE_CHECKING:
    from rich.table import Table

    from evomerge.cli.seen import Seen


def status(
    directories: Annotated[
        list[Path],
        typer.Argument(metavar="DIR", help="Campaign folders.", show_default=False),
    ],
    failed: Annotated[
        bool,
        typer.Option("--failed", help="List failed candidates and slopes: class, message, traceback."),
    ] = False,
    follow: Annotated[
        bool, typer.Option("--follow", help="Show it again as it goes on, until nothing runs.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show how far a campaign is, or several, a line each."""
    from evomerge.cli.failures import failures_json, print_failures, slope_failures_json
    from evomerge.cli.seen import look
    from evomerge.front.folder import open_campaign_folder

    if failed:
        if len(directories) > 1:
            raise UsageError(Problem("E500", "--failed is of one campaign folder", "", "give one"))
        history = open_campaign_folder(directories[0]).history
        if as_json:
            slopes = slope_failures_json(history)
            print_json({"failed": failures_json(history), "slopes_failed": slopes})
        else:
            print_failures(history)
        return
    if follow:
        follow_on(directories, as_json)
        return
    seen = [look(directory) for directory in directories]
    if as_json:
        listed = [each.to_json() for each in seen]
        print_json(listed[0] if len(listed) == 1 else {"campaigns": listed})
        return
    console = table_console()
    if len(seen) > 1:
        console.print(_table(seen))
        return
    for name, text in status_rows(seen[0]):
        console.print(f"{name:<13} {text}", markup=False, soft_wrap=True)


def _table(seen: Sequence[Seen]) -> Table:
    """A line for each campaign folder."""
    from rich.table import Table

    from evomerge.run.standing import failures_text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("folder", "phase", "evaluations", "per min", "hypervolume", "failed", "last event"):
        table.add_column(name)
    for each in seen:
        now = each.standing
        table.add_row(
            str(each.directory),
            now.phase,
            f"{now.evaluations}" if now.budget is None else f"{now.evaluations} of {now.budget}",
            "" if now.pace is None else f"{now.pace:.1f}",
            "" if now.hypervolume is None else f"{now.hypervolume:.4f}",
            failures_text(now),
            duration_ago(each.age),
        )
    return table
