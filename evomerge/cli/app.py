"""The command line: verbs, exit codes, and errors in one form.

Only typer and the error tree are imported here; a verb imports what it needs when it is called, so that
`evomerge --help` answers at once. Results go to stdout, everything else to stderr.
"""

from __future__ import annotations

import contextlib
import os
import platform
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.main
from typer.core import TyperGroup
from typer.exceptions import TyperException

from evomerge.cli import (
    campaigns,
    cluster,
    compare,
    front,
    looks,
    models,
    moe,
    pictures,
    push,
    reference,
    refine,
    report,
    splits,
    start,
    status,
    study,
    track,
    weights,
)
from evomerge.cli.output import print_error, say
from evomerge.errors import EvomergeError, Interrupted, Problem, UsageError

VERBS: tuple[Callable[..., Any] | typer.Typer, ...] = (
    start.init,
    campaigns.check,
    campaigns.run,
    refine.refine,
    study.study,
    track.sync,
    status.status,
    front.front,
    report.report,
    looks.show,
    compare.compare,
    pictures.history,
    pictures.plot,
    looks.optuna,
    models.export,
    push.push,
    models.merge,
    moe.moe,
    models.score,
    weights.kinship,
    weights.align,
    weights.barrier,
    splits.split,
    looks.verify,
    looks.repair,
    cluster.bundle,
    cluster.launch,
    models.import_,
    start.list_,
    reference.schema,
    reference.explain,
)
"""In the order in which they are listed."""


class _Commands(Mapping[str, Any]):
    """Name to command. Each is made of its function when it is asked for: all of them take 40 ms."""

    def __init__(self, verbs: Iterable[Callable[..., Any] | typer.Typer]) -> None:
        self._verbs = {
            str(verb.info.name) if isinstance(verb, typer.Typer) else verb.__name__.rstrip("_"): verb
            for verb in verbs
        }

    def __getitem__(self, name: str) -> Any:
        verb = self._verbs[name]
        if not isinstance(verb, typer.Typer):
            alone = typer.Typer(add_completion=False, rich_markup_mode=None)
            alone.command(name=name)(verb)
            verb = alone
        return typer.main.get_command(verb)

    def __iter__(self) -> Iterator[str]:
        return iter(self._verbs)

    def __len__(self) -> int:
        return len(self._verbs)


class _Verbs(TyperGroup):
    """The command line as a whole."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands: Any = _Commands(VERBS)


app = typer.Typer(
    name="evomerge",
    cls=_Verbs,
    help="Multi-objective evolutionary search over model merges.",
    epilog="Exit codes: 0 done, 1 failed, 2 usage, 3 config, 4 checkpoint, 5 environment, "
    "6 campaign in use, 7 ledger damaged, 8 too many failures, 9 export failed its check, "
    "75 stopped and resumable, 130 interrupted and resumable.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help answers twice as fast
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from evomerge.versions import library_versions

        own, *others = [f"{name} {version}" for name, version in library_versions().items()]
        typer.echo("\n".join([own, f"python {platform.python_version()}", *others]))
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_print_version, help="Show the versions."),
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; gives its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in words
    for stream in (sys.stdout, sys.stderr):
        # A character the terminal's encoding lacks must not cost the result.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        code = app(words, prog_name="evomerge", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except EvomergeError as error:
        return _failed(error, as_json)
    except TyperException as error:
        return _failed(_usage(error), as_json)
    except KeyboardInterrupt:
        return _failed(Interrupted("interrupted"), as_json)
    except BrokenPipeError:
        return _reader_gone()
    except Exception as error:
        return _failed(_full_stream(error) or _bug(error), as_json)


def _failed(error: EvomergeError, as_json: bool) -> int:
    try:
        print_error(error, as_json)
    except BrokenPipeError:
        return _reader_gone()
    except OSError:
        print_error(error, as_json=False)
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        return error.exit_code
    _drop_output()
    return error.exit_code


def _reader_gone() -> int:
    _drop_output()  # `| head`
    return 1


def _drop_output() -> None:
    """Send what stdout still holds nowhere; Python would complain again when it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _full_stream(error: Exception) -> EvomergeError | None:
    """Files say which they are; what has no name is a stream, nearly always stdout."""
    from evomerge.files.storage import cannot_write, is_full

    if not isinstance(error, OSError) or not is_full(error) or error.filename is not None:
        return None
    return cannot_write(Path("stdout"), error)


def _usage(error: TyperException) -> UsageError:
    context = getattr(error, "ctx", None)
    todo = f"see `{context.command_path} --help`" if context is not None else "see `evomerge --help`"
    # Typer shows how pydantic names the exception behind a value that it refuses.
    wrong = " ".join(error.format_message().split()).rstrip(".").replace(": Value error, ", ": ")
    return UsageError(Problem("E500", wrong, todo=todo))


def _bug(error: Exception) -> EvomergeError:
    wrong = f"{type(error).__name__}: {error}".splitlines()[0]
    todo = "this is a bug in evomerge; EVOMERGE_TRACEBACK=1 shows where"
    if os.environ.get("EVOMERGE_TRACEBACK"):
        say(traceback.format_exc().rstrip())
        todo = "this is a bug in evomerge; please report it with the lines above"
    return EvomergeError(Problem("E999", wrong, todo=todo))
