"""MergePlan: what each output tensor is made of, as data, before a byte moves.

In come a recipe, the layouts of its sources and the statistics it needs; out goes a plan of checkpoint
tensors and numbers only, which `materialize` carries out into a live model or a folder. Torch-free. What
needs no arithmetic (weights of zero, one expert at full weight, density 1) is planned as what it amounts
to, so equal merges have equal entries.

Read `entries` (what a plan is made of), `make` (from a recipe to a plan), `merged` (one tensor of it) and
`checked` (what is refused before).
"""

from evomerge.merge.plan.entries import MergePlan, PlanInput, TensorPlan
from evomerge.merge.plan.make import make_plan

__all__ = ["MergePlan", "PlanInput", "TensorPlan", "make_plan"]
