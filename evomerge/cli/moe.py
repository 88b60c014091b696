"""`moe`: dense models as the experts of a mixture."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from evomerge.cli.output import Json, print_json, say, show_log


def moe(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="A YAML file, with mergekit-moe's fields.", show_default=False
        ),
    ],
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="The folder to write.", show_default=False)
    ],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT if it exists.")] = False,
    shard_bytes: Annotated[
        int, typer.Option(metavar="BYTES", min=1, help="Largest size of one weight file.")
    ] = 5_000_000_000,
    as_json: Json = False,
) -> None:
    """Make dense models the experts of one mixture, without training."""
    from evomerge.export.stated import refuse_mixture

    show_log()
    refuse_mixture(file, out, overwrite=overwrite)
    from evomerge.export.mixture import write_mixture

    report = write_mixture(file, out, overwrite=overwrite, shard_bytes=shard_bytes)
    if as_json:
        print_json(dataclasses.asdict(report))
        return
    say(
        f"wrote {out}: {report.architecture} of {report.experts} experts, {report.per_token} a token; "
        f"{report.parameters:,} parameters, {report.active:,} at work for a token"
    )
