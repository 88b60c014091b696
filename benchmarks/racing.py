"""What does racing save, and what does it cost? The campaign with and without it, paired over seeds.

For each seed two searches ask the same number of candidates, one with racing and one without. Both are the
real driver with ledger, optimizer and decisions, except that their pool knows a table of per-item results on
all search items, filled by live evaluations: whatever any search has scored is scored once, and a race is
the production rule over the row. The table is kept, so that the script can be stopped and go on.

Prints, per threshold: search items of the full search over those of the racing one, and the ratio of
hypervolumes (racing / full, complete candidates, search items), each with its 95 % interval over seeds.

    python benchmarks/racing.py experiments/quickstart/campaign.yaml --out runs/racing --seeds 20
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import ttest_1samp

from evomerge.campaign.campaign import Campaign, load_campaign
from evomerge.campaign.check import CheckReport, check_campaign
from evomerge.campaign.file import BudgetSection, RacingSection
from evomerge.errors import Stopped
from evomerge.evaluators.racing import race_over
from evomerge.ledger.history import LEDGER_FILE, History
from evomerge.ledger.ledger import Ledger
from evomerge.objectives.scores import mean_metric
from evomerge.recipe.json_form import recipe_from_json
from evomerge.run.dispatch import Dispatcher
from evomerge.run.driver import Driver
from evomerge.run.job import Job, JobResult, Measured
from evomerge.run.pool.open import open_pool
from evomerge.run.pool.pool import Pool, WorkerState
from evomerge.run.standing import search_hypervolume
from evomerge.run.worker_setup import worker_setup


class Table:
    """Per-item results on search items by recipe digest, in a file that only grows."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.prepared: JobResult | None = None
        self.rows: dict[str, dict[str, np.ndarray]] = {}
        lines = file.read_text().splitlines() if file.exists() else []
        for line in lines:
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue  # cut short by a stop
            self.rows[row["recipe"]] = {m: np.array(v, float) for m, v in row["items"].items()}

    def add(self, recipe: str, items: dict[str, np.ndarray]) -> None:
        """Keep the results of one merge."""
        self.rows[recipe] = {metric: np.asarray(values, float) for metric, values in items.items()}
        line = {"recipe": recipe, "items": {metric: v.tolist() for metric, v in items.items()}}
        with self.file.open("a") as out:
            out.write(json.dumps(line) + "\n")


class TablePool:
    """A pool that answers from the table, and asks another pool for whole evaluations it lacks."""

    def __init__(self, inner: Pool, table: Table) -> None:
        self.inner, self.table = inner, table
        self.size, self.ahead = inner.size, 0
        self.jobs: dict[str, Job] = {}
        self.ready: deque[JobResult] = deque()
        self.live = 0

    @property
    def waiting(self) -> int:
        """As of the live workers."""
        return self.inner.waiting

    def workers(self) -> tuple[WorkerState, ...]:
        """The live ones."""
        return self.inner.workers()

    def submit(self, job: Job) -> None:
        """Answer at once if the row is known."""
        if job.kind == "prepare" and self.table.prepared is not None:
            self.ready.append(replace(self.table.prepared, id=job.id))
            return
        known = self.table.rows.get(_digest(job)) if job.kind == "evaluate" else None
        if known is not None:
            self.ready.append(self._raced(job, known))
        else:
            self.jobs[job.id] = job
            self.inner.submit(replace(job, race=None))

    def next(self, timeout: float) -> JobResult | None:
        """The next answer; a live one goes into the table."""
        if self.ready:
            return self.ready.popleft()
        result = self.inner.next(timeout)
        if result is None:
            return None
        job = self.jobs.pop(result.id)
        if result.status != "ok":
            return result
        if job.kind == "prepare":
            self.table.prepared = result
            return result
        self.live += 1
        self.table.add(_digest(job), dict(result.items))
        return self._raced(job, self.table.rows[_digest(job)])

    def drain(self) -> None:
        """Wait for what a search that has ended still had under way: the next one reuses its names."""
        while self.jobs:
            self.next(60.0)
        self.ready.clear()

    def close(self) -> None:
        """Stop the live workers."""
        self.inner.close()

    def _raced(self, job: Job, items: dict[str, np.ndarray]) -> JobResult:
        assert self.table.prepared is not None
        assert self.table.prepared.prepared is not None
        evaluators = self.table.prepared.prepared.evaluators
        metrics = {metric: mean_metric(values) for metric, values in items.items()}
        end = None
        if job.race is not None:
            sizes = [evaluators[m.split(".")[0]].block_size or 1 for m in job.race.metrics]
            end = race_over(job.race, items, sizes)
        if end is None:
            return JobResult(job.id, "ok", measured=Measured(metrics), items=items)
        assert job.race is not None
        seen = {m.split(".")[0]: count for m, count in zip(job.race.metrics, end[0], strict=True)}
        part = {metric: values[: seen[metric.split(".")[0]]] for metric, values in items.items()}
        metrics = {metric: mean_metric(values) for metric, values in part.items()}
        measured = Measured(metrics, beaten_by=end[1], seen=seen)
        return JobResult(job.id, "raced", measured=measured, items=part)


def _digest(job: Job) -> str:
    assert job.recipe is not None
    return recipe_from_json(dict(job.recipe)).digest


def search(campaign: Campaign, report: CheckReport, pool: TablePool, candidates: int) -> dict[str, Any]:
    """One search of so many candidates: items answered by them, and the hypervolume in the end."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with Ledger.open(folder / LEDGER_FILE, create=True) as ledger:
            history = History()

            def enough() -> Stopped | None:
                return Stopped("enough") if history.budget_used >= candidates else None

            dispatcher = Dispatcher(campaign, folder, ledger, history, pool, None, enough)
            driver = Driver(campaign, report.paths, dispatcher)
            try:
                driver.begin()
                driver.search()
            except Stopped:
                pass
    pool.drain()
    return {
        "candidates": history.budget_used,
        "raced": history.raced,
        "items": history.cost * history.search_items,
        "hypervolume": search_hypervolume(history),
        "live": pool.live,
    }


def with_racing(campaign: Campaign, seed: int, threshold: float | None, candidates: int) -> Campaign:
    """The campaign with a seed, with or without racing, and a budget that stops nothing."""
    racing = None if threshold is None else RacingSection(threshold=threshold)
    budget = BudgetSection(evaluations=100 * candidates)
    changes = {"seed": seed, "racing": racing, "budget": budget}
    return replace(campaign, config=campaign.config.model_copy(update=changes))


def shown(ratios: list[float]) -> str:
    """Mean and two-sided 95 % t interval over seeds."""
    mean = float(np.mean(ratios))
    if len(ratios) < 2 or float(np.ptp(ratios)) == 0.0:
        return f"{mean:.3f}"
    interval = ttest_1samp(ratios, mean).confidence_interval(0.95)
    return f"{mean:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def main() -> None:
    """Run all seeds and thresholds; print a line a search and the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("campaign", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder of the table")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--candidates", type=int, help="per search, instead of the campaign's budget")
    parser.add_argument("--thresholds", type=float, nargs="+", default=[1.0])
    parser.add_argument("--workers", type=int, default=1, help="processes for live evaluations")
    options = parser.parse_args()
    campaign = load_campaign(options.campaign)
    report = check_campaign(campaign)
    report.raise_problems()
    candidates = options.candidates or campaign.config.budget.evaluations or 200
    options.out.mkdir(parents=True, exist_ok=True)
    table = Table(options.out / "search_items.jsonl")
    setup = worker_setup(
        campaign, report.paths, report.storage, options.out / "cache", allow_task_code=False
    )
    workers = campaign.config.workers.model_copy(update={"pool": "local", "count": options.workers})
    pool = TablePool(open_pool(workers, setup), table)
    found: dict[float | None, list[dict[str, Any]]] = {}
    try:
        for seed in range(options.seeds):
            for threshold in (None, *options.thresholds):
                changed = with_racing(campaign, seed, threshold, candidates)
                row = search(changed, report, pool, candidates)
                found.setdefault(threshold, []).append(row)
                print(json.dumps({"seed": seed, "threshold": threshold, **row}), flush=True)
    finally:
        pool.close()
    full = found.pop(None)
    print(
        f"\n{candidates} candidates a search, {options.seeds} paired seeds, {len(table.rows)} merges scored"
    )
    print(
        f"{'threshold':>9}  {'raced':>6}  {'items full / racing':>26}  {'hypervolume racing / full':>26}"
    )
    for threshold, rows in found.items():
        pairs = list(zip(full, rows, strict=True))
        items = shown([a["items"] / b["items"] for a, b in pairs])
        volumes = shown([b["hypervolume"] / a["hypervolume"] for a, b in pairs])
        raced = np.mean([row["raced"] / row["candidates"] for row in rows])
        print(f"{threshold:>9g}  {100 * raced:>4.0f} %  {items:>26}  {volumes:>26}")


if __name__ == "__main__":
    main()
