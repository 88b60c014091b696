"""Lessons: one map from preference to genome, fitted by gradients of coefficients.

The map is `front_map`'s, genome(w) = clip(A + B w**p). Each step draws preferences w and search items, asks
for the gradient of the w-weighted losses at genome(w), and takes one step on A and B together, so that what
one preference teaches serves its neighbours. Its points are candidates like any other: evaluated, judged on
held-out items, exported. It takes as many steps as the budget pays for, and their rate falls over these.

With `loss: entropy` the losses are entropies over the choices of items, as AdaMerging's (Yang et al. 2024,
arXiv:2310.02575), and it begins with an equal share of every expert: no label is looked at while it learns.

Some search items are held back, and now and then the loss on them is looked at: the last map whose loss was
near the least is kept. A lesson mostly ends with its last step; before that only if several looks in a row
were not near the least, by default after 25 of 30 steps at the earliest. Losses on search items flatter; they
decide nothing else.

A lesson gives up after a few steps in a row of which no gradient could be had, since each costs time: then it
keeps its map, and one that no gradient was applied to is no map to go by.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from evomerge.optimizers.allotment import allotted
from evomerge.optimizers.front_map import FrontMap, curve, starting_table
from evomerge.optimizers.grid import Grid
from evomerge.optimizers.optimizer import Note
from evomerge.optimizers.preferences import drawn, in_turn, pulled
from evomerge.optimizers.settings import LearnedFrontSettings
from evomerge.optimizers.slopes import Slope, SlopeGround, SlopeRequest
from evomerge.search_space import Gene

WEIGHT_FLOOR = 0.01
"""Added to each preference's weight, so that no loss is ever ignored."""

SLACK = 1.03
"""Times the least loss on held-back items up to which a map is as good: they are few, their loss is noisy."""

LESSON_REACH = 0.5
"""With a focus, how much of the way from it to other preferences a lesson goes."""

MANY = 500
"""Genes of an expert from which on the rate falls, since each of them matters less."""

SPLITS = 2
"""Smaller steps for one from `split_from` genes on; see docs/ablations.md for what that brought."""

LONGER = 2
"""Times as many steps where genes are many and the budget pays for them; see docs/ablations.md."""

FEW = 40
"""Genes of an expert below which evaluations bring more than many steps; see docs/ablations.md."""

FEW_ITEMS = 16
"""Of each objective that a step looks at where genes are few, whatever the budget."""

FEW_SPARE = 1.1
"""Times what all steps with these cost, that a lesson of few genes may take."""


@dataclass(frozen=True)
class _Step:
    """What was asked: preferences with their requests, or a look at the held-back items."""

    preferences: np.ndarray
    requests: list[SlopeRequest]
    look: bool
    rate: float = 0.0
    shrinkage: float = 0.0


class Lesson:
    """A map that is being learned: what is asked next, and what the answers make of it.

    Attributes:
        map: as it is now; once nothing more is asked, the one that was kept.
    """

    map: FrontMap
    _kept: np.ndarray

    def __init__(
        self,
        genes: Sequence[Gene],
        objectives: int,
        seed: int,
        settings: LearnedFrontSettings,
        focus: Sequence[float] | None = None,
    ) -> None:
        self._grid = Grid(genes)
        self._focus = focus
        self._objectives, self._seed, self._settings = objectives, seed, settings
        self._entropy = settings.loss == "entropy"
        self._ground = SlopeGround((0,) * objectives, {})
        self._splits = settings.splits
        self._step, self._steps = 0, settings.steps
        self._taught = self._failed = 0
        self._pending: _Step | None = None
        self._looked_at = -1
        self._least, self._kept_at = np.inf, -1
        self._start(curved=False)
        self._learning = False

    @property
    def has_taken_steps(self) -> bool:
        """Whether a gradient was applied to the map; in older ledgers, whether one was asked for."""
        return self._taught > 0

    @property
    def has_given_up(self) -> bool:
        """Whether it is over because no gradient of its last steps could be had."""
        most = min(self._settings.give_up, self._steps)
        return 0 < most <= self._failed

    @property
    def has_many_genes(self) -> bool:
        """Whether an expert has so many that its map fits search items far better than others."""
        return self._genes_each() >= MANY

    def take_over(self, other: Lesson) -> None:
        """Go on with the map of another lesson, without learning more."""
        self.enough()
        self.map, self._step, self._taught = other.map, other._step, other._taught

    def _start(self, *, curved: bool) -> None:
        """Begin with a map that nothing was learned into: curved for a lesson, else a line."""
        genes, gains = self._grid.genes, self._ground.gains
        learned = np.array([g.coefficient == "weight" and g.input in gains for g in genes])
        table = starting_table(genes, self._ground, None if curved else self._settings.spread)
        self.map = FrontMap(self._grid, table, learned, curve(self._objectives) if curved else 1.0)
        self._kept = table

    def begin(self, ground: SlopeGround) -> None:
        """Start at the experts' own strengths, by entropies evenly; learn if an objective has losses."""
        if self._entropy:
            m = self._objectives
            gains = dict.fromkeys(ground.gains, (0.0,) * m)
            ground = replace(ground, items=ground.choices or (0,) * m, gains=gains)
        self._ground = ground
        self._start(curved=False)
        self._ground = replace(ground, allowance=self._planned())
        self._splits = self._settings.splits or self._chosen_splits()
        self._steps = self._affordable_steps()
        self._learning = any(ground.items) and self._steps > 0

    def _chosen_splits(self) -> int:
        """As many as the genes ask for, and more where the budget does not pay for whole steps."""
        few = SPLITS if self._genes_each() >= self._settings.split_from else 1
        # Steps of one item become no cheaper, nor does a lesson that is looked at in the end alone.
        most = max(self._settings.items, few * self._settings.steps)
        self._splits = few
        while (
            self._affordable_steps() < few * self._settings.steps
            and self._items_each(2 * self._splits) >= self._settings.fewest_items
            and self._splits < most
        ):
            self._splits *= 2
        return self._splits

    def _planned(self) -> float | None:
        """What the lesson may cost, at most what slopes may; None for any."""
        ground, settings = self._ground, self._settings
        most, share = ground.allowance, settings.share
        if most is None or share > 0.0:
            return None if most is None else share * most
        if self._genes_each() >= FEW:
            return most
        splits = settings.splits or max(1, settings.items // FEW_ITEMS)
        least = next(itertools.islice(self._costs(splits), max(0, settings.steps - 1), None), 0.0)
        return min(most, FEW_SPARE * least)

    def _costs(self, splits: int) -> Iterator[float]:
        """In evaluations of items, of a lesson of one step, of two and so on; the last look included."""
        ground = self._ground
        free = [known - self._held_back(known) for known in ground.items]
        each = self._items_each(splits)
        step = ground.backward * self._settings.preferences * sum(min(each, known) for known in free)
        # The middle and, of several objectives, each corner; see `_look`.
        preferences = 1 + (self._objectives if self._objectives > 1 else 0)
        look, cost = preferences * (sum(ground.items) - sum(free)), 0.0
        for number in range(1, self._most_steps(splits) + 1):
            cost += step
            yield cost + look
            cost += look if self._is_look_after(number, splits) else 0.0

    def _most_steps(self, splits: int) -> int:
        """How many steps a lesson has at most, whatever the budget pays for."""
        longer = LONGER if self.has_many_genes else 1
        return self._settings.steps * splits * (self._settings.longer or longer)

    def _affordable_steps(self) -> int:
        """How many of the steps can be paid for, so that the rate has fallen when the last one is taken."""
        allowance, most = self._ground.allowance, self._most_steps(self._splits)
        if allowance is None or not any(self._ground.items):
            return self._settings.steps * self._splits
        paid = itertools.takewhile(lambda cost: cost <= allowance, self._costs(self._splits))
        return min(max(1, sum(1 for _ in paid)), most)

    def slopes(self) -> list[SlopeRequest]:
        """The next step's requests, or a look at what is held back."""
        if not self._learning:
            return []
        if self._pending is None:
            self._pending = self._look() if self._is_look_due() else self._next_step()
        return self._pending.requests

    def _is_look_due(self) -> bool:
        step = self._step
        due = self._is_look_after(step, self._splits) or step >= self._steps
        return due and self._looked_at < step and self._looks()

    def _looks(self) -> bool:
        """Whether there is anything to look at; earlier lessons looked at nothing then, see `settings`."""
        return self._settings.fewest_held_back == 0 or any(map(self._held_back, self._ground.items))

    def _is_look_after(self, step: int, splits: int) -> bool:
        settings = self._settings
        return step >= splits * settings.look_from and step % (splits * settings.look_every) == 0

    def _held_back(self, items: int) -> int:
        """How many items of an objective are held back: the last ones, a random sample by content hash."""
        fewest = min(self._settings.fewest_held_back, items - 1)
        return max(int(items * self._settings.held_back), fewest, 0)

    def _next_step(self) -> _Step:
        settings = self._settings
        if self._step == 0:
            self._start(curved=True)
        rng = np.random.default_rng((self._seed, 2, self._step))
        count = int(settings.preferences)
        parts = (self._objectives, settings.concentration)
        if settings.in_turn:
            preferences = in_turn(self._step * count, count, *parts, (self._seed, 3))
        else:
            preferences = drawn(count, *parts, rng)
        preferences = pulled(preferences, self._focus, LESSON_REACH)
        items = [self._drawn_items(rng, w) for w in preferences]
        return self._asked(preferences, items, self._rate(), float(settings.shrinkage))

    def _items_each(self, splits: int) -> int:
        """Items of each objective for one preference of one step."""
        return max(1, self._settings.items // splits // self._settings.preferences)

    def _drawn_items(
        self, rng: np.random.Generator, preference: np.ndarray
    ) -> tuple[tuple[int, ...], ...]:
        """Search items of each objective that are not held back, drawn without replacement."""
        free = np.array([known - self._held_back(known) for known in self._ground.items])
        counts = np.minimum(free, self._items_each(self._splits))
        if self._settings.allotment == "by_preference":
            # In parts of a thousand, so that another processor's last bits of a preference change nothing.
            weights = np.maximum(np.round(preference, 3), WEIGHT_FLOOR)
            counts = allotted(int(counts.sum()), weights, free)
        found = []
        for own, count in zip(free.tolist(), counts.tolist(), strict=True):
            chosen = rng.choice(own, size=count, replace=False)
            found.append(tuple(sorted(chosen.tolist())))
        return tuple(found)

    def _asked(
        self,
        preferences: np.ndarray,
        items: Sequence[tuple[tuple[int, ...], ...]],
        rate: float,
        shrinkage: float,
    ) -> _Step:
        """A step at the points of preferences [n, objectives], with the items of each."""
        points = self._grid.snap(self.map.points(preferences))
        requests = []
        for point, w, own in zip(points.tolist(), preferences.tolist(), items, strict=True):
            weights = [
                share + WEIGHT_FLOOR if some else 0.0 for share, some in zip(w, own, strict=True)
            ]
            note = (*w, rate, shrinkage, self.map.power)
            requests.append(SlopeRequest(tuple(point), tuple(weights), own, note, self._entropy))
        return _Step(preferences, requests, False, rate, shrinkage)

    def adopt(self, notes: Mapping[int, Note | None]) -> None:
        """Take preferences, rate and shrinkage of the pending step from the record.

        Raises:
            ValueError: if a note is no such record.
        """
        step = self._pending
        if step is None or step.look:
            return
        preferences, rate, shrinkage = step.preferences.copy(), step.rate, step.shrinkage
        power, m = self.map.power, self._objectives
        for number, note in notes.items():
            if note is None:
                shrinkage, power = 0.0, 1.0  # there was none before there were notes
            elif len(note) in (m + 2, m + 3) and number < len(preferences):
                preferences[number] = note[:m]
                # Ledgers of 29 November and before state no power: their maps are lines.
                rate, shrinkage, power = (*note[m:], 1.0)[:3]
            else:
                raise ValueError(f"slope {number} has a note of {len(note)} numbers")
        if self._step == 0 and power == 1.0:
            self._start(curved=False)
        self._pending = self._asked(preferences, [r.items for r in step.requests], rate, shrinkage)

    def _look(self) -> _Step:
        assert self._ground is not None
        m = self._objectives
        middle, towards = np.full((1, m), 1.0 / m), 0.7 * np.eye(m) + 0.3 / m
        preferences = middle if m == 1 else np.vstack([middle, towards])
        preferences = pulled(preferences, self._focus, LESSON_REACH)
        points = self._grid.snap(self.map.points(preferences))
        items = tuple(
            tuple(range(known - self._held_back(known), known)) for known in self._ground.items
        )
        none = (0.0,) * m
        requests = [
            SlopeRequest(tuple(point), none, items, entropy=self._entropy) for point in points.tolist()
        ]
        return _Step(preferences, requests, look=True)

    def tell_slopes(self, slopes: Sequence[Slope | None]) -> None:
        """Take the step, or keep the map if it is the best so far on what is held back."""
        if self._pending is None or len(slopes) != len(self._pending.requests):
            raise RuntimeError("tell_slopes() needs one answer for each request of the last slopes()")
        done, self._pending = self._pending, None
        if done.look:
            self._take_look(done, slopes)
            return
        self._step += 1
        found = [
            (w, slope.gradient)
            for w, slope in zip(done.preferences, slopes, strict=True)
            if slope is not None and np.isfinite(slope.gradient).all()
        ]
        self._failed = 0 if found else self._failed + 1
        self._taught += bool(found) or self._settings.give_up == 0
        if self.has_given_up:
            self.enough()
        elif found:
            left = 1.0 - (self._step - 1) / max(1.0, self._steps)
            rate = done.rate * (0.2 + 0.8 * left)
            preferences, gradients = (np.array(each) for each in zip(*found, strict=True))
            self.map.step(preferences, gradients, rate, done.shrinkage)
        if self._step >= self._steps and not self._looks():
            self.enough()

    def _rate(self) -> float:
        assert self._ground is not None
        if self._settings.rate > 0.0:
            return self._settings.rate
        return float(0.06 * min(1.0, (MANY / self._genes_each()) ** 0.4))

    def _genes_each(self) -> float:
        return len(self._grid) / max(1, len(self._ground.gains))

    def _take_look(self, done: _Step, slopes: Sequence[Slope | None]) -> None:
        self._looked_at = self._step
        total = 0.0
        for w, slope in zip(done.preferences, slopes, strict=True):
            losses = np.full(self._objectives, np.nan) if slope is None else np.array(slope.losses)
            known = np.isfinite(losses)
            total += float(np.sum(w[known] * losses[known])) if known.any() else np.inf
        self._least = min(self._least, total)
        if total <= SLACK * self._least:
            self._kept_at, self._kept = self._step, self.map.table
        if self._step >= self._steps or self._step - self._kept_at >= self._patience():
            self.enough()

    def _patience(self) -> float:
        """Steps without a better map after which it stops; of a longer lesson in proportion.

        The loss falls as the rate does: until then it goes up and down.
        """
        settings, splits = self._settings, self._splits
        longer = max(1.0, self._steps / max(1, settings.steps * splits))
        return settings.patience * settings.look_every * splits * longer

    def enough(self) -> None:
        """Stop here: with the map that was kept, or the last one if there was no look yet."""
        self._learning, self._pending = False, None
        if not self.has_taken_steps:
            self._start(curved=False)
        if self._kept_at >= 0:
            self.map.table = self._kept

    def digest(self) -> str:
        """SHA-256 over the map and how far the lesson is."""
        found = hashlib.sha256(self.map.table.astype("<f8").tobytes())
        found.update(np.array([self._step, self._looked_at], dtype="<i8").tobytes())
        return found.hexdigest()
