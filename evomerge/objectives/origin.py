"""Origins: how an optimizer came to ask for a candidate, as far as it knows."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

GIVEN, START, RANDOM, PROPOSED = "given", "start", "random", "proposed"
CROSSED, MUTATED, MEAN, STEP = "crossed", "mutated", "mean", "step"
MAP, BESIDE, CHART, MODEL = "map", "beside_map", "chart", "model"
POLICY, EDITED, STRATEGY = "policy", "edited", "strategy"


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """Of one candidate.

    Attributes:
        how: `given` (the search was to begin with it), `start` (drawn without parents, to cover the space),
            `random`, `proposed` (by a function or a library that says no more), `crossed` (of two parents),
            `mutated` (of one), `mean` (of two), `step` (a model's choice, crossed with `a + (b - c) / 2` of
            three), `map` (a learned map's point for a preference), `beside_map`, `chart` (a model's choice
            on the map's chart), `model` (a model's choice among all genomes), `policy` (a path walked for a
            preference), `edited` (near such a path), `strategy` (an evolution strategy's for a weighted sum).
        parents: ids of the candidates it was made of.
        preference: weights of the objectives that it was made for, summing to 1.
        scale, tilt: on a chart, the factor of all weights and how much more of it the last layers have.
        source: of what was given: a baseline's id, `metagpt`, or the name of the file or folder.
    """

    how: str
    parents: tuple[str, ...] | None = None
    preference: tuple[float, ...] | None = None
    scale: float | None = None
    tilt: float | None = None
    source: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As plain JSON data; what is None is left out."""
        found = {name: value for name, value in asdict(self).items() if value is not None}
        return {name: list(v) if isinstance(v, tuple) else v for name, v in found.items()}
