"""`push`: an export to a hub."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from evomerge.cli.output import Json, print_json, say, show_log


def push(
    folder: Annotated[
        Path,
        typer.Argument(metavar="FOLDER", help="What `evomerge export` wrote.", show_default=False),
    ],
    repository: Annotated[
        str, typer.Argument(metavar="OWNER/NAME", help="Made if it is not there.", show_default=False)
    ],
    public: Annotated[
        bool, typer.Option("--public", help="Let everybody see it; private without.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Upload an export to the Hugging Face hub, private by default."""
    from evomerge.export.push import push_folder

    show_log()
    pushed = push_folder(folder, repository, public=public)
    if as_json:
        print_json(dataclasses.asdict(pushed))
        return
    seen = "private" if pushed.private else "public"
    say(f"{pushed.files} files are at {pushed.url} ({seen}), commit {pushed.commit[:12]}")
