"""What an export takes from all its models beside their weights: where to stop, and a chat template."""

from __future__ import annotations

from pathlib import Path

from evomerge.checkpoint.folder import CheckpointFolder, text_config
from evomerge.checkpoint.habits import (
    agreed_template,
    chat_template,
    stop_ids,
    union_of_stops,
    write_stops,
)
from evomerge.checkpoint.tokenizer import write_chat_template
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
