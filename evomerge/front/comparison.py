"""Two models of a campaign side by side: items won and lost, and how sure it is that one is better."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from evomerge.errors import Problem, UsageError
from evomerge.front.selection import item_arrays
from evomerge.front.selection import tasks as tasks_of
from evomerge.front.statistics import PairedDifference, paired_bootstrap, paired_bootstrap_of_mean
from evomerge.ledger.candidate import Candidate
from evomerge.ledger.history import History
from evomerge.ledger.item_store import ItemStore
from evomerge.objectives.measures import alike
from evomerge.objectives.objective import Objective
from evomerge.objectives.scores import SPLITS, Metric, Split

DIGITS = 6


@dataclass(frozen=True)
class TaskComparison:
    """Model a against model b on one objective.

    Attributes:
        objective: which one, and which way is better.
        a, b: their scores.
        won, lost: numbers of the items, in the evaluator's fixed order, on which a is better or worse; None
            without per-item results.
        difference: a minus b, in the metric's units, with its 95 % interval; None likewise.
    """

    objective: Objective
    a: Metric
    b: Metric
    won: tuple[int, ...] | None
    lost: tuple[int, ...] | None
    difference: PairedDifference | None

    @property
    def probability_better(self) -> float | None:
        """That a is better than b, by resampling the items both answered."""
        return None if self.difference is None else _better(self.difference, self.objective.sign)


@dataclass(frozen=True)
class Comparison:
    """Two models on the items of one split; `mean` is over all objectives, where these are alike."""

    a: str
    b: str
    split: Split
    tasks: tuple[TaskComparison, ...]
    mean: PairedDifference | None

    @property
    def probability_better_mean(self) -> float | None:
        """That the mean of a is higher than that of b."""
        return None if self.mean is None else _better(self.mean, -1.0)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON data."""
        return {
            "a": self.a,
            "b": self.b,
            "split": self.split,
            "tasks": [
                {
                    "metric": task.objective.metric,
                    "direction": task.objective.direction,
                    "a": task.a.to_json(),
                    "b": task.b.to_json(),
                    "won": None if task.won is None else list(task.won),
                    "lost": None if task.lost is None else list(task.lost),
                    "probability_better": task.probability_better,
                    "difference": _json(task.difference),
                }
                for task in self.tasks
            ],
            "mean": _json(self.mean),
            "probability_better_mean": self.probability_better_mean,
        }


def compare(
    history: History,
    store: ItemStore,
    objectives: tuple[Objective, ...],
    a: Candidate,
    b: Candidate,
) -> Comparison:
    """Two models on the most held-out split that both have scores on, test items apart.

    Raises:
        UsageError: E507, if there is no such split.
        LedgerDamaged: E502, if per-item results cannot be read.
    """
    common = [s for s in SPLITS if s != "test" and s in a.evaluations and s in b.evaluations]
    if not common:
        without = next(c for c in (a, b) if "search" not in c.evaluations)
        found = without.failure or (without.beaten_by and f"given up for {without.beaten_by}") or ""
        raise UsageError(Problem("E507", f"`{without.id}` has no whole scores to compare", found))
    split, seed = common[-1], history.stated.seed
    tasks, pairs = [], []
    for objective in objectives:
        arrays = item_arrays([a, b], [objective], split, store)
        won = lost = difference = None
        if arrays is not None:
            mine, theirs = arrays[0]
            gain = objective.sign * (mine - theirs)
            won, lost = _where(gain < 0), _where(gain > 0)
            difference = paired_bootstrap(mine, theirs, seed=seed)
            pairs.append((mine, theirs))
        metric = objective.metric
        mine_scored, theirs_scored = (c.evaluations[split].metrics[metric] for c in (a, b))
        tasks.append(TaskComparison(objective, mine_scored, theirs_scored, won, lost, difference))
    mean = None
    if alike(objectives) and len(pairs) == len(objectives) > 1:
        mine, theirs = zip(*pairs, strict=True)
        mean = paired_bootstrap_of_mean(mine, theirs, seed=seed, tasks=tasks_of(objectives))
    return Comparison(a.id, b.id, split, tuple(tasks), mean)


def _where(holds: np.ndarray) -> tuple[int, ...]:
    return tuple(int(index) for index in np.flatnonzero(holds))


def _better(found: PairedDifference, sign: float) -> float:
    less = max(0.0, 1.0 - found.probability_greater - found.probability_equal)
    return round(found.probability_greater if sign < 0 else less, DIGITS)


def _json(found: PairedDifference | None) -> dict[str, float] | None:
    if found is None:
        return None
    return {name: round(getattr(found, name), DIGITS) for name in ("difference", "low", "high")}
