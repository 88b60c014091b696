"""Judge: all evaluators of a campaign on one model, block by block where the model races."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evomerge.errors import CandidateError, EnvironmentFault, Problem
from evomerge.evaluators.evaluator import BlockEvaluator, Evaluator, Subject
from evomerge.evaluators.racing import Race, beaten_by
from evomerge.objectives.scores import Metric, Scores, Split, apart, mean_metric


@dataclass(frozen=True)
class Beaten:
    """A model that was given up: by which reference, its scores so far, items seen by evaluator."""

    by: str
    scores: Scores
    seen: Mapping[str, int]


def score_subject(subject: Subject, evaluators: Sequence[Evaluator], split: Split) -> Scores:
    """All metrics of a subject on one split.

    Raises:
        CandidateError: `nonfinite_score`; `bad_scores`, if an evaluator did not measure all that it
            declares; or what an evaluator raises.
    """
    return _together((evaluator, evaluator.evaluate(subject, split)) for evaluator in evaluators)


def race_subject(
    subject: Subject, evaluators: Sequence[Evaluator], split: Split, race: Race
) -> Scores | Beaten:
    """All metrics of a subject on one split, unless a reference beats it before.

    Evaluators without a racing objective are left until the race is over.

    Raises:
        CandidateError: `nonfinite_score`; `bad_scores`, if an evaluator did not measure all that it
            declares; or what an evaluator raises.
        EnvironmentFault: E142, if a racing objective has no per-item results.
    """
    racing = [evaluator for evaluator in evaluators if set(race.metrics) & set(evaluator.metrics)]
    raced = _race(racing, subject, split, race)
    if isinstance(raced, Beaten):
        return raced
    return _together(
        (evaluator, raced.get(evaluator.name) or evaluator.evaluate(subject, split))
        for evaluator in evaluators
    )


def _together(found: Iterable[tuple[Evaluator, Scores]]) -> Scores:
    """One `Scores` of all evaluators', each looked at as it comes."""
    metrics: dict[str, Metric] = {}
    items: dict[str, np.ndarray] = {}
    smooth: dict[str, np.ndarray] = {}
    for evaluator, scores in found:
        # Diagnostics, such as how often a generation loops, may come beside what is declared.
        if not set(scores.metrics) >= set(evaluator.metrics):
            names = ", ".join(sorted(scores.metrics)) or "nothing"
            declared = ", ".join(evaluator.metrics)
            raise CandidateError(
                "bad_scores", f"{evaluator.name} gave {names}, and declares {declared}"
            )
        bad = scores.non_finite()
        if bad:
            raise CandidateError("nonfinite_score", f"{', '.join(bad)} is not finite")
        metrics |= scores.metrics
        items |= scores.items
        smooth |= scores.smooth
    return Scores(metrics, items, smooth)


def _race(
    evaluators: Sequence[Evaluator], subject: Subject, split: Split, race: Race
) -> dict[str, Scores] | Beaten:
    """One block of each evaluator in turn; the scores of all by name in the end, or of none."""
    under_way = {}
    for evaluator in evaluators:
        if not isinstance(evaluator, BlockEvaluator):
            raise _not_by_item(evaluator.name)
        under_way[evaluator.name] = evaluator.by_block(subject, split)
    done: dict[str, Scores] = {}
    seen: dict[str, Mapping[str, np.ndarray]] = {}
    rounds = 0
    while under_way:
        rounds += 1
        for name, blocks in list(under_way.items()):
            try:
                seen[name] = next(blocks)
            except StopIteration as end:
                done[name] = end.value
                seen[name] = done[name].arrays()
                del under_way[name]
        if under_way and rounds >= race.first:
            so_far, smooth = apart({n: values for part in seen.values() for n, values in part.items()})
            _refuse_gaps(so_far, race)
            winner = beaten_by(race, so_far)
            if winner is not None:
                for blocks in under_way.values():
                    blocks.close()
                counts = {name: len(next(iter(part.values()))) for name, part in seen.items()}
                partial = {metric: mean_metric(values) for metric, values in so_far.items()}
                return Beaten(winner, Scores(partial, so_far).with_smooth(smooth), counts)
    return done


def _refuse_gaps(items: Mapping[str, np.ndarray], race: Race) -> None:
    for metric in race.metrics:
        if metric not in items:
            raise _not_by_item(metric)
        if not np.isfinite(items[metric]).all():
            raise CandidateError("nonfinite_score", f"{metric} is not finite")


def _not_by_item(name: str) -> EnvironmentFault:
    wrong = f"racing needs per-item results, and {name} has none"
    return EnvironmentFault(Problem("E142", wrong, "", "leave `racing` out", field="racing"))
