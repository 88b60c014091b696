"""A session of a campaign: checked, run or gone on with, shown, and stopped when asked to."""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

from evomerge.campaign.campaign import Campaign, identity_digest
from evomerge.campaign.check import check_campaign, check_devices
from evomerge.errors import EvomergeError, Interrupted, Problem, Stopped, UsageError
from evomerge.ledger.events import Grant
from evomerge.ledger.history import LEDGER_FILE
from evomerge.ledger.ledger import read_history
from evomerge.run.check_starts import check_starts
from evomerge.run.driver import run
from evomerge.run.limits import is_reached
from evomerge.run.progress import Display
from evomerge.run.search import Refinement


def run_session(
    campaign: Campaign,
    directory: Path,
    grants: Collection[Grant],
    *,
    warn: Callable[[Problem], None],
    open_display: Callable[[Callable[[], bool]], Display],
    again: str,
    refinement: Refinement | None = None,
    take_over: bool = False,
) -> bool:
    """Check a campaign, then run it in a folder or go on with what is there, to the end of its budget.

    Args:
        campaign: as loaded.
        directory: the campaign folder.
        grants: what the person allowed by name for this session.
        warn: told of each thing that stops nothing, before the run.
        open_display: makes what shows the run; it is given a function that says whether a stop was
            asked for.
        again: how to go on later, for the message of a stop.
        refinement: a further budget near a preference, instead of the campaign's own.
        take_over: from a driver whose lease has run out, also if its process is there.

    Returns:
        Whether there was anything to do.

    Raises:
        UsageError: E511, in a process that is only being started and runs its script for that.
        EvomergeError: every fault of the campaign, and what `run` raises.
    """
    _refuse_while_starting()
    if refinement is None and is_finished(campaign, directory):
        return False
    report = check_starts(campaign, check_campaign(campaign, grants), directory)
    if any(problem.code == "E149" for problem in report.problems) and _is_prepared(directory):
        # What it learns from is on record, and the driver goes by that: rules may have changed since.
        report = replace(report, problems=[p for p in report.problems if p.code != "E149"])
    for warning in report.warnings:
        warn(warning)
    report.raise_problems()
    check_devices(campaign)
    with StopSignals(again) as stop, open_display(lambda: stop.asked is not None) as display:
        run(
            campaign,
            directory,
            report.paths,
            report.storage,
            grants=grants,
            refinement=refinement,
            observer=display,
            stop_request=stop,
            take_over=take_over,
        )
    return True


def _refuse_while_starting() -> None:
    """A process that Python spawns runs the main script again first; a run in there is never meant.

    Our own workers do not (see `run.pool.processes`), those of the script's other libraries do.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        wrong = "this process was spawned by the script, which runs in it again and would start its run again"
        todo = 'put `if __name__ == "__main__":` before the call that starts the run'
        raise UsageError(Problem("E511", wrong, "", todo))


def is_finished(campaign: Campaign, directory: Path) -> bool:
    """Whether the folder's campaign is this one, and its limits leave nothing to do."""
    try:
        history = read_history(directory / LEDGER_FILE)
    except (FileNotFoundError, NotADirectoryError):
        return False
    if not history.campaign or history.campaign.identity != identity_digest(campaign.to_json()):
        return False
    return is_reached(history, campaign.config.budget)


def _is_prepared(directory: Path) -> bool:
    try:
        return read_history(directory / LEDGER_FILE).prepared is not None
    except (FileNotFoundError, NotADirectoryError):
        return False


class StopSignals:
    """SIGTERM and SIGINT as a polite request; a second SIGINT interrupts at once.

    Signals reach the main thread only: in another one this does nothing.
    """

    def __init__(self, again: str) -> None:
        self.again = again
        self.asked: EvomergeError | None = None
        self.before: dict[int, Any] = {}

    def __call__(self) -> EvomergeError | None:
        """What was asked for, if anything."""
        return self.asked

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and isinstance(self.asked, Interrupted):
            raise KeyboardInterrupt("asked twice")
        if number == signal.SIGINT:
            self.asked = Interrupted(f"interrupted; {self.again}")
        else:
            self.asked = self.asked or Stopped(f"stopped by SIGTERM; {self.again}")

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is not threading.main_thread():
            return self
        for number in (signal.SIGTERM, signal.SIGINT):
            self.before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
