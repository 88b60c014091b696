"""Running a campaign in a process that must not import torch: no tiny models, no lm-eval here."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

from evomerge.campaign.campaign import load_campaign
from evomerge.run.driver import run
from evomerge.run.pool import open as pools
from evomerge.run.pool.processes import ProcessPool
from tests.noting_worker import NotingWorker


def run_light(folder: Path, directory: str, workers: Mapping[str, Any]) -> None:
    """Run `folder/campaign.yaml` in `folder/directory`; its workers must be those that are expected.

    Those in local processes note what they have loaded (see `noting_worker`).
    """
    campaign = load_campaign(folder / "campaign.yaml")
    assert {name: getattr(campaign.config.workers, name) for name in workers} == dict(workers)
    paths = {name: str(reference.path) for name, reference in campaign.references().items()}
    noting = functools.partial(ProcessPool, runner=NotingWorker)
    with mock.patch.object(pools, "ProcessPool", noting):
        run(campaign, folder / directory, paths, "bfloat16")
