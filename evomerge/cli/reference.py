"""`schema` and `explain`: what files may say, and what error codes mean."""

from __future__ import annotations

import json
from typing import Annotated, Literal

import typer

from evomerge.cli.output import Json, print_json, table_console
from evomerge.errors import CODES, Problem, UsageError


def schema(
    form: Annotated[
        Literal["campaign", "search-space", "evaluator"],
        typer.Argument(metavar="campaign|search-space|evaluator", show_default=False),
    ],
) -> None:
    """Print the JSON schema of a file, for editors.

    In the first line of a file, `# yaml-language-server: $schema=FILE` names it.
    """
    from evomerge.campaign.schema import SCHEMAS

    typer.echo(json.dumps(SCHEMAS[form](), indent=2, ensure_ascii=False))


def explain(
    code: Annotated[
        str,
        typer.Argument(
            metavar="CODE", help="As messages have it in brackets: E228, say.", show_default=False
        ),
    ],
    as_json: Json = False,
) -> None:
    """Say what an error code means and what helps."""
    found = CODES.get(code.upper())
    if found is None:
        todo = "codes are E101 to E999, as messages have them in brackets"
        raise UsageError(Problem("E500", f"there is no code {code!r}", "", todo))
    if as_json:
        print_json({"code": code.upper(), "meaning": found.meaning, "helps": found.helps})
        return
    console = table_console()
    console.print(f"{code.upper()}: {found.meaning}", markup=False, soft_wrap=True)
    console.print(found.helps, markup=False, soft_wrap=True)
