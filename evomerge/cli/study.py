"""`study run` and `study table`: a campaign with several sets of changes and seeds, side by side."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evomerge.cli.again import same_command
from evomerge.cli.campaigns import AllowBenchmarkTest, CampaignFile, Settings, changes_of
from evomerge.cli.output import (
    AllowTaskCode,
    Json,
    print_json,
    print_warning,
    say,
    show_log,
    table_console,
)
from evomerge.errors import Problem, UsageError

if TYPE_CHECKING:
    from evomerge.run.study.plan import Planned

study = typer.Typer(
    name="study",
    help="Run a campaign with several settings and seeds, and compare.",
    add_completion=False,
    rich_markup_mode=None,
)


@study.callback(invoke_without_command=True)
def _help(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


StudyFolder = Annotated[
    Path, typer.Argument(metavar="DIR", help="The study's folder.", show_default=False)
]
Markdown = Annotated[bool, typer.Option("--markdown", help="Print the table in Markdown.")]


@study.command()
def run(
    context: typer.Context,
    file: CampaignFile,
    directory: Annotated[
        Path,
        typer.Option(
            "--dir", metavar="DIR", help="The study's folder; made if new.", show_default=False
        ),
    ],
    seeds: Annotated[
        str,
        typer.Option(metavar="N|A,B,...", help="How many seeds, from the file's up; or which."),
    ] = "3",
    arms: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Arms: named sets of changes, as YAML.", show_default=False),
    ] = None,
    at_once: Annotated[
        int, typer.Option(metavar="N", min=1, help="Campaigns under way at a time, on one pool.")
    ] = 1,
    settings: Settings = None,
    allow_task_code: AllowTaskCode = False,
    allow_benchmark_test: AllowBenchmarkTest = False,
    markdown: Markdown = False,
    as_json: Json = False,
) -> None:
    """Run a campaign for each arm and seed, or resume.

    The table is printed at the end. Workers are started once, and what one campaign has measured no other
    measures again.
    """
    from evomerge.campaign.campaign import load_campaign
    from evomerge.campaign.check import grants_of
    from evomerge.run.study.campaigns import check_arms, run_study
    from evomerge.run.study.plan import ONLY_ARM, Arm, parse_seeds, plan, read_arms, record

    _one_form(markdown, as_json)
    show_log()
    changes = changes_of(None, settings)
    if any(change.path == ("seed",) for change in changes):
        raise UsageError(Problem("E500", "a study states the seeds itself", "", "give --seeds"))
    stated = read_arms(arms) if arms is not None else (Arm(ONLY_ARM),)
    numbers = parse_seeds(seeds, load_campaign(file, changes).config.seed)
    planned = plan(file, directory, stated, numbers, changes)
    grants = grants_of(allow_task_code, allow_benchmark_test)
    reports = check_arms(planned, grants, lambda each: None if as_json else print_warning(each))
    record(directory, file, stated, numbers, changes)
    ended: set[str] = set()

    def tell(each: Planned, what: str) -> None:
        if what == "ends":
            ended.add(each.name)
            what = f"ends ({len(ended)} of {len(planned)} campaigns)"
        say(f"{each.name}: {what}")

    gave_up = run_study(
        planned,
        directory,
        reports,
        grants,
        at_once=at_once,
        tell=tell,
        again=f"go on with: {same_command(context, file=file.resolve())}",
    )
    table(directory, markdown, as_json)
    for error in gave_up.values():
        raise error


@study.command()
def table(directory: StudyFolder, markdown: Markdown = False, as_json: Json = False) -> None:
    """Compare the arms of a study.

    Means over the seeds with 95 % intervals. Scores are those that decide: of selection items, once a
    campaign has come to its end.
    """
    from evomerge.run.study import table as tables

    _one_form(markdown, as_json)
    found = tables.study_table(directory)
    if as_json:
        print_json(found.to_json())
        return
    tables.refuse_empty(found, directory)
    if markdown:
        sys.stdout.write(tables.markdown(found))
        return
    from rich.table import Table

    head, lines = tables.cells(found)
    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for number, name in enumerate(head):
        shown.add_column(name, justify="right" if number else "left")
    for line in lines:
        shown.add_row(*line)
    table_console().print(shown)
    if any(arm.done < arm.seeds for arm in found.arms):
        say("campaigns that have not come to their end are left out")


def _one_form(markdown: bool, as_json: bool) -> None:
    if markdown and as_json:
        raise UsageError(Problem("E500", "--json and --markdown exclude one another"))
