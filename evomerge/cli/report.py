"""`report`: a campaign as one HTML page."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated

import typer

from evomerge.cli.output import Json, print_json, say
from evomerge.errors import Problem, UsageError


def report(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="The campaign folder.", show_default=False)
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            help="The HTML file; report.html in the campaign folder by default.",
            show_default=False,
        ),
    ] = None,
    against: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="DIR",
            help="Another campaign for the same objectives, to draw beside; may be repeated.",
            show_default=False,
        ),
    ] = None,
    watch: Annotated[
        bool,
        typer.Option("--watch", help="Serve it on this machine until Ctrl-C; it follows the run."),
    ] = False,
    port: Annotated[
        int | None,
        typer.Option(
            metavar="PORT",
            help="With --watch; a free one without.",
            min=0,
            max=65535,
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a campaign as one HTML page that needs no network."""
    if watch:
        if output is not None or as_json:
            problem = Problem("E500", "--watch serves the page and writes nothing", todo="leave -o out")
            raise UsageError(problem)
        _watch(directory, against or [], port or 0)
        return
    if port is not None:
        raise UsageError(Problem("E500", "--port is that of --watch", "", "give --watch as well"))
    from evomerge.report.write import write_report

    written = write_report(directory, output, against or [])
    if as_json:
        print_json({"file": str(written), "bytes": written.stat().st_size})
        return
    say(f"wrote {written}")


def _watch(directory: Path, against: list[Path], port: int) -> None:
    from evomerge.report.serve import ReportServer

    with contextlib.suppress(KeyboardInterrupt), ReportServer(directory, against, port, say) as server:
        say(f"serving {server.address} until Ctrl-C")
        server.wait()
