"""The deep part of `check`: every weight read once, by the worker's own `prepare`, and kept for the run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from evomerge.campaign.campaign import Campaign
from evomerge.campaign.check import CheckReport
from evomerge.errors import EnvironmentFault, Problem
from evomerge.files.scratch import scratch_folder
from evomerge.ledger.history import CACHE_FOLDER
from evomerge.run.campaign_folder import make_campaign_folder
from evomerge.run.job import Job
from evomerge.run.worker import Worker
from evomerge.run.worker_setup import worker_setup


def check_weights(campaign: Campaign, report: CheckReport, directory: Path | None) -> CheckReport:
    """The report with what the weights themselves say, and their content digests.

    E232 is NaN or infinity, E233 (a warning) an expert that equals the base, E229 an untied head.
    Models in which `check_campaign` found faults are not read.

    Args:
        campaign: as loaded.
        report: of `check_campaign`.
        directory: a campaign folder, made if missing, in whose cache a run finds what was read; without one
            nothing is kept.

    Raises:
        ConfigError: E135, if `directory` holds something else.
        EnvironmentFault: E405, if the look itself fails, for want of memory for one.
    """
    unsound = [p for p in report.problems if p.code.startswith("E2") or p.code == "E133"]
    if report.layout is None or unsound:
        return report
    with _cache(directory) as cache:
        setup = worker_setup(campaign, report.paths, report.storage, cache, allow_task_code=False)
        # Evaluators have been looked at, and cost lm-eval.
        setup = replace(setup, evaluators=(), functions=())
        result = Worker(setup).run(Job("check", "prepare"))
    if result.status == "fault":
        return replace(report, problems=[*report.problems, *result.problems])
    if result.prepared is None:
        wrong, found = "the weights cannot be read", f"{result.failure}: {result.message}"
        raise EnvironmentFault(Problem("E405", wrong, found, "mend the cause, then check again"))
    found_warnings = [*report.warnings, *result.prepared.warnings]
    return replace(report, warnings=found_warnings, weights=dict(result.prepared.checkpoints))


@contextlib.contextmanager
def _cache(directory: Path | None) -> Iterator[Path]:
    if directory is not None:
        make_campaign_folder(directory)
        yield directory / CACHE_FOLDER
        return
    with scratch_folder() as scratch:
        yield scratch
