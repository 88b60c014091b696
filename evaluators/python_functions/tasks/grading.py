"""pass@1 of a generated function: each program runs in a confined process, never in this one."""

from collections.abc import Mapping, Sequence
from typing import Any

from evomerge.evaluators.code_execution import pass_rate


def passes(doc: Mapping[str, Any], answers: Sequence[str]) -> dict[str, float]:
    """Whether the function as completed holds the item's assertions."""
    programs = [f"{doc['prompt']}{answer}\n\n{doc['tests']}\n" for answer in answers]
    return {"pass_at_1": pass_rate(programs)}
