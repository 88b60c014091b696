"""What is written where: results to stdout, problems and remarks to stderr.

With `--json` an error is one object `{"errors": [...]}` on stdout, so that a caller always reads JSON.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evomerge.errors import EvomergeError, Interrupted, Problem, Stopped

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

AllowTaskCode = Annotated[
    bool,
    typer.Option(
        "--allow-task-code", help="Let task files run Python, and programs that a model wrote."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The campaign folder.", show_default=False)]

PICK_HELP = "An id, knee, best:METRIC, best:mean, prefer:A=0.7,B=0.3, or METRIC>=VALUE."

UNBOUNDED_WIDTH = 250
"""Columns where no terminal says how many there are: wide enough not to cut a table."""

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def plain(text: str) -> str:
    """Text without control characters: names come from files and must not steer a terminal."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def say(text: str) -> None:
    """A remark for people, on stderr; nothing if that is gone or full, which must not cost the result."""
    with contextlib.suppress(OSError):
        sys.stderr.write(plain(text) + "\n")
        sys.stderr.flush()


def say_json(level: str, message: str, **more: Any) -> None:
    """A remark for a collector of logs: one JSON object on a line of stderr, with the time in UTC."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    data = {"time": now, "level": level, "message": plain(message), **more}
    say(json.dumps(data, sort_keys=True, ensure_ascii=False))


def to_json(data: Any) -> str:
    """JSON text with sorted keys: equal data, equal bytes."""
    return json.dumps(data, sort_keys=True, indent=1, allow_nan=False)


def print_json(data: Any) -> None:
    """JSON on stdout."""
    sys.stdout.write(to_json(data) + "\n")


def problem_json(problem: Problem) -> dict[str, Any]:
    """A problem as plain JSON data, empty parts left out."""
    return {name: value for name, value in dataclasses.asdict(problem).items() if value}


def print_error(error: EvomergeError, as_json: bool) -> None:
    """Every problem of an error: a line each on stderr, or one JSON object on stdout."""
    if as_json:
        listed = [problem_json(problem) for problem in error.problems]
        print_json({"errors": listed or [{"code": "", "wrong": str(error)}]})
        sys.stdout.flush()
    elif error.problems:
        for problem in error.problems:
            say(str(problem))
    elif isinstance(error, Stopped | Interrupted):
        say(str(error))
    else:
        say(f"error: {error}")


def print_warning(problem: Problem) -> None:
    """A problem that stops nothing."""
    say(problem.as_warning)


def table_console() -> Console:
    """A rich console on stdout for tables."""
    return _console(stderr=False)


def log_console() -> Console:
    """A rich console on stderr."""
    return _console(stderr=True)


def fits(console: Console, table: Table) -> bool:
    """Whether a table has room for every cell in one line."""
    unbounded = console.options.update(width=10_000)
    return console.measure(table, options=unbounded).maximum <= console.width


def _console(*, stderr: bool) -> Console:

    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    bounded = stream.isatty() or "COLUMNS" in os.environ
    return Console(stderr=stderr, width=None if bounded else UNBOUNDED_WIDTH, highlight=False)


class _Remarks(logging.Handler):
    """Log records as remarks. Looks `sys.stderr` up each time: a live display replaces it."""

    as_json = False

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if self.as_json:
            say_json(record.levelname.lower(), text, logger=record.name)
            return
        known = text.startswith(("warning[", "error["))
        say(text if known else f"{record.levelname.lower()}: {text}")


def show_log(as_json: bool = False) -> None:
    """Send warnings of all libraries to stderr, a line each, or one JSON object a line."""
    root = logging.getLogger()
    known = [handler for handler in root.handlers if isinstance(handler, _Remarks)]
    if not known:
        known = [_Remarks(logging.WARNING)]
        root.addHandler(known[0])
    known[0].as_json = as_json
