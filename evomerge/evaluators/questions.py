"""What the items of an lm-eval task ask, for losses: requests, and which of them are right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from evomerge.evaluators.losses import Question

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
        found.append(Question(tuple(requests[: len(choices)]), right))
    return found


def right_choices(task: Any, doc: Any, choices: Sequence[str]) -> tuple[int, ...]:
    """Numbers of the right choices of an item, as lm-eval's `process_results` takes them.

    Raises:
        ValueError: there is none.
    """
    gold = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
    listed = gold if isinstance(gold, list) else [gold]
    numbers = [choices.index(g) if isinstance(g, str) and g in choices else g for g in listed]
    right = tuple(sorted({n for n in numbers if isinstance(n, int) and 0 <= n < len(choices)}))
    if not right:
        raise ValueError(f"no right choice among {len(choices)}: {gold!r}")
    return right
