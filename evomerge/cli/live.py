"""What a run shows while it goes on: a live display in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Self

from evomerge.cli.output import log_console, say, say_json
from evomerge.cli.worker_lines import worker_lines
from evomerge.front.tables import NARROW_NAME, shown_value
from evomerge.front.text_table import Column, in_pieces, table_lines, width_of
from evomerge.front.trace import sparkline
from evomerge.front.words import duration
from evomerge.run.progress import Display
from evomerge.run.standing import Standing, ended_words, failures_text, line, pace_text
from evomerge.run.watch import Watch

if TYPE_CHECKING:
    from rich.console import RenderableType

    from evomerge.ledger.history import History
    from evomerge.run.driver import Progress
    from evomerge.run.pool.pool import WorkerState

REFRESH = 4
"""Redraws a second."""

MOST_RUNNING = 8
"""Workers, or candidates under way, that are shown one by one."""

LOOK = 0.5
"""Seconds between looks at what the workers do."""

SPARKLINE = 24
"""Columns of the hypervolume's line."""


def open_display(is_stopping: Callable[[], bool], *, as_json: bool = False) -> Display:
    """The display that suits stderr; `is_stopping` tells whether a stop was asked for.

    With `as_json` the lines are JSON objects, also in a terminal.
    """
    if as_json:
        return Lines(lambda now: say_json("info", line(now), progress=now.to_json()))
    console = log_console()
    return Live(is_stopping) if console.is_terminal and not console.is_dumb_terminal else Lines()


class Lines(Display):
    """One plain line for each phase and generation (or as many results), for logs."""

    def __init__(self, tell: Callable[[Standing], None] = lambda now: say(line(now))) -> None:
        self.watch, self.tell = Watch(), tell
        self.last: tuple[str, int] = ("", -1)

    def __call__(self, history: History, progress: Progress) -> None:
        """Write a line where a phase or a generation has begun."""
        if not history.campaign:
            return
        now = self.watch(history, progress)
        state = (now.phase, now.generation if now.phase == "search" else -1)
        if state != self.last:
            self.last = state
            self.tell(now)


class Live(Display):
    """A display that redraws itself in a terminal."""

    def __init__(self, is_stopping: Callable[[], bool]) -> None:
        from rich.live import Live as RichLive

        self.is_stopping = is_stopping
        self.watch = Watch()
        self.now: Standing | None = None
        self.running: tuple[str, ...] = ()
        self.volumes: tuple[float, ...] = ()
        self.workers = ""
        self.crew: tuple[WorkerState, ...] = ()
        self.looked = 0.0
        self.began = time.monotonic()
        self.live = RichLive(
            console=log_console(),
            get_renderable=self.draw,
            refresh_per_second=REFRESH,
            redirect_stdout=False,
        )

    def __call__(self, history: History, progress: Progress) -> None:
        """Keep where things stand for the next redraw."""
        if history.campaign:
            self.now, self.running = self.watch(history, progress), progress.running
            self.volumes, self.workers = self.watch.volumes, workers_text(progress, self.watch.busy)
            if time.monotonic() >= self.looked + LOOK:
                self.looked, self.crew = time.monotonic(), progress.look()

    def __enter__(self) -> Self:
        self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.running, self.crew = (), ()
        self.live.stop()

    def draw(self) -> RenderableType:
        """The display as it stands. Called by rich's own thread; reads only frozen values."""
        from rich.console import Group
        from rich.text import Text

        now, running = self.now, self.running
        passed = duration(time.monotonic() - self.began)
        if now is None:
            return Text(f"starting workers, {passed}")
        parts: list[RenderableType] = [head(now, passed), bar(now, self.live.console.width)]
        if now.best:
            lines = best_lines(now, self.live.console.width)
            parts.append(Text("\n".join(lines), no_wrap=True))
        notes = []
        if now.hypervolume is not None:
            drawn = sparkline(self.volumes, SPARKLINE)
            notes.append(f"hypervolume {now.hypervolume:.4f} {drawn} (search scores)")
        if now.feasible is not None:
            notes.append(f"feasible: {now.feasible[0]} of {now.feasible[1]}")
        notes.append(f"failed: {failures_text(now)}")
        if now.raced:
            notes.append(f"raced: {now.raced}")
        if now.lost:
            notes.append(f"workers lost: {now.lost}")
        if self.workers:
            notes.append(self.workers)
        parts.append(Text("   ".join(notes)))
        if any(each.state != "waiting" for each in self.crew):
            parts.append(Text("\n".join(worker_lines(self.crew, MOST_RUNNING)), style="dim"))
        elif running:
            more = len(running) - MOST_RUNNING
            names = " ".join(running[:MOST_RUNNING]) + (f" and {more} more" if more > 0 else "")
            parts.append(Text(f"running: {names}", style="dim"))
        if ended := ended_words(now):
            parts.append(Text(*ended))
        if self.is_stopping():
            parts.append(Text("stopping; Ctrl-C again stops at once", style="bold"))
        return Group(*parts)


def workers_text(progress: Progress, busy: float | None) -> str:
    """How many workers there are, and the share of the session in which they had work."""
    if not progress.workers:
        return ""
    known = "" if busy is None else f", {100 * busy:.0f} % busy"
    return f"workers: {progress.workers}{known}"


def head(now: Standing, passed: str) -> RenderableType:
    """Campaign, phase and clock."""
    from rich.text import Text

    phase = f"search, {now.stage}" if now.phase == "search" else now.phase
    return Text.assemble((now.campaign, "bold"), f"   {phase}   {passed}")


def bar(now: Standing, width: int) -> RenderableType:
    """Progress of the phase: the bar has what its words leave of `width`."""
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    if now.phase == "prepare":
        return Text("reading the checkpoints")
    if now.phase == "baselines":
        done, total, what = *now.baselines, "baselines scored"
    elif now.phase == "selection":
        done, total, what = *now.rescored, "models scored on held-out items"
    else:
        done, total, what = round(now.cost), now.budget or 0, "evaluations"
    grid = Table.grid(padding=(0, 2))
    counted = f"{done}/{total} {what}" if total else f"{done} {what}"
    pace = pace_text(now) if now.phase in ("search", "selection") else []
    words = ", ".join([counted, *pace])
    room = min(30, width - len(words) - 4)
    drawn = total and room >= 5
    cells: list[RenderableType] = (
        [ProgressBar(total=total, completed=done, width=room)] if drawn else []
    )
    grid.add_row(*cells, Text(words))
    return grid


def best_lines(now: Standing, width: int) -> list[str]:
    """The best value of each objective so far against the best expert's, on search items."""
    metrics = [best.metric for best in now.best]
    rows: list[tuple[tuple[str, ...], tuple[str, ...], bool]] = [
        (("best so far",), tuple(shown_value(b.metric, b.value) for b in now.best), True),
        (("model",), tuple(best.id for best in now.best), False),
        (("best expert",), tuple(shown_value(b.metric, b.expert_value) for b in now.best), True),
        (("expert",), tuple(best.expert for best in now.best), False),
    ]
    values = [Column(head, tuple((text,) for text in cells), right) for head, cells, right in rows]
    roomy = [Column(("objective",), tuple((name,) for name in metrics)), *values]
    if width_of(roomy, 3) <= width:
        return table_lines(roomy, 3)
    narrow = Column(("objective",), tuple(in_pieces(name, NARROW_NAME) for name in metrics))
    return table_lines([narrow, *values], 2)
