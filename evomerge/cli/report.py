"""`report`: a campaign as one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evomerge.cli.output import Json, print_json, say


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
    as_json: Json = False,
) -> None:
    """Write a campaign as one HTML page that needs no network."""
    from evomerge.report.write import write_report

    written = write_report(directory, output, against or [])
    if as_json:
        print_json({"file": str(written), "bytes": written.stat().st_size})
        return
    say(f"wrote {written}")
