"""Auto, the default: a learned front where gradients can be had, then a surrogate around it.

The learned map makes a chart of the space: preference, total scale, and a tilt over depth, a handful of
numbers in which every point is a good merge. First the map's preferences are evaluated, from the middle
outwards. As soon as there are enough for Gaussian processes on the chart, these say what the next preferences
would add, and what the points of their own choice (`surrogate`): when even the lower end of the latter is
more than is expected of the former, the surrogate goes on. By and by there is little left to find on so few
numbers: when a model of all that was told expects surely more of the genes themselves, where these are few,
the surrogate goes on there. Where no gradients can be had, it searches the genes from the start; also where
a lesson gave up before it had any.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from evomerge.objectives.forecast import Forecast
from evomerge.objectives.objective import Complete, Objective, Outcome
from evomerge.objectives.origin import CHART as ON_CHART
from evomerge.objectives.origin import MAP as ON_MAP
from evomerge.objectives.origin import Origin
from evomerge.optimizers.descent import Descent, for_preference
from evomerge.optimizers.grid import Grid, as_rows
from evomerge.optimizers.learned_front import REACH, TRIES, LearnedFront
from evomerge.optimizers.optimizer import Note
from evomerge.optimizers.preferences import around
from evomerge.optimizers.proposals import Asked
from evomerge.optimizers.settings import AutoSettings, LearnedFrontSettings, SurrogateSettings
from evomerge.optimizers.slopes import GoneOnWith
from evomerge.optimizers.surrogate import LEAST, Results, Surrogate, has_scales_by_gene
from evomerge.search_space import Gene, Genome

SCALES = (0.6, 1.4)
TILTS = (-0.4, 0.4)
CHART_STEP = 1e-3
FIRST_KNOWN = 100

MAP, CHART, GENES = "map", "chart", "genes"
"""Who chose a batch: the map's preferences in their order, a model on the chart, one on the genes."""

SURELY = 0.25
"""Of what a single point is expected to add: taken for the lower end, which is mostly 0 of one alone."""

MOST_PREFERENCES = 500
"""Preferences of the map that are looked at for points that are new; where it stays on the map, at least."""


@dataclass(frozen=True)
class _Choice:
    """Points, float64 [n, genes], what is expected of them, what each was made of, and where on the chart."""

    points: np.ndarray
    forecast: Forecast | None
    descents: Sequence[Descent | None]
    places: Mapping[Genome, Genome] = field(default_factory=dict)


def weighed(taken: Forecast | None, other: Forecast | None) -> Forecast | None:
    """What was taken, its upper end also that of what was weighed against it, which the search may go on to.

    None where that has no model yet: nobody knows then that little is left to gain.
    """
    if taken is None or taken.high is None:
        return taken
    if other is None or other.high is None:
        return replace(taken, high=None)
    return replace(taken, high=max(taken.high, other.high))


class Chart:
    """Points near a learned map by few numbers: shares, a scale, a tilt.

    The shares are those of stick breaking: of what is left, how much the next objective is preferred. The
    scale multiplies all weights, the tilt those of the last layers more (above 0) or less than those of the
    first.
    """

    def __init__(self, front: LearnedFront, grid: Grid, objectives: int, evenly: bool) -> None:
        self._front, self._grid, self._objectives = front, grid, objectives
        self._evenly = evenly
        names = [f"share.{k}" for k in range(objectives - 1)]
        bounds = {**dict.fromkeys(names, (0.0, 1.0)), "scale": SCALES, "tilt": TILTS}
        self.genes = tuple(
            Gene(name, low, high, CHART_STEP, "chart", name, ()) for name, (low, high) in bounds.items()
        )
        deepest = max(1, int(grid.depth.max()))
        self._depth = 2.0 * grid.depth / deepest - 1.0
        self._weights = np.array([gene.coefficient == "weight" for gene in grid.genes])

    def points(self, chart: np.ndarray) -> np.ndarray:
        """Float64 [n, genes of the space] for float64 [n, chart genes]."""
        scale, tilt = chart[:, -2, None], chart[:, -1, None]
        points = self._front.lesson.map.points(self.preferences(chart))
        factor = np.where(self._weights, scale * (1.0 + tilt * self._depth), 1.0)
        return self._grid.snap(np.clip(points * factor, self._grid.low, self._grid.high))

    def preferences(self, chart: np.ndarray) -> np.ndarray:
        """Float64 [n, objectives] for float64 [n, chart genes]; rows sum to 1."""
        left = np.ones(len(chart))
        found = np.empty((len(chart), self._objectives))
        for k in range(self._objectives - 1):
            found[:, k] = left * chart[:, k]
            left = left * (1.0 - chart[:, k])
        found[:, -1] = left
        return self._front.lesson.map.evenly(found) if self._evenly else found

    def descent(self, place: Genome) -> Descent:
        """Of the point at a place: the map's own for a preference, or scaled and tilted."""
        own = for_preference(ON_MAP, self.preferences(np.array([place]))[0])
        scale, tilt = place[-2:]
        if (scale, tilt) == (1.0, 0.0):
            return own
        return Descent(Origin(how=ON_CHART, preference=own.origin.preference, scale=scale, tilt=tilt))

    def at(self, place: Sequence[float], scale: float = 1.0, tilt: float = 0.0) -> Genome:
        """Where a place of the simplex lies, unscaled and level if nothing else is said."""
        left, shares = 1.0, []
        for weight in place[:-1]:
            shares.append(weight / left if left > 0.0 else 0.0)
            left -= weight
        values = (*shares, scale, tilt)
        return tuple(gene.snap(value) for gene, value in zip(self.genes, values, strict=True))


class Auto(LearnedFront):
    """A learned front, then a surrogate on its chart and on the genes; or the latter alone."""

    def __init__(
        self,
        genes: Sequence[Gene],
        objectives: Sequence[Objective],
        population: int,
        seed: int,
        initial: Sequence[Genome] = (),
        settings: AutoSettings = AutoSettings(),
        *,
        steady: bool = False,
        focus: Sequence[float] | None = None,
        known: Sequence[Genome] = (),
    ) -> None:
        learned = LearnedFrontSettings(
            loss=settings.loss,
            steps=settings.steps,
            longer=settings.longer,
            items=settings.items,
            shrinkage=settings.shrinkage,
            splits=settings.splits,
            split_from=settings.split_from,
            fewest_items=settings.fewest_items,
            share=settings.share,
            in_turn=settings.in_turn,
            allotment=settings.allotment,
            preferences=settings.step_preferences,
            fewest_held_back=settings.fewest_held_back,
            patience=settings.patience,
            give_up=settings.give_up,
        )
        parts = (genes, objectives, population, seed, initial, learned)
        super().__init__(*parts, steady=steady, focus=focus, known=known)
        self._points_first = settings.preferences
        self._goes_on = settings.chart
        self._goes_beyond = settings.beyond == "chosen"
        self._inner = SurrogateSettings(
            generations=settings.generations,
            inner_population=settings.inner_population,
            reuse=settings.reuse,
            scales=settings.scales,
        )
        self._chart = Chart(self, self._grid, len(objectives), evenly=focus is None)
        self._on_chart: dict[Genome, Genome] = {}
        self._handed_over = self._is_beyond = False
        self._points_forecast: Forecast | None = None
        self._by_chart = Surrogate(self._chart.genes, (), seed, focus, steady=steady)
        by_gene = has_scales_by_gene(settings.scales, len(genes), len(objectives))
        self._by_genes = Surrogate(genes, initial, seed, focus, steady=steady, by_gene=by_gene)

    @property
    def given_up(self) -> GoneOnWith | None:
        """Without a map it searches the genes."""
        return "genes" if super().given_up == "nothing" else super().given_up

    @property
    def chart(self) -> Chart:
        """Its chart."""
        return self._chart

    @property
    def places(self) -> Mapping[Genome, Genome]:
        """Where on its chart the genomes lie that it asked for by it."""
        return self._on_chart

    def notes(self, genomes: Sequence[Genome]) -> list[Note | None]:
        """Places on the chart of those that have one."""
        return [self._on_chart.get(genome) for genome in genomes]

    def adopt(
        self,
        genomes: Sequence[Genome],
        notes: Sequence[Note | None],
        forecast: Forecast | None = None,
    ) -> None:
        """Take genomes with their places, and who chose them from what was expected of them."""
        super().adopt(genomes, notes, forecast)
        if self.lesson.has_taken_steps and forecast is None and not any(notes):
            notes = self._known_again(genomes)
        pairs = zip(genomes, notes, strict=True)
        self._on_chart |= {genome: note for genome, note in pairs if note is not None}
        self._follow(forecast)

    def _known_again(self, genomes: Sequence[Genome]) -> list[Note | None]:
        """Places of the first preferences, for ledgers without notes; given genomes have none."""
        first = self._first_places(FIRST_KNOWN)
        known = dict(zip(map(tuple, self._chart.points(np.array(first)).tolist()), first, strict=True))
        given = set(map(tuple, self._initial.tolist()))
        return [None if genome in given else known.get(genome) for genome in genomes]

    def _proposed(self, count: int, batch: list[Genome], rng: np.random.Generator) -> np.ndarray:
        points = super()._proposed(count, batch, rng)
        self._follow(self.forecast())
        return points

    def _follow(self, forecast: Forecast | None) -> None:
        """Go on, for good, with who chose a batch, as the forecast that is recorded of it says.

        And by nothing else: a resume would not know it, nor would the digest of the state show it. So where
        an ask proposes several times, since some points were known, its first proposal alone decides.
        """
        if forecast is not None and self.lesson.has_taken_steps:
            self._handed_over |= forecast.by == CHART
            self._is_beyond |= forecast.by == GENES

    def _foreseen(self) -> Forecast | None:
        return self._points_forecast

    def _first_places(self, count: int) -> list[Genome]:
        """Where preferences lie, from the middle outwards."""
        preferences = around(len(self._objectives), self._focus, REACH)
        return [self._chart.at(w) for _, w in zip(range(count), preferences, strict=False)]

    def _points(self, asked: Asked) -> np.ndarray:
        chosen = self._choice(asked)
        self._points_forecast, self._points_descents = chosen.forecast, chosen.descents
        self._on_chart |= chosen.places
        return chosen.points

    def _choice(self, asked: Asked) -> _Choice:
        if not self.lesson.has_taken_steps or self._is_beyond:
            return self._by_all(asked)
        near = self._near_map(asked)
        now = near.forecast
        if now is not None and now.gain is not None and self._may_leave(asked.told, now.by):
            beyond = self._by_all(asked)
            if self._is_more(beyond.forecast, now.gain):
                return beyond
            return replace(near, forecast=weighed(near.forecast, beyond.forecast))
        return near

    def _may_leave(self, told: Results, by: str) -> bool:
        """Whether the genes themselves are thought of: in generations once the surrogate is on the chart.

        In steady state from the map as well, where the chart's own choice, one point, is seldom surely more.
        """
        if not self._goes_beyond or self.lesson.has_many_genes:
            return False
        return by == CHART or (self._steady and not self._stays_on_map(told))

    def _by_all(self, asked: Asked) -> _Choice:
        """By the model on the genes, of all that was told."""
        points = self._by_genes(replace(asked, settings=self._inner))
        return _Choice(points, self._by_genes.forecast, self._by_genes.descents)

    def _near_map(self, asked: Asked) -> _Choice:
        """The map's next preferences, or what the model on the chart chooses."""
        charted, others = self._charted(asked.told)
        pending = [self._on_chart[g] for g in asked.pending if g in self._on_chart]
        seen = replace(
            asked,
            genes=self._chart.genes,
            told=tuple(charted),
            pending=tuple(pending),
            settings=replace(self._inner, start=LEAST),
        )
        known = {genome for genome, _ in asked.told} | set(asked.pending)
        stays = self._stays_on_map(asked.told) and not self._handed_over
        on_map, shares = [], None
        if not self._handed_over:
            # Where it stays, ever finer ones follow; see `LearnedFront`.
            most = (
                max(MOST_PREFERENCES, len(known) + asked.count + TRIES) if stays else MOST_PREFERENCES
            )
            on_map = self._new(self._first_places(most), known, asked.count)
            if len(charted) >= self._points_first:
                places = as_rows([place for place, _ in on_map], len(seen.genes))
                shares = self._by_chart.expected(seen, places, others)
        forecast: Forecast | None = Forecast.of(MAP, shares)
        to_beat = None if stays else shares
        if self._handed_over or to_beat is not None or not (on_map or stays):
            chosen = Grid(seen.genes).snap(self._by_chart(seen, others))
            ahead = self._by_chart.forecast
            if not on_map or (to_beat is not None and self._is_better(ahead, to_beat)):
                # Without a model too it is on record who chose.
                forecast = Forecast(CHART) if ahead is None else replace(ahead, by=CHART)
                on_map = self._new(map(tuple, chosen.tolist()), known, asked.count)
            elif ahead is not None:
                forecast = weighed(forecast, ahead)
        descents = [self._chart.descent(place) for place, _ in on_map]
        points = as_rows([point for _, point in on_map], len(self._genes))
        if stays and len(points) < asked.count:
            beside, near = self._beside(asked, asked.count - len(points))
            points, descents = np.concatenate([points, beside]), descents + near
        return _Choice(points, forecast, descents, {point: place for place, point in on_map})

    def _charted(
        self, told: Results
    ) -> tuple[list[tuple[Genome, Outcome]], list[tuple[int, Complete]]]:
        """What has a place on the chart, by that; of the rest what decides with it by which value it goes."""
        charted: list[tuple[Genome, Outcome]] = []
        others: list[tuple[int, Complete]] = []
        for genome, outcome in told:
            place = self._on_chart.get(genome)
            if place is not None:
                charted.append((place, outcome))
            elif isinstance(outcome, Complete):
                others.append((len(charted), outcome))
        return charted, others

    def _new(
        self, places: Iterable[Genome], known: Collection[Genome], count: int
    ) -> list[tuple[Genome, Genome]]:
        """The first `count` places whose points are not known, each with its point."""
        taken, found = set(known), list[tuple[Genome, Genome]]()
        for place in places:
            (point,) = map(tuple, self._chart.points(np.array([place])).tolist())
            if point not in taken:
                taken.add(point)
                found.append((place, point))
            if len(found) == count:
                break
        return found

    def _stays_on_map(self, told: Results) -> bool:
        """Whether its preferences are all that is asked for; by them no bound is kept, and no focus.

        Of one objective there is one preference: what lies beside it is then chosen by the model.
        """
        if self._goes_on != "chosen":
            return self._goes_on == "never"
        bounded = any(isinstance(outcome, Complete) and outcome.violations for _, outcome in told)
        whole_front = self._focus is None and len(self._objectives) > 1
        return self.lesson.has_many_genes and whole_front and not bounded

    def _is_better(self, ahead: Forecast | None, shares: np.ndarray) -> bool:
        """Whether the lower end of what the model's own choice adds is above what the map is expected to.

        With a focus always: what the map has next lies further and further from it.
        """
        if self._focus is not None:
            return True
        return ahead is not None and ahead.low is not None and ahead.low > float(shares.mean())

    def _is_more(self, ahead: Forecast | None, expected: float) -> bool:
        """Whether even the lower end of what the genes add is above what is expected nearer to the map."""
        if ahead is None or ahead.gain is None or ahead.low is None:
            return False
        return (SURELY * ahead.gain if self._steady else ahead.low) > expected
