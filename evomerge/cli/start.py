"""`init` and `list`: where one begins."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from evomerge.cli.output import AllowTaskCode, Json, fits, print_json, say, show_log, table_console
from evomerge.errors import Problem, UsageError


def init(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="A new or empty folder.", show_default=False)
    ],
    base: Annotated[
        str | None, typer.Option(metavar="B", help="Base model: a folder, or org/name@COMMIT.")
    ] = None,
    expert: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=E", help="A fine-tune or LoRA adapter of it; give several."),
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="An lm-eval task to search for; give several."),
    ] = None,
    include_path: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of the tasks' files; without it, those installed with lm-eval.",
            exists=True,
            file_okay=False,
        ),
    ] = None,
    download: Annotated[
        bool, typer.Option("--download", help="Fetch data sets of tasks that are not here.")
    ] = False,
    allow_task_code: AllowTaskCode = False,
    as_json: Json = False,
) -> None:
    """Write a starter campaign that runs as it stands.

    Without --base and --expert, toy models are trained for it, in less than a minute.
    Items of each --task are split into search, selection and test items, as by `split`.
    """
    from evomerge.campaign.references import reference_fields
    from evomerge.cli.starter.write import OwnTasks, write_starter

    show_log()
    experts: dict[str, dict[str, str]] = {}
    for text in expert or []:
        name, equals, place = text.partition("=")
        if not equals or not name or not place:
            todo = "write --expert math=path/to/math"
            raise UsageError(Problem("E500", "an expert is NAME=FOLDER", f"found `{text}`", todo))
        if name in experts:
            todo = "give each expert a name of its own"
            raise UsageError(Problem("E500", f"expert `{name}` is given twice", "", todo))
        experts[name] = reference_fields(place, f"--expert {name}")
    if (base is None) != (not experts):
        found = "found --base only" if experts == {} else "found --expert only"
        todo = "give both, or neither for toy models"
        raise UsageError(Problem("E500", "--base and --expert go together", found, todo))
    if task and base is None:
        todo = "give --base and --expert as well"
        raise UsageError(Problem("E500", "toy models can do toy tasks only", "found --task", todo))
    if task and len({*task}) < len(task):
        raise UsageError(Problem("E500", "a --task is given twice", f"found {', '.join(task)}"))
    tasks = OwnTasks(task, include_path, download, allow_task_code) if task else None
    origin = None if base is None else reference_fields(base, "--base")
    file = write_starter(directory, origin, experts, tasks=tasks, tell=say)
    command = f"evomerge run {file} --dir {directory / 'run'}"
    if as_json:
        print_json({"campaign": str(file), "run": command})
        return
    say(f"wrote {file}; run it with:")
    table_console().print(command, markup=False, soft_wrap=True)


def list_(
    what: Annotated[
        Literal["methods", "evaluators", "optimizers"],
        typer.Argument(metavar="methods|evaluators|optimizers", show_default=False),
    ],
    as_json: Json = False,
) -> None:
    """List merge methods, evaluators or optimizers, a line each."""
    listed = {"methods": _methods, "evaluators": _evaluators, "optimizers": _optimizers}[what]()
    if as_json:
        print_json({what: listed})
        return
    from rich.table import Table

    rows = [
        [_text(value) for name, value in entry.items() if name not in ("inputs", "options")]
        for entry in listed
    ]
    console = table_console()

    def laid_out(rows: list[list[str]]) -> Table:
        table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
        for row in rows:
            table.add_row(*row)
        return table

    table = laid_out(rows)
    if not fits(console, table):
        table = laid_out([[name, "; ".join(filter(None, rest))] for name, *rest in rows])
    console.print(table)


def _text(value: Any) -> str:
    if not isinstance(value, list):
        return str(value)
    parts = [f"{c['name']} {c['low']:g}..{c['high']:g}" for c in value]
    return ", ".join(parts)


def _methods() -> list[dict[str, Any]]:
    from evomerge.recipe.registered import find_method, installed_methods, known_methods

    unloaded = installed_methods()
    methods = [find_method(name) for name in known_methods() if name not in unloaded]
    listed = [
        {
            "name": method.name,
            "coefficients": [
                {
                    "name": c.name,
                    "low": c.low,
                    "high": c.high,
                    "default": c.default,
                    "per_expert": c.per_input,
                    "meaning": c.meaning,
                }
                for c in method.coefficients
            ],
            "inputs": list(method.inputs),
            "options": {name: list(values) for name, values in method.options},
            "linear": "linear in its weights" if method.linear else "",
            "paper": method.paper,
        }
        for method in methods
    ]
    return listed + [{"name": name, "about": f"from {value}"} for name, value in unloaded.items()]


def _evaluators() -> list[dict[str, Any]]:
    from evomerge.evaluators.kinds import KINDS
    from evomerge.evaluators.python_callable import entry_points

    found = [{"kind": kind, "about": known.about} for kind, known in KINDS.items()]
    return found + [{"kind": n, "about": f"from {e.value}"} for n, e in entry_points().items()]


def _optimizers() -> list[dict[str, Any]]:
    from evomerge.optimizers.kinds import known_kinds

    return [{"kind": name, "about": about} for name, about in known_kinds().items()]
