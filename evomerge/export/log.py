"""The exports of a campaign, in a log of their own, so that one can export while a run holds the ledger.

The file has the form of a ledger and is opened for each append only.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from evomerge.errors import CampaignInUse, LedgerDamaged, Problem
from evomerge.ledger.events import Event, event_from_json
from evomerge.ledger.history import EXPORTS_FILE
from evomerge.ledger.records import RecordFile, read_records
from evomerge.objectives.scores import Metric

WAIT = 10.0
"""Seconds to wait for another export that is appending right now."""


@dataclass(frozen=True, kw_only=True)
class HeldOutEvent(Event):
    """A model was scored on test items; with its scores, so that they are never lost.

    Attributes:
        id: of the candidate.
        recipe: digest of its recipe.
        evaluators: name to digest.
        metrics: `EVALUATOR.METRIC` to score.
    """

    kind = "test_used"

    id: str
    recipe: str
    evaluators: Mapping[str, str]
    metrics: Mapping[str, Metric]


@dataclass(frozen=True, kw_only=True)
class ExportEvent(Event):
    """A folder was published.

    Attributes:
        id: of the candidate.
        recipe: digest of its recipe.
        out: name of the folder.
        bytes: of all its files.
        scores: split to `EVALUATOR.METRIC` to score.
    """

    kind = "export"

    id: str
    recipe: str
    out: str
    bytes: int
    scores: Mapping[str, Mapping[str, Metric]]


EVENTS: Mapping[str, type[Event]] = {each.kind: each for each in (HeldOutEvent, ExportEvent)}
"""Kind to class."""


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


def append(directory: Path, event: Event) -> None:
    """Add an event with the time to the log of a campaign folder; durable when this returns.

    Raises:
        CampaignInUse: E501, another export held the log for all of `WAIT` seconds.
        EnvironmentFault: E403 or E408, the folder cannot be written.
        LedgerDamaged: the log is damaged.
    """
    with _opened(directory) as log:
        log.append(replace(event, time=round(time.time(), 3)).to_json())


def _opened(directory: Path) -> RecordFile:
    deadline = time.monotonic() + WAIT
    while True:
        try:
            return RecordFile.open(directory / EXPORTS_FILE, create=True)
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
        HeldOutEvent(id=candidate, recipe=recipe, evaluators=evaluators, metrics=metrics),
    )


def read_log(directory: Path) -> list[HeldOutEvent | ExportEvent]:
    """What the log of a campaign folder says; nothing where there is none.

    Raises:
        LedgerDamaged: the log is damaged.
    """
    path = directory / EXPORTS_FILE
    try:
        records = read_records(path)
    except FileNotFoundError:
        return []
    try:
        found = [event_from_json(record, EVENTS) for record in records]
    except ValueError as error:
        wrong = "the log of exports has a record that is no event"
        raise LedgerDamaged(Problem("E502", wrong, str(error), file=str(path))) from None
    return [event for event in found if isinstance(event, HeldOutEvent | ExportEvent)]


def held_out_use(directory: Path) -> HeldOutUse:
    """How often the test split has been used by exports of a campaign folder.

    Raises:
        LedgerDamaged: the log is damaged.
    """
    used = [event.recipe for event in read_log(directory) if isinstance(event, HeldOutEvent)]
    return HeldOutUse(len(used), len(set(used)))
