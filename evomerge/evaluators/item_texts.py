"""What items say, for people: read from where an evaluator has them, in its fixed order, running no code."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from evomerge.evaluators.declaration import Declaration
from evomerge.evaluators.item_files import ItemsDeclaration
from evomerge.evaluators.items import NAME_FIELDS, Item, fixed_order, item_id, json_lines
from evomerge.evaluators.lm_eval_declaration import LmEvalDeclaration, task_files
from evomerge.objectives.scores import Split


def item_texts(declaration: Declaration, split: Split) -> tuple[str, ...]:
    """The items of a split, in the order of per-item results, each as its fields in one line.

    Raises:
        LookupError: where they cannot be told without running a task's own code or asking a network.
        Exception: whatever reading them raises.
    """
    if isinstance(declaration, ItemsDeclaration):
        return tuple(map(item_text, declaration.splits()[split].items))
    if not isinstance(declaration, LmEvalDeclaration):
        raise LookupError(f"the evaluator `{declaration.name}` has no items with a text")
    docs = _documents(declaration, split)
    return tuple(item_text(docs[place]) for place in fixed_order([item_id(doc) for doc in docs]))


def item_text(item: Mapping[str, Any]) -> str:
    """The fields of an item in one line, without those that only name it."""
    shown = [f"{key}: {_value(value)}" for key, value in item.items() if key not in NAME_FIELDS]
    return "; ".join(shown)


def _documents(declaration: LmEvalDeclaration, split: Split) -> Sequence[Item]:
    task = task_files(declaration)[split]
    if task.changes_items:
        raise LookupError(f"what the items of task {task.name} are, its own code says")
    if task.local_item_ids() is not None:
        return [doc for path in task.data_files(task.scored_split) for doc in json_lines(path)]
    from evomerge.evaluators.data import open_data

    return [dict(row) for row in open_data(task)[task.scored_split]]


def _value(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return " ".join(text.split())
