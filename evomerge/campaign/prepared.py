"""What the `prepare` job found, as the ledger keeps it, and the search space laid over it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evomerge.campaign.campaign import Campaign
from evomerge.recipe.recipe import CheckpointSource
from evomerge.search_space import ModelLayout, SearchSpace, build_search_space


def layout_from_json(data: Mapping[str, Any]) -> ModelLayout:
    """The layout a `prepared` event recorded."""
    active = data.get("active")
    return ModelLayout(
        layers=data["layers"],
        places=tuple(data["places"]),
        parameters=data["parameters"],
        active=None if active is None else {name: tuple(p) for name, p in active.items()},
    )


def layout_to_json(layout: ModelLayout) -> dict[str, Any]:
    """The layout as plain JSON data."""
    active = layout.active
    return {
        "layers": layout.layers,
        "places": list(layout.places),
        "parameters": layout.parameters,
        "active": None if active is None else {name: list(p) for name, p in active.items()},
    }


def prepared_sources(
    campaign: Campaign, prepared: Mapping[str, Any], paths: Mapping[str, str]
) -> dict[str, CheckpointSource]:
    """`base` and experts: where they lie now, with the content digests recorded at the start."""
    stated = campaign.references()
    return {
        name: CheckpointSource(paths[name], digest, allow=tuple(stated[name].allow or ()))
        for name, digest in prepared["checkpoints"].items()
    }


def prepared_space(
    campaign: Campaign, prepared: Mapping[str, Any], paths: Mapping[str, str]
) -> SearchSpace:
    """The campaign's search space over the layout and digests of its `prepared` event."""
    return build_search_space(
        campaign.space,
        layout_from_json(prepared["layout"]),
        prepared_sources(campaign, prepared, paths),
        campaign.experts,
        prepared["storage"],
        campaign.config.seed,
        str(campaign.space_file),
        campaign.tokenizer,
    )
