"""Recorded settings: a campaign goes on with the settings it began with, whatever the defaults are by then.

An optimizer's settings are those that its campaign states and the defaults of the rest. The latter change
from one version to the next; so a ledger records all of them, and a replay takes them from there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from evomerge.optimizers.kinds import optimizer_settings
from evomerge.optimizers.options import Option
from evomerge.optimizers.settings import REFINING, AutoSettings

_BEFORE: Mapping[str, Option] = {
    "allotment": "alike",
    "fewest_held_back": 0,
    "fewest_items": 1_000_000,
    "give_up": 0,
    "in_turn": False,
    "longer": 1,
    "metagpt": True,
    "share": 1.0,
    "split_from": 500,
    "whole_tensors": False,
}
_LESSON: Mapping[str, Option] = {"splits": 1, "patience": 2}

EARLIER: Mapping[str, Mapping[str, Option]] = {"auto": _LESSON, "learned-front": _LESSON}
"""Defaults, by kind, of campaigns that recorded none: those begun before December 2026."""

ADDED: Mapping[str, Mapping[str, Option]] = {
    "auto": {**_BEFORE, "beyond": "never", "chart": "always", "scales": "by_level"},
    "cma-es": {"others": "as_weights"},
    "learned-front": _BEFORE,
    "mmmo": {"acquisition": "pool"},
    "optuna": {"seeded": "once"},
    "surrogate": {"scales": "by_level"},
}
"""By kind, what a record means that lacks a setting which came later: that all is as it was before."""


def to_record(settings: Any) -> dict[str, Option]:
    """All settings by name, as a ledger keeps them; none of a kind that has no settings."""
    return dataclasses.asdict(settings) if dataclasses.is_dataclass(type(settings)) else {}


def as_begun(kind: str, stated: Mapping[str, Option], recorded: Mapping[str, Option] | None) -> Any:
    """The settings of a kind in a campaign that has begun.

    Args:
        kind: the optimizer.
        stated: what the campaign states of them.
        recorded: all of them as `to_record` gave them; None where the ledger is older than that.

    Raises:
        ConfigError: as `optimizer_settings`.
    """
    if recorded is None:
        recorded = EARLIER.get(kind, {})
    return optimizer_settings(kind, {**ADDED.get(kind, {}), **recorded, **stated})


def refining_as_begun(recorded: Mapping[str, Any] | None) -> AutoSettings:
    """The settings of a refinement that has begun; `recorded` as for `as_begun`."""
    if recorded is None:
        return dataclasses.replace(REFINING, scales="by_level")
    found: AutoSettings = as_begun("auto", {}, recorded)
    return found
