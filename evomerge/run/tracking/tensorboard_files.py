"""TensorBoard: event files in the campaign folder, one folder a run."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from evomerge.run.tracking.record import About, Record


class TensorboardFiles:
    """Scalars in TensorBoard's event files; look at them with `tensorboard --logdir DIR/tracking`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.writer: EventFileWriter | None = None

    def start(self, about: About) -> None:
        """Begin a file beside those of earlier sessions, or in place of a campaign sent whole."""
        folder = self.folder / "tensorboard" / about.run
        if about.whole:
            shutil.rmtree(folder, ignore_errors=True)
        self.writer = EventFileWriter(str(folder))

    def log(self, record: Record) -> None:
        """Add numbers."""
        self._write({**record.values, "seconds": record.seconds}, record.step)

    def finish(self, summary: Mapping[str, float]) -> None:
        """Write what is left."""
        self._write(summary, 0)
        assert self.writer is not None
        self.writer.close()

    def _write(self, values: Mapping[str, float], step: int) -> None:
        assert self.writer is not None
        scalars = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        event = Event(wall_time=time.time(), step=step, summary=Summary(value=scalars))
        self.writer.add_event(event)
