"""The command that goes on with what was stopped: the one that was given, with all its options."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from enum import Enum
from typing import Any

import typer

ONCE = frozenset({"takeover"})
"""Options that are meant for one session and must not be repeated unseen."""


def same_command(context: typer.Context, **instead: object) -> str:
    """The command line of a context, options that were left out left out again, quoted for a shell.

    Args:
        context: of the verb that runs.
        instead: other values of arguments and options, by the names of the verb's parameters.
    """
    words = [*_verb(context)]
    for parameter in context.command.params:
        name = parameter.name or ""
        source = context.get_parameter_source(name)
        if source is None or source.name != "COMMANDLINE" or name in ONCE:
            continue
        value: Any = instead.get(name, context.params[name])
        if parameter.param_type_name == "argument":
            words += _texts(value)
        elif value is True:
            words.append(parameter.opts[0])
        else:
            words += [word for text in _texts(value) for word in (parameter.opts[0], text)]
    return shlex.join(words)


def _verb(context: typer.Context) -> list[str]:
    names: list[str] = []
    at: Any = context
    while at is not None:
        names.insert(0, str(at.info_name))
        at = at.parent
    return ["evomerge", *names[1:]]


def _texts(value: Any) -> Iterator[str]:
    for each in value if isinstance(value, list | tuple) else [value]:
        yield str(each.value if isinstance(each, Enum) else each)
