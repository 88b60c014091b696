"""Every verb of the command line with its arguments and options."""

from __future__ import annotations

import inspect
from typing import Any

import typer.main

from docsite.markdown import capital, table
from evomerge.cli.app import app


def commands_page() -> str:
    """What `evomerge VERB --help` says, on one page."""
    group: Any = typer.main.get_command(app)
    text = [
        "# The command line",
        "Results go to stdout, everything else to stderr. `evomerge VERB --help` says what stands here.",
    ]
    for name in group.list_commands(None):
        text += _verb(name, group.commands[name])
    return "\n\n".join(text)


def _verb(name: str, command: Any) -> list[str]:
    if hasattr(command, "commands"):
        return [part for each, sub in command.commands.items() for part in _verb(f"{name} {each}", sub)]
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and p.name != "help"]
    words = " ".join(
        str(p.metavar or p.name.upper()).removesuffix("...") + ("..." if p.nargs == -1 else "")
        for p in arguments
    )
    needed = [option for option in options if option.required]
    words += "".join(f" {option.opts[0]} {option.metavar}" for option in needed)
    text = [f"## evomerge {name}", f"```\nevomerge {name} {words}\n```".replace(" \n", "\n")]
    text.append(inspect.cleandoc(command.help or ""))
    context = command.context_class(command, info_name=name)
    rows = [[f"`{p.metavar or p.name.upper()}`", p.help] for p in arguments if p.help]
    for option in options:
        names, about = option.get_help_record(context)
        rows.append([f"`{names}`", " ".join(about.split())])
    if rows:
        text.append(table(["argument or option", "meaning"], [[a, capital(b)] for a, b in rows]))
    return text
