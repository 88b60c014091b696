"""What a run shows while it goes on: a live display in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from evomerge.cli.output import duration, log_console, say
from evomerge.cli.standing import PACE_WINDOW, Standing, pace_of, search_hypervolume, standing
from evomerge.cli.tables import ruled, shown_value

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from evomerge.ledger.history import History
    from evomerge.run.driver import Progress

REFRESH = 4
"""Redraws a second."""

MOST_RUNNING = 8


class Watch:
    """Turns what the driver tells its observer into a `Standing`, cheaply."""

    def __init__(self) -> None:
        self.times: deque[float] = deque(maxlen=PACE_WINDOW)
        self.done = 0
        self.seen = -1
        self.volume: float | None = None

    def __call__(self, history: History, progress: Progress) -> Standing:
        """Where things stand now. The hypervolume is computed again only after a new score."""
        if progress.done_in_session != self.done:
            self.done = progress.done_in_session
            self.times.append(time.monotonic())
        searched = len(history.searched())
        if searched != self.seen:
            self.seen = searched
            self.volume = search_hypervolume(history)
        return standing(
            history,
            budget=progress.budget,
            phase=progress.phase,
            pace=pace_of(self.times),
            known_hypervolume=self.volume,
        )


class Display(Protocol):
    """What `run` needs: an observer that is also a context manager."""

    def __call__(self, history: History, progress: Progress) -> None:
        """Take in where things stand."""

    def __enter__(self) -> Display:
        """Begin to show."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the last state on the screen."""


def open_display(is_stopping: Callable[[], bool]) -> Display:
    """The display that suits stderr; `is_stopping` tells whether a stop was asked for."""
    return Live(is_stopping) if log_console().is_terminal else Lines()


class Lines:
    """One plain line for each phase and generation (or as many results), for logs."""

    def __init__(self) -> None:
        self.watch = Watch()
        self.last: tuple[str, int] = ("", -1)

    def __call__(self, history: History, progress: Progress) -> None:
        """Write a line where a phase or a generation has begun."""
        if not history.campaign:
            return
        now = self.watch(history, progress)
        state = (now.phase, now.generation if now.phase == "search" else -1)
        if state != self.last:
            self.last = state
            say(line(now))

    def __enter__(self) -> Lines:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass


def line(now: Standing) -> str:
    """A standing in one line."""
    if now.phase == "prepare":
        return "prepare: reading the checkpoints"
    if now.phase == "baselines":
        return "baselines: scoring base, experts and simple merges"
    if now.phase == "selection":
        return f"selection: scoring {now.rescored[1]} models on held-out items"
    if now.phase != "search":
        return f"{now.phase}: {now.evaluations} evaluations"
    of = "" if now.budget is None else f" of {now.budget}"
    done = f"{now.cost:.1f}" if now.raced else f"{now.evaluations}"
    parts = [f"{now.stage}: {done}{of} evaluations", *_pace(now)]
    if now.raced:
        parts.append(f"raced: {now.raced}")
    if now.hypervolume is not None:
        parts.append(f"hypervolume {now.hypervolume:.4f}")
    if now.feasible is not None:
        parts.append(f"{now.feasible[0]} of {now.feasible[1]} feasible")
    if now.failures:
        parts.append(f"failed: {failures_text(now)}")
    return ", ".join(parts)


def _pace(now: Standing) -> list[str]:
    if now.pace is None:
        return []
    parts = [f"{now.pace:.1f} evaluations/min"]
    if now.seconds_left is not None:
        parts.append(f"{duration(now.seconds_left)} left")
    return parts


def failures_text(now: Standing) -> str:
    """Failures by class in a few words."""
    return ", ".join(f"{count} {kind}" for kind, count in now.failures.items()) or "none"


class Live:
    """A display that redraws itself in a terminal."""

    def __init__(self, is_stopping: Callable[[], bool]) -> None:
        from rich.live import Live as RichLive

        self.is_stopping = is_stopping
        self.watch = Watch()
        self.now: Standing | None = None
        self.running: tuple[str, ...] = ()
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

    def __enter__(self) -> Live:
        self.live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.running = ()
        self.live.stop()

    def draw(self) -> RenderableType:
        """The display as it stands. Called by rich's own thread; reads only frozen values."""
        from rich.console import Group
        from rich.text import Text

        now, running = self.now, self.running
        passed = duration(time.monotonic() - self.began)
        if now is None:
            return Text(f"starting workers, {passed}")
        parts: list[RenderableType] = [head(now, passed), bar(now)]
        if now.best:
            parts.append(best_table(now))
        notes = []
        if now.hypervolume is not None:
            notes.append(f"hypervolume {now.hypervolume:.4f} (search scores)")
        if now.feasible is not None:
            notes.append(f"feasible: {now.feasible[0]} of {now.feasible[1]}")
        notes.append(f"failed: {failures_text(now)}")
        if now.raced:
            notes.append(f"raced: {now.raced}")
        if now.lost:
            notes.append(f"workers lost: {now.lost}")
        parts.append(Text("   ".join(notes)))
        if running:
            more = len(running) - MOST_RUNNING
            names = " ".join(running[:MOST_RUNNING]) + (f" and {more} more" if more > 0 else "")
            parts.append(Text(f"running: {names}", style="dim"))
        if self.is_stopping():
            parts.append(Text("stopping; Ctrl-C again stops at once", style="bold"))
        return Group(*parts)


def head(now: Standing, passed: str) -> RenderableType:
    """Campaign, phase and clock."""
    from rich.text import Text

    phase = f"search, {now.stage}" if now.phase == "search" else now.phase
    return Text.assemble((now.campaign, "bold"), f"   {phase}   {passed}")


def bar(now: Standing) -> RenderableType:
    """Progress of the phase."""
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
    cells: list[RenderableType] = [ProgressBar(total=total, completed=done, width=30)] if total else []
    pace = _pace(now) if now.phase == "search" else []
    grid.add_row(*cells, Text(", ".join([counted, *pace])))
    return grid


def best_table(now: Standing) -> Table:
    """The best value of each objective so far against the best expert's, on search items."""
    from rich.table import Table

    table = Table(box=ruled(), pad_edge=False, show_edge=False)
    table.add_column("objective")
    table.add_column("best so far", justify="right")
    table.add_column("model")
    table.add_column("best expert", justify="right")
    table.add_column("expert")
    for best in now.best:
        table.add_row(
            best.metric,
            shown_value(best.metric, best.value),
            best.id,
            shown_value(best.metric, best.expert_value),
            best.expert,
        )
    return table
