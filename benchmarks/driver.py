"""What does the machinery around an evaluation cost? Driver, ledger, item store and optimizer together.

A real campaign folder with 500 genes and 3 objectives, and a pool that returns made-up results at once:
CPU milliseconds per candidate, latency of a ledger append (with its fsync), time until a campaign of that
length is ready to ask again, and the same suggest and tell through Optuna's SQLite storage beside it.
Latencies depend on the disk and on who else uses it: the load average is printed beside them.

    python benchmarks/driver.py --sizes 2000 --schedule steady_state
    python benchmarks/driver.py --sizes 2000 5000 10000 --workers 512 --dir /dev/shm --trials 0

With several sizes, how each figure grows: the exponent of evaluations, by least squares on logarithms. Every
size is measured in two processes of its own, one that runs and one that resumes.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import os
import resource
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evomerge.campaign.campaign import Campaign, load_campaign
from evomerge.ledger.events import Event, PreparedEvaluator, PreparedEvent, PreparedLayout
from evomerge.ledger.history import LEDGER_FILE, History
from evomerge.ledger.ledger import Ledger
from evomerge.objectives.scores import Metric
from evomerge.optimizers import nsga2, steady_nsga2  # noqa: F401 - what loading takes is not measured
from evomerge.recipe.json_form import recipe_from_json
from evomerge.recipe.places import leaf_places
from evomerge.run.dispatch import Dispatcher
from evomerge.run.driver import Driver
from evomerge.run.job import Job, JobResult, Measured
from evomerge.run.pool.pool import WorkerState
from evomerge.run.replay import campaign_optimizer, refiners, replay
from evomerge.run.search import Search

EXPERTS = ("math", "code", "text")
LAYERS, MODULES = 55, ("attn", "mlp", "norm")
ITEMS = 500


class MadeUpPool:
    """A `Pool` of `size` workers that are done at once: losses of a smooth function of the weights."""

    def __init__(self, size: int, together: int = 1) -> None:
        self.size = size
        self._together, self._beside = together, 0
        self.waiting = 0
        self.ahead = 0
        self._queue: deque[Job] = deque()
        places = leaf_places(LAYERS, MODULES, ("embed", "final_norm", "head"))
        digests = {n: hashlib.sha256(n.encode()).hexdigest() for n in ("base", *EXPERTS)}
        self._prepared = PreparedEvent(
            checkpoints=digests,
            storage="bfloat16",
            layout=PreparedLayout(layers=LAYERS, places=tuple(places), parameters=0),
            evaluators={
                name: PreparedEvaluator(
                    digest=digests[name],
                    metrics=(f"{name}.acc",),
                    items=dict.fromkeys(("search", "selection", "test"), ITEMS),
                    deterministic=True,
                )
                for name in EXPERTS
            },
        )
        self.seconds = 0.0

    def workers(self) -> tuple[WorkerState, ...]:
        """All idle."""
        return tuple(WorkerState(place, "idle", "here", 1) for place in range(self.size))

    def submit(self, job: Job) -> None:
        """Queue it."""
        self._queue.append(job)

    def next(self, timeout: float) -> JobResult | None:
        """The oldest, done; the CPU time of making it up is not the driver's and counted apart."""
        self._beside = self._beside + 1 if timeout == 0.0 else 0
        if not self._queue or self._beside >= self._together:
            return None
        began = time.process_time()
        job = self._queue.popleft()
        made = (
            self._made(job)
            if job.kind == "evaluate"
            else JobResult(job.id, "ok", prepared=self._prepared)
        )
        self.seconds += time.process_time() - began
        return made

    def _made(self, job: Job) -> JobResult:
        weights = self._weights(job.recipe or {})
        chances = np.clip(0.25 + 0.5 * weights - 0.3 * (weights.sum() - weights) ** 2, 0.05, 0.95)
        seed = int.from_bytes(hashlib.sha256(json.dumps(weights.tolist()).encode()).digest()[:4])
        draws = np.random.default_rng(seed).random((len(EXPERTS), ITEMS))
        items = {
            f"{name}.acc": (row < chance).astype(float)
            for name, row, chance in zip(EXPERTS, draws, chances, strict=True)
        }
        metrics = {
            name: Metric(float(v.mean()), float(v.std() / ITEMS**0.5), ITEMS)
            for name, v in items.items()
        }
        seconds = {"merge": 0.1, "evaluate": 1.0}
        return JobResult(job.id, "ok", measured=Measured(metrics), items=items, seconds=seconds)

    @staticmethod
    def _weights(recipe: Mapping[str, Any]) -> np.ndarray:
        """Mean weight of each expert."""
        merged = recipe["sources"].get("merged")
        if merged is None:
            plain = recipe_from_json(recipe).path[0].source
            return np.array([float(name == plain) for name in EXPERTS])
        tables = merged["coefficients"]["weight"]
        return np.array([np.mean(list(tables[name].values())) for name in EXPERTS])

    def close(self) -> None:
        """Nothing runs."""


class TimedLedger(Ledger):
    """A ledger that notes how long each append took, seconds."""

    appends: list[float]

    def append_all(self, events: Sequence[Event]) -> list[Event]:
        """Append, timed."""
        began = time.perf_counter()
        written = super().append_all(events)
        self.appends.append(time.perf_counter() - began)
        return written


def write_campaign(folder: Path, schedule: str, evaluations: int, population: int) -> Campaign:
    """A campaign file with 500 genes whose models are only names."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in EXPERTS:
        (folder / f"{name}.yaml").write_text("{}")
    coefficients = {"weight": {"field": "layer_module", "low": 0.0, "high": 1.5}}
    space = {"schema": 1, "method": "task_arithmetic", "coefficients": coefficients}
    (folder / "space.yaml").write_text(json.dumps(space))
    config = {
        "schema": 1,
        "name": "driver-benchmark",
        "base": {"path": "base"},
        "experts": {name: {"path": name} for name in EXPERTS},
        "search_space": "space.yaml",
        "evaluators": [f"{name}.yaml" for name in EXPERTS],
        "objectives": [{"metric": f"{name}.acc", "direction": "maximize"} for name in EXPERTS],
        "optimizer": {"kind": "nsga2", "population": population, "schedule": schedule},
        "budget": {"evaluations": evaluations},
    }
    (folder / "campaign.yaml").write_text(json.dumps(config))
    return load_campaign(folder / "campaign.yaml")


def opened(
    campaign: Campaign, folder: Path, workers: int, together: int = 1
) -> tuple[Driver, MadeUpPool]:
    """A driver on the campaign folder, prepared and with its baselines."""
    history = History()
    ledger = Ledger.open(folder / LEDGER_FILE, create=True, take=history.apply)
    ledger.__class__ = TimedLedger
    assert isinstance(ledger, TimedLedger)
    ledger.appends = []
    pool = MadeUpPool(workers, together)
    dispatcher = Dispatcher(campaign, folder, ledger, history, pool, None, lambda: None)
    driver = Driver(campaign, dict.fromkeys(("base", *EXPERTS), "nowhere"), dispatcher)
    driver.begin()
    return driver, pool


def measure_run(
    campaign: Campaign, folder: Path, workers: int, select: bool, together: int = 1
) -> dict[str, float]:
    """CPU per candidate of the search and of all, append latencies."""
    driver, pool = opened(campaign, folder, workers, together)
    # Paid once by a campaign, not by each candidate.
    campaign_optimizer(campaign, driver.space, (), driver.history)
    ledger = driver.dispatcher.ledger
    assert isinstance(ledger, TimedLedger)
    began, made, wall = time.process_time(), pool.seconds, time.perf_counter()
    driver.search()
    candidates = driver.history.asked
    cpu = time.process_time() - began - pool.seconds + made
    found = {
        "genes": len(driver.space.genes),
        "candidates": candidates,
        "search_cpu_s": cpu,
        "search_cpu_ms": 1000 * cpu / candidates,
        "search_wall_ms": 1000 * (time.perf_counter() - wall) / candidates,
        "append_p50_ms": 1000 * float(np.quantile(ledger.appends, 0.5)),
        "load_average": os.getloadavg()[0],
        "append_p99_ms": 1000 * float(np.quantile(ledger.appends, 0.99)),
        "ledger_mb": (folder / LEDGER_FILE).stat().st_size / 1e6,
    }
    if not select:
        ledger.close()
        return found
    began, made = time.process_time(), pool.seconds
    driver.rescore()
    rescored = len(driver.history.selection or ())
    found["rescored"] = rescored
    found["selection_cpu_s"] = time.process_time() - began - pool.seconds + made
    ledger.close()
    return found


def measure_resume(campaign: Campaign, folder: Path, workers: int) -> dict[str, float]:
    """Seconds from opening the folder to the first new ask, and memory of the history and of all."""
    gc.collect()
    before = resident()
    cpu, wall = time.process_time(), time.perf_counter()
    driver, _ = opened(campaign, folder, workers)
    opened_after = time.perf_counter() - wall
    gc.collect()
    history = resident() - before
    search = Search(campaign, driver.space, driver.dispatcher, driver.seeds())
    refine = refiners(campaign, driver.space, list(driver.seeds()), driver.history, search.optimizer)
    parts = (driver.history, campaign.objectives, driver.dispatcher.items)
    for _ in replay(search.optimizer, refine, *parts):
        pass
    if not search.untold():
        search.optimizer.ask()
    found = {
        "resume_open_s": opened_after,
        "resume_s": time.perf_counter() - wall,
        "resume_cpu_s": time.process_time() - cpu,
    }
    gc.collect()
    found["resume_cpu_ms_each"] = 1000 * found["resume_cpu_s"] / driver.history.asked
    found["history_kb_each"] = history / 1024 / driver.history.asked
    found["memory_kb_each"] = (resident() - before) / 1024 / driver.history.asked
    driver.dispatcher.ledger.close()
    found["peak_rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return found


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def measure_optuna(folder: Path, genes: int, trials: int) -> dict[str, float]:
    """CPU per trial: suggest every gene, tell three values, SQLite storage, random sampler."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        storage=f"sqlite:///{folder / 'optuna.db'}",
        sampler=optuna.samplers.RandomSampler(seed=0),
        directions=["maximize"] * 3,
    )
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(trials):
        trial = study.ask()
        values = [trial.suggest_float(f"gene{i}", 0.0, 1.5, step=1e-3) for i in range(genes)]
        study.tell(trial, [values[0], values[1], values[2]])
    return {
        "optuna_cpu_ms": 1000 * (time.process_time() - cpu) / trials,
        "optuna_wall_ms": 1000 * (time.perf_counter() - wall) / trials,
    }


def apart(measure: Callable[[], dict[str, float]]) -> dict[str, float]:
    """What a function finds, in a forked process: what it takes of memory goes with it."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            with os.fdopen(write, "w") as out:
                json.dump(measure(), out)
            code = 0
        finally:
            os._exit(code)
    os.close(write)
    with os.fdopen(read) as found:
        text = found.read()
    if os.waitpid(child, 0)[1]:
        raise SystemExit("the measurement failed")
    return dict(json.loads(text))


def measure_size(arguments: argparse.Namespace, evaluations: int) -> dict[str, float]:
    """One campaign, run and resumed."""
    with tempfile.TemporaryDirectory(dir=arguments.dir) as scratch:
        folder = Path(scratch)
        population, workers = arguments.population, arguments.workers
        campaign = write_campaign(folder / "files", arguments.schedule, evaluations, population)
        (folder / "run").mkdir()
        select = not arguments.no_selection
        together = arguments.together
        found = apart(lambda: measure_run(campaign, folder / "run", workers, select, together))
        found |= apart(lambda: measure_resume(campaign, folder / "run", workers))
        if arguments.trials:
            found |= measure_optuna(folder, int(found["genes"]), arguments.trials)
            found["ratio_to_optuna"] = found["optuna_cpu_ms"] / found["search_cpu_ms"]
        return found


TOTALS = ("search_cpu_s", "ledger_mb", "resume_cpu_s", "selection_cpu_s", "peak_rss_mb")
"""Figures of a whole campaign, whose growth is fitted."""


def main() -> None:
    """Run and resume each size, and fit how the figures grow."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000], help="evaluations")
    parser.add_argument("--population", type=int, default=100)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--together", type=int, default=1, help="results that arrive at a time")
    parser.add_argument("--schedule", default="generational", choices=("generational", "steady_state"))
    parser.add_argument("--trials", type=int, default=10, help="of Optuna; 0 leaves it out")
    parser.add_argument(
        "--no-selection", action="store_true", help="leave out scoring on held-out items"
    )
    parser.add_argument("--dir", type=Path, help="keep the campaign here, on the disk to be measured")
    arguments = parser.parse_args()
    columns: list[dict[str, float]] = []
    for evaluations in arguments.sizes:
        columns.append(measure_size(arguments, evaluations))
        print(json.dumps({"evaluations": evaluations, **columns[-1]}), file=sys.stderr, flush=True)
    several = len(columns) > 1
    print(f"{'':<20}" + "".join(f"{size:>12}" for size in arguments.sizes) + " exponent" * several)
    for name in columns[0]:
        values = [column[name] for column in columns]
        line = f"{name:<20}" + "".join(f"{value:12.3f}" for value in values)
        if several and name in TOTALS:
            line += f"{exponent(arguments.sizes, values):9.2f}"
        print(line)


def exponent(sizes: Sequence[int], values: Sequence[float]) -> float:
    """The power of its size with which a figure grows, by least squares on logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(np.maximum(values, 1e-9)), 1)[0])


if __name__ == "__main__":
    main()
