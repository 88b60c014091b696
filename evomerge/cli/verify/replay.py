"""Genomes decoded again, and the optimizer asked again, as far as a ledger goes."""

from __future__ import annotations

from collections.abc import Mapping

from evomerge.campaign.campaign import Campaign, campaign_from_json
from evomerge.campaign.prepared import prepared_baselines, prepared_space
from evomerge.cli.verify.report import Verification
from evomerge.errors import EvomergeError, LedgerDamaged, Problem
from evomerge.ledger.history import History
from evomerge.ledger.item_store import ItemStore
from evomerge.recipe.recipe import Recipe
from evomerge.run.replay import ReplayDiffers, campaign_optimizer, refiners, replay, seeds
from evomerge.run.slopes import SlopesDiffer
from evomerge.search_space import SearchSpace


def check_recipes(history: History, store: ItemStore, result: Verification) -> None:
    """Genomes decode to the recorded recipes, and the optimizer asks for them again."""
    assert history.prepared is not None
    try:
        campaign = campaign_from_json(history.config)
        # Where the checkpoints lie is no part of a digest.
        paths = dict.fromkeys(history.prepared.checkpoints, "")
        space = prepared_space(campaign, history.prepared, paths)
        recipes = prepared_baselines(campaign, history.prepared, paths, history.candidates)
    except (EvomergeError, ValueError, KeyError) as error:
        result.fault("the recorded campaign cannot be read again", str(error))
        return
    for candidate in history.candidates.values():
        try:
            known = (
                recipes[candidate.id] if candidate.genome is None else space.decode(candidate.genome)
            )
        except (KeyError, ValueError) as error:
            result.fault("a genome cannot be decoded", str(error), candidate.id)
            continue
        result.count("recipes decoded again", 1)
        if known.digest != candidate.recipe:
            result.fault("the recipe is not that of the genome", known.digest, candidate.id)
    if history.baselines is not None:
        _replay(campaign, space, recipes, history, store, result)


def _replay(
    campaign: Campaign,
    space: SearchSpace,
    recipes: Mapping[str, Recipe],
    history: History,
    store: ItemStore,
    result: Verification,
) -> None:
    steady = campaign.config.optimizer.schedule == "steady_state"
    what = {
        "asked": "candidates asked again" if steady else "generations asked again",
        "adopted": f"{'candidates' if steady else 'generations'} taken from the record",
        "refined": "refinements begun again",
        "slopes": "batches of slopes asked again",
    }
    try:
        initial = list(seeds(campaign, space, recipes, history))
        optimizer = campaign_optimizer(campaign, space, initial, history)
        refine = refiners(campaign, space, initial, history, optimizer)
        for turn in replay(optimizer, refine, history, campaign.objectives, store):
            if turn in what:
                result.count(what[turn], 1)
    except (ReplayDiffers, SlopesDiffer) as error:
        versions = ", ".join(f"{k} {v}" for k, v in sorted(history.versions.items()))
        todo = f"it was written with {versions}"
        wrong = "the ledger cannot be replayed"
        result.problems.append(Problem("E505", wrong, str(error), todo, result.file))
    except LedgerDamaged as error:
        result.problems += error.problems
