"""Taking a file over from a writer that may wake up: it keeps the old file, which is no longer read."""

from __future__ import annotations

import secrets
import shutil
from pathlib import Path

from evomerge.failpoint import failpoint
from evomerge.files.storage import publish_file, sync_file


def put_out_of_reach(path: Path) -> None:
    """Put a copy in the place of a file, so that whoever has it open writes to nothing that is read.

    Called when the lock has changed hands. An append looks at the lock before and after it writes, so that
    one which was acknowledged was written before the copy got its name, even where a network file system
    shows the lock as it was a moment ago: the file is read once more after that.

    Raises:
        OSError: it cannot be read or written; the file is as it was.
    """
    if not path.exists():
        return
    made = path.with_name(f".{path.name}-{secrets.token_hex(6)}")
    with path.open("rb") as old:
        try:
            with made.open("wb") as new:
                shutil.copyfileobj(old, new)
            failpoint("ledger.copied")
            publish_file(made, path)
        finally:
            made.unlink(missing_ok=True)
        rest = old.read()
    if rest:
        with path.open("ab") as new:
            new.write(rest)
        sync_file(path)
