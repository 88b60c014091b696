"""`split`: three lm-eval tasks from one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from evomerge.cli.output import AllowTaskCode, Json, plain, print_json, say, show_log, table_console
from evomerge.errors import Problem, UsageError


def split(
    task: Annotated[
        str, typer.Argument(metavar="TASK", help="Name of an lm-eval task.", show_default=False)
    ],
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="The folder to write.", show_default=False)
    ],
    name: Annotated[
        str, typer.Option(help="Name of the evaluator; the task's by default.", show_default=False)
    ] = "",
    include_path: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of the task's file; without it, the tasks installed with lm-eval.",
            exists=True,
            file_okay=False,
            show_default=False,
        ),
    ] = None,
    items: Annotated[
        Literal["scored", "train", "validation", "test"],
        typer.Option(help="Which items to split; scored are those lm-eval scores."),
    ] = "scored",
    shares: Annotated[
        str, typer.Option(help="Percent of the items for search, selection and test.")
    ] = "50,25,25",
    download: Annotated[
        bool, typer.Option("--download", help="Fetch the data set if it is not on this machine.")
    ] = False,
    allow_task_code: AllowTaskCode = False,
    as_json: Json = False,
) -> None:
    """Make search, selection and test splits of a task.

    They are lm-eval tasks of their own, so that stock lm-eval gives each score again.
    """
    from evomerge.evaluators.splits import BENCHMARK_NOTE, make_splits

    show_log()
    try:
        parts = tuple(int(part) for part in shares.split(","))
    except ValueError:
        problem = Problem("E500", "shares are three whole numbers", f"found {shares!r}", "50,25,25")
        raise UsageError(problem) from None
    report = make_splits(
        task,
        out,
        name=name,
        include_path=include_path,
        items=items,
        shares=parts,
        allow_code=allow_task_code,
        download=download,
    )
    if report.benchmark:
        say(f"warning: {report.benchmark} is scored on these items; {BENCHMARK_NOTE}")
    if as_json:
        print_json(
            {
                "declaration": report.declaration.name,
                "digest": report.digest,
                "items": dict(report.counts),
                "examples": report.examples,
                "files": report.files,
                "benchmark": report.benchmark,
            }
        )
        return
    console = table_console()
    counts = ", ".join(f"{count} {split}" for split, count in report.counts.items())
    console.print(plain(f"wrote {report.declaration}: {counts} items"), markup=False, soft_wrap=True)
    console.print(f"digest {report.digest}", markup=False, soft_wrap=True)
