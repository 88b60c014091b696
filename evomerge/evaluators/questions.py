"""What the items of an lm-eval task ask, for losses: requests, and which of them are right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lm_eval.api.task import ConfigurableTask

from evomerge.evaluators.losses import Question
from evomerge.evaluators.margins import right_choices
from evomerge.evaluators.perplexity import rolling_requests
from evomerge.evaluators.requests import Recorder, Requests, language_model, reference_requests

if TYPE_CHECKING:
    from evomerge.evaluators.evaluator import Subject
    from evomerge.evaluators.packed import Request


def questions(
    task: Any, requests: Requests, items: Sequence[int], subject: Subject, max_length: int, chat: bool
) -> tuple[list[Question], list[list[Request]]]:
    """The questions of some items of a task, and the requests of its whole split that tell how to pack them.

    Of a task that writes, the first reference answer of each item. Texts to be scored whole have no such
    requests: each is a row of its own.

    Args:
        task: lm-eval's.
        requests: of all items of a split.
        items: numbers of those wanted.
        subject: whose tokenizer and model they are for.
        max_length: tokens that the model reads at once.
        chat: whether prompts are in the tokenizer's chat template.

    Raises:
        ValueError: an item has no right choice or reference answer, or Python of the task's own decides which
            one is right.
    """
    kind = task.OUTPUT_TYPE
    if kind == "loglikelihood_rolling":
        texts = [str(requests.items[item][0].args[0]) for item in items]
        return [Question(tuple(rolling_requests(subject, text, max_length))) for text in texts], []
    if kind == "generate_until":
        references = requests.references
        if references is None:
            recorder = language_model(Recorder, subject)
            references = reference_requests(task, requests.items, recorder, chat)
        if references is None or references.tokens is None:
            raise ValueError("an item has no reference answer")
        return [Question((references.tokens[item][0],)) for item in items], references.tokens
    if requests.tokens is None or not isinstance(task, ConfigurableTask) or task.config.process_results:
        raise ValueError(f"a `{kind}` task with Python of its own does not tell what is right")
    if kind == "loglikelihood":
        return [Question(tuple(requests.tokens[item])) for item in items], requests.tokens
    found = []
    for item in items:
        doc = requests.items[item][0].doc
        choices = task.doc_to_choice(doc)
        right = right_choices(task, doc, choices)
        if not right:
            raise ValueError(f"no right choice among {len(choices)}")
        # Mutual information asks for each choice again, without its question.
        found.append(Question(tuple(requests.tokens[item][: len(choices)]), right))
    return found, requests.tokens
