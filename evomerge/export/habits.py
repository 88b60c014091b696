"""What an export has beside its weights: where to stop, a chat template, a licence, and what models state."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from evomerge.checkpoint.compare import model_habits
from evomerge.checkpoint.folder import CheckpointFolder, text_config
from evomerge.checkpoint.habits import (
    Difference,
    agreed_template,
    chat_template,
    differences,
    habits,
    stop_ids,
    union_of_stops,
    write_stops,
)
from evomerge.checkpoint.licence import Licence, joined_licence, read_licence
from evomerge.checkpoint.tokenizer import write_chat_template
from evomerge.export.files import CONFIG_FILE
from evomerge.export.merge import OpenedMerge
from evomerge.recipe.recipe import UNION


def join_habits(merge: OpenedMerge, staged: Path) -> tuple[str, ...]:
    """What models that go into a merge agree on or add to one another beside their weights; gives notes.

    After the model was loaded: its generated answers are compared with those of the search, which stopped
    where the base stops.
    """
    template, recipe, notes = merge.template, merge.recipe, []
    used = [merge.folders[name] for name in sorted(recipe.checkpoints)]
    if merge.vocabulary is not None and recipe.tokenizer == UNION:
        full = [(f.path, text_config(f.config)) for f in used if isinstance(f, CheckpointFolder)]
        stops = union_of_stops(full, merge.vocabulary.ids)
        if stops and stops != stop_ids(staged, text_config(template.config)):
            write_stops(staged, stops)
            notes.append(f"generation stops at {stops}, where any of the models does")
    if not recipe.chat_template and chat_template(staged) is None:
        agreed = agreed_template([merge.stated[name].path for name in sorted(recipe.checkpoints)])
        if agreed is not None:
            write_chat_template(staged, agreed)
            notes.append(f"{template.name} has no chat template; the export has that of the others")
    return tuple(notes)


@dataclass(frozen=True)
class Aside:
    """What stands beside the weights of a merge.

    Attributes:
        differences: in what its models differ, and what the export has.
        licences: what each model states, by name.
        licence: what the merge states.
        warnings: what a person must look at of the licences.
    """

    differences: tuple[Difference, ...]
    licences: Mapping[str, Licence]
    licence: Licence
    warnings: tuple[str, ...]


def what_stands_aside(merge: OpenedMerge, staged: Path) -> Aside:
    """Settings and licences of the models of a merge, beside those of the staged export."""
    names = sorted(merge.recipe.checkpoints, key=lambda name: (name != "base", name))
    config = json.loads((staged / CONFIG_FILE).read_text(encoding="utf-8"))
    found = differences(
        {name: model_habits(merge.stated[name]) for name in names},
        habits(staged, text_config(config)),
    )
    licences = {name: read_licence(merge.stated[name].path) for name in names}
    licence, warnings = joined_licence(licences)
    return Aside(found, licences, licence, warnings)
