"""What the `prepare` job found, as the ledger keeps it: the search space laid over it, and recipes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from evomerge.campaign.campaign import Campaign
from evomerge.evaluators.evaluator import GenerationEngine
from evomerge.ledger.candidate import Candidate
from evomerge.ledger.events import PreparedEvent, PreparedLayout
from evomerge.optimizers.baselines import baseline_recipes, soups_in
from evomerge.recipe.recipe import CheckpointSource, Recipe
from evomerge.search_space import ModelLayout, SearchSpace, build_search_space


def layout_of(prepared: PreparedEvent) -> ModelLayout:
    """The layout that was recorded."""
    found = prepared.layout
    return ModelLayout(found.layers, found.places, found.parameters, found.active, found.rows or {})


def layout_record(layout: ModelLayout) -> PreparedLayout:
    """The layout as it is recorded."""
    return PreparedLayout(
        layers=layout.layers,
        places=layout.places,
        parameters=layout.parameters,
        active=layout.active,
        rows=layout.rows or None,
    )


def generation_of(stated: str, prepared: PreparedEvent | None) -> GenerationEngine:
    """The engine that writes a campaign's answers; by `auto`, the one that was faster in `prepare`."""
    if stated == "auto":
        seconds = (prepared.generation if prepared else None) or {}
        faster = seconds.get("continuous", math.inf) < seconds.get("padded", math.inf)
        return "continuous" if faster else "padded"
    return "continuous" if stated == "continuous" else "padded"


def prepared_sources(
    campaign: Campaign, prepared: PreparedEvent, paths: Mapping[str, str]
) -> dict[str, CheckpointSource]:
    """`base` and experts: where they lie now, with the content digests recorded at the start."""
    stated = campaign.references()
    return {
        name: CheckpointSource(paths[name], digest, allow=tuple(stated[name].allow or ()))
        for name, digest in prepared.checkpoints.items()
    }


def prepared_space(
    campaign: Campaign, prepared: PreparedEvent, paths: Mapping[str, str]
) -> SearchSpace:
    """The campaign's search space over the layout and digests of its `prepared` event."""
    return build_search_space(
        campaign.space if prepared.shares_rows else campaign.space.with_own_rows(),
        layout_of(prepared),
        prepared_sources(campaign, prepared, paths),
        campaign.experts,
        prepared.storage,
        campaign.config.seed,
        str(campaign.space_file),
        campaign.form,
        prepared.one_with_baselines,
        prepared.mixture_rows,
    )


def prepared_baselines(
    campaign: Campaign, prepared: PreparedEvent, paths: Mapping[str, str], ids: Iterable[str]
) -> dict[str, Recipe]:
    """Recipes of the campaign's baselines; of averages of some experts (soups) those among `ids`."""
    return baseline_recipes(
        prepared_sources(campaign, prepared, paths),
        campaign.experts,
        campaign.config.baselines.single,
        prepared.layout.layers,
        prepared.storage,
        campaign.form,
        soups_in(ids),
        campaign.config.baselines.ensemble,
    )


def prepared_recipe(
    campaign: Campaign, prepared: PreparedEvent, paths: Mapping[str, str], candidate: Candidate
) -> Recipe:
    """The recipe of a candidate of the search, or of a baseline."""
    if candidate.genome is None:
        return prepared_baselines(campaign, prepared, paths, [candidate.id])[candidate.id]
    return prepared_space(campaign, prepared, paths).decode(candidate.genome)
