"""Replay: what a ledger says was asked and told, repeated through fresh optimizers.

On resume the recorded asks and tells are repeated in the order of the ledger. Optimizers that work an ask out
from seed, number and history adopt the recorded genomes; of others a difference is an error. Refinements have
optimizers of their own, made where the ledger says that they begin.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from evomerge.campaign.campaign import Campaign
from evomerge.failpoint import failpoint
from evomerge.front.selection import item_arrays
from evomerge.ledger.bounds import bounds_of, told_bounds
from evomerge.ledger.candidate import Candidate
from evomerge.ledger.history import History
from evomerge.ledger.item_store import ItemStore
from evomerge.objectives.constraint import Bound
from evomerge.objectives.objective import Failed, Objective, Outcome, complete, raced
from evomerge.optimizers.baselines import UNIFORM
from evomerge.optimizers.kinds import make_optimizer
from evomerge.optimizers.optimizer import AdoptingOptimizer, LooksAtItems, Optimizer
from evomerge.optimizers.recorded_settings import as_begun, refining_as_begun
from evomerge.optimizers.seeders import metagpt_seeds
from evomerge.optimizers.slopes import MOST_LEARNING, SlopeGround, SlopeOptimizer
from evomerge.optimizers.stage import LEARNING, Stage, without_learning
from evomerge.optimizers.stages import Stages
from evomerge.recipe.recipe import Recipe
from evomerge.run.slopes import SlopesDiffer, recorded, slope_ground
from evomerge.search_space import Genome, SearchSpace


class ReplayDiffers(Exception):
    """The optimizer does not do again what the ledger says it did; the message says where."""


def campaign_optimizer(
    campaign: Campaign, space: SearchSpace, initial: Sequence[Genome], history: History
) -> Optimizer:
    """The optimizer of a campaign, as it was before the first ask.

    Raises:
        SlopesDiffer: a baseline lacks scores that it would begin from.
    """
    section = campaign.config.optimizer
    stages = _stages_as_begun(campaign, history.stated.settings)
    found: Optimizer
    if campaign.stages:
        parts = (space.genes, campaign.objectives, section.population)
        found = Stages(stages, *parts, campaign.config.seed, initial)
    else:
        found = make_optimizer(
            section.kind,
            space.genes,
            campaign.objectives,
            population=section.population,
            seed=campaign.config.seed,
            initial=initial,
            settings=stages[0].settings,
            schedule=section.schedule,
            focus=campaign.focus,
            known=list(history.starts.known) if history.starts is not None else (),
        )
    ground = _ground(campaign, stages[0], space, history)
    if ground is not None and isinstance(found, SlopeOptimizer):
        found.begin(ground)
    return found


def _stages_as_begun(campaign: Campaign, recorded: Sequence[Mapping[str, Any]] | None) -> list[Stage]:
    """The stages with their settings of when the campaign began; without stages the whole search as one."""
    section = campaign.config.optimizer
    if not campaign.stages:
        settings = as_begun(section.kind, section.options, None if recorded is None else recorded[0])
        return [Stage("both", section.kind, settings)]
    if recorded is None:
        return [without_learning(stage) for stage in campaign.stages]
    sections = campaign.config.stages
    return [
        replace(stage, settings=as_begun(stage.kind, section.options, settings))
        for stage, section, settings in zip(campaign.stages, sections, recorded, strict=True)
    ]


def _ground(
    campaign: Campaign, first: Stage, space: SearchSpace, history: History
) -> SlopeGround | None:
    """What the first stage learns from, which may be the merge of all layers in order; None if it does not.

    Raises:
        SlopesDiffer: as `slope_ground`.
    """
    if first.kind not in LEARNING:
        return None
    of = space.merging if campaign.stages and space.begins_with_the_merge else space
    ground = slope_ground(history, campaign.objectives, of, bool(first.settings.whole_tensors))
    if first.evaluations is not None:
        return replace(ground, allowance=MOST_LEARNING * first.evaluations * history.search_items)
    return ground


def seeds(
    campaign: Campaign, space: SearchSpace, recipes: Mapping[str, Recipe], history: History
) -> dict[Genome, str]:
    """What was read from `start_from`, then the shown baselines (`recipes` by id) and MetaGPT's weights.

    Baselines are left out as far as the space does not have them, MetaGPT's weights where gradients teach
    better ones.

    Returns:
        Genomes in order, to what each is: the name of the file or folder, the baseline's id, `metagpt`.
    """
    found: dict[Genome, str] = {}
    if history.starts is not None:
        found = history.starts.sources
    for name in history.reference_ids():
        genome = space.encode(recipes[name])
        if genome is None and name == UNIFORM:
            # 1/3 is on no decimal grid: the nearest point stands for it.
            genome = space.uniform(dict.fromkeys(campaign.experts, 1.0 / len(campaign.experts)))
        if genome is not None:
            found.setdefault(genome, name)
    if _wants_metagpt(campaign, space, history):
        for genome in metagpt_seeds(space, history.prepared.task_vectors if history.prepared else None):
            found.setdefault(genome, "metagpt")
    if space.mixtures is not None:
        # On base and uniform average, all layers and experts: no baseline has a mixture to start from.
        for genome, name in list(found.items()):
            if name in ("base", UNIFORM):
                mixed = (*genome[: len(genome) - len(space.mixtures)], *space.mixtures.every)
                found.setdefault(mixed, f"mixture-{name}")
    return found


def _wants_metagpt(campaign: Campaign, space: SearchSpace, history: History) -> bool:
    """Whether the search begins with MetaGPT's weights: not if it, or its first stage, learns better ones."""
    first = _stages_as_begun(campaign, history.stated.settings)[0]
    ground = _ground(campaign, first, space, history)
    learns = ground is not None and (any(ground.items) or any(ground.choices))
    return not learns or bool(first.settings.metagpt)


def outcomes(
    candidates: Iterable[Candidate],
    objectives: Sequence[Objective],
    bounds: Sequence[Bound],
    store: ItemStore | None = None,
) -> list[Outcome]:
    """What an optimizer is told of settled candidates, with a `store` also the scores of items.

    Raises:
        KeyError: if one is not settled, or the metric of an objective or bound was not measured.
        LedgerDamaged: if scores of items cannot be read.
    """
    return [_outcome(candidate, objectives, bounds, store) for candidate in candidates]


def store_for(optimizer: Optimizer, store: ItemStore) -> ItemStore | None:
    """The store, if the optimizer looks at items."""
    return store if isinstance(optimizer, LooksAtItems) and optimizer.wants_items else None


def _outcome(
    candidate: Candidate,
    objectives: Sequence[Objective],
    bounds: Sequence[Bound],
    store: ItemStore | None,
) -> Outcome:
    if candidate.failure is not None:
        return Failed(candidate.failure)
    if candidate.raced is not None:
        return raced(objectives, candidate.raced.metrics, sum(candidate.seen.values()))
    found = complete(objectives, candidate.evaluations["search"].metrics, bounds)
    arrays = None if store is None else item_arrays([candidate], objectives, "search", store)
    if arrays is None:
        return found
    pairs = zip(objectives, arrays, strict=True)
    return replace(found, items=tuple(-objective.sign * rows[0] for objective, rows in pairs))


Refine = Callable[[int], Optimizer]
"""Makes the optimizer of a refinement, by its number, from what was told before it began."""


def refiners(
    campaign: Campaign,
    space: SearchSpace,
    initial: Sequence[Genome],
    history: History,
    optimizer: Optimizer,
) -> Refine:
    """What makes the refiner of a refinement, by its number.

    Args:
        campaign: whose objectives and seed it has.
        space: whose genes it has.
        initial: genomes it may begin with.
        history: what was told before the refinement began is told to it.
        optimizer: the campaign's own, replayed up to there.
    """

    def make(number: int) -> Optimizer:
        from evomerge.optimizers.refiner import PolicyRefiner, Refiner

        names: list[str] = []
        for turn in history.turns:
            if turn.refine == number:
                break
            names += turn.ids if turn.state is not None else ()
        told = [history.candidates[name] for name in names]
        found = outcomes(told, campaign.objectives, bounds_of(history))
        pairs = [(c.genome, o) for c, o in zip(told, found, strict=True) if c.genome is not None]
        # Notes of the campaign's own optimizer are of its own chart, which it knows itself.
        refined = [c for c in told if c.asker is not None]
        places = {c.genome: c.note for c in refined if c.genome is not None and c.note is not None}
        event = history.refinements[number]
        seed, wanted = campaign.config.seed + 1 + number, event.preference
        if event.by == "policy":
            return PolicyRefiner(space.genes, campaign.objectives, seed, wanted, pairs, optimizer)
        parts = (space.genes, campaign.objectives, seed, initial, wanted, pairs, optimizer)
        return Refiner(*parts, places, refining_as_begun(event.settings))

    return make


def replay(
    optimizer: Optimizer,
    refine: Refine,
    history: History,
    objectives: Sequence[Objective],
    store: ItemStore,
    askers: dict[int | None, Optimizer] | None = None,
) -> Iterator[str]:
    """Repeat every ask and tell of a history, and its slopes, through fresh optimizers.

    Yields a word for each turn that was repeated (`asked`, `told`, `slopes`), `adopted` where the optimizer
    takes what is on record for what it asked, `refined` where a refinement begins. `askers` comes to hold the
    optimizers by refinement, the campaign's own as None.

    Raises:
        ReplayDiffers: where it asks otherwise, comes to another state, or is told what it cannot be.
        LedgerDamaged: if a gradient cannot be read.
    """
    steady = history.stated.is_steady
    own, others = told_bounds(history, None), bounds_of(history)
    known: dict[int | None, Optimizer] = {} if askers is None else askers
    known[None] = optimizer
    asked = told = 0
    for turn in history.turns:
        failpoint("driver.replaying")
        if turn.refine is not None:
            known[turn.refine] = refine(turn.refine)
            yield "refined"
            continue
        if turn.slopes is not None:
            if not _replay_slopes(optimizer, history, store, turn.slopes):
                return  # unfinished, so the last turn: the search goes on with it
            yield "slopes"
            continue
        if turn.asker not in known:
            raise ReplayDiffers(f"refinement {turn.asker} asks before it began")
        who = known[turn.asker]
        single = steady or turn.asker is not None
        candidates = [history.candidates[name] for name in turn.ids]
        if turn.state is None:
            if isinstance(who, SlopeOptimizer) and who.slopes():
                who.enough()  # so the session did that recorded this
            genomes = [candidate.genome for candidate in candidates if candidate.genome is not None]
            adopts = isinstance(who, AdoptingOptimizer)
            if isinstance(who, AdoptingOptimizer):
                notes = [candidate.note for candidate in candidates]
                who.adopt(genomes, notes, history.forecasts[asked])
            elif who.ask() != genomes:
                what = turn.ids[0] if single and turn.ids else f"generation {asked}"
                raise ReplayDiffers(f"{what} is asked otherwise")
            asked += 1
            yield "adopted" if adopts else "asked"
            continue
        numbers = [candidate.number for candidate in candidates]
        what = turn.ids[0] if single and turn.ids else f"generation {told}"
        try:
            bounds = own if turn.asker is None else others
            told_now = outcomes(candidates, objectives, bounds, store_for(who, store))
            who.tell(told_now, numbers)
        except (KeyError, RuntimeError, ValueError) as error:
            raise ReplayDiffers(f"{what} is told, but lacks results: {error}") from error
        if who.state_digest() != turn.state:
            raise ReplayDiffers(f"the optimizer's state is another after {what}")
        told += 1
        yield "told"


def _replay_slopes(optimizer: Optimizer, history: History, store: ItemStore, batch: int) -> bool:
    if not isinstance(optimizer, SlopeOptimizer) or not optimizer.slopes():
        raise ReplayDiffers(f"batch {batch} of slopes is not asked for")
    try:
        optimizer.adopt_slopes({n: event.note for n, event in history.slopes[batch].items()})
        answers = recorded(history, store, batch, optimizer.slopes())
    except (SlopesDiffer, ValueError) as error:
        raise ReplayDiffers(str(error)) from error
    if answers is None:
        return False
    optimizer.tell_slopes(answers)
    return True
