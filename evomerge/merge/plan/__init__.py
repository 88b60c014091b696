"""MergePlan: what each output tensor is made of, as data, before a byte moves.

A plan names checkpoint tensors and numbers only; `materialize` carries it out, into a live model or a
folder. Torch-free. What needs no arithmetic (weights of zero, one expert at full weight, density 1) is
planned as what it amounts to, so equal merges have equal entries.
"""

from evomerge.merge.plan.entries import MergePlan, PlanInput, TensorPlan
from evomerge.merge.plan.make import make_plan

__all__ = ["MergePlan", "PlanInput", "TensorPlan", "make_plan"]
