"""`check` and `run`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evomerge.cli.again import same_command
from evomerge.cli.front import print_front
from evomerge.cli.output import (
    AllowTaskCode,
    Json,
    print_json,
    print_warning,
    problem_json,
    say,
    say_json,
    show_log,
    table_console,
)
from evomerge.cli.track import Track
from evomerge.errors import Problem, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from evomerge.campaign.campaign import Campaign
    from evomerge.campaign.changes import Change
    from evomerge.campaign.check import CheckReport
    from evomerge.run.progress import Display

CampaignFile = Annotated[
    Path, typer.Argument(metavar="FILE", help="The campaign file.", show_default=False)
]
RunFolder = Annotated[
    Path,
    typer.Option("--dir", metavar="DIR", help="The campaign folder; made if new.", show_default=False),
]

Seed = Annotated[
    int | None, typer.Option(metavar="N", help="Another `seed` than the file's.", show_default=False)
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="FIELD=VALUE", help="Another value of a field; optimizer.population=48, say."
    ),
]

AllowBenchmarkTest = Annotated[
    bool,
    typer.Option(
        "--allow-benchmark-test", help="Let a search use the items a public benchmark is scored on."
    ),
]


def changes_of(seed: int | None, settings: list[str] | None) -> list[Change]:
    """Fields stated otherwise on a command line.

    Raises:
        UsageError: E500.
    """
    from evomerge.campaign.changes import parse_change

    return [
        parse_change(text) for text in [*([] if seed is None else [f"seed={seed}"]), *(settings or [])]
    ]


def check(
    file: CampaignFile,
    deep: Annotated[
        bool, typer.Option("--deep", help="Read all weights once: NaN, equal to the base, digests.")
    ] = False,
    directory: Annotated[
        Path | None,
        typer.Option(
            "--dir", metavar="DIR", help="With --deep: the folder of a run that shall find them read."
        ),
    ] = None,
    seed: Seed = None,
    settings: Settings = None,
    allow_task_code: AllowTaskCode = False,
    allow_benchmark_test: AllowBenchmarkTest = False,
    as_json: Json = False,
) -> None:
    """Find every fault of a campaign before it runs.

    Data sets are opened on this machine; nothing is fetched.
    """
    from evomerge.campaign.campaign import load_campaign
    from evomerge.campaign.check import check_campaign, check_devices, grants_of
    from evomerge.run.check_starts import check_starts

    if directory is not None and not deep:
        raise UsageError(Problem("E500", "--dir keeps what --deep reads", "", "give --deep as well"))
    show_log()
    campaign = load_campaign(file, changes_of(seed, settings))
    report = check_campaign(campaign, grants_of(allow_task_code, allow_benchmark_test), data=True)
    if deep:
        from evomerge.run.deep_check import check_weights

        report = check_weights(campaign, report, directory)
    report = check_starts(campaign, report)
    for warning in [] if as_json else report.warnings:
        print_warning(warning)
    report.raise_problems()
    check_devices(campaign)
    if as_json:
        print_json(
            {
                "campaign": campaign.config.name,
                "warnings": [problem_json(problem) for problem in report.warnings],
                "paths": report.paths,
                "storage": report.storage,
                "genes": report.genes,
                "items": report.items,
                "weights": report.weights,
                "starts": report.starts,
                "estimates": report.estimates,
            }
        )
        return
    _print_report(campaign, report)


def _print_report(campaign: Campaign, report: CheckReport) -> None:
    from evomerge.run.plan import plan_rows

    console = table_console()
    for name, text in plan_rows(campaign, report):
        console.print(f"{name:<13} {text}", markup=False, soft_wrap=True)


def run(
    context: typer.Context,
    file: CampaignFile,
    directory: RunFolder,
    seed: Seed = None,
    settings: Settings = None,
    allow_task_code: AllowTaskCode = False,
    allow_benchmark_test: AllowBenchmarkTest = False,
    takeover: Annotated[
        bool,
        typer.Option(
            "--takeover", help="Go on in place of a driver that is stopped or hangs for good."
        ),
    ] = False,
    track: Track = None,
    log_json: Annotated[
        bool, typer.Option("--log-json", help="Progress and warnings on stderr as JSON, a line each.")
    ] = False,
    metrics_port: Annotated[
        int | None,
        typer.Option(
            metavar="PORT", min=0, max=65535, help="Serve Prometheus metrics on 127.0.0.1:PORT/metrics."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Start a search, or go on with it.

    What its folder holds decides where it goes on; the front is printed at the end.
    SIGTERM and Ctrl-C stop it cleanly: the same command goes on later. A second Ctrl-C stops at once.
    """
    from evomerge.campaign.campaign import load_campaign
    from evomerge.campaign.check import grants_of
    from evomerge.cli.live import open_display
    from evomerge.run.metrics import HOST, Metered
    from evomerge.run.progress import Displays
    from evomerge.run.session import run_session
    from evomerge.run.tracking.display import Tracked
    from evomerge.run.tracking.open import require

    show_log(log_json)
    names = tuple(dict.fromkeys(name.value for name in track or ()))
    for name in names:
        require(name)

    def display(is_stopping: Callable[[], bool]) -> Display:
        displays: list[Display] = [Tracked(names, directory)] if names else []
        if metrics_port is not None:
            metered = Metered(metrics_port)
            displays.append(metered)
            text = f"metrics: http://{HOST}:{metered.port}/metrics"
            if log_json:
                say_json("info", text)
            else:
                say(text)
        return Displays([*displays, open_display(is_stopping, as_json=log_json)])

    def warn(warning: Problem) -> None:
        if log_json:
            say_json("warning", warning.words, problem=problem_json(warning))
        elif not as_json:
            print_warning(warning)

    ran = run_session(
        load_campaign(file, changes_of(seed, settings)),
        directory,
        grants_of(allow_task_code, allow_benchmark_test),
        warn=warn,
        open_display=display,
        again=f"go on with: {same_command(context, file=file.resolve())}",
        take_over=takeover,
    )
    if not ran:
        say("this campaign is finished; raise its `budget` to go on")
    from evomerge.front.folder import open_campaign_folder

    opened = open_campaign_folder(directory)
    print_front(opened, opened.front(), as_json)
