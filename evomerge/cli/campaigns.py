"""`check` and `run`."""

from __future__ import annotations

import signal
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evomerge.cli.output import (
    AllowTaskCode,
    Json,
    duration,
    print_json,
    print_warning,
    problem_json,
    say,
    show_log,
    size,
    table_console,
)
from evomerge.errors import EvomergeError, Interrupted, Stopped

if TYPE_CHECKING:
    from evomerge.campaign.campaign import Campaign
    from evomerge.campaign.check import CheckReport
    from evomerge.ledger.history import Grant

CampaignFile = Annotated[
    Path, typer.Argument(metavar="FILE", help="The campaign file.", show_default=False)
]
RunFolder = Annotated[
    Path,
    typer.Option("--dir", metavar="DIR", help="The campaign folder; made if new.", show_default=False),
]

AllowBenchmarkTest = Annotated[
    bool,
    typer.Option(
        "--allow-benchmark-test", help="Let a search use the items a public benchmark is scored on."
    ),
]


def _grants(task_code: bool, benchmark_test: bool) -> frozenset[Grant]:
    asked: dict[Grant, bool] = {"task_code": task_code, "benchmark_test": benchmark_test}
    return frozenset(grant for grant, given in asked.items() if given)


def check(
    file: CampaignFile,
    allow_task_code: AllowTaskCode = False,
    allow_benchmark_test: AllowBenchmarkTest = False,
    as_json: Json = False,
) -> None:
    """Find every fault of a campaign before it runs."""
    from evomerge.campaign.campaign import load_campaign
    from evomerge.campaign.check import check_campaign, check_devices

    show_log()
    campaign = load_campaign(file)
    report = check_campaign(campaign, _grants(allow_task_code, allow_benchmark_test))
    _refuse(report, as_json)
    check_devices(campaign)
    if as_json:
        print_json(
            {
                "campaign": campaign.config.name,
                "warnings": [problem_json(problem) for problem in report.warnings],
                "paths": report.paths,
                "storage": report.storage,
                "genes": report.genes,
                "estimates": report.estimates,
            }
        )
        return
    _print_report(campaign, report)


def _refuse(report: CheckReport, as_json: bool) -> None:
    from evomerge.campaign.check import raise_problems

    if not as_json:
        for warning in report.warnings:
            print_warning(warning)
    raise_problems(report)


def _print_report(campaign: Campaign, report: CheckReport) -> None:
    estimates = report.estimates
    config = campaign.config
    rows = [
        ("campaign", f"{config.name}: {len(campaign.experts)} experts, no faults found"),
        ("model", f"{estimates['parameters'] / 1e6:.1f} M parameters, stored as {report.storage}"),
        ("search space", f"{report.genes} genes, method {campaign.space.method}"),
        ("items", f"{estimates['items']:.0f} search items a candidate"),
        ("memory", f"about {size(estimates['memory_bytes'])} for all workers"),
        ("disk", f"about {size(estimates['disk_bytes'])} for the campaign folder and one export"),
        ("budget", _budget(campaign)),
    ]
    if "seconds" in estimates:
        rows.append(
            ("time", f"about {duration(estimates['seconds'])}, and what the workers take to start")
        )
    console = table_console()
    for name, text in rows:
        console.print(f"{name:<13} {text}", markup=False, soft_wrap=True)


def _budget(campaign: Campaign) -> str:
    budget = campaign.config.budget
    parts = []
    if budget.evaluations is not None:
        singles = len(campaign.config.baselines.single)
        baselines = 2 + len(campaign.experts) + singles
        parts.append(f"{budget.evaluations} evaluations after {baselines} baselines")
    if budget.hours is not None:
        parts.append(f"at most {budget.hours:g} hours")
    return ", ".join(parts)


def run(
    file: CampaignFile,
    directory: RunFolder,
    allow_task_code: AllowTaskCode = False,
    allow_benchmark_test: AllowBenchmarkTest = False,
    as_json: Json = False,
) -> None:
    """Start a search, or go on with it.

    What its folder holds decides where it goes on; the front is printed at the end.
    SIGTERM and Ctrl-C stop it cleanly: the same command goes on later. A second Ctrl-C stops at once.
    """
    from evomerge.campaign.campaign import load_campaign
    from evomerge.campaign.check import check_campaign, check_devices

    show_log()
    campaign = load_campaign(file)
    if _is_finished(campaign, directory):
        say("this campaign is finished; raise its `budget` to go on")
    else:
        grants = _grants(allow_task_code, allow_benchmark_test)
        report = check_campaign(campaign, grants)
        _refuse(report, as_json)
        check_devices(campaign)
        _drive(campaign, directory, report, grants)
    from evomerge.cli.looks import print_front
    from evomerge.front.folder import open_campaign_folder

    opened = open_campaign_folder(directory)
    print_front(opened, opened.front(), as_json)


def _is_finished(campaign: Campaign, directory: Path) -> bool:
    """Whether the folder's campaign is this one, and its limits leave nothing to do."""
    from evomerge.campaign.campaign import identity_digest
    from evomerge.ledger.history import LEDGER_FILE, History
    from evomerge.ledger.ledger import read_events

    try:
        history = History.fold(read_events(directory / LEDGER_FILE))
    except (FileNotFoundError, NotADirectoryError):
        return False
    if not history.campaign or history.campaign["identity"] != identity_digest(campaign.to_json()):
        return False
    budget = campaign.config.budget
    if history.stopped == "budget":
        return budget.evaluations is not None and history.cost >= budget.evaluations
    if history.stopped == "hours":
        return budget.hours is not None and history.elapsed >= 3600 * budget.hours
    return history.stopped == "exhausted"


def _drive(campaign: Campaign, directory: Path, report: CheckReport, grants: frozenset[Grant]) -> None:
    from evomerge.cli.live import open_display
    from evomerge.run.driver import run as drive

    again = f"go on with: evomerge run {campaign.file} --dir {directory}"
    with StopSignals(again) as stop, open_display(lambda: stop.asked is not None) as display:
        drive(
            campaign,
            directory,
            report.paths,
            report.storage,
            grants=grants,
            observer=display,
            stop_request=stop,
        )


class StopSignals:
    """SIGTERM and SIGINT as a polite request; a second SIGINT interrupts at once."""

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
        for number in (signal.SIGTERM, signal.SIGINT):
            self.before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
