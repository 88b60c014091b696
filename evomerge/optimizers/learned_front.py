"""Learned front: the points of a map from preference to genome that gradients have fitted; see `lesson`."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from evomerge.objectives.objective import Objective
from evomerge.objectives.origin import BESIDE, MAP
from evomerge.optimizers.descent import Descent, for_preference
from evomerge.optimizers.lesson import Lesson
from evomerge.optimizers.optimizer import Note
from evomerge.optimizers.preferences import around, drawn, pulled
from evomerge.optimizers.proposals import Adopted, Asked
from evomerge.optimizers.settings import LearnedFrontSettings
from evomerge.optimizers.slopes import GoneOnWith, Slope, SlopeGround, SlopeRequest
from evomerge.recipe.recipe import canonical_json
from evomerge.search_space import Gene, Genome

TRIES = 50
"""Preferences, beyond as many as there are known points, that are looked at for new ones."""


REACH = 0.3
"""With a focus, how much of the way from it to other preferences points are asked at."""


class LearnedFront(Adopted):
    """A map that is learned before the first candidate is asked, then its points; see `SlopeOptimizer`.

    The given genomes are asked first, then preferences from the middle, or a focus, outwards.
    """

    def __init__(
        self,
        genes: Sequence[Gene],
        objectives: Sequence[Objective],
        population: int,
        seed: int,
        initial: Sequence[Genome] = (),
        settings: LearnedFrontSettings = LearnedFrontSettings(),
        *,
        steady: bool = False,
        focus: Sequence[float] | None = None,
        known: Sequence[Genome] = (),
    ) -> None:
        self.lesson = Lesson(genes, len(objectives), seed, settings, focus)
        self._focus = focus
        self._preferences = around(len(objectives), focus, REACH)
        self._known_points: list[Genome] = []
        self._points_descents: Sequence[Descent | None] = ()
        self._weights: list[list[float]] = []
        first = [*initial, *known]
        super().__init__(
            self._points, genes, objectives, population, seed, first, settings, steady=steady
        )

    def begin(self, ground: SlopeGround) -> None:
        """Start at the experts' own strengths; learn if any objective has losses."""
        self.lesson.begin(ground)

    def slopes(self) -> list[SlopeRequest]:
        """The lesson's next step."""
        return self.lesson.slopes()

    def adopt_slopes(self, notes: Mapping[int, Note | None]) -> None:
        """Take the lesson's step as it is on record."""
        self.lesson.adopt(notes)

    def enough(self) -> None:
        """No further slopes can be had."""
        self.lesson.enough()

    def tell_slopes(self, slopes: Sequence[Slope | None]) -> None:
        """Answers to the lesson."""
        self.lesson.tell_slopes(slopes)

    @property
    def given_up(self) -> GoneOnWith | None:
        """If the lesson gave up: whether there is a map."""
        if not self.lesson.has_given_up:
            return None
        return "map" if self.lesson.has_taken_steps else "nothing"

    def state_digest(self) -> str:
        """SHA-256 (hex) over the lesson and all that was asked and told."""
        parts = [super().state_digest(), self.lesson.digest()]
        return hashlib.sha256(canonical_json(parts).encode()).hexdigest()

    def preferences_of(self, known: Collection[Genome]) -> dict[Genome, list[float]]:
        """Weights of the objectives of those of some genomes that are points of the learned map."""
        along = self._along(len(known) + TRIES)
        pairs = zip(reversed(along), reversed(self._weights[: len(along)]), strict=True)
        return {point: weights for point, weights in pairs if point in known}

    def _described(self, count: int) -> Sequence[Descent | None]:
        return self._points_descents

    def _points(self, asked: Asked) -> np.ndarray:
        known = {genome for genome, _ in asked.told} | set(asked.pending)
        found: list[Genome] = []
        descents: list[Descent | None] = []
        self._points_descents = descents
        along = self._along(len(known) + asked.count + TRIES)
        for point, weights in zip(along, self._weights, strict=False):
            if point not in known:
                known.add(point)
                found.append(point)
                descents.append(for_preference(MAP, weights))
            if len(found) == asked.count:
                return np.array(found)
        # So much of the map is known that points beside it are drawn.
        points, near = self._beside(asked, asked.count)
        descents += near
        return np.concatenate([np.array(found).reshape(-1, len(self._genes)), points])

    def _beside(self, asked: Asked, count: int) -> tuple[np.ndarray, list[Descent]]:
        """Points near the map for preferences that are drawn, float64 [count, genes], off the grid."""
        preferences = drawn(count, len(self._objectives), 1.0, asked.rng)
        wanted = pulled(preferences, self._focus, REACH)
        points = self.lesson.map.points(wanted)
        points += 0.1 * (asked.high - asked.low) * asked.rng.standard_normal(points.shape)
        return points, [for_preference(BESIDE, weights) for weights in wanted]

    def _along(self, count: int) -> list[Genome]:
        """Grid points of the learned map, for preferences from the middle outwards; worked out once."""
        missing = count - len(self._known_points)
        if missing > 0:
            w = np.array([w for _, w in zip(range(missing), self._preferences, strict=False)])
            if len(w):
                w = w if self._focus is not None else self.lesson.map.evenly(w)
                self._weights += w.tolist()
                self._known_points += map(tuple, self._grid.snap(self.lesson.map.points(w)).tolist())
        return self._known_points[:count]
