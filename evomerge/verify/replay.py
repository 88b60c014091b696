"""Genomes decoded again, and the optimizer asked again, as far as a ledger goes."""

from __future__ import annotations

from collections.abc import Mapping

from evomerge.campaign.campaign import Campaign, campaign_from_json
from evomerge.campaign.prepared import prepared_sources, prepared_space
from evomerge.errors import EvomergeError, Problem
from evomerge.ledger.history import History
from evomerge.optimizers.baselines import baseline_recipes
from evomerge.recipe.recipe import Recipe
from evomerge.run.search import campaign_optimizer, candidate_number, outcomes, seeds
from evomerge.search_space import SearchSpace
from evomerge.verify.report import Verification


def check_recipes(history: History, result: Verification) -> None:
    """Genomes decode to the recorded recipes, and the optimizer asks for them again."""
    assert history.prepared is not None
    try:
        campaign = campaign_from_json(history.config)
        # Where the checkpoints lie is no part of a digest.
        paths = dict.fromkeys(history.prepared.checkpoints, "")
        space = prepared_space(campaign, history.prepared, paths)
        sources = prepared_sources(campaign, history.prepared, paths)
    except (EvomergeError, ValueError, KeyError) as error:
        result.fault("the recorded campaign cannot be read again", str(error))
        return
    recipes = baseline_recipes(
        sources,
        campaign.experts,
        campaign.config.baselines.single,
        space.layout.layers,
        history.prepared.storage,
        campaign.tokenizer,
    )
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
        _replay(campaign, space, recipes, history, result)


def _replay(
    campaign: Campaign,
    space: SearchSpace,
    recipes: Mapping[str, Recipe],
    history: History,
    result: Verification,
) -> None:
    section = campaign.config.optimizer
    initial = seeds(campaign, space, recipes, history)
    optimizer = campaign_optimizer(campaign, space.genes, initial)

    def differs(wrong: str) -> None:
        versions = ", ".join(f"{k} {v}" for k, v in sorted(history.versions.items()))
        todo = f"it was written with {versions}"
        result.problems.append(
            Problem("E505", "the ledger cannot be replayed", wrong, todo, result.file)
        )

    steady = section.schedule == "steady_state"
    asked = told = 0
    for turn in history.turns:
        what = turn.ids[0] if steady and turn.ids else f"generation {told if turn.state else asked}"
        candidates = [history.candidates[name] for name in turn.ids]
        if turn.state is None:
            if optimizer.ask() != [candidate.genome for candidate in candidates]:
                differs(f"{what} is asked otherwise")
                return
            result.count("candidates asked again" if steady else "generations asked again", 1)
            asked += 1
            continue
        try:
            optimizer.tell(
                outcomes(candidates, campaign.objectives, history.bounds()),
                [candidate_number(name) for name in turn.ids],
            )
        except (KeyError, RuntimeError, ValueError) as error:
            result.fault(f"{what} is told, but lacks results", str(error))
            return
        if optimizer.state_digest() != turn.state:
            differs(f"after {what} the optimizer's state is another")
            return
        told += 1
