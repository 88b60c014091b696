"""Lines at once, figures in one file: what is left of a run that is cut short."""

from __future__ import annotations

import json
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any


class OutOfTime(BaseException):
    """A step has used its share. No `Exception`: a worker takes those for a candidate's own fault."""


@dataclass(frozen=True)
class Step:
    """One row of the table.

    Attributes:
        number: as in docs/gpu.md.
        name: of the row.
        share: of the minutes, relative to the other steps.
        run: measures, and tells `Report.say` each figure as soon as it is known.
    """

    number: int
    name: str
    share: float
    run: Callable[[Any, Report], None]


@dataclass
class Report:
    """What was found so far, in `path` after every line.

    Attributes:
        header: device, versions, arguments.
        steps: by number, what became of each.
    """

    path: Path
    header: Mapping[str, Any]
    steps: dict[str, dict[str, Any]] = field(default_factory=dict)
    _now: str = ""

    def say(self, text: str, **figures: Any) -> None:
        """A line of the step that runs, and its figures."""
        print(f"{self._now:>3}  {text}", flush=True)
        step = self.steps.setdefault(self._now, {})
        step.setdefault("lines", []).append(text)
        step.setdefault("figures", {}).update(figures)
        self.write()

    def asked(self, ratio: float, bound: float, *, least: bool = False) -> str:
        """A ratio beside what is asked of it on a card; a tiny run proves neither."""
        text = f"{ratio:.2f} (asked {'at least' if least else 'at most'} {bound:g}"
        if self.header.get("tiny"):
            return f"{text} on a card)"
        met = ratio >= bound if least else ratio <= bound
        return f"{text}: {'met' if met else 'NOT MET'})"

    def write(self) -> None:
        """Put all of it on the disk."""
        whole = {**self.header, "steps": self.steps}
        self.path.write_text(json.dumps(whole, indent=1, default=str) + "\n")

    def carry_out(self, step: Step, bed: Any, seconds: float) -> None:
        """Run a step within its seconds; whatever goes wrong in it stays in it."""
        self._now, began = str(step.number), time.perf_counter()
        told = {"name": step.name, "status": "running", "allowed": round(seconds, 1)}
        self.steps[self._now] = told
        print(f"{self._now:>3}  -- {step.name} (at most {seconds:.0f} s)", flush=True)
        try:
            with limited(seconds):
                step.run(bed, self)
            told["status"] = "done"
        except OutOfTime:
            told["status"] = "out of time"
            self.say(f"out of time after {seconds:.0f} s; the next step runs")
        except Exception as error:
            told["status"], told["traceback"] = "failed", traceback.format_exc()
            self.say(f"FAILED: {type(error).__name__}: {error}")
        told["seconds"] = round(time.perf_counter() - began, 1)
        self.write()


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise `OutOfTime` in the main thread once the seconds are over."""

    def ring(_: int, __: FrameType | None) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
