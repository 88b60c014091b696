"""A forked process that writes and says so, to be killed meanwhile; an interpreter costs half a second."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable

from evomerge import failpoint

Say = Callable[[object], None]


class Writer:
    """Does something in a forked process, with failpoints armed; `said` are its lines, as they come."""

    def __init__(self, action: Callable[[Say], object], failpoints: str = "") -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        reading, writing = os.pipe()
        self.returncode: int | None = None
        self._child = os.fork()
        if self._child == 0:
            code = 1
            try:
                failpoint._armed.clear()
                failpoint._armed.update(failpoint.parse(failpoints))
                action(lambda line: os.write(writing, f"{line}\n".encode()))
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        os.close(writing)
        self.said = os.fdopen(reading)

    def kill(self) -> None:
        """Send it SIGKILL."""
        os.kill(self._child, signal.SIGKILL)

    def wait(self) -> list[str]:
        """The lines it said since the last that was read, until its end; sets `returncode`, as Popen's."""
        with self.said:
            rest = self.said.read()
        self.returncode = os.waitstatus_to_exitcode(os.waitpid(self._child, 0)[1])
        return rest.split("\n")[:-1]
