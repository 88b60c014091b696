"""A worker that notes what its process has loaded. What this module imports is loaded too: nearly nothing."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from evomerge.run.job import Job, JobResult
from evomerge.run.worker import Worker

LOADED = "loaded.json"
"""Beside the campaign folder: the packages that the worker's process holds after its last job."""


class NotingWorker(Worker):
    """A real worker otherwise."""

    def run(self, job: Job) -> JobResult:
        """Do a job, and note."""
        result = super().run(job)
        packages = sorted({name.partition(".")[0] for name in sys.modules})
        (Path(self.setup.cache).parent.parent / LOADED).write_text(json.dumps(packages))
        return result
