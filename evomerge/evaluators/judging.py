"""Which metrics lm-eval itself takes from answers and targets, and which way they go.

Of these alone it is known what they compare with, so that a likelier right answer is a better one. Smooth
values (`margins`) and losses (`questions`) go by them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lm_eval.api.registry import HIGHER_IS_BETTER_REGISTRY
from lm_eval.api.task import ConfigurableTask


def judged_by_lm_eval(task: Any) -> bool:
    """Whether results are what lm-eval's own `process_results` makes of the answers."""
    own = isinstance(task, ConfigurableTask) and task.config.process_results is None
    return own and type(task).process_results is ConfigurableTask.process_results


def compared(task: Any, metrics: Sequence[str]) -> dict[str, bool]:
    """Which of some metrics (without filters) lm-eval itself computes: whether they rise with right answers.

    None of a task or metric that is Python of the task's own: what it compares is not known. None either
    of which it is not known which way it goes.
    """
    if not judged_by_lm_eval(task):
        return {}
    listed = task.config.metric_list
    plain = set(
        metrics if listed is None else (m["metric"] for m in listed if isinstance(m["metric"], str))
    )
    ways = {metric: rises(task, metric) for metric in metrics if metric in plain}
    return {metric: up for metric, up in ways.items() if up is not None}


def rises(task: Any, metric: str) -> bool | None:
    """Whether a metric rises as right answers get likelier; None where nobody says.

    What lm-eval says of the metrics it knows goes first: a task may want an accuracy to be low.
    """
    stated: bool | None = task.higher_is_better().get(metric)
    known: bool | None = HIGHER_IS_BETTER_REGISTRY.get(metric, stated)
    return known
