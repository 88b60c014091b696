"""Taking a file over from a writer that may wake up: it keeps the old file, which is no longer read."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

from evomerge.failpoint import failpoint
from evomerge.files.storage import publish_file


def put_out_of_reach(path: Path, check: Callable[[], None]) -> None:
    """Put a copy in the place of a file, so that whoever has it open writes to nothing that is read.

    Called when the lock has changed hands. An append looks at the lock before and after it writes, so that
    one which was acknowledged was written before the copy got its name, even where a network file system
    shows the lock as it was a moment ago: the file is read once more after that.

    Whoever does this may sleep meanwhile and lose the lock in turn. The next one removes the copies that it
    finds first, so that none of them can get the name over what has been written since.

    Args:
        path: the file.
        check: raises if the lock is lost.

    Raises:
        OSError: it cannot be read or written; the file is as it was.
    """
    for left in path.parent.glob(f".{path.name}-*"):
        left.unlink(missing_ok=True)
    if not path.exists():
        return
    made = path.with_name(f".{path.name}-{secrets.token_hex(6)}")
    with path.open("rb") as old, made.open("wb") as new:
        try:
            shutil.copyfileobj(old, new)
            new.flush()
            failpoint("ledger.copied")
            check()
            failpoint("ledger.copy_checked")
            publish_file(made, path)
        except FileNotFoundError:
            check()
            raise
        finally:
            made.unlink(missing_ok=True)
        rest = old.read()
        if rest:
            new.write(rest)
            new.flush()
            os.fsync(new.fileno())
