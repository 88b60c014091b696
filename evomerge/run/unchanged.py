"""What must be the same in every session of a campaign: its file, the weights, the evaluators."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evomerge.campaign.campaign import CHANGEABLE, Campaign, identity
from evomerge.errors import CheckpointError, ConfigError, Problem
from evomerge.ledger.events import PreparedEvent


def differences(recorded: Mapping[str, Any], campaign: Campaign) -> list[Problem]:
    """E504 for each field that is not as in `recorded`, the `Campaign.to_json` of when it began."""
    then, now = _flat(identity(recorded)), _flat(identity(campaign.to_json()))
    todo = f"only {', '.join(CHANGEABLE)} may change; start a new folder for another campaign"
    file = str(campaign.file)
    return [
        Problem(
            "E504",
            "changed since the campaign began",
            f"was {then.get(name, 'not set')!r}, is {now.get(name, 'not set')!r}",
            todo,
            file,
            field=name,
        )
        for name in sorted(set(then) | set(now))
        if then.get(name) != now.get(name)
    ]


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted path to value, for every value that is no (filled) mapping."""
    flat: dict[str, Any] = {}
    for name, value in data.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def refuse_drift(recorded: PreparedEvent, found: PreparedEvent, paths: Mapping[str, str]) -> None:
    """See that weights, evaluators and items are those that the campaign began with.

    Raises:
        CheckpointError: E239, for each model whose weights changed; `paths` are those of all by name.
        ConfigError: E504, for each evaluator that changed, itself or in its items.
    """
    wrong = "changed since the campaign began"
    weights = [
        Problem("E239", f"the weights of `{name}` {wrong}", todo="restore them", file=paths[name])
        for name, digest in found.checkpoints.items()
        if recorded.checkpoints.get(name) != digest
    ]
    if weights:
        raise CheckpointError(weights)
    evaluators = [
        Problem("E504", f"evaluator `{name}` or its items {wrong}", todo="restore it", field=name)
        for name in sorted({*recorded.evaluators, *found.evaluators})
        if recorded.digest_of(name) != found.digest_of(name)
    ]
    if evaluators:
        raise ConfigError(evaluators)
