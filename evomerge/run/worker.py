"""Worker: a plain object that keeps one live model and scores merges in it.

What runs on every worker, whichever pool holds it. It knows nothing of pools, ledgers or optimizers. A driver
names this class to its pools, so torch comes in with `engine`, when the first job runs.
A worker never raises across the seam: every fault comes back as a `JobResult`.
"""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from evomerge.errors import CandidateError, EvomergeError
from evomerge.run.job import Job, JobResult, WorkerSetup
from evomerge.run.scoring import offline

if TYPE_CHECKING:
    from evomerge.run.engine import Engine

MOST_TRACEBACK = 8000
"""Characters of a traceback that are kept, of its end."""


class Worker:
    """Holds what one campaign needs, loaded when the first job asks for it."""

    def __init__(self, setup: WorkerSetup) -> None:
        offline()
        self.setup = setup
        self._engine: Engine | None = None

    def run(self, job: Job) -> JobResult:
        """Do a job; any fault becomes a failed result."""
        try:
            engine = self._loaded()
            if job.kind == "prepare":
                return engine.prepare(job)
            if job.kind == "slope":
                return engine.slope(job)
            return engine.evaluate(job)
        except CandidateError as error:
            return JobResult(job.id, "failed", error.kind, str(error))
        except EvomergeError as error:
            problems = tuple(error.problems)
            return JobResult(job.id, "fault", type(error).__name__, str(error), problems=problems)
        except Exception as error:  # the seam: a candidate must not take the worker down
            last = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{Path(last.filename).name}:{last.lineno}"
            message = f"{type(error).__name__}: {error} ({place})"
            whole = "".join(traceback.format_exception(error)).rstrip()[-MOST_TRACEBACK:]
            if _is_out_of_memory(error):
                # Maybe only because of what this process holds: worth one more try in a fresh one.
                return JobResult(job.id, "lost", "out_of_memory", message, whole)
            if _has_lost_its_device(error):
                return JobResult(job.id, "lost", "device_error", message, whole)
            return JobResult(job.id, "failed", "error", message, whole)

    def _loaded(self) -> Engine:
        if self._engine is None:
            from evomerge.run.engine import Engine

            self._engine = Engine(self.setup)
        return self._engine


def _is_out_of_memory(error: Exception) -> bool:
    """Whether the host or (without an import of torch) a device has no memory left."""
    # Libraries of the device take memory by themselves, and have words of their own for its end.
    told = ("CUDA out of memory", "_ALLOC_FAILED", "error: out of memory")
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or (isinstance(error, RuntimeError) and any(words in str(error) for words in told))


def _has_lost_its_device(error: Exception) -> bool:
    """Whether a device reports a fault (an illegal address, say), after which no call there succeeds."""
    return isinstance(error, RuntimeError) and (
        type(error).__name__ == "AcceleratorError" or str(error).startswith("CUDA error")
    )
