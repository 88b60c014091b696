"""What an export says of itself when it is done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from evomerge.checkpoint.habits import Difference
from evomerge.objectives.scores import Metric


@dataclass(frozen=True)
class ExportReport:
    """What was published.

    Attributes:
        out: name of the folder.
        candidate: id in the campaign; None for a recipe that was merged by hand.
        recipe: digest of the recipe.
        files: file name to bytes.
        scores: split to metric to value; search and selection as recorded, test as measured.
        test_uses: how often test items of the campaign have been scored by exports so far.
        seconds: wall time.
        differences: in what the models differ beside their weights, and what was taken.
        warnings: what a person should know, one line each.
    """

    out: str
    candidate: str | None
    recipe: str
    files: Mapping[str, int]
    scores: Mapping[str, Mapping[str, Metric]] = field(default_factory=dict)
    test_uses: int = 0
    seconds: float = 0.0
    differences: tuple[Difference, ...] = ()
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As plain JSON data."""
        return {
            "schema": 1,
            "out": self.out,
            "candidate": self.candidate,
            "recipe": self.recipe,
            "files": dict(self.files),
            "bytes": sum(self.files.values()),
            "scores": scores_json(self.scores),
            "test_uses": self.test_uses,
            "seconds": round(self.seconds, 3),
            "differences": [
                {"what": each.what, "stated": dict(each.stated), "taken": each.taken}
                for each in self.differences
            ],
            "warnings": list(self.warnings),
        }


def scores_json(scores: Mapping[str, Mapping[str, Metric]]) -> dict[str, dict[str, Any]]:
    """Split to metric to value as plain JSON data."""
    return {
        split: {name: metric.to_json() for name, metric in sorted(metrics.items())}
        for split, metrics in scores.items()
    }
