"""The log of a campaign folder: what a session began, warned of and lost, kept within a few megabytes."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from logging.handlers import RotatingFileHandler
from pathlib import Path

LOG_FILE = "run.log"
MOST_BYTES = 1_000_000
KEPT = 3
"""Older files beside the newest one."""


class _Log(RotatingFileHandler):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - named by logging
        """Say nothing: a log that cannot be written (a full disk) must not disturb the run."""


@contextlib.contextmanager
def run_log(directory: Path) -> Iterator[None]:
    """Keep what this package says from INFO up, and warnings of all libraries, in `LOG_FILE`."""
    root, own = logging.getLogger(), logging.getLogger("evomerge")
    handler = _Log(
        directory / LOG_FILE, maxBytes=MOST_BYTES, backupCount=KEPT, encoding="utf-8", delay=True
    )
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    # Without any handler Python prints warnings on stderr; a log beside it must not take that away.
    added: list[logging.Handler] = [handler]
    if not root.handlers and logging.lastResort is not None:
        added.append(logging.lastResort)
    before = own.level
    own.setLevel(logging.INFO)
    for each in added:
        root.addHandler(each)
    try:
        yield
    finally:
        own.setLevel(before)
        for each in added:
            root.removeHandler(each)
        handler.close()
