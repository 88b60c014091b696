"""The items of a campaign's evaluators: opened, counted and compared across evaluators."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from evomerge.campaign.campaign import Campaign
from evomerge.errors import Problem
from evomerge.evaluators.declaration import Declaration, OpenedItems
from evomerge.objectives.scores import Split


def item_counts(
    declarations: Mapping[Path, Declaration], opened: Mapping[Path, OpenedItems]
) -> dict[str, dict[Split, int]]:
    """Number of items by evaluator and split, of evaluators that were opened and have items."""
    return {
        declarations[path].name: {split: len(ids) for split, ids in found.ids.items()}
        for path, found in opened.items()
        if found.ids
    }


def leaks(
    campaign: Campaign,
    declarations: Mapping[Path, Declaration],
    opened: Mapping[Path, OpenedItems],
) -> list[Problem]:
    """E128 for items that are in one split of one evaluator and in another split of another one."""
    problems: list[Problem] = []
    known: list[tuple[str, dict[Split, set[str]]]] = []
    for index, path in enumerate(campaign.evaluator_files):
        declaration = declarations[path]
        ids = opened[path].ids if path in opened else declaration.local_ids()
        own = {split: set(of_split) for split, of_split in ids.items()}
        for name, others in known:
            shared = [
                (split, other, len(own[split] & others[other]))
                for split in own
                for other in others
                if split != other and own[split] & others[other]
            ]
            if shared:
                wrong = f"`{declaration.name}` and `{name}` share items across splits"
                found = ", ".join(f"{count} {s} items are {o} items there" for s, o, count in shared)
                todo = "deal both out alike, as `evomerge split` does"
                problems.append(campaign.fault(("evaluators", index), "E128", wrong, found, todo))
        known.append((declaration.name, own))
    return problems
