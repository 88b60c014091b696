"""Progress of a run: one line that is written over in a terminal or notebook, a line a phase elsewhere."""

from __future__ import annotations

import html
import sys
import time
from typing import Any

from evomerge.ledger.history import History
from evomerge.run.progress import Display, Progress
from evomerge.run.standing import line
from evomerge.run.watch import Watch

REFRESH_SECONDS = 0.5


class ProgressLine(Display):
    """Shows where a run stands; says nothing if not `shown`."""

    def __init__(self, shown: bool = True) -> None:
        self.shown = shown
        self._watch = Watch()
        self._cell = _notebook_cell() if shown else None
        self._terminal = shown and self._cell is None and sys.stderr.isatty()
        self._written, self._phase, self._next = "", "", 0.0

    def __call__(self, history: History, progress: Progress) -> None:
        """Take in where things stand, and show it if it was not shown a moment ago."""
        if not self.shown or not history.campaign:
            return
        due = time.monotonic() >= self._next if self._rewrites else False
        if progress.phase == self._phase and not due:
            return
        self._phase, self._next = progress.phase, time.monotonic() + REFRESH_SECONDS
        self._show(line(self._watch(history, progress)))

    @property
    def _rewrites(self) -> bool:
        return self._terminal or self._cell is not None

    def _show(self, text: str) -> None:
        if self._cell is not None:
            self._cell.update(_bundle(text), raw=True)
        elif self._terminal:
            sys.stderr.write("\r" + text.ljust(len(self._written)))
            sys.stderr.flush()
        else:
            sys.stderr.write(text + "\n")
        self._written = text

    def __exit__(self, *_: object) -> None:
        if self._terminal and self._written:
            sys.stderr.write("\n")


def _bundle(text: str) -> dict[str, str]:
    return {"text/plain": text, "text/html": f"<pre>{html.escape(text)}</pre>"}


def _notebook_cell() -> Any:
    """A handle on an output of a notebook's cell; None outside of notebooks.

    IPython is there already where it matters, so that it is looked up and never imported.
    """
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    if shell is None or not hasattr(shell, "kernel"):
        return None
    return sys.modules["IPython.display"].display(
        _bundle("starting workers"), raw=True, display_id=True
    )
