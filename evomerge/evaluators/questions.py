"""What the items of an lm-eval task ask, for losses: requests, and which of them are right.

Which metrics have losses, and which smooth values, follows from what judges them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lm_eval.api.task import ConfigurableTask

from evomerge.evaluators.judging import compared, judged_by_lm_eval, rises
from evomerge.evaluators.losses import Question
from evomerge.evaluators.margins import reference_answers, right_choices
from evomerge.evaluators.perplexity import rolling_requests
from evomerge.evaluators.requests import Recorder, Requests, language_model, reference_requests
from evomerge.evaluators.task_files import GENERATION_METRICS

if TYPE_CHECKING:
    from evomerge.evaluators.evaluator import Subject
    from evomerge.evaluators.packed import Request


def loss_directions(
    task: Any, docs: Sequence[Any], metrics: Sequence[str], learn_targets: bool | None
) -> dict[str, bool]:
    """Which of some metrics the losses of some items stand for, and which way they go; looks at no model.

    Args:
        task: lm-eval's.
        docs: the items. If `questions` does not know of each what is right, there are no losses.
        metrics: names without filters.
        learn_targets: as the declaration has it.

    Returns:
        Metric to whether it rises as right answers get likelier.
    """
    found = _taught(task, metrics, learn_targets)
    return found if found and _tells_what_is_right(task, docs) else {}


def smooth_signs(
    task: Any, docs: Sequence[Any], metrics: Sequence[str], learn_targets: bool | None
) -> dict[str, float]:
    """Which of some metrics have smooth values (see `margins`): +1 where these rise with the metric, else -1.

    Those that lm-eval itself computes; of answers that are written and judged otherwise, where the
    declaration says that targets are right ones, those that losses stand for. Arguments as `loss_directions`.
    """
    if learn_targets and task.OUTPUT_TYPE == "generate_until":
        ways = loss_directions(task, docs, metrics, learn_targets)
    else:
        ways = compared(task, metrics)
    return {metric: 1.0 if up else -1.0 for metric, up in ways.items()}


def _taught(task: Any, metrics: Sequence[str], learn_targets: bool | None) -> dict[str, bool]:
    if task.OUTPUT_TYPE == "loglikelihood_rolling":
        # Whoever makes metrics of them: all there is of a text is its log-likelihood.
        ways = {metric: rises(task, metric) for metric in metrics}
        return {metric: up for metric, up in ways.items() if up is not None}
    if task.OUTPUT_TYPE == "generate_until":
        if learn_targets:
            own = [metric for metric in metrics if metric not in GENERATION_METRICS]
            return {metric: rises(task, metric) is not False for metric in own}
        if learn_targets is not None:
            return {}
    return compared(task, metrics)


def _tells_what_is_right(task: Any, docs: Sequence[Any]) -> bool:
    try:
        if task.OUTPUT_TYPE == "generate_until":
            return all(reference_answers(task, doc) for doc in docs)
        if task.OUTPUT_TYPE == "multiple_choice":
            return all(right_choices(task, doc, task.doc_to_choice(doc)) for doc in docs)
    except Exception:
        # Templates and code of a task fail in any way they like on what no score of it asks for.
        return False
    return True


def _refuse_targets(task: Any, learn_targets: bool | None) -> None:
    """What code judges by may be tests to pass, or nothing at all."""
    if learn_targets is False:
        raise ValueError("`learn_targets: false` keeps written answers from being learned")
    if learn_targets is None and not compared(task, list(task.higher_is_better())):
        raise ValueError(
            "Python of the task's own judges what is written, and its targets need be no right answers; "
            "`learn_targets: true` says that they are"
        )


def has_choices(task: Any) -> bool:
    """Whether items are choices, whatever is right."""
    return isinstance(task, ConfigurableTask) and task.OUTPUT_TYPE == "multiple_choice"


def _choices(
    task: Any, requests: Requests, items: Sequence[int]
) -> tuple[list[Question], list[list[Request]]]:
    if requests.tokens is None or not has_choices(task):
        raise ValueError(f"a `{task.OUTPUT_TYPE}` item has no choices, and no entropy over them")
    counts = [len(task.doc_to_choice(requests.items[item][0].doc)) for item in items]
    pairs = zip(items, counts, strict=True)
    return [Question(tuple(requests.tokens[n][:count])) for n, count in pairs], requests.tokens


def questions(
    task: Any,
    requests: Requests,
    items: Sequence[int],
    subject: Subject,
    max_length: int,
    chat: bool,
    *,
    entropy: bool = False,
    learn_targets: bool | None = None,
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
        entropy: whether only the choices are wanted, for which no label is looked at.
        learn_targets: as the declaration has it.

    Raises:
        ValueError: an item has no right choice or reference answer, or Python of the task's own decides what
            is right; with `entropy`, the items are no choices.
    """
    if entropy:
        return _choices(task, requests, items)
    kind = task.OUTPUT_TYPE
    if kind == "loglikelihood_rolling":
        texts = [str(requests.items[item][0].args[0]) for item in items]
        return [Question(tuple(rolling_requests(subject, text, max_length))) for text in texts], []
    if kind == "generate_until":
        _refuse_targets(task, learn_targets)
        references = requests.references
        if references is None:
            recorder = language_model(Recorder, subject)
            references = reference_requests(task, requests.items, recorder, chat)
        if references is None or references.tokens is None:
            raise ValueError("an item has no reference answer")
        return [Question((references.tokens[item][0],)) for item in items], references.tokens
    if requests.tokens is None or not judged_by_lm_eval(task):
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
