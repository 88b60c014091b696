"""The verb `front`: the members one decides between, with the baselines beside them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evomerge.cli.output import Folder, Json, plain, print_json, say, table_console
from evomerge.cli.results import LmEvalJson, write_front_results
from evomerge.errors import Problem, UsageError

if TYPE_CHECKING:
    from evomerge.front.folder import OpenedFolder
    from evomerge.front.front import Front
    from evomerge.front.shown import Wish

DRAWING = (72, 15)
"""Columns and lines of a front drawn in characters."""

ROOM = (74, 24)
"""Columns and lines of a terminal that has room for it."""


def front(
    directory: Folder,
    ids: Annotated[
        list[str] | None,
        typer.Argument(metavar="[ID]...", help="Members to show, by id or pick.", show_default=False),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Show every member.")] = False,
    sort: Annotated[
        str | None,
        typer.Option(
            metavar="BY", help="A metric, mean, worst, probability or id.", show_default=False
        ),
    ] = None,
    low: Annotated[
        list[str] | None,
        typer.Option("--min", metavar="METRIC=VALUE", help="Members with at least this score."),
    ] = None,
    high: Annotated[
        list[str] | None,
        typer.Option("--max", metavar="METRIC=VALUE", help="Members with at most this score."),
    ] = None,
    as_json: Json = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV instead of a table.")] = False,
    as_latex: Annotated[
        bool, typer.Option("--latex", help="Print a LaTeX table of the members asked for.")
    ] = False,
    parquet: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also write all members as Parquet.", show_default=False),
    ] = None,
    lm_eval_json: LmEvalJson = None,
) -> None:
    """Show the front and the baselines.

    By default at most 12 members that span the front are shown.
    """
    from evomerge.front.folder import open_campaign_folder
    from evomerge.front.shown import Wish

    wish = Wish(tuple(ids or ()), every, sort, tuple(low or ()), tuple(high or ()))
    if as_json + as_csv + as_latex > 1:
        raise UsageError(
            Problem("E500", "--json, --csv and --latex exclude one another", todo="give one")
        )
    if (as_json or as_csv) and wish != Wish():
        wrong = "--json and --csv hold every member in the front's order"
        raise UsageError(Problem("E500", wrong, todo="leave ids, --all, --sort, --min and --max out"))
    opened = open_campaign_folder(directory)
    found = opened.front()
    if lm_eval_json is not None:
        write_front_results(opened, found, lm_eval_json)
    if parquet is not None:
        from evomerge.front.tables import write_front_parquet

        write_front_parquet(found, parquet)
        say(f"wrote {parquet}")
    if as_latex:
        from evomerge.front.shown import choose_shown
        from evomerge.front.tables import front_latex

        members = choose_shown(found, opened.decision(found), wish).members
        sys.stdout.write(front_latex(found, members))
        return
    if as_csv:
        from evomerge.front.tables import front_csv

        sys.stdout.write(front_csv(found))
        return
    print_front(opened, found, as_json, wish)


def print_front(opened: OpenedFolder, found: Front, as_json: bool, wish: Wish | None = None) -> None:
    """The front of a folder and how far it may be believed on stdout, as tables or as JSON."""
    from evomerge.front.shown import Wish, choose_shown

    decision = opened.decision(found)
    if as_json:
        believed = opened.front_uncertainty(found)
        data = {"statistics": believed.to_json(), "decision": decision.to_json()}
        sessions = opened.history.sessions
        ended = {"ended_by": sessions.stopped, "refinement_ended_by": sessions.refinement_stopped}
        print_json({**found.to_json(), **data, **ended})
        return
    from evomerge.front.drawing import drawing_lines
    from evomerge.front.terminal import (
        members_lines,
        optimism_lines,
        slope_words,
        smooth_lines,
        title_lines,
    )
    from evomerge.front.text_table import prose
    from evomerge.ledger.sessions import FINAL
    from evomerge.run.limits import ended_text, plateau_text

    shown = choose_shown(found, decision, wish or Wish())
    believed = opened.front_uncertainty(found)
    console = table_console()
    width = console.width
    parts = [
        title_lines(found, believed, width) + members_lines(found, decision, shown, width),
    ]
    roomy = console.is_terminal and width >= ROOM[0] and console.height >= ROOM[1]
    if len(found.objectives) == 2 and found.members and roomy:
        parts.append(drawing_lines(found, {member.id for member in shown.members}, *DRAWING))
    if believed.optimism is not None:
        parts.append(optimism_lines(believed, width))
    if found.steering:
        parts.append(smooth_lines(found, width))
    if found.slopes or found.slopes_failed:
        parts.append(prose(slope_words(found), width))
    if found.free:
        known = f"{found.free} candidates were known from earlier campaigns"
        parts.append(prose(f"{known}, beside {found.evaluations} evaluations", width))
    if opened.history.stopped is not None:
        words = ended_text(opened.history.stopped, plateau=plateau_text(opened.history))
        parts.append(prose(f"the search was ended by {words}", width))
    refinement = opened.history.sessions.refinement_stopped
    if refinement is not None and refinement not in FINAL:
        words = ended_text(refinement, refinement=True)
        parts.append(prose(f"the last refinement was ended by {words}", width))
    for line in "\n\n".join("\n".join(part) for part in parts).split("\n"):
        console.print(plain(line), markup=False, soft_wrap=True)
