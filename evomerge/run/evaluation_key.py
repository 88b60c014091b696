"""Evaluation key: the digest of all that scores depend on; equal keys are never computed twice."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from evomerge.campaign.file import EvaluationSection
from evomerge.evaluators.evaluator import GenerationEngine
from evomerge.ledger.events import PreparedEvent
from evomerge.objectives.scores import Split
from evomerge.recipe.recipe import canonical_json


def evaluation_key(
    recipe: str,
    split: Split,
    prepared: PreparedEvent,
    evaluation: EvaluationSection,
    engine: GenerationEngine,
    seen: Mapping[str, int] | None = None,
) -> str:
    """SHA-256 in hex of the canonical JSON of what the scores depend on, and of nothing else.

    Args:
        recipe: digest of the recipe.
        split: whose items are scored.
        prepared: has the digests of the evaluators and their items.
        evaluation: dtype and batch size.
        engine: what writes answers; the padded one leaves no trace: older ledgers know no other.
        seen: evaluator to the number of items it answered, where not all were; None for all.
    """
    parts: dict[str, object] = {
        "recipe": recipe,
        "evaluators": {name: each.digest for name, each in prepared.evaluators.items()},
        "split": split,
        "blocks": "all" if seen is None else dict(seen),
        "dtype": evaluation.dtype,
        "batch_size": evaluation.batch_size,
    }
    if engine != "padded":
        parts["generation"] = engine
    return hashlib.sha256(canonical_json(parts).encode()).hexdigest()
