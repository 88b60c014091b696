"""Driver: the loop. Ask, hand out, record, tell; start or go on where the ledger stands.

Everything an optimizer sees has been fsynced to the ledger before. On resume the recorded asks and
tells are replayed through a fresh optimizer; the recorded genomes win, and a difference is an error.
Generations are told in ask order, so the result does not depend on the number of workers or on when
a session ended.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from evomerge.baselines import baseline_recipes, freeze
from evomerge.campaign import Campaign, identity, identity_digest
from evomerge.errors import (
    CheckpointError,
    ConfigError,
    EnvironmentFault,
    EvomergeError,
    LedgerDamaged,
    Problem,
    TooManyFailures,
)
from evomerge.history import CACHE_FOLDER, FORMAT, ITEMS_FOLDER, LEDGER_FILE, Candidate, History
from evomerge.item_store import ItemStore
from evomerge.job import Job, JobResult, WorkerSetup
from evomerge.ledger import Ledger
from evomerge.objective import Failed, Outcome, complete
from evomerge.optimizers import Optimizer, make_optimizer
from evomerge.pool import Pool, open_pool
from evomerge.recipe import CheckpointSource, Recipe, canonical_json
from evomerge.scores import Split
from evomerge.search_space import ModelLayout, build_search_space
from evomerge.selection import worth_rescoring

log = logging.getLogger(__name__)

POLL = 0.25
MAX_LOST = 5
POISON = 2
BREAKER_ALIKE = 8
BREAKER_FINISHED = 10

Observer = Callable[[History, "Progress"], None]
StopRequest = Callable[[], EvomergeError | None]


@dataclass(frozen=True)
class Progress:
    """What is going on right now, for a live display.

    `phase` is one of prepare, baselines, search, selection, done; `running` the ids under way.
    """

    phase: str
    running: tuple[str, ...]
    budget: int | None
    done_in_session: int
    seconds_in_session: float


def worker_setup(
    campaign: Campaign, paths: Mapping[str, str], storage: str, cache: Path
) -> WorkerSetup:
    """What the workers of a campaign are told."""
    evaluation = campaign.config.evaluation
    return WorkerSetup(
        sources=dict(paths),
        evaluators=tuple(str(path) for path in campaign.evaluator_files),
        methods=tuple(dict.fromkeys((campaign.space.method, "task_arithmetic"))),
        dtype=evaluation.dtype,
        storage=storage,
        device=evaluation.device,
        threads=evaluation.threads,
        batch_size=evaluation.batch_size,
        cache=str(cache),
    )


def run(
    campaign: Campaign,
    directory: Path,
    paths: Mapping[str, str],
    storage: str,
    *,
    observer: Observer | None = None,
    stop_request: StopRequest = lambda: None,
) -> History:
    """Run a campaign in `directory`, or go on with the one that is there, to the end of its budget.

    Args:
        campaign: the checked campaign.
        directory: the campaign folder; made if missing.
        paths: `base` and experts to their folders.
        storage: dtype merges are rounded to.
        observer: called after every event and while waiting.
        stop_request: asked often; what it returns is raised after a clean stop.

    Raises:
        ConfigError: E504, if the campaign differs from the one recorded in the folder.
        CheckpointError: if `prepare` finds faults in the weights, or files changed since the start.
        CampaignInUse, LedgerDamaged, EnvironmentFault, TooManyFailures: as their names say.
        Stopped, Interrupted: whatever `stop_request` returned.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with Ledger.open(directory / LEDGER_FILE, create=True) as ledger:
        history = History.fold(ledger.events)
        if not history.campaign:
            _refuse_foreign_files(directory)
        elif history.campaign["identity"] != identity_digest(campaign.to_json()):
            raise ConfigError(_differences(history.campaign["config"], campaign))
        setup = worker_setup(campaign, paths, storage, directory / CACHE_FOLDER)
        pool = open_pool(campaign.config.workers, setup)
        try:
            session = _Session(campaign, directory, paths, storage, ledger, history, pool)
            session.observer, session.stop_request = observer, stop_request
            session.run()
        finally:
            pool.close()
        return history


class _Session:
    """One process's turn at a campaign."""

    def __init__(
        self,
        campaign: Campaign,
        directory: Path,
        paths: Mapping[str, str],
        storage: str,
        ledger: Ledger,
        history: History,
        pool: Pool,
    ) -> None:
        self.campaign, self.paths, self.storage = campaign, paths, storage
        self.ledger, self.history, self.pool = ledger, history, pool
        self.items = ItemStore(directory / ITEMS_FOLDER)
        self.observer: Observer | None = None
        self.stop_request: StopRequest = lambda: None
        self.recipes: dict[str, Recipe] = {}
        self.running: dict[str, int] = {}
        self.phase = "prepare"
        self.began = time.monotonic()
        self.done = 0
        self.hours_before = self._hours_used()

    def run(self) -> None:
        """All phases; each does only what the ledger does not show as done."""
        if not self.history.campaign:
            config = self.campaign.to_json()
            self.record(
                {
                    "event": "campaign",
                    "format": FORMAT,
                    "config": config,
                    "identity": identity_digest(config),
                    "versions": _versions(),
                }
            )
        self.prepare()
        self.baselines()
        reason = self.search()
        self.rescore()
        self.phase = "done"
        self.record({"event": "stopped", "reason": reason})

    # -- recording

    def record(self, event: dict[str, Any]) -> None:
        """Append an event and take it into the history; the only way anything is known."""
        event["time"] = round(time.time(), 3)
        self.ledger.append(event)
        self.history.apply(self.ledger.events[-1])
        self.notify()

    def notify(self) -> None:
        """Show where things stand."""
        if self.observer is not None:
            seconds = time.monotonic() - self.began
            budget = self.campaign.config.budget.evaluations
            self.observer(
                self.history, Progress(self.phase, tuple(self.running), budget, self.done, seconds)
            )

    # -- phases

    def prepare(self) -> None:
        """Look at the weights once; on resume, see that they are still the same."""
        report = self._single(Job("prepare", "prepare"))
        problems = [Problem(**fault) for fault in report["problems"]]
        if problems:
            raise CheckpointError(problems)
        if self.history.prepared is None:
            self.record({"event": "prepared", **report})
        else:
            _refuse_drift(self.history.prepared, report, self.paths)
        prepared = self.history.prepared
        assert prepared is not None
        layout = prepared["layout"]
        self.layout = ModelLayout(
            layers=layout["layers"],
            places=tuple(layout["places"]),
            parameters=layout["parameters"],
            active={name: tuple(places) for name, places in layout["active"].items()},
        )
        self.sources = {
            name: CheckpointSource(self.paths[name], digest)
            for name, digest in prepared["checkpoints"].items()
        }
        config = self.campaign.config
        self.space = build_search_space(
            self.campaign.space,
            self.layout,
            self.sources,
            self.campaign.experts,
            self.storage,
            config.seed,
            str(self.campaign.space_file),
        )

    def baselines(self) -> None:
        """Evaluate the points of comparison, freeze the scaling."""
        self.phase = "baselines"
        coefficients = self.campaign.config.baselines.single
        recipes = baseline_recipes(
            self.sources, self.campaign.experts, coefficients, self.layout.layers, self.storage
        )
        self.recipes |= recipes
        if self.history.baselines is not None:
            return
        self.evaluate([(name, recipe) for name, recipe in recipes.items()], "search")
        needed = ("base", *self.campaign.experts)
        broken = [name for name in needed if self.history.candidates[name].failure]
        if broken:
            candidate = self.history.candidates[broken[0]]
            raise CheckpointError(
                Problem("E232", f"`{broken[0]}` itself cannot be scored", candidate.message)
            )
        metrics = {
            name: self.history.candidates[name].evaluations["search"].metrics
            for name in recipes
            if self.history.candidates[name].failure is None
        }
        self.record(freeze(self.campaign.objectives, metrics, self.campaign.experts))

    def search(self) -> str:
        """Ask, evaluate, tell until the budget is spent; returns why it ended."""
        self.phase = "search"
        optimizer = self._optimizer()
        for generation, ids in enumerate(self.history.generations):
            self._replay_ask(optimizer, generation, ids)
            if generation < len(self.history.told):
                optimizer.tell(self._outcomes(ids))
                self._check_state(optimizer, generation)
                continue
            reason = self._finish_generation(optimizer, ids)
            if reason:
                return reason
        while True:
            reason = self._spent()
            if reason:
                return reason
            genomes = optimizer.ask()
            ids = self._record_ask(genomes)
            reason = self._finish_generation(optimizer, ids)
            if reason:
                return reason

    def rescore(self) -> None:
        """Score what may belong to the front, and the baselines, on the selection split."""
        self.phase = "selection"
        if self.history.selection is None:
            ids = worth_rescoring(self.history, self.campaign.objectives, self.items)
            self.record({"event": "selection", "ids": ids})
        assert self.history.selection is not None
        wanted = [*self.history.selection, *self.history.reference_ids()]
        self.evaluate([(name, self._recipe(name)) for name in wanted], "selection")

    # -- the search's parts

    def _optimizer(self) -> Optimizer:
        section = self.campaign.config.optimizer
        return make_optimizer(
            section.kind,
            self.space.genes,
            self.campaign.objectives,
            population=section.population,
            seed=self.campaign.config.seed,
            initial=self._seeds(),
            options=section.options,
        )

    def _seeds(self) -> list[tuple[float, ...]]:
        """Genomes of the baselines the space can express: base, experts, average, best single."""
        seeds = []
        for name in self.history.reference_ids():
            genome = self.space.encode(self.recipes[name])
            if genome is None and name == "uniform":
                share = 1.0 / len(self.campaign.experts)
                genome = self.space.uniform(dict.fromkeys(self.campaign.experts, share))
            if genome is not None:
                seeds.append(genome)
        return list(dict.fromkeys(seeds))

    def _record_ask(self, genomes: Sequence[tuple[float, ...]]) -> list[str]:
        first = sum(len(ids) for ids in self.history.generations)
        entries = []
        for offset, genome in enumerate(genomes):
            recipe = self.space.decode(genome)
            name = f"c{first + offset:05d}"
            self.recipes[name] = recipe
            entries.append({"id": name, "genome": list(genome), "recipe": recipe.digest})
        number = len(self.history.generations)
        self.record({"event": "asked", "generation": number, "candidates": entries})
        return [entry["id"] for entry in entries]

    def _replay_ask(self, optimizer: Optimizer, generation: int, ids: Sequence[str]) -> None:
        recorded = [self.history.candidates[name].genome for name in ids]
        if optimizer.ask() != recorded:
            self._drift(f"generation {generation} was asked otherwise")

    def _check_state(self, optimizer: Optimizer, generation: int) -> None:
        if optimizer.state_digest() != self.history.told[generation]:
            self._drift(f"after generation {generation} the optimizer's state is another")

    def _drift(self, found: str) -> None:
        then, now = self.history.campaign["versions"], _versions()
        changed = [f"{n} {then.get(n)} then, {now[n]} now" for n in now if then.get(n) != now[n]]
        todo = f"made with other versions: {', '.join(changed)}" if changed else "the code differs"
        raise LedgerDamaged(Problem("E505", "the ledger cannot be replayed", found, todo))

    def _finish_generation(self, optimizer: Optimizer, ids: Sequence[str]) -> str | None:
        """Evaluate what is missing of a generation and tell it; the reason if the budget ends it."""
        budget = self.campaign.config.budget.evaluations
        pending = [name for name in ids if not self.history.candidates[name].is_settled]
        fresh: set[str] = set()
        allowed = []
        left = None if budget is None else budget - self.history.budget_used
        for name in pending:
            key = self._key(self._recipe(name), "search")
            if key not in self.history.by_key and key not in fresh:
                if left is not None and len(fresh) >= left:
                    break
                fresh.add(key)
            allowed.append((name, self._recipe(name)))
        if not fresh and not self.history.told and not pending:
            return "exhausted"
        reason = self.evaluate(allowed, "search", limited=True)
        if reason or len(allowed) < len(pending):
            return reason or "budget"
        optimizer.tell(self._outcomes(ids))
        number = len(self.history.told)
        self.record({"event": "told", "generation": number, "state": optimizer.state_digest()})
        return None

    def _outcomes(self, ids: Iterable[str]) -> list[Outcome]:
        outcomes: list[Outcome] = []
        for name in ids:
            candidate = self.history.candidates[name]
            if candidate.failure is not None:
                outcomes.append(Failed(candidate.failure))
            else:
                metrics = candidate.evaluations["search"].metrics
                outcomes.append(complete(self.campaign.objectives, metrics))
        return outcomes

    def _spent(self) -> str | None:
        budget = self.campaign.config.budget
        if budget.evaluations is not None and self.history.budget_used >= budget.evaluations:
            return "budget"
        if budget.hours is not None and self._hours_now() >= budget.hours:
            return "hours"
        return None

    def _hours_used(self) -> float:
        return max(0.0, self.history.last - self.history.started) / 3600

    def _hours_now(self) -> float:
        return self.hours_before + (time.monotonic() - self.began) / 3600

    # -- evaluating

    def evaluate(
        self, wanted: Sequence[tuple[str, Recipe]], split: Split, *, limited: bool = False
    ) -> str | None:
        """Score recipes on a split, each key once; returns `hours` if a time limit cut it short."""
        queue: deque[Job] = deque()
        waiting: dict[str, list[tuple[str, Recipe]]] = {}
        for name, recipe in wanted:
            known = self.history.candidates.get(name)
            if known and (split in known.evaluations or (split == "search" and known.failure)):
                continue
            key = self._key(recipe, split)
            if key in self.history.by_key:
                self._record_same(name, recipe, key)
            elif key in waiting:
                waiting[key].append((name, recipe))
            else:
                waiting[key] = [(name, recipe)]
                queue.append(Job(name, "evaluate", recipe.to_json(), split, self._deadline()))
        keys = {entries[0][0]: key for key, entries in waiting.items()}
        attempts: dict[str, int] = {}
        while queue or self.running:
            while queue and len(self.running) < self.pool.size:
                job = queue.popleft()
                self.pool.submit(job)
                self.running[job.id] = 1
                self.notify()
            result = self._wait()
            if result is None:
                if limited and self._spent() == "hours" and not self.running:
                    return "hours"
                continue
            del self.running[result.id]
            entries = waiting[keys[result.id]]
            if result.status == "lost":
                again = self._record_lost(result, entries[0][1], split, attempts)
                if again:
                    queue.appendleft(again)
                    continue
                result = replace(result, status="failed")
            self._record_result(result, entries, keys[result.id], split)
            if limited and queue and self._spent() == "hours":
                queue.clear()
        complete_now = all(
            (name in self.history.candidates
            and (split in self.history.candidates[name].evaluations))
            or self.history.candidates[name].failure is not None
            for name, _ in wanted
        )
        return None if complete_now else "hours"

    def _record_result(
        self, result: JobResult, entries: Sequence[tuple[str, Recipe]], key: str, split: Split
    ) -> None:
        self.done += 1
        name, recipe = entries[0]
        if result.status == "ok":
            stored = self._store_items(result)
            self.record(
                {
                    "event": "evaluated",
                    "id": name,
                    "recipe": recipe.digest,
                    "split": split,
                    "key": key,
                    "metrics": dict(result.data["metrics"]),
                    "items": stored,
                    "statistics": dict(result.data.get("statistics", {})),
                    "seconds": {phase: round(s, 4) for phase, s in result.seconds.items()},
                }
            )
            for other, other_recipe in entries[1:]:
                self._record_same(other, other_recipe, key)
            return
        for failed, failed_recipe in entries:
            self.record(
                {
                    "event": "failed",
                    "id": failed,
                    "recipe": failed_recipe.digest,
                    "split": split,
                    "failure": result.failure,
                    "message": result.message[:2000],
                }
            )
        self._breaker()

    def _record_same(self, name: str, recipe: Recipe, key: str) -> None:
        first = self.history.by_key[key]
        owner = next(
            c.id
            for c in self.history.candidates.values()
            if first.split in c.evaluations and c.evaluations[first.split] is first
        )
        if owner == name:
            return
        self.record(
            {
                "event": "evaluated",
                "id": name,
                "recipe": recipe.digest,
                "split": first.split,
                "key": key,
                "metrics": {metric: m.to_json() for metric, m in first.metrics.items()},
                "items": dict(first.items),
                "statistics": dict(first.statistics),
                "same_as": owner,
            }
        )

    def _record_lost(
        self, result: JobResult, recipe: Recipe, split: Split, attempts: dict[str, int]
    ) -> Job | None:
        """Note a lost attempt; the job to try again, or None if the candidate is given up."""
        attempts[result.id] = attempts.get(result.id, 0) + 1
        self.record(
            {
                "event": "lost",
                "id": result.id,
                "recipe": recipe.digest,
                "failure": result.failure,
                "message": result.message[:2000],
            }
        )
        if attempts[result.id] >= POISON:
            return None
        return Job(result.id, "evaluate", recipe.to_json(), split, self._deadline())

    def _store_items(self, result: JobResult) -> dict[str, Any]:
        grouped: dict[str, dict[str, Any]] = {}
        for metric, values in result.items.items():
            grouped.setdefault(metric.split(".")[0], {})[metric] = values
        return {name: self.items.append(name, arrays) for name, arrays in grouped.items()}

    def _breaker(self) -> None:
        settled = [c for c in self.history.candidates.values() if not c.is_baseline and c.is_settled]
        failed = [c for c in settled if c.failure is not None]
        alike = len(settled) >= BREAKER_ALIKE and len({c.message for c in settled}) == 1
        if (alike and len(failed) == len(settled)) or (
            len(settled) >= BREAKER_FINISHED and 2 * len(failed) > len(settled)
        ):
            self.record({"event": "stopped", "reason": "breaker"})
            last = failed[-1]
            raise TooManyFailures(
                Problem(
                    "E506",
                    f"{len(failed)} of {len(settled)} candidates failed",
                    f"the last one: {last.failure}: {last.message}",
                    "mend the cause, then run again",
                )
            )

    def _deadline(self) -> float | None:
        chosen = self.campaign.config.workers.deadline
        if chosen != "auto":
            return chosen
        measured = [
            sum(evaluation.seconds.values())
            for name in ("base", *self.campaign.experts)
            for evaluation in self.history.candidates.get(name, Candidate("", "")).evaluations.values()
        ]
        return max(60.0, 4 * max(measured)) if measured else None

    def _single(self, job: Job) -> dict[str, Any]:
        """Run one job by itself, trying again if its worker is lost."""
        for _ in range(MAX_LOST):
            self.pool.submit(job)
            self.running[job.id] = 1
            result = None
            while result is None:
                result = self._wait()
            del self.running[job.id]
            if result.status == "ok":
                return dict(result.data)
            if result.status == "failed":
                raise EnvironmentFault(f"{job.kind} failed: {result.failure}: {result.message}")
        raise EnvironmentFault(f"{job.kind} lost its worker {MAX_LOST} times: {result.message}")

    def _wait(self) -> JobResult | None:
        stop = self.stop_request()
        if stop is not None:
            self.record({"event": "stopped", "reason": type(stop).__name__.lower()})
            raise stop
        result = self.pool.next(POLL)
        if result is None:
            self.notify()
        return result

    def _recipe(self, name: str) -> Recipe:
        if name not in self.recipes:
            genome = self.history.candidates[name].genome
            assert genome is not None
            self.recipes[name] = self.space.decode(genome)
        return self.recipes[name]

    def _key(self, recipe: Recipe, split: Split) -> str:
        """Evaluation key: what the scores depend on, and nothing else."""
        assert self.history.prepared is not None
        evaluation = self.campaign.config.evaluation
        parts = {
            "recipe": recipe.digest,
            "evaluators": {n: e["digest"] for n, e in self.history.prepared["evaluators"].items()},
            "split": split,
            "blocks": "all",
            "dtype": evaluation.dtype,
            "batch_size": evaluation.batch_size,
        }
        return hashlib.sha256(canonical_json(parts).encode()).hexdigest()


def _versions() -> dict[str, str]:
    names = ("evomerge", "torch", "transformers", "lm-eval", "pymoo", "numpy", "ray", "safetensors")
    return {name: metadata.version(name) for name in names}


def _refuse_foreign_files(directory: Path) -> None:
    ours = (LEDGER_FILE, ITEMS_FOLDER, CACHE_FOLDER)
    foreign = sorted(p.name for p in directory.iterdir() if not p.name.startswith(ours))
    if foreign:
        found = f"found {', '.join(foreign[:3])} ({len(foreign)} in all)"
        raise ConfigError(
            Problem("E135", "not empty and no campaign folder", found, "choose another", str(directory))
        )


def _differences(recorded: Mapping[str, Any], campaign: Campaign) -> list[Problem]:
    then, now = identity(recorded), identity(campaign.to_json())
    todo = "only `budget` and `workers` may change; start a new folder for another campaign"
    problems = []
    for name in sorted(set(then) | set(now)):
        if then.get(name) != now.get(name):
            found = f"was {then.get(name)!r}, is {now.get(name)!r}"
            problems.append(
                Problem("E504", "changed since the start", found, todo, str(campaign.file), field=name)
            )
    return problems


def _refuse_drift(
    recorded: Mapping[str, Any], report: Mapping[str, Any], paths: Mapping[str, str]
) -> None:
    problems = [
        Problem("E239", "the weights changed since the campaign began", "", "restore them", paths[name])
        for name, digest in report["checkpoints"].items()
        if recorded["checkpoints"].get(name) != digest
    ]
    if problems:
        raise CheckpointError(problems)
    changed = [
        Problem("E504", "the evaluator or its items changed since the campaign began", field=name)
        for name, entry in report["evaluators"].items()
        if recorded["evaluators"][name]["digest"] != entry["digest"]
    ]
    if changed:
        raise ConfigError(changed)
