"""Driver: the loop. Ask, hand out, record, tell; start or go on where the ledger stands.

Everything an optimizer sees has been fsynced to the ledger before. On resume the recorded asks and
tells are replayed through a fresh optimizer; the recorded genomes win, and a difference is an error.
Generations are told in ask order, so the result does not depend on the number of workers or on when
a session ended.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path

from evomerge.campaign.campaign import Campaign, identity_digest
from evomerge.campaign.check_objectives import by_entropy, no_ensemble, no_gradients
from evomerge.campaign.prepared import prepared_baselines, prepared_space
from evomerge.errors import (
    CheckpointError,
    ConfigError,
    EnvironmentFault,
    EvomergeError,
    LedgerDamaged,
    Problem,
)
from evomerge.failpoint import failpoint
from evomerge.front.selection import worth_rescoring
from evomerge.ledger.events import (
    CampaignEvent,
    Grant,
    GrantedEvent,
    SelectionEvent,
)
from evomerge.ledger.history import CACHE_FOLDER, LEDGER_FILE, History
from evomerge.ledger.ledger import Ledger, keep_starts
from evomerge.objectives.scores import Metric
from evomerge.optimizers.baselines import (
    freeze,
    greedy_soup,
    idle_objectives,
    soups_in,
)
from evomerge.optimizers.recorded_settings import to_record
from evomerge.recipe.recipe import Recipe
from evomerge.run.campaign_folder import make_campaign_folder
from evomerge.run.dispatch import Dispatcher
from evomerge.run.job import Job, WorkerSetup
from evomerge.run.log import run_log
from evomerge.run.pool.open import open_pool
from evomerge.run.pool.pool import Pool
from evomerge.run.pool.shown import ShownPool
from evomerge.run.progress import Observer, Progress, StopRequest
from evomerge.run.racing_references import without_items
from evomerge.run.replay import ReplayDiffers, seeds
from evomerge.run.search import Refinement, Search, number_of
from evomerge.run.starts import read_starts
from evomerge.run.unchanged import differences, refuse_drift
from evomerge.run.worker_setup import worker_setup
from evomerge.versions import library_versions

logger = logging.getLogger(__name__)

__all__ = ["Driver", "Observer", "Progress", "StopRequest", "run"]


def run(
    campaign: Campaign,
    directory: Path,
    paths: Mapping[str, str],
    storage: str,
    *,
    grants: Collection[Grant] = (),
    refinement: Refinement | None = None,
    observer: Observer | None = None,
    stop_request: StopRequest = lambda: None,
    pool: Callable[[WorkerSetup], Pool] | None = None,
    take_over: bool = False,
) -> History:
    """Run a campaign in `directory`, or go on with the one that is there, to the end of its budget.

    Args:
        campaign: the checked campaign.
        directory: the campaign folder; made if missing.
        paths: `base` and experts to their folders.
        storage: dtype merges are rounded to.
        grants: what the person allowed by name for this session; new ones are recorded.
        refinement: a further budget near a preference, instead of going on with the campaign's own.
        observer: called after every event and while waiting.
        stop_request: asked often; what it returns is raised after a clean stop.
        pool: makes the pool, which is closed at the end; without, the campaign's `workers` say which.
        take_over: from a driver whose lease has run out, also if its process is there.

    Raises:
        ConfigError: E504, if the campaign differs from the one recorded in the folder; E135, if the
            folder holds something else.
        CheckpointError: if `prepare` finds faults in the weights, or files changed since the start.
        CampaignInUse, LedgerDamaged, EnvironmentFault, TooManyFailures: as their names say.
        Stopped, Interrupted: whatever `stop_request` returned.
    """
    make_campaign_folder(directory)
    file = directory / LEDGER_FILE
    history = History()
    opened_ledger = Ledger.open(file, create=True, take_over=take_over, take=history.apply)
    with opened_ledger as ledger, run_log(directory):
        logger.info("a session begins; %s", library_versions())
        failpoint("driver.folded")
        if history.campaign and history.campaign.identity != identity_digest(campaign.to_json()):
            raise ConfigError(differences(history.config, campaign))
        setup = worker_setup(campaign, paths, storage, directory / CACHE_FOLDER, "task_code" in grants)
        if history.prepared:
            setup = replace(setup, rows=history.prepared.layout.rows)
        failpoint("driver.before_pool")
        opened = open_pool(campaign.config.workers, setup) if pool is None else pool(setup)
        workers = ShownPool(opened, directory)
        try:
            told = observer, stop_request
            dispatcher = Dispatcher(campaign, directory, ledger, history, workers, *told)
            Driver(campaign, paths, dispatcher, grants, refinement).run()
        finally:
            workers.close()
        return history


class Driver:
    """One process's turn at a campaign; each phase does only what the ledger does not show as done."""

    def __init__(
        self,
        campaign: Campaign,
        paths: Mapping[str, str],
        dispatcher: Dispatcher,
        grants: Collection[Grant] = (),
        refinement: Refinement | None = None,
    ) -> None:
        self.campaign, self.paths, self.dispatcher = campaign, paths, dispatcher
        self.grants, self.refinement = grants, refinement
        if refinement is not None:
            dispatcher.refinement = number_of(refinement, dispatcher.history)
        self.made_for: str | None = None
        self.history = dispatcher.history
        self.recipes: dict[str, Recipe] = {}

    def run(self) -> None:
        """All phases in order."""
        self.begin()
        reason = self.search()
        self.rescore()
        self.dispatcher.phase = "done"
        of_refinement = self.refinement is not None or self.history.sessions.refining is not None
        if of_refinement or self.history.stopped != reason:
            self.dispatcher.stopped(reason)

    def begin(self) -> None:
        """Everything before the search: the campaign on record, weights and starts seen, the baselines."""
        if not self.history.campaign:
            config = self.campaign.to_json()
            identity, versions = identity_digest(config), library_versions()
            settings = tuple(to_record(each) for each in self.campaign.settings)
            self.dispatcher.record(
                CampaignEvent(config=config, identity=identity, versions=versions, settings=settings)
            )
        else:
            # Displays and trackers tell what is new by what they were shown first.
            self.dispatcher.notify()
        if new := sorted(set(self.grants) - self.history.grants):
            self.dispatcher.record(GrantedEvent(grants=tuple(new)))
        self.prepare()
        self.check_gradients()
        self.check_ensemble()
        self.starts()
        self.dispatcher.phase = "baselines"
        self.baselines()
        self.check_racing()

    def prepare(self) -> None:
        """Look at the weights once; on resume, see that they are still the same."""
        stated = self.campaign.config.evaluation.generation
        if self.history.prepared is not None:
            stated = self.dispatcher.generation  # whoever is faster today
        job = Job("prepare", "prepare", generation=stated)
        found = self.dispatcher.under_way.run_once(job).prepared
        assert found is not None
        if self.history.prepared is None:
            self.dispatcher.record(found)
            for problem in found.warnings:
                logger.warning("%s", problem.as_warning)
        else:
            refuse_drift(self.history.prepared, found, self.paths)
        assert self.history.prepared is not None
        self.storage = self.history.prepared.storage
        self.space = prepared_space(self.campaign, self.history.prepared, self.paths)

    def starts(self) -> None:
        """Take from other campaigns and stated merges what the search begins with."""
        if not self.campaign.start_from or self.history.starts is not None:
            return
        is_measured = self.dispatcher.is_earlier
        found = read_starts(self.campaign, self.space, self.history, self.paths, is_measured)
        rows = self.space.layout.rows
        self.dispatcher.record(keep_starts(found, self.dispatcher.items) if rows else found)

    def baselines(self) -> None:
        """Evaluate the points of comparison, freeze the scaling."""
        assert self.history.prepared is not None
        experts = self.campaign.experts
        recipes = self._baseline_recipes()
        if self.history.baselines is not None:
            return
        needed = ("base", *experts)
        # Without base and experts there is no scale: what made one fail may have been mended.
        self.dispatcher.evaluate(list(recipes.items()), "search", again=tuple(recipes))
        for name in needed:
            candidate = self.history.candidates[name]
            if candidate.failure is not None:
                raise _unusable(name, candidate.failure, candidate.message)
        metrics = self._baseline_metrics()
        failed: list[str] = []
        while len(experts) > 2:
            failed = [name for name in soups_in(self.history.candidates) if name not in metrics]
            name, done = greedy_soup(self.campaign.objectives, metrics, experts, failed)
            if done:
                break
            self.dispatcher.evaluate([(name, self._baseline_recipes([name])[name])], "search")
            metrics = self._baseline_metrics()
        event = freeze(self.campaign.objectives, metrics, experts, self.campaign.constraints, failed)
        self.dispatcher.record(event)
        space = self.campaign.space
        others = space.layer_path is not None or space.mixture is not None
        for problem in idle_objectives(self.campaign.objectives, metrics, experts, others):
            logger.warning("%s", problem.as_warning)

    def _baseline_recipes(self, more: Collection[str] = ()) -> dict[str, Recipe]:
        """Recipes of the baselines by id, also of averages of some experts that are known, and of `more`."""
        assert self.history.prepared is not None
        ids = [*self.history.candidates, *more]
        recipes = prepared_baselines(self.campaign, self.history.prepared, self.paths, ids)
        self.recipes |= recipes
        return recipes

    def _baseline_metrics(self) -> dict[str, Mapping[str, Metric]]:
        """Scores on search items of those that have some."""
        return {
            candidate.id: candidate.evaluations["search"].metrics
            for candidate in self.history.candidates.values()
            if candidate.is_baseline and "search" in candidate.evaluations
        }

    def check_gradients(self) -> None:
        """Refuse an optimizer that cannot learn, before the baselines are paid for.

        Raises:
            ConfigError: E149.
        """
        assert self.history.prepared is not None
        entropy = by_entropy(self.campaign)
        taught = {
            objective.metric: each.teaches(objective, entropy=entropy)
            for objective in self.campaign.objectives
            for each in self.history.prepared.evaluators.values()
            if objective.metric in each.metrics
        }
        if problems := no_gradients(self.campaign, self.space, taught):
            raise ConfigError(problems)

    def check_ensemble(self) -> None:
        """Refuse models that cannot answer together.

        Raises:
            ConfigError: E142.
        """
        assert self.history.prepared is not None
        evaluators = self.history.prepared.evaluators.items()
        if problems := no_ensemble(
            self.campaign, {name: bool(each.losses) for name, each in evaluators}
        ):
            raise ConfigError(problems)

    def check_racing(self) -> None:
        """Refuse a race that could not be decided.

        Raises:
            ConfigError: E142, if an objective has no per-item results.
        """
        if self.campaign.config.racing is None:
            return
        missing = without_items(self.history, self.campaign.objectives, self.dispatcher.items)
        if missing:
            wrong = "racing compares item by item, which these objectives cannot be"
            todo = "leave `racing` out, or those objectives"
            where = str(self.campaign.file)
            raise ConfigError(Problem("E142", wrong, ", ".join(missing), todo, where, field="racing"))

    def search(self) -> str:
        """Ask, evaluate, tell until a limit is reached; returns which one."""
        self.dispatcher.phase = "search"
        try:
            search = Search(self.campaign, self.space, self.dispatcher, self.seeds())
            reason = search.run(self.refinement)
            self.made_for = search.made_for_preference()
            return reason
        except ReplayDiffers as error:
            then, now = self.history.versions, library_versions()
            changed = [f"{n} was {then.get(n)}, is {now[n]}" for n in now if then.get(n) != now[n]]
            todo = f"install the versions it began with: {', '.join(changed)}" if changed else ""
            problem = Problem("E505", "the ledger cannot be replayed", str(error), todo)
            raise LedgerDamaged(problem) from None

    def rescore(self) -> None:
        """Score what may belong to the front, and the baselines, on the selection split.

        So are models that were made for a preference, also where search items do not speak for them.
        """
        self.dispatcher.phase = "selection"
        if self.history.selection is None:
            items = self.dispatcher.items
            ids = worth_rescoring(self.history, self.campaign.objectives, items)
            known = self.history.candidates
            made = [*self.history.made_for.values(), *([self.made_for] if self.made_for else ())]
            ids += [name for name in made if "search" in known[name].evaluations]
            failpoint("driver.before_selection")
            selection = SelectionEvent(ids=tuple(dict.fromkeys(ids)), made_for=self.made_for)
            self.dispatcher.record(selection)
        assert self.history.selection is not None
        wanted = [*self.history.selection, *self.history.reference_ids()]
        self.dispatcher.evaluate([(name, self._recipe(name)) for name in wanted], "selection")

    def seeds(self) -> dict[tuple[float, ...], str]:
        """Genomes the search begins with, and what each is."""
        return seeds(self.campaign, self.space, self.recipes, self.history)

    def _recipe(self, name: str) -> Recipe:
        if name not in self.recipes:
            genome = self.history.candidates[name].genome
            assert genome is not None
            return self.space.decode(genome)
        return self.recipes[name]


def _unusable(name: str, failure: str, message: str) -> EvomergeError:
    """Why a campaign cannot begin: its base or one of its experts has no scores."""
    wrong, found = f"`{name}` itself cannot be scored", f"{failure}: {message}"
    if failure.startswith("nonfinite"):
        return CheckpointError(Problem("E232", wrong, found, "leave it out", field=name))
    if failure == "deadline":
        wrong = f"`{name}` takes longer than the deadline"
        return ConfigError(Problem("E139", wrong, message, "allow more", field="workers.deadline"))
    return EnvironmentFault(Problem("E405", wrong, found, "mend the cause, then run again", field=name))
