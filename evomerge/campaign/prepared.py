"""What the `prepare` job found, as the ledger keeps it, and the search space laid over it."""

from __future__ import annotations

import math
from collections.abc import Mapping

from evomerge.campaign.campaign import Campaign
from evomerge.evaluators.evaluator import GenerationEngine
from evomerge.ledger.events import PreparedEvent, PreparedLayout
from evomerge.recipe.recipe import CheckpointSource
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
        campaign.space,
        layout_of(prepared),
        prepared_sources(campaign, prepared, paths),
        campaign.experts,
        prepared.storage,
        campaign.config.seed,
        str(campaign.space_file),
        campaign.form,
        prepared.one_with_baselines,
    )
