"""The search space of a campaign and the recipes of its candidates, from what its ledger holds."""

from __future__ import annotations

from evomerge.campaign.campaign import campaign_from_json
from evomerge.campaign.check import locate
from evomerge.campaign.prepared import prepared_recipe, prepared_space
from evomerge.errors import CheckpointError
from evomerge.ledger.candidate import Candidate
from evomerge.ledger.history import History
from evomerge.recipe.recipe import Recipe
from evomerge.search_space import SearchSpace


def recorded_paths(history: History) -> dict[str, str]:
    """Base and experts to their folders, empty of a hub model that is not on this machine."""
    campaign = campaign_from_json(history.config)
    paths = {}
    for name, reference in campaign.references().items():
        try:
            paths[name] = locate(name, reference)
        except CheckpointError:
            paths[name] = ""  # a digest stands for it; the cache may have been emptied since
    return paths


def recorded_space(history: History) -> SearchSpace:
    """The search space a campaign recorded; it must be prepared."""
    assert history.prepared is not None
    campaign = campaign_from_json(history.config)
    return prepared_space(campaign, history.prepared, recorded_paths(history))


def recorded_recipe(history: History, candidate: Candidate) -> Recipe:
    """The recipe of a candidate or baseline, from what the ledger holds."""
    assert history.prepared is not None
    campaign = campaign_from_json(history.config)
    return prepared_recipe(campaign, history.prepared, recorded_paths(history), candidate)
