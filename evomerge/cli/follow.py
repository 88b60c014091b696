"""`status --follow`: shows where campaigns stand again whenever their ledgers grow, until nothing runs."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from evomerge.cli.output import plain, table_console
from evomerge.cli.status_rows import status_rows

if TYPE_CHECKING:
    from evomerge.cli.lock_holder import Holder
    from evomerge.cli.seen import Seen

EVERY = 1.0
"""Seconds between looks."""


def follow(directories: Sequence[Path], as_json: bool) -> None:
    """Show campaigns as they go on; returns when none of them has a driver any more, or on Ctrl-C.

    A terminal is redrawn; elsewhere a line follows each change, with `as_json` one JSON object.
    """
    from rich.live import Live
    from rich.text import Text

    from evomerge.cli.lock_holder import lock_holder
    from evomerge.cli.seen import look

    console = table_console()
    redraw = not as_json and console.is_terminal and not console.is_dumb_terminal
    live = Live(console=console, auto_refresh=False) if redraw else None
    shown: dict[Path, tuple[int, int]] = {}
    seen: dict[Path, Seen] = {}
    try:
        if live is not None:
            live.start()
        while True:
            grown = [d for d in directories if _state(d) != shown.get(d)]
            for directory in grown:
                shown[directory] = _state(directory)
                seen[directory] = look(directory)
                if as_json:
                    text = json.dumps(seen[directory].to_json(), sort_keys=True)
                    sys.stdout.write(f"{text}\n")
                elif live is None:
                    text = _line(seen[directory], directories)
                    console.print(text, markup=False, soft_wrap=True)
            sys.stdout.flush()
            if live is not None:
                # What the workers do changes without the ledger.
                blocks = [_block(status_rows(seen[each].again())) for each in directories]
                live.update(Text(plain("\n\n".join(blocks))), refresh=True)
            if not grown and not any(_runs(lock_holder(directory)) for directory in directories):
                return
            time.sleep(EVERY)
    except KeyboardInterrupt:
        return
    finally:
        if live is not None:
            live.stop()


def _state(directory: Path) -> tuple[int, int]:
    """Size and time of change of a ledger; zeros while there is none."""
    from evomerge.ledger.history import LEDGER_FILE

    try:
        found = (directory / LEDGER_FILE).stat()
    except OSError:
        return 0, 0
    return found.st_size, found.st_mtime_ns


def _runs(holder: Holder | None) -> bool:
    """Whether there may be a driver; one on another host cannot be seen."""
    return holder is not None and holder.alive is not False


def _block(rows: Sequence[tuple[str, str]]) -> str:
    return "\n".join(f"{name:<13} {text}" for name, text in rows)


def _line(seen: Seen, directories: Sequence[Path]) -> str:
    from evomerge.run.standing import line

    text = line(seen.standing)
    return plain(f"{seen.directory}: {text}" if len(directories) > 1 else text)
