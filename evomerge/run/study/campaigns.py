"""Running the campaigns of a study: those that can share workers side by side on one pool, group by group."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from pathlib import Path

from evomerge.campaign.check import CheckReport, check_campaign, check_devices
from evomerge.campaign.file import WorkersSection
from evomerge.errors import EvomergeError, Interrupted, Problem, TooManyFailures
from evomerge.ledger.events import Grant
from evomerge.ledger.history import CACHE_FOLDER, LEDGER_FILE
from evomerge.ledger.ledger import read_history_until
from evomerge.run.check_starts import are_recorded, check_starts
from evomerge.run.driver import run
from evomerge.run.job import WorkerSetup
from evomerge.run.pool.open import open_pool
from evomerge.run.pool.shared import SharedPool
from evomerge.run.session import StopSignals, is_finished
from evomerge.run.study.plan import Planned
from evomerge.run.worker_setup import worker_setup

LOOK = 0.2
"""Seconds between looks at what came to its end, in which signals are heeded."""


@dataclass
class _Group:
    """Campaigns whose workers are the same."""

    workers: WorkersSection
    setup: WorkerSetup
    campaigns: list[tuple[Planned, CheckReport]] = field(default_factory=list)


def run_study(
    planned: Sequence[Planned],
    directory: Path,
    reports: Mapping[str, CheckReport],
    grants: Collection[Grant],
    *,
    at_once: int,
    tell: Callable[[Planned, str], None],
    again: str,
) -> dict[str, EvomergeError]:
    """Run the campaigns of a study, or go on with them, each to the end of its budget.

    Campaigns that differ in what a worker is told (models, evaluators, method, dtype) or in their `workers`
    have a pool of their own, one group after the other.

    Args:
        planned: in the order in which they begin.
        directory: the study's folder, which holds their common cache.
        reports: of `check_arms`.
        grants: what the person allowed by name for this session.
        at_once: campaigns under way at a time.
        tell: told of a campaign that it begins, that it ends, or what it was stopped by.
        again: how to go on later, for the message of a stop.

    Returns:
        The campaigns that too many failures stopped, by name; the others went on.

    Raises:
        EvomergeError: any fault of a run but too many failures, when the others have stopped cleanly.
        Stopped, Interrupted: as asked by a signal.
    """
    cache = directory / CACHE_FOLDER
    groups: list[_Group] = []
    for each in planned:
        if is_finished(each.campaign, each.directory):
            continue
        report = reports[each.arm]
        campaign = each.campaign
        setup = worker_setup(campaign, report.paths, report.storage, cache, "task_code" in grants)
        setup = replace(setup, rows=_other_rows(each.directory, report))
        for group in groups:
            if group.setup == setup and group.workers == campaign.config.workers:
                break
        else:
            groups.append(group := _Group(campaign.config.workers, setup))
        group.campaigns.append((each, report))
    gave_up: dict[str, EvomergeError] = {}
    with StopSignals(again) as stop:
        for group in groups:
            with SharedPool(lambda group=group: open_pool(group.workers, group.setup)) as pool:  # type: ignore[misc]
                gave_up |= _Runs(pool, group, grants, tell, stop).all(at_once)
    return gave_up


def _other_rows(directory: Path, report: CheckReport) -> Mapping[str, int] | None:
    """The rows that a campaign began with, where an earlier version told others apart than are told now.

    Those that have begun share workers with those that have not.
    """
    file = directory / LEDGER_FILE
    if report.layout is None or not file.is_file():
        return None
    history = read_history_until(file, lambda known: known.prepared is not None)
    recorded = history.prepared.layout.rows if history.prepared else None
    return None if recorded == (report.layout.rows or None) else recorded


def check_arms(
    planned: Sequence[Planned], grants: Collection[Grant], warn: Callable[[Problem], None]
) -> dict[str, CheckReport]:
    """Check one campaign of each arm: a seed makes no fault. `warn` is told of what stops nothing.

    Raises:
        EvomergeError: every fault of the first arm that has any.
    """
    reports: dict[str, CheckReport] = {}
    for each in planned:
        if each.arm in reports:
            continue
        report = check_campaign(each.campaign, grants)
        folders = [other.directory for other in planned if other.arm == each.arm]
        waiting = next((folder for folder in folders if not are_recorded(folder)), each.directory)
        report = check_starts(each.campaign, report, waiting)
        said = [problem for known in reports.values() for problem in known.warnings]
        for problem in report.warnings:
            if problem not in said:
                warn(problem)
        report.raise_problems()
        check_devices(each.campaign)
        reports[each.arm] = report
    return reports


class _Runs:
    """The runs of a group, in threads of one process."""

    def __init__(
        self,
        pool: SharedPool,
        group: _Group,
        grants: Collection[Grant],
        tell: Callable[[Planned, str], None],
        stop: StopSignals,
    ) -> None:
        self.pool, self.group, self.grants, self.tell, self.stop = pool, group, grants, tell, stop
        self.halted = threading.Event()

    def all(self, at_once: int) -> dict[str, EvomergeError]:
        """Run them; see `run_study`."""
        gave_up: dict[str, EvomergeError] = {}
        faults: list[BaseException] = []
        threads = ThreadPoolExecutor(at_once, thread_name_prefix="driver")
        try:
            waiting = list(self.group.campaigns)
            under_way: dict[Future[None], Planned] = {}
            while waiting or under_way:
                while waiting and len(under_way) < at_once and not self.halted.is_set():
                    each, report = waiting.pop(0)
                    under_way[threads.submit(self.one, each, report)] = each
                if not under_way:
                    break
                ended, _ = wait(under_way, LOOK, FIRST_COMPLETED)
                for future in ended:
                    each = under_way.pop(future)
                    error = future.exception()
                    if error is None:
                        self.tell(each, "ends")
                        continue
                    self.tell(each, f"{error}")
                    if isinstance(error, TooManyFailures):
                        gave_up[each.name] = error
                    else:
                        faults.append(error)
                        self.halted.set()
        finally:
            self.halted.set()
            threads.shutdown()
        if faults:
            raise faults[0]
        return gave_up

    def one(self, each: Planned, report: CheckReport) -> None:
        """Run one."""
        self.tell(each, "begins")
        run(
            each.campaign,
            each.directory,
            report.paths,
            report.storage,
            grants=self.grants,
            stop_request=self.asked,
            pool=lambda _: self.pool.view(),
        )

    def asked(self) -> EvomergeError | None:
        """A stop, for each driver an error of its own: a signal's, or because another one met a fault."""
        asked = self.stop()
        if asked is not None:
            return type(asked)(str(asked))
        return (
            Interrupted("another campaign of the study met a fault") if self.halted.is_set() else None
        )
