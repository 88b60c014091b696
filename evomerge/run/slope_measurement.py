"""Measure a slope: the losses of a merge on some items, and the gradient of their weighted sum."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from evomerge.errors import CandidateError, ConfigError, Problem
from evomerge.evaluators.evaluator import Evaluator, Subject
from evomerge.evaluators.losses import Differentiable
from evomerge.merge.materialize import LiveModel
from evomerge.merge.slopes import Slopes, differentiable
from evomerge.objectives.scores import Split
from evomerge.run.job import MeasuredSlope, SlopeWork


def measure_slope(
    subject: Subject,
    evaluators: Sequence[Evaluator],
    split: Split,
    work: SlopeWork,
    live: LiveModel,
    slopes: Slopes,
) -> MeasuredSlope:
    """Losses and gradient; a metric without items is left out, one of weight 0 is not run backwards.

    Raises:
        ConfigError: E148, a metric of no evaluator that has a differentiable loss.
        CandidateError: `nonfinite_logits`, if a loss or a gradient is not finite.
        ValueError: if an item does not exist.
    """
    losses: dict[str, float] = {}
    total = np.zeros((len(slopes.experts), len(slopes.places)))
    wanted = [metric for metric, items in work.items.items() if items]
    for metric in wanted:
        found: list[float] = []
        weight = work.weights.get(metric, 0.0)
        evaluator = evaluator_of(metric, evaluators)
        batches = evaluator.losses(subject, split, work.items[metric], entropy=work.entropy)
        if weight == 0.0:
            with torch.no_grad():
                found = [value for _, batch in batches for value in batch.tolist()]
        else:
            with differentiable(live, slopes):
                for _, batch in batches:
                    found += batch.tolist()
                    # Not yet the mean: small numbers would vanish in half precision.
                    torch.autograd.backward(batch.sum())
            total += weight / max(len(found), 1) * slopes.take()
        losses[metric] = math.fsum(found) / max(len(found), 1)
    if not all(map(math.isfinite, losses.values())) or not np.isfinite(total).all():
        raise CandidateError("nonfinite_logits", "a loss or its gradient is not a finite number")
    needed = any(work.weights.values())
    return MeasuredSlope(losses, total if needed else np.zeros((0, 0)))


def evaluator_of(metric: str, evaluators: Sequence[Evaluator]) -> Differentiable:
    """The evaluator that gives a metric.

    Whether its losses stand for that metric the ledger says (`PreparedEvaluator.teaches`), so that a campaign
    goes on as it began.

    Raises:
        ConfigError: E148, if there is none, or it has no differentiable loss.
    """
    for evaluator in evaluators:
        if metric in evaluator.metrics:
            if isinstance(evaluator, Differentiable):
                return evaluator
            wrong = f"`{evaluator.name}` has no differentiable loss"
            raise ConfigError(Problem("E148", wrong, field=metric))
    raise ConfigError(Problem("E148", "no evaluator gives this metric", field=metric))
