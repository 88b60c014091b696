"""The learned front where losses are known in closed form: each objective has its own best merge."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from evomerge.objectives.objective import Complete
from evomerge.objectives.origin import Origin
from evomerge.optimizers import front_map, lesson
from evomerge.optimizers.kinds import make_optimizer, optimizer_settings
from evomerge.optimizers.recorded_settings import as_begun, to_record
from evomerge.optimizers.slopes import Slope, SlopeGround, SlopeOptimizer
from evomerge.search_space import Gene
from evomerge.testing.optimizers import OBJECTIVES

EXPERTS = ("math", "code")
PLACES = 20
ITEMS = 50
GENES = tuple(
    Gene(f"weight.{expert}.layers.{i}", 0.0, 1.5, 1e-3, "weight", expert, (f"layers.{i}",))
    for expert in EXPERTS
    for i in range(PLACES)
)
GROUND = SlopeGround((ITEMS, ITEMS), {"math": (1.0, 0.0), "code": (0.0, 1.0)})


class Bed:
    """Loss t of a genome: mean square distance to the best merge of t, which differs a little by item."""

    def __init__(self, seed=0, noise=0.05):
        rng = np.random.default_rng(seed)
        self.best = rng.uniform(0.1, 1.4, (2, len(GENES)))
        self.items = noise * rng.standard_normal((2, ITEMS, len(GENES)))
        self.asked = []

    def loss(self, genome, objective, items=None):
        chosen = self.items[objective, slice(None) if items is None else list(items)]
        return float(np.mean((np.array(genome) - self.best[objective] - chosen) ** 2))

    def answer(self, request):
        self.asked.append(request)
        losses, total = [], np.zeros(len(GENES))
        for t, (weight, items) in enumerate(zip(request.weights, request.items, strict=True)):
            losses.append(self.loss(request.genome, t, items) if items else float("nan"))
            if weight == 0.0:
                continue
            aim = self.best[t] + self.items[t, list(items)].mean(axis=0)
            difference = np.array(request.genome) - aim
            total += weight * 2 * difference / len(GENES)
        return Slope(tuple(losses), total if any(request.weights) else np.empty(0))

    def learn(self, optimizer):
        while requests := optimizer.slopes():
            optimizer.tell_slopes([self.answer(request) for request in requests])


def learned(
    seed=1, population=10, ground=GROUND, genes=GENES, focus=None, objectives=OBJECTIVES, **options
):
    found = make_optimizer(
        "learned-front",
        genes,
        objectives,
        population=population,
        seed=seed,
        settings=optimizer_settings("learned-front", options),
        focus=focus,
    )
    assert isinstance(found, SlopeOptimizer)
    if ground is not None:
        found.begin(ground)
    return found


def weighted(bed, genome, preference):
    return sum(w * bed.loss(genome, t) for t, w in enumerate(preference))


def test_it_comes_near_the_best_merge_of_every_preference():
    """For w-weighted squares that is the w-weighted mean of both best merges: linear in w."""
    bed = Bed()
    before = learned(steps=0).ask()
    optimizer = learned(steps=150, preferences=2, rate=0.05)
    bed.learn(optimizer)
    after = optimizer.ask()
    for at, preference in enumerate([(0.5, 0.5), (1.0, 0.0), (0.0, 1.0)]):
        best = sum(w * b for w, b in zip(preference, bed.best, strict=True))
        least = weighted(bed, best, preference)
        found, start = (weighted(bed, points[at], preference) for points in (after, before))
        assert found - least < 0.1 * (start - least)


def test_it_starts_at_the_experts_strengths():
    middle, first, second, *_ = learned(steps=0).ask()
    math, code = slice(0, PLACES), slice(PLACES, None)
    assert set(first[math]) == {1.5}
    assert set(first[code]) == {0.375}
    assert set(second[math]) == {0.375}
    assert set(second[code]) == {1.5}
    assert set(middle) == {0.975}


def test_held_back_items_are_seen_by_no_step():
    bed = Bed()
    bed.learn(learned(held_back=0.2, steps=20))
    looks = [r for r in bed.asked if not any(r.weights)]
    steps = [r for r in bed.asked if any(r.weights)]
    assert len(steps) == 20
    assert looks
    seen = {item for request in steps for items in request.items for item in items}
    held = {item for request in looks for items in request.items for item in items}
    assert held == set(range(40, 50))
    assert not seen & held


@pytest.mark.parametrize("preferences", [1, 2])
@pytest.mark.parametrize("allowance", [0.0, 500.0, 1000.0, 2500.0, None])
def test_it_takes_the_steps_that_can_be_paid_for_and_looks_at_the_end(allowance, preferences):
    bed, ground = Bed(), replace(GROUND, allowance=allowance, backward=3.0)
    settings = {"steps": 30, "items": 10, "look_from": 5, "look_every": 5, "patience": 1000}
    bed.learn(learned(ground=ground, preferences=preferences, splits=1, share=1.0, **settings))
    steps = sum(any(request.weights) for request in bed.asked) // preferences
    cost = sum(
        (3.0 if any(request.weights) else 1.0) * sum(map(len, request.items)) for request in bed.asked
    )
    step, look = 3.0 * 2 * 10, 3 * 2 * 5
    if allowance is None:
        assert steps == 30
    elif allowance < step + look:
        assert steps == 1, "without one there is no lesson; the driver ends it where that is too much"
    else:
        assert cost <= allowance
        assert steps == 30 or cost + step + 2 * look > allowance
    assert not any(bed.asked[-1].weights), "the last map was looked at"


def test_the_rate_has_fallen_at_the_last_step_however_few_there_are():
    """The last step of a short lesson is as small as that of a long one."""
    moved = []
    for allowance in (600.0, 2000.0):
        bed, ground = Bed(noise=0.0), replace(GROUND, allowance=allowance)
        optimizer, tables = learned(ground=ground, steps=60, items=10, held_back=0.1, share=1.0), []
        while requests := optimizer.slopes():
            tables.append(optimizer.lesson.map.table.copy())
            optimizer.tell_slopes([bed.answer(request) for request in requests])
        changes = [np.abs(b - a).max() for a, b in itertools.pairwise(tables)]
        moved.append((len(changes), changes[0], [c for c in changes if c > 0.0][-1]))
    (few, *_), (many, *_) = moved
    assert few < many
    for _, first, last in moved:
        assert last < 0.5 * first


def items_each(request):
    """Items of an objective in the mean."""
    return sum(map(len, request.items)) / len(request.items)


def test_with_many_genes_a_step_is_split_in_two_of_half_the_items():
    many = row_genes(lesson.FEW // 2)
    options = {"items": 20, "steps": 12, "look_from": 6, "look_every": 3, "patience": 100}
    asked = {}
    for name, genes, splits in (("few", GENES, 0), ("many", many, 0), ("whole", many, 1)):
        optimizer, requests = learned(genes=genes, splits=splits, **options), []
        while batch := optimizer.slopes():
            requests += batch
            gradient = np.ones(len(genes))
            optimizer.tell_slopes(
                [Slope((1.0, 1.0), gradient if any(r.weights) else np.empty(0)) for r in batch]
            )
        steps = [r for r in requests if any(r.weights)]
        assert {items_each(r) for r in steps} == {10 if name == "many" else 20}
        asked[name] = (len(steps), len(requests) - len(steps))
    looks = 3 * 3  # of three points, after 6, 9 and 12 steps
    assert asked == {"few": (12, looks), "many": (24, looks), "whole": (12, looks)}


def lesson_of(allowance: float | None, **settings: object) -> tuple[int, set[int], float]:
    """Steps, items that one looks at for each objective, and cost of all, in losses."""
    bed, ground = Bed(), replace(GROUND, allowance=allowance, backward=3.0)
    bed.learn(learned(ground=ground, steps=30, look_from=10, look_every=5, patience=1000, **settings))
    steps = [request for request in bed.asked if any(request.weights)]
    cost = sum(
        (3.0 if any(request.weights) else 1.0) * sum(map(len, request.items)) for request in bed.asked
    )
    return len(steps), set(map(items_each, steps)), cost


def steps_of(**options):
    bed = Bed()
    bed.learn(learned(steps=12, items=30, **options))
    return [request for request in bed.asked if any(request.weights)]


def test_each_objective_is_foremost_in_turn():
    def foremost(**options):
        return [int(np.argmax(request.note[:2])) for request in steps_of(**options)]

    assert foremost() == [0, 1] * 6
    assert foremost(preferences=2) == [0, 1] * 12
    assert foremost(in_turn=False) != [0, 1] * 6


def test_a_step_looks_at_more_items_of_what_it_prefers():
    for request in steps_of():
        assert sum(map(len, request.items)) == 60
        for own, items in zip(request.note, request.items, strict=False):
            # There are 45 of each that are not held back.
            assert abs(len(items) - min(45, max(15, 60 * own))) <= 1
            assert len(set(items)) == len(items)
            assert max(items) < 45
    assert {len(items) for r in steps_of(allotment="alike") for items in r.items} == {30}


def test_a_budget_too_small_for_all_steps_pays_for_as_many_smaller_ones():
    allowances = (None, 7000.0, 3500.0, 1800.0)
    asked = {allowance: lesson_of(allowance, items=32, share=1.0) for allowance in allowances}
    assert [items for _, items, _ in asked.values()] == [{32}, {32}, {16}, {8}]
    assert all(steps >= 30 for steps, _, _ in asked.values())
    assert all(cost <= allowance for allowance, (_, _, cost) in asked.items() if allowance is not None)


def test_steps_are_not_smaller_than_the_fewest_items():
    steps, items, cost = lesson_of(600.0, items=32)
    assert (items, cost <= 600.0) == ({4}, True)
    assert steps < 30
    assert lesson_of(600.0, items=32, fewest_items=16)[1] == {16}
    assert lesson_of(600.0, items=32, fewest_items=1_000_000)[1] == {32}
    assert lesson_of(1800.0, items=32, splits=1)[1] == {32}, "what is stated is not chosen"
    # One item is the least there is, also where the budget pays for fewer steps all the same.
    steps, items, cost = lesson_of(100.0, items=32, fewest_items=1)
    assert (items, cost <= 100.0) == ({1}, True)
    assert 0 < steps < 30


def test_a_lesson_of_few_genes_looks_at_sixteen_items_a_step_whatever_the_budget():
    """Evaluations of its points bring more than further items and steps."""
    step, look = 3.0 * 2 * lesson.FEW_ITEMS, 3 * 2 * 5
    least = 30 * step + 2 * look  # after twenty steps, and at the end
    for allowance in (2 * least, 9 * least):
        steps, items, cost = lesson_of(allowance, items=32)
        assert items == {lesson.FEW_ITEMS}
        assert steps >= 30
        assert least <= cost <= lesson.FEW_SPARE * least
    assert lesson_of(0.5 * least, items=32)[2] > 0.4 * least, "what half of the budget pays for"
    assert lesson_of(2 * least, items=32, share=1.0)[2] > 1.5 * least, "what is stated is not chosen"
    assert lesson_of(3 * least, items=32, splits=1)[0] == 30, "as many of the items that were stated"


def test_a_lesson_of_many_genes_takes_what_slopes_may_cost():
    many, allowance, cost = row_genes(lesson.FEW // 2), 5000.0, 0.0
    ground = replace(GROUND, allowance=allowance, backward=3.0)
    optimizer = learned(genes=many, ground=ground, steps=1000)
    while batch := optimizer.slopes():
        cost += sum((3.0 if any(r.weights) else 1.0) * sum(map(len, r.items)) for r in batch)
        gradient = np.ones(len(many))
        optimizer.tell_slopes(
            [Slope((1.0, 1.0), gradient if any(r.weights) else np.empty(0)) for r in batch]
        )
    assert 0.9 * allowance < cost <= allowance


@pytest.mark.parametrize(
    ("each", "longer", "allowance", "times"),
    [
        (lesson.MANY, 0, 1e9, lesson.LONGER),
        (lesson.MANY, 0, 17_600.0, 1.5),
        (lesson.MANY, 0, None, 1),
        (lesson.MANY, 2, 1e9, 2),
        (lesson.FEW, 0, 1e9, 1),
        (lesson.FEW, 3, 1e9, 3),
    ],
)
def test_a_lesson_of_many_genes_is_longer_where_the_budget_pays_for_it(each, longer, allowance, times):
    genes, rates = row_genes(each), []
    ground = replace(GROUND, allowance=allowance, backward=3.0)
    optimizer = learned(genes=genes, ground=ground, longer=longer, patience=1000)
    while batch := optimizer.slopes():
        rates += [request.note[-3] for request in batch if any(request.weights)]
        gradient = np.ones(len(genes))
        optimizer.tell_slopes(
            [Slope((1.0, 1.0), gradient if any(r.weights) else np.empty(0)) for r in batch]
        )
    whole = 30 * lesson.SPLITS
    assert len(rates) == pytest.approx(times * whole, rel=0.1)


def test_it_keeps_the_map_that_was_best_on_what_was_held_back_and_stops():
    """Steps far too large: losses on held-back items rise, and the search does not go on for nothing."""
    bed = Bed()
    optimizer = learned(rate=2.0, steps=200, look_from=5, look_every=5, patience=2)
    bed.learn(optimizer)
    steps = sum(any(request.weights) for request in bed.asked)
    assert steps < 200
    looks = [r for r in bed.asked if not any(r.weights)]
    totals = [
        sum(bed.loss(r.genome, t, r.items[t]) for r in looks[i : i + 3] for t in range(2))
        for i in range(0, len(looks), 3)
    ]
    best = int(np.argmin(totals))
    middle = looks[3 * best].genome
    assert middle in optimizer.ask()


@pytest.mark.parametrize(("longer", "patience"), [(1, 15), (2, 30)])
def test_a_longer_lesson_is_as_patient_in_proportion(longer, patience):
    """With losses that only rise: steps after the first look until it stops."""
    optimizer, steps, loss = (
        learned(longer=longer, share=1.0, ground=replace(GROUND, allowance=1e9)),
        0,
        1.0,
    )
    while batch := optimizer.slopes():
        look = not any(batch[0].weights)
        steps, loss = steps + (not look), loss * (1.1 if look else 1.0)
        gradient = np.empty(0) if look else np.ones(len(GENES))
        optimizer.tell_slopes([Slope((loss, loss), gradient)] * len(batch))
    assert steps == 10 + patience


def test_an_answer_that_could_not_be_had_changes_nothing_else():
    bed = Bed()
    one, other = learned(preferences=2, steps=12), learned(preferences=2, steps=12)
    while requests := one.slopes():
        answers = [bed.answer(request) for request in requests]
        if any(requests[0].weights):
            answers[1] = None
        one.tell_slopes(answers)
    bed.learn(other)
    assert one.state_digest() != other.state_digest()
    assert all(np.isfinite(one.ask()).all() for _ in range(1))
    assert one.given_up is None


def fail(optimizer, steps, bed=None):
    """No gradient can be had of the next steps; of losses on what is held back some can."""
    while steps and (requests := optimizer.slopes()):
        is_look = not any(requests[0].weights)
        optimizer.tell_slopes([bed.answer(r) if is_look and bed else None for r in requests])
        steps -= not is_look
    return steps


@pytest.mark.parametrize("preferences", [1, 2])
def test_a_lesson_gives_up_after_three_steps_in_a_row_without_a_gradient(preferences):
    optimizer = learned(steps=20, preferences=preferences)
    assert fail(optimizer, 20) == 17
    assert optimizer.slopes() == []
    assert optimizer.given_up == "nothing"
    assert not optimizer.lesson.has_taken_steps
    never = learned(steps=0)
    assert optimizer.ask() == never.ask(), "as where nothing can be learned"
    assert fail(learned(steps=20, give_up=5), 20) == 15
    short = learned(steps=2)
    assert fail(short, 2) == 0
    assert (short.slopes(), short.given_up) == ([], "nothing"), "all of its steps are fewer than three"


def test_a_lesson_that_has_learned_gives_up_with_its_map():
    bed, optimizer = Bed(), learned(steps=20)
    for failed in (2, 2, 1):
        assert fail(optimizer, failed, bed) == 0
        optimizer.tell_slopes([bed.answer(request) for request in optimizer.slopes()])
    assert optimizer.given_up is None, "five of eight failed, never three in a row"
    assert optimizer.lesson.has_taken_steps
    before = optimizer.lesson.map.table
    assert fail(optimizer, 12, bed) == 9
    assert (optimizer.slopes(), optimizer.given_up) == ([], "map")
    assert np.array_equal(optimizer.lesson.map.table, before)
    again = learned(steps=20)
    for failed in (2, 2, 1):
        fail(again, failed, bed)
        again.tell_slopes([bed.answer(request) for request in again.slopes()])
    fail(again, 12, bed)
    assert again.state_digest() == optimizer.state_digest()


def test_only_applied_gradients_are_steps_that_were_taken():
    bed, optimizer = Bed(), learned(steps=20)
    fail(optimizer, 2)
    assert not optimizer.lesson.has_taken_steps
    cut_off = learned(steps=20)
    fail(cut_off, 2)
    cut_off.enough()
    assert (cut_off.given_up, cut_off.lesson.has_taken_steps) == (None, False)
    optimizer.tell_slopes([bed.answer(request) for request in optimizer.slopes()])
    assert optimizer.lesson.has_taken_steps


def test_ledgers_that_record_no_limit_have_lessons_that_never_give_up():
    """And the map as it starts, curved, counts as learned there."""
    settings = as_begun("learned-front", {}, {"steps": 5})
    silent = make_optimizer("learned-front", GENES, OBJECTIVES, population=4, seed=1, settings=settings)
    silent.begin(GROUND)
    assert fail(silent, 9, Bed()) == 4
    assert silent.given_up is None
    assert silent.lesson.has_taken_steps
    assert np.array_equal(silent.lesson.map.table, front_map.starting_table(GENES, GROUND, None))


@pytest.mark.parametrize("schedule", ["generational", "steady_state"])
def test_auto_searches_the_genes_when_a_lesson_gives_up_with_nothing(schedule):
    def auto(ground):
        options = {"steps": 12, "generations": 4, "inner_population": 12}
        settings = optimizer_settings("auto", options)
        found = make_optimizer(
            "auto", GENES, OBJECTIVES, population=4, seed=1, settings=settings, schedule=schedule
        )
        found.begin(ground)
        return found

    bed, given_up, without = Bed(), auto(GROUND), auto(replace(GROUND, items=(0, 0)))
    assert fail(given_up, 12) == 9
    assert (given_up.given_up, without.given_up) == ("genes", None)
    for number in range(16):
        batch = given_up.ask()
        assert batch == without.ask()
        assert given_up.notes(batch) == [None] * len(batch)
        outcomes = [Complete(tuple(bed.loss(g, t) for t in range(2)), (0.0, 0.0)) for g in batch]
        for each in (given_up, without):
            each.tell(outcomes, list(range(number * len(batch), (number + 1) * len(batch))))


def test_only_weights_of_experts_are_learned():
    genes = (*GENES, Gene("density", 0.1, 0.9, 0.1, "density", "*", ("layers.0",)))
    bed, optimizer = Bed(), learned(genes=genes, steps=10)
    while requests := optimizer.slopes():
        cut = [type(r)(r.genome[:-1], r.weights, r.items) for r in requests]
        slopes = [bed.answer(r) for r in cut]
        optimizer.tell_slopes(
            [
                Slope(s.losses, np.append(s.gradient, 9.0) if s.gradient.size else s.gradient)
                for s in slopes
            ]
        )
    assert {genome[-1] for genome in optimizer.ask()} == {0.5}


def test_an_objective_without_losses_is_left_to_the_others():
    bed = Bed()
    optimizer = learned(ground=SlopeGround((ITEMS, 0), GROUND.gains), steps=10)
    bed.learn(optimizer)
    assert all(not r.items[1] and r.weights[1] == 0.0 for r in bed.asked)
    assert learned(ground=SlopeGround((0, 0), GROUND.gains)).slopes() == []
    assert learned(ground=None).slopes() == []


def test_by_entropy_it_begins_evenly_and_asks_for_entropies_of_choices():
    ground = SlopeGround((ITEMS, ITEMS), GROUND.gains, choices=(ITEMS, 0))
    bed, optimizer = Bed(), learned(ground=ground, loss="entropy", steps=10)
    assert set(optimizer.lesson.map.points(np.eye(2)).ravel().tolist()) == {front_map.LEVEL / 2}
    bed.learn(optimizer)
    assert all(request.entropy and not request.items[1] for request in bed.asked)
    assert not any(request.entropy for request in learned().slopes())
    unasked = learned(ground=GROUND, loss="entropy")
    assert unasked.slopes() == []


def test_it_replays_to_the_same_state():
    bed = Bed()
    one, two = learned(), learned()
    for optimizer in (one, two):
        bed.learn(optimizer)
    assert one.state_digest() == two.state_digest()
    assert one.ask() == two.ask()
    assert learned(seed=2).slopes() != learned(seed=1).slopes()


def test_slopes_asked_again_are_the_same_and_answers_must_fit():
    optimizer = learned(preferences=3)
    assert optimizer.slopes() == optimizer.slopes()
    with pytest.raises(RuntimeError, match="one answer for each request of the last slopes"):
        optimizer.tell_slopes([None])
    assert len(optimizer.slopes()) == 3
    fresh = learned()
    with pytest.raises(RuntimeError, match="one answer for each request"):
        fresh.tell_slopes([None])


def test_what_is_told_of_candidates_shows_in_the_digest():
    optimizer = learned(steps=0)
    batch = optimizer.ask()
    before = optimizer.state_digest()
    optimizer.tell([Complete((0.0, 1.0), (0.0, 0.0))] * len(batch))
    assert optimizer.state_digest() != before


def test_where_no_more_slopes_can_be_had_it_goes_on_with_what_it_has():
    bed = Bed()
    optimizer, never = learned(steps=100, rate=0.05), learned(steps=0)
    for _ in range(20):
        optimizer.tell_slopes([bed.answer(request) for request in optimizer.slopes()])
    optimizer.enough()
    assert optimizer.slopes() == []
    middle = (0.5, 0.5)
    after, before = optimizer.ask()[2], never.ask()[2]
    assert weighted(bed, after, middle) < 0.7 * weighted(bed, before, middle)


def test_with_a_focus_it_learns_there_and_asks_the_model_of_that_preference_first():
    """At equal steps it is better there than a map that was learned for the whole front."""
    focus, steps = (0.9, 0.1), 40
    gains = []
    for seed in range(3):
        bed = Bed(seed)
        near, whole = learned(seed, focus=focus, steps=steps), learned(seed, steps=steps)
        bed.learn(near)
        asked = near.ask()
        bed.learn(whole)
        there = tuple(near._grid.snap(whole.lesson.map.points(np.array([focus])))[0].tolist())
        assert near.descents()[0].origin == Origin(how="map", preference=focus)
        gains.append(weighted(bed, there, focus) - weighted(bed, asked[0], focus))
        spread = np.abs(np.array(asked) - asked[0]).max()
        assert 0.0 < spread < np.abs(np.array(whole.ask()) - there).max()
    assert np.median(gains) > 0.0


def test_a_lesson_goes_on_from_the_preferences_on_record(monkeypatch):
    """Elsewhere they are drawn with other last bits: the map comes out the same, bit for bit."""
    bed = Bed()
    one, log = learned(preferences=2, steps=6, look_from=3, look_every=3), []
    while requests := one.slopes():
        answers = [bed.answer(request) for request in requests]
        log.append(([request.note for request in requests], requests, answers))
        one.tell_slopes(answers)
    plain = lesson.in_turn
    monkeypatch.setattr(lesson, "in_turn", lambda *args: np.nextafter(plain(*args), 2.0))
    other = learned(preferences=2, steps=6, look_from=3, look_every=3)
    differed = 0
    for notes, requests, answers in log:
        differed += other.slopes() != requests
        other.adopt_slopes(dict(enumerate(notes)))
        assert other.slopes() == requests
        other.tell_slopes(answers)
    assert differed == 6, "every step was drawn otherwise"
    assert other.state_digest() == one.state_digest()
    assert other.ask() == one.ask()


def test_notes_that_are_none_of_its_own_are_refused():
    optimizer = learned()
    optimizer.slopes()
    with pytest.raises(ValueError, match="slope 0 has a note of 2 numbers"):
        optimizer.adopt_slopes({0: (0.5, 0.5)})


def row_genes(rows):
    return tuple(
        Gene(
            f"weight.{expert}.{matrix}.{row}", 0.0, 1.5, 1e-3, "weight", expert,
            (f"layers.0.{matrix}.{row}",), matrix=f"layers.0.{matrix}",
        )
        for expert in EXPERTS for matrix in ("q", "k") for row in range(rows)
    )  # fmt: skip


def test_shrinkage_draws_rows_to_the_mean_of_their_matrix():
    genes, bed = row_genes(PLACES // 2), Bed(noise=0.3)
    assert len(genes) == len(GENES)
    spreads = []
    for shrinkage in (0.0, 5.0, 100.0):  # times a rate of 0.05; the last takes the mean in each step
        optimizer = learned(genes=genes, steps=12, rate=0.05, shrinkage=shrinkage)
        bed.learn(optimizer)
        table = optimizer.lesson.map.table.reshape(4, PLACES // 2, 3)
        spreads.append(float(np.ptp(table, axis=1).max()))
    assert spreads[0] > 1.2 * spreads[1] > 0.0
    assert spreads[2] < 1e-12
    flat, whole = learned(steps=12, rate=0.01, shrinkage=100.0), learned(steps=12, rate=0.01)
    bed.learn(flat)
    bed.learn(whole)
    assert flat.state_digest() == whole.state_digest(), "genes that are no rows are left alone"


def taught(bed, note, **options):
    """One that learns with what a ledger has as the notes of its requests."""
    found = learned(genes=row_genes(PLACES // 2), steps=5, look_from=20, **options)
    while requests := found.slopes():
        found.adopt_slopes({number: note(request) for number, request in enumerate(requests)})
        found.tell_slopes([bed.answer(request) for request in found.slopes()])
    return found


def test_ledgers_without_notes_know_no_shrinkage_and_earlier_ones_no_curve():
    bed = Bed()
    none = taught(bed, lambda request: None, shrinkage=10.0)
    earlier = taught(bed, lambda request: request.note and (*request.note[:-2], 0.0), shrinkage=10.0)
    now, own = (
        taught(bed, lambda request: request.note),
        learned(genes=row_genes(PLACES // 2), steps=5, look_from=20),
    )
    bed.learn(own)
    assert none.state_digest() == earlier.state_digest() != now.state_digest() == own.state_digest()
    assert none.lesson.map.power == earlier.lesson.map.power == 1.0
    assert now.lesson.map.power == front_map.curve(2) < 1.0


def test_a_lesson_begins_at_the_experts_and_between_them_near_the_best_single_coefficient():
    optimizer = learned()
    (first,) = optimizer.slopes()
    points = optimizer.lesson.map.points(np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]))
    assert np.array_equal(points[:, [0, -1]], [[1.0, 0.0], [0.0, 1.0], points[2, [0, -1]]])
    assert points[2] == pytest.approx(front_map.MOST)
    assert first.note[-1] == front_map.curve(2)
    # An expert that is good at everything is wanted whole in the middle, not twice.
    alone = front_map.starting_table(GENES, SlopeGround((ITEMS, ITEMS), {"math": (1.0, 1.0)}), None)
    assert alone[0, 1:].sum() * 0.5 ** front_map.curve(2) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("gains", "start"),
    [((1.0, 0.0), (1.0, 0.0)), ((1.0, 0.5), (2 / 3, 1 / 3)), ((0.25, 1.0), (0.2, 0.8))],
)
def test_of_one_objective_a_lesson_begins_at_the_mean_of_the_experts_by_how_good_they_are(gains, start):
    ground = SlopeGround((ITEMS,), {name: (own,) for name, own in zip(EXPERTS, gains, strict=True)})
    optimizer = learned(ground=ground, objectives=OBJECTIVES[:1])
    (first,) = optimizer.slopes()
    assert [first.genome[0], first.genome[-1]] == pytest.approx(start, abs=1e-3)
    # One of a ledger from before is a line, far beyond them, and goes on like that.
    earlier = learned(ground=ground, objectives=OBJECTIVES[:1])
    (asked,) = earlier.slopes()
    earlier.adopt_slopes({0: (*asked.note[:-1], 1.0)})
    (again,) = earlier.slopes()
    level = front_map.LEVEL / 2
    assert again.genome[0] == pytest.approx(min(1.5, level + 1.2 * gains[0]), abs=1e-3)
    assert (earlier.lesson.map.power, again.note[-1]) == (1.0, 1.0)


def test_a_step_of_auto_gives_as_many_workers_something_to_do_as_it_is_told():
    optimizer = make_optimizer(
        "auto", GENES, OBJECTIVES, population=4, seed=1,
        settings=optimizer_settings("auto", {"step_preferences": 3, "items": 30}),
    )  # fmt: skip
    assert isinstance(optimizer, SlopeOptimizer)
    optimizer.begin(GROUND)
    requests = optimizer.slopes()
    assert len({request.weights for request in requests}) == 3
    assert set(map(items_each, requests)) == {10}


def test_auto_hands_over_when_its_model_expects_more_than_the_map():
    """And never before there are points for a model; who chose a batch stands in its forecast."""
    bed = Bed()
    options = {"steps": 12, "preferences": 6, "generations": 4, "inner_population": 12}
    settings = optimizer_settings("auto", options | {"beyond": "never"})
    found = make_optimizer("auto", GENES, OBJECTIVES, population=4, seed=1, settings=settings)
    found.begin(GROUND)
    bed.learn(found)
    chosen = []
    for _ in range(8):
        batch = found.ask()
        chosen.append(found.forecast())
        for genome, descent in zip(batch, found.descents(), strict=True):
            origin = descent.origin
            # The place on the chart, and what the map has there.
            (share, scale, tilt) = found.places[genome]
            assert origin.how == ("map" if (scale, tilt) == (1.0, 0.0) else "chart")
            assert origin.how in ("map", chosen[-1].by)
            wanted = found.lesson.map.evenly(np.array([[share, 1.0 - share]]))[0]
            assert origin.preference == pytest.approx(tuple(wanted), abs=1e-6)
            assert (origin.scale, origin.tilt) == (
                (scale, tilt) if origin.how == "chart" else (None, None)
            )
        losses = [tuple(bed.loss(genome, t) for t in range(2)) for genome in batch]
        found.tell([Complete(values, (0.0, 0.0)) for values in losses])
    by = [each.by for each in chosen]
    assert by[:2] == ["map", "map"]
    assert [each.gain for each in chosen[:2]] == [None, None]
    assert by == ["map"] * by.count("map") + ["chart"] * by.count("chart")
    assert "chart" in by
    ours = [each for each in chosen if each.by == "chart"]
    assert all(0.0 <= each.low <= each.gain <= each.high for each in ours)


@pytest.mark.parametrize("schedule", ["generational", "steady_state"])
@pytest.mark.parametrize(("many", "chart"), [(False, "always"), (True, "always"), (False, "never")])
def test_auto_leaves_a_chart_that_is_known_for_the_genes(schedule, many, chart, monkeypatch):
    """For good, where these are few, with a model of all that was told; a record of it is gone on from."""
    monkeypatch.setattr(lesson, "MANY", PLACES if many else PLACES + 1)
    bed = Bed()
    options = {"steps": 12, "preferences": 4, "generations": 4, "inner_population": 12, "reuse": 1}

    def auto():
        settings = optimizer_settings("auto", options | {"chart": chart})
        found = make_optimizer(
            "auto", GENES, OBJECTIVES, population=8, seed=1, settings=settings, schedule=schedule
        )
        found.begin(GROUND)
        bed.learn(found)
        return found

    one, other = auto(), auto()
    by, asked = [], 0
    while asked < 64:
        batch, forecast = one.ask(), one.forecast()
        by.append(forecast.by)
        hows = {descent.origin.how for descent in one.descents()}
        assert hows <= ({"model", "mutated"} if forecast.by == "genes" else {"map", forecast.by})
        assert all((note is None) == (forecast.by == "genes") for note in one.notes(batch))
        other.adopt(batch, one.notes(batch), forecast)
        outcomes = [Complete(tuple(bed.loss(g, t) for t in range(2)), (0.0, 0.0)) for g in batch]
        numbers = list(range(asked, asked + len(batch)))
        one.tell(outcomes, numbers)
        other.tell(outcomes, numbers)
        asked += len(batch)
    assert ("genes" in by) == (not many and chart == "always")
    assert by == sorted(by, key=["map", "chart", "genes"].index), "it never goes back"
    assert one.ask() == other.ask()


@pytest.mark.parametrize(
    ("chart", "many", "focus", "violations", "goes_on"),
    [
        ("chosen", False, None, (), True),
        ("chosen", True, None, (), False),
        ("chosen", True, (0.7, 0.3), (), True),
        ("chosen", True, None, (-0.1,), True),
        ("always", True, None, (), True),
        ("never", False, None, (-0.1,), False),
    ],
)
def test_auto_stays_on_the_map_where_its_points_fit_search_items_too_well(
    chart, many, focus, violations, goes_on, monkeypatch
):
    """Where a bound is to be kept, also one that is kept by now, it goes on."""
    monkeypatch.setattr(lesson, "MANY", PLACES if many else PLACES + 1)
    options = {"steps": 12, "preferences": 6, "generations": 4, "inner_population": 12, "chart": chart}
    options["beyond"] = "never"
    settings, bed = optimizer_settings("auto", options), Bed()
    found = make_optimizer(
        "auto", GENES, OBJECTIVES, population=4, seed=1, settings=settings, focus=focus
    )
    found.begin(GROUND)
    bed.learn(found)
    by, forecasts = set(), []
    for _ in range(8):
        batch = found.ask()
        forecasts.append(found.forecast())
        by.add(forecasts[-1].by)
        assert all(found.places[genome][1:] == (1.0, 0.0) for genome in batch) or "chart" in by
        losses = [tuple(bed.loss(genome, t) for t in range(2)) for genome in batch]
        found.tell([Complete(values, (0.0, 0.0), violations) for values in losses])
    assert ("chart" in by) == goes_on
    assert forecasts[-1].gain is not None, "what is expected of the map is said all the same"


@pytest.mark.parametrize("with_notes", [True, False])
def test_auto_goes_on_along_its_chart_from_what_is_on_record(with_notes):
    """Its notes are places on the chart; in ledgers from before there were any it knows the first ones."""
    bed = Bed()
    options = {"steps": 12, "preferences": 4, "generations": 3, "inner_population": 8}

    def auto():
        settings = optimizer_settings("auto", options)
        found = make_optimizer("auto", GENES, OBJECTIVES, population=4, seed=1, settings=settings)
        found.begin(GROUND)
        bed.learn(found)
        return found

    one, other = auto(), auto()
    for turn in range(4):
        batch = one.ask()
        notes = one.notes(batch)
        assert all(note is not None for note in notes)
        known = with_notes or turn > 0
        record = (notes, one.forecast()) if known else ([None] * len(batch),)
        other.adopt(batch, *record)
        losses = [tuple(bed.loss(genome, t) for t in range(2)) for genome in batch]
        outcomes = [Complete(values, (0.0, 0.0)) for values in losses]
        one.tell(outcomes)
        other.tell(outcomes)
        assert one.state_digest() == other.state_digest()
    assert one.ask() == other.ask()


def test_bounds_on_objectives_keep_auto_in_a_region_of_the_front():
    """After the first points of the map, which lie all over it: so do constraints, and a region as focus."""
    bed, limit = Bed(), 0.05

    def inside(bounded):
        options = {"steps": 60, "preferences": 8, "generations": 10}
        settings = optimizer_settings("auto", options)
        optimizer = make_optimizer("auto", GENES, OBJECTIVES, population=4, seed=1, settings=settings)
        optimizer.begin(GROUND)
        bed.learn(optimizer)
        kept = []
        for number in range(6):
            losses = [tuple(bed.loss(genome, t) for t in range(2)) for genome in optimizer.ask()]
            over = [((first - limit) / limit,) if bounded else () for first, _ in losses]
            told = [Complete(each, (0.0, 0.0), more) for each, more in zip(losses, over, strict=True)]
            optimizer.tell(told)
            kept += [first <= limit for first, _ in losses if number >= 2]
        return np.mean(kept)

    assert inside(bounded=True) > max(0.7, inside(bounded=False) + 0.2)


def few(items, **options):
    """What a lesson with so few search items asks, steps and looks; and the optimizer after it."""
    optimizer, bed = (
        learned(ground=replace(GROUND, items=items), steps=12, patience=1, **options),
        Bed(),
    )
    bed.learn(optimizer)
    looks = [request for request in bed.asked if not any(request.weights)]
    return [request for request in bed.asked if any(request.weights)], looks, optimizer


@pytest.mark.parametrize(("items", "held"), [((6, 6), (1, 1)), ((2, 9), (1, 1)), ((1, 12), (0, 1))])
def test_of_few_items_one_is_held_back_of_each_objective_that_has_another(items, held):
    steps, looks, _ = few(items)
    for known, own in zip(items, range(2), strict=True):
        assert {request.items[own] for request in looks} == {tuple(range(known - held[own], known))}
        seen = {item for request in steps for item in request.items[own]}
        assert seen == set(range(known - held[own]))


def test_a_single_item_that_is_held_back_decides_which_map_is_kept():
    """Steps far too large, and one look at which the loss is small: that map is the one that is asked for."""
    optimizer = learned(
        ground=replace(GROUND, items=(2, 2)), rate=2.0, steps=40, look_from=5, look_every=5, patience=2
    )
    bed, kept, steps = Bed(), None, 0
    while requests := optimizer.slopes():
        if any(requests[0].weights):
            steps += 1
            optimizer.tell_slopes([bed.answer(request) for request in requests])
            continue
        kept = kept if steps > 5 else requests[0].genome
        loss = 1.0 if steps <= 5 else 2.0
        found = [tuple(loss if own else np.nan for own in request.items) for request in requests]
        optimizer.tell_slopes([Slope(losses, np.empty(0)) for losses in found])
    assert steps == 15, "two looks with a larger loss"
    assert kept == optimizer.ask()[0]


def test_where_no_item_can_be_held_back_nothing_is_looked_at_and_the_last_map_is_kept():
    steps, looks, optimizer = few((1, 1), preferences=2)
    assert (len(steps), looks) == (24, [])
    last = optimizer.lesson.map.table.copy()
    assert optimizer.slopes() == []
    optimizer.enough()
    assert np.array_equal(optimizer.lesson.map.table, last)
    assert optimizer.slopes() == []


@pytest.mark.parametrize("cut", [0, 3, 11, 12])
def test_a_lesson_of_few_items_from_before_goes_on_as_it_began(cut):
    """It held nothing back of fewer than ten items, and its looks were at no items at all."""
    recorded = to_record(optimizer_settings("learned-front", {"steps": 12, "look_from": 4}))
    del recorded["fewest_held_back"]

    def from_before():
        settings = as_begun("learned-front", {}, recorded)
        found = make_optimizer(
            "learned-front", GENES, OBJECTIVES, population=4, seed=1, settings=settings
        )
        found.begin(replace(GROUND, items=(6, 9)))
        return found

    bed, one, log = Bed(), from_before(), []
    while requests := one.slopes():
        log.append((requests, [bed.answer(request) for request in requests]))
        one.tell_slopes(log[-1][1])
    looks = [request for requests, _ in log for request in requests if not any(request.weights)]
    assert {request.items for request in looks} == {((), ())}
    assert len(looks) == 3 * 3, "after 4 and 9 steps, where it was, and at the end"
    steps = [requests[0] for requests, _ in log if any(requests[0].weights)]
    assert {item for request in steps for item in request.items[0]} == set(range(6))
    other = from_before()
    for requests, answers in log[:cut]:
        assert other.slopes() == requests
        other.adopt_slopes({number: request.note for number, request in enumerate(requests)})
        other.tell_slopes(answers)
    bed.learn(other)
    assert other.state_digest() == one.state_digest()
    assert other.ask() == one.ask()
