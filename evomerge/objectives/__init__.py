"""Objectives: scores with their errors, what is wanted of them, and dominance.

In come the numbers that evaluators measured; out go values to minimise, violations of constraints, and
which points no other beats. The only room with a minus sign: everywhere else a metric is what its
evaluator reports.

Read `scores` first (what was measured), then `objective` (what is wanted, and what an optimizer is
told), `measures` (which metrics are shares and can be averaged), `constraint` (what must be kept),
`preference` (how much each objective counts), `region` (between which bounds a pick is to lie), `steering`
(which value a search goes by), `forecast` (what it expects of a batch), `origin` (how it came to a
candidate) and `pareto` (arithmetic on plain arrays, whose library workers do not need); import the last
four from their own modules.
"""

from evomerge.objectives.constraint import Constraint, parse_constraint
from evomerge.objectives.objective import Complete, Failed, Objective, Outcome, Raced, Scaling
from evomerge.objectives.scores import SPLITS, Metric, Scores, Split, mean_metric

__all__ = [
    "SPLITS",
    "Complete",
    "Constraint",
    "Failed",
    "Metric",
    "Objective",
    "Outcome",
    "Raced",
    "Scaling",
    "Scores",
    "Split",
    "mean_metric",
    "parse_constraint",
]
