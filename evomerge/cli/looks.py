"""Verbs that read a campaign folder, also while a run goes on."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evomerge.cli.output import PICK_HELP, Folder, Json, print_json, say, table_console
from evomerge.errors import GO_ON, LedgerDamaged, Problem, UsageError

if TYPE_CHECKING:
    from evomerge.front.folder import OpenedFolder
    from evomerge.ledger.candidate import Candidate


def show(
    directory: Folder,
    name: Annotated[str, typer.Argument(metavar="PICK", help=PICK_HELP, show_default=False)],
    every: Annotated[bool, typer.Option("--genes", help="Print each gene, also of hundreds.")] = False,
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
        print_candidate(opened.history, candidate, every)


def optuna(
    directory: Folder,
    output: Annotated[
        Path,
        typer.Option("-o", "--output", metavar="FILE", help="An SQLite file, or a journal (.log)."),
    ] = Path("study.db"),
) -> None:
    """Write a campaign as an Optuna study, for optuna-dashboard."""
    from evomerge.campaign.campaign import campaign_from_json
    from evomerge.campaign.recorded import recorded_space
    from evomerge.front.folder import open_campaign_folder
    from evomerge.optimizers.study import address, write_study

    history = open_campaign_folder(directory).history
    if all(candidate.genome is None for candidate in history.candidates.values()):
        raise UsageError(Problem("E507", "there are no trials yet", "nothing is searched", GO_ON))
    objectives = campaign_from_json(history.config).objectives
    count = write_study(history, recorded_space(history).genes, objectives, output)
    say(f"wrote {count} trials to {output}; see them with `optuna-dashboard {address(output)}`")


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
    """Copy the intact part of a damaged campaign folder.

    `run` goes on with the copy.
    """
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
