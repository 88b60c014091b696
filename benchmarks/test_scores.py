"""Scores on test items for benchmarks: recipes of a campaign, through the worker's own code.

Kept out of `evomerge` on purpose: a campaign's own way to test items is `export`, which counts each use.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from evomerge.campaign.campaign import Campaign
from evomerge.objectives.objective import Objective
from evomerge.objectives.scores import Split
from evomerge.recipe.recipe import Recipe
from evomerge.run.job import Job
from evomerge.run.worker import Worker
from evomerge.run.worker_setup import worker_setup


def open_worker(campaign: Campaign, paths: Mapping[str, str], storage: str, cache: Path) -> Worker:
    """A worker in this process, set up as the campaign's are."""
    return Worker(worker_setup(campaign, paths, storage, cache, allow_task_code=False))


def item_scores(
    worker: Worker, recipe: Recipe, objectives: tuple[Objective, ...], split: Split
) -> list[np.ndarray]:
    """Per objective the float64 [items] results of one merge.

    Raises:
        RuntimeError: if the merge cannot be scored.
    """
    job = Job("benchmark", "evaluate", recipe.to_json(), split, rows=recipe.row_content)
    result = worker.run(job)
    if result.status != "ok":
        raise RuntimeError(f"{result.failure}: {result.message}")
    return [np.asarray(result.items[objective.metric]) for objective in objectives]
