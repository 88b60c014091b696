"""The exports of a campaign, in a log of their own, so that one can export while a run holds the ledger.

Events: `test_used` (a model was scored on test items; with its scores, so that they are never lost) and
`export` (a folder was published). The file has the form of a ledger and is opened for each append only.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge.errors import CampaignInUse
from evomerge.ledger.history import EXPORTS_FILE
from evomerge.ledger.ledger import Ledger, read_events
from evomerge.objectives.scores import Metric

WAIT = 10.0
"""Seconds to wait for another export that is appending right now."""


@dataclass(frozen=True)
class HeldOutUse:
    """How often the test items of a campaign have been scored by exports, on how many models."""

    times: int
    models: int


def check_log(directory: Path) -> None:
    """See that the log can be written, before hours of scoring find that it cannot.

    Raises:
        CampaignInUse, EnvironmentFault, LedgerDamaged: as `append`.
    """
    with _opened(directory):
        pass


def append(directory: Path, event: Mapping[str, Any]) -> None:
    """Add an event with the time to the log of a campaign folder; durable when this returns.

    Raises:
        CampaignInUse: E501, another export held the log for all of `WAIT` seconds.
        EnvironmentFault: E403 or E408, the folder cannot be written.
        LedgerDamaged: the log is damaged.
    """
    with _opened(directory) as log:
        log.append({**event, "time": round(time.time(), 3)})


def _opened(directory: Path) -> Ledger:
    deadline = time.monotonic() + WAIT
    while True:
        try:
            return Ledger.open(directory / EXPORTS_FILE, create=True)
        except CampaignInUse:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def record_test(
    directory: Path,
    candidate: str,
    recipe: str,
    evaluators: Mapping[str, str],
    metrics: Mapping[str, Metric],
) -> None:
    """Count one use of the test split: which model, which evaluators (name to digest), which scores.

    Raises:
        CampaignInUse, EnvironmentFault, LedgerDamaged: as `append`.
    """
    append(
        directory,
        {
            "event": "test_used",
            "id": candidate,
            "recipe": recipe,
            "evaluators": dict(evaluators),
            "metrics": {name: metric.to_json() for name, metric in metrics.items()},
        },
    )


def held_out_use(directory: Path) -> HeldOutUse:
    """How often the test split has been used by exports of a campaign folder.

    Raises:
        LedgerDamaged: the log is damaged.
    """
    try:
        events = read_events(directory / EXPORTS_FILE)
    except FileNotFoundError:
        return HeldOutUse(0, 0)
    used = [event["recipe"] for event in events if event["event"] == "test_used"]
    return HeldOutUse(len(used), len(set(used)))
