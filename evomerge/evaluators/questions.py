"""What the items of an lm-eval task ask, for losses: requests, and which of them are right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from evomerge.evaluators.losses import Question
from evomerge.evaluators.margins import right_choices

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

    from evomerge.evaluators.packed import Request


def questions(
    task: Any, items: Sequence[Sequence[Instance]], tokens: Sequence[Sequence[Request]]
) -> list[Question]:
    """The questions of some items of a task.

    Args:
        task: lm-eval's.
        items: the instances of each item.
        tokens: the same, tokenised.

    Raises:
        ValueError: an item has no right choice, or the task is of another kind.
    """
    if task.OUTPUT_TYPE == "loglikelihood":
        return [Question(tuple(requests)) for requests in tokens]
    found = []
    for instances, requests in zip(items, tokens, strict=True):
        doc = instances[0].doc
        choices = task.doc_to_choice(doc)
        # Mutual information asks for each choice again, without its question.
        right = right_choices(task, doc, choices)
        if not right:
            raise ValueError(f"no right choice among {len(choices)}")
        found.append(Question(tuple(requests[: len(choices)]), right))
    return found
