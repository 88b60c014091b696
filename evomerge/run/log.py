"""The log of a campaign folder: what a session began, warned of and lost, kept within a few megabytes."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from logging.handlers import RotatingFileHandler
from pathlib import Path

LOG_FILE = "run.log"
MOST_BYTES = 1_000_000
KEPT = 3
"""Older files beside the newest one."""


class _Log(RotatingFileHandler):
    """The log of the campaign that the thread which made it runs.

    Where threads run campaigns side by side, none logs what another's thread says.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__(
            directory / LOG_FILE, maxBytes=MOST_BYTES, backupCount=KEPT, encoding="utf-8", delay=True
        )
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        self.owner = threading.get_ident()
        self.addFilter(self._is_ours)

    def _is_ours(self, record: logging.LogRecord) -> bool:
        return record.thread == self.owner or record.thread not in {each.owner for each in _open}

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - named by logging
        """Say nothing: a log that cannot be written (a full disk) must not disturb the run."""


@dataclass
class _Before:
    """How logging was before the first of the logs that are open now."""

    level: int
    added: logging.Handler | None


_open: list[_Log] = []
_before: list[_Before] = []
_changing = threading.Lock()


@contextlib.contextmanager
def run_log(directory: Path) -> Iterator[None]:
    """Keep what this package says from INFO up, and warnings of all libraries, in `LOG_FILE`."""
    root = logging.getLogger()
    log = _Log(directory)
    with _changing:
        if not _open:
            _before.append(_begin())
        _open.append(log)
        root.addHandler(log)
    try:
        yield
    finally:
        with _changing:
            root.removeHandler(log)
            _open.remove(log)
            if not _open:
                _end(_before.pop())
        log.close()


def _begin() -> _Before:
    root, own = logging.getLogger(), logging.getLogger("evomerge")
    before = _Before(own.level, None)
    # Without any handler Python prints warnings on stderr; a log beside it must not take that away.
    if not root.handlers and logging.lastResort is not None:
        before.added = logging.lastResort
        root.addHandler(before.added)
    own.setLevel(logging.INFO)
    return before


def _end(before: _Before) -> None:
    logging.getLogger("evomerge").setLevel(before.level)
    if before.added is not None:
        logging.getLogger().removeHandler(before.added)
