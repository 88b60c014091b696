"""What one decides by, on fronts made by hand: groups, the few that span, dominance, cards, claims."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from evomerge.front.compute import compute_front
from evomerge.front.decision import CARDS, Decision, claims, decide
from evomerge.front.draws import Draws, draw
from evomerge.front.front import Front, Member, pick
from evomerge.front.spanning import MOST, close, groups, scores_of, spanning
from evomerge.front.statistics import probability_dominates
from evomerge.ledger.history import History
from evomerge.ledger.item_store import ItemStore
from evomerge.objectives.measures import baseline_kind
from evomerge.objectives.objective import Objective
from tests.front.fronts import made
from tests.hand_made import asked, begin, scored


def row(count: int) -> dict[str, tuple[float, float]]:
    """Members on a straight front, 1 / (count - 1) apart."""
    steps = np.linspace(0, 1, count)
    return {f"c0{number:04d}": (float(x), float(1 - x)) for number, x in enumerate(steps)}


def table(front: Front) -> np.ndarray:
    """Bool [members, members]: which are close."""
    return np.array([close(*scores_of(front), row) for row in range(len(front.members))])


def test_close_is_two_of_the_larger_standard_errors_on_every_objective() -> None:
    front = made({"c0a": (0.50, 0.50), "c0b": (0.52, 0.48), "c0c": (0.52, 0.47), "c0d": (0.5, 0.5)})
    near = table(front)
    assert near[0].tolist() == [True, True, False, True]
    assert (near == near.T).all()


def test_groups_hold_everyone_once_and_nobody_far_from_the_leader() -> None:
    """A long row of neighbours is several groups: closeness does not carry on."""
    front = made(row(101))
    found = groups(front)
    ids = [name for group in found for name in group.ids]
    assert sorted(ids) == sorted(member.id for member in front.members)
    near, index = table(front), {m.id: i for i, m in enumerate(front.members)}
    for group in found:
        assert group.ids[0] == group.leader
        assert all(near[index[group.leader], index[name]] for name in group.ids)
    assert 101 / 5 <= len(found) <= 101 / 2
    assert {found[0].leader, found[1].leader, found[2].leader} == set(front.picks.values())


def test_at_most_twelve_members_span_a_front() -> None:
    front = made(row(101))
    joined = groups(front)
    found = spanning(front, joined)
    assert len(found) == MOST
    shown = {each.id: each for each in found}
    for text, name in front.picks.items():
        assert text in shown[name].why
    # The rest lie evenly: no member is farther from a shown one than half of the widest gap between them.
    places = sorted(int(name[2:]) for name in shown)
    assert max(np.diff(places)) <= 18
    of = {name: group.leader for group in joined for name in group.ids}
    others = [of[each.id] for each in found if not each.why]
    assert len(set(others)) == len(others)
    assert not set(others) & {of[each.id] for each in found if each.why}
    assert [each.id for each in found] == [m.id for m in front.members if m.id in shown]
    assert spanning(front, joined, most=4)[0].id in shown


def test_a_small_front_is_shown_whole_apart_from_who_cannot_be_told_from_another() -> None:
    front = made({"c0a": (0.9, 0.1), "c0b": (0.5, 0.5), "c0c": (0.51, 0.49), "c0d": (0.1, 0.9)})
    found = {each.id: each for each in spanning(front, groups(front))}
    assert set(found) == {"c0a", "c0b", "c0d"}
    assert found["c0b"].like == ("c0c",)
    assert groups(made({"base": (0.5, 0.5)})) == ()
    assert spanning(made({"base": (0.5, 0.5)}), ()) == ()


def test_best_mean_and_worst_are_of_scores_where_these_are_alike() -> None:
    points = {"c0a": (0.99, 0.30), "c0b": (0.70, 0.50), "c0c": (0.55, 0.52), "c0d": (0.2, 0.53)}
    front = made(points)
    assert (pick(front, "best:mean").id, pick(front, "best:worst").id) == ("c0a", "c0c")


@pytest.fixture
def drawn(tmp_path: Path) -> tuple[Front, Draws, Decision, dict[str, list[np.ndarray]]]:
    """A front with per-item results of 40 items, and those results."""
    rng = np.random.default_rng(5)
    chances = {
        "base": (0.2, 0.2),
        "math": (0.8, 0.2),
        "code": (0.2, 0.8),
        "single-0.7": (0.5, 0.5),
        "c00000": (0.85, 0.6),
        "c00001": (0.6, 0.85),
        "c00002": (0.75, 0.75),
    }
    rows = {n: [(rng.random(40) < c).astype(float) for c in pair] for n, pair in chances.items()}
    store = ItemStore(tmp_path)
    named = {n: {"a.acc": r[0].tolist(), "b.acc": r[1].tolist()} for n, r in rows.items()}
    first, last = begin()[:2], begin()[4]
    shown = [scored(n, named[n], store=store) for n in ("base", "math", "code", "single-0.7")]
    ids = ("c00000", "c00001", "c00002")
    rest = [asked(0, *ids), *(scored(n, named[n], store=store) for n in ids)]
    history = History.fold([*first, *shown, last, *rest])
    assert history.baselines is not None
    object.__setattr__(history.baselines, "shown", ("base", "math", "code", "single-0.7"))
    front = compute_front(history, store)
    draws = draw(front, history, store)
    assert draws is not None
    return front, draws, decide(front, draws), rows


def test_dominance_over_baselines_has_the_probability_of_the_bootstrap(drawn) -> None:
    front, draws, found, rows = drawn
    for member in front.members:
        own = [r.mean() for r in rows[member.id]]
        beaten = {d.baseline: d.probability for d in found.dominates[member.id]}
        for name in ("base", "math", "code", "single-0.7"):
            other = [r.mean() for r in rows[name]]
            wins = all(x >= y for x, y in zip(own, other, strict=True)) and own != other
            assert (name in beaten) == wins
            if wins:
                wanted = probability_dominates(rows[member.id], rows[name], (-1, -1), seed=11)
                assert beaten[name] == pytest.approx(wanted, abs=0.06)
    assert draws.of("nobody") is None


def test_cards_compare_with_the_best_expert_and_the_best_single_coefficient(drawn) -> None:
    front, _, found, rows = drawn
    assert [card.pick for card in found.cards] == list(CARDS.values())
    for card in found.cards:
        assert card.member == pick(front, card.pick).id
        assert card.split == "search"
        assert 0 <= card.probability <= 1
        against = {claim.measure: claim for claim in card.against_experts}
        assert set(against) == {"a.acc", "b.acc", "mean", "worst"}
        assert against["a.acc"].against == "math"
        assert against["b.acc"].against == "code"
        assert {claim.against for claim in card.against_single} == {"single-0.7"}
        for claim in (*card.against_experts, *card.against_single):
            mine, theirs = (np.array([r.mean() for r in rows[n]]) for n in (card.member, claim.against))
            how = {"mean": np.mean, "worst": np.min, "a.acc": lambda x: x[0], "b.acc": lambda x: x[1]}
            assert claim.value == pytest.approx(how[claim.measure](mine))
            assert claim.other == pytest.approx(how[claim.measure](theirs))
            assert claim.difference.low <= claim.difference.value <= claim.difference.high
            assert 0 <= claim.probability <= 1
    json.dumps(found.to_json(), allow_nan=False)


def test_less_is_better_where_an_objective_is_minimised() -> None:
    front = made({"c0a": (0.1, 0.5), "math": (0.4, 0.5)})
    first = Objective("t0.loss", "minimize")
    change = {"t0.acc": "t0.loss", "t1.acc": "t1.acc"}

    def renamed(member: Member) -> Member:
        metrics = {change[name]: metric for name, metric in member.metrics["search"].items()}
        return Member(member.id, member.recipe, {"search": metrics}, member.scaled)

    front = Front(
        **{
            **vars(front),
            "objectives": (first, front.objectives[1]),
            "members": tuple(map(renamed, front.members)),
            "references": tuple(map(renamed, front.references)),
        }
    )
    means = np.array([[[0.1, -0.5], [0.4, -0.5]]] * 4)
    draws = Draws(("c0a", "math"), means)
    found = claims(front, front.members[0], front.references, draws)
    assert [(c.measure, c.probability) for c in found] == [("t0.loss", 1.0), ("t1.acc", 0.0)]
    assert decide(front, draws).dominates["c0a"][0].probability == 1.0
    assert [card.member for card in decide(front, draws).cards] == ["c0a"] * 3


def test_without_per_item_results_there_are_values_and_no_probabilities() -> None:
    front = made({"c0a": (0.9, 0.6), "c0b": (0.6, 0.9), "base": (0.2, 0.2), "math": (0.8, 0.3)})
    found = decide(front, None)
    assert [d.baseline for d in found.dominates["c0a"]] == ["base", "math"]
    assert found.dominates["c0a"][0].probability is None
    for card in found.cards:
        assert card.probability is None
        assert card.against_single == ()
        assert all(c.probability is None and c.difference is None for c in card.against_experts)
    assert decide(made({"base": (0.1, 0.1)}), None).cards == ()


def test_kinds_of_baselines() -> None:
    names = ("base", "uniform", "soup-math+code", "single-0.7", "math", "soup-kitchen")
    kinds = ["base", "average", "soup", "single", "expert", "expert"]
    assert [baseline_kind(n) for n in names] == kinds


def test_a_soup_is_no_expert_to_compare_with() -> None:
    """Better than every expert at all, and yet the cards speak of the best expert."""
    scores = {"base": (0.1, 0.1), "math": (0.5, 0.2), "soup-math+code": (0.6, 0.6), "c0a": (0.7, 0.7)}
    for card in decide(made(scores), None).cards:
        assert {claim.against for claim in card.against_experts} == {"math"}
