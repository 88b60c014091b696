"""Fronts from hand-made histories: members, picks, what the JSON holds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from evomerge.errors import UsageError
from evomerge.front.compute import compute_front
from evomerge.front.front import Front, pick
from evomerge.front.tables import labels
from evomerge.front.terminal import slope_words, smooth_lines
from evomerge.ledger.events import RefineEvent, SelectionEvent
from evomerge.ledger.history import ITEMS_FOLDER, History
from evomerge.ledger.item_store import ItemStore
from evomerge.objectives.objective import complete
from evomerge.objectives.steering import Choice, steering
from tests.hand_made import asked, begin, failed, fold_records, scored, searched
from tests.tiny_runs import events_of, finished

POINTS = {
    "c00000": (0.9, 0.2),
    "c00001": (0.6, 0.6),
    "c00002": (0.2, 0.8),
    "c00003": (0.5, 0.5),
    "c00004": (0.8, 0.3),
}


@pytest.fixture
def store(tmp_path: Path) -> ItemStore:
    return ItemStore(tmp_path / "items")


@pytest.fixture
def front(store: ItemStore) -> Front:
    return compute_front(searched(POINTS, store), store)


def ids(front: Front) -> list[str]:
    return [member.id for member in front.members]


def test_members_are_those_that_nobody_dominates(front: Front) -> None:
    assert set(ids(front)) == {"c00000", "c00001", "c00002", "c00004"}
    sums = [sum(member.scaled) for member in front.members]
    assert sums == sorted(sums)
    assert front.split == "search"
    assert front.evaluations == 5
    assert [member.id for member in front.references] == ["base", "math"]
    one = next(member for member in front.members if member.id == "c00001")
    assert one.scaled == pytest.approx((1 / 3, 1 / 3))
    assert one.probability is not None
    assert 0 < one.probability <= 1


def test_a_model_that_luck_took_off_the_front_counts_against_its_members(store: ItemStore) -> None:
    """Of two models that items hardly tell apart one is a member, and as likely beaten as not."""
    rng = np.random.default_rng(0)
    one, other = (rng.random(60) < 0.6 for _ in range(2))
    rows = {"c00000": np.stack([one, one]), "c00001": np.stack([other, other])}
    better = max(rows, key=lambda name: rows[name].sum())
    worse = min(rows, key=lambda name: rows[name].sum())
    assert rows[better].sum() > rows[worse].sum()
    history = History.fold([*begin(), asked(0, *rows)])
    for name, (a, b) in rows.items():
        answers = {"a.acc": a.astype(float).tolist(), "b.acc": b.astype(float).tolist()}
        for split in ("search", "selection"):
            history.apply(scored(name, answers, split, store))  # type: ignore[arg-type]
    assert [m.probability for m in compute_front(history, store).members] == [1.0]
    history.apply(SelectionEvent(ids=tuple(rows)))
    for name in ("base", "math"):
        history.apply(scored(name, {"a.acc": [0.1] * 60, "b.acc": [0.1] * 60}, "selection", store))
    front = compute_front(history, store)
    assert (front.split, ids(front)) == ("selection", [better])
    draws = np.random.default_rng(1).integers(60, size=(20_000, 2, 60))
    gaps = np.stack([rows[better][k].astype(float) - rows[worse][k] for k in (0, 1)])
    lead = np.stack([gaps[k][draws[:, k]].mean(axis=1) for k in (0, 1)])
    beaten = (lead <= 0).all(axis=0) & (lead < 0).any(axis=0)
    assert 0.05 < beaten.mean() < 0.5
    assert front.members[0].probability == pytest.approx(1 - beaten.mean(), abs=0.05)


def test_hypervolume_is_against_base_and_experts(front: Front) -> None:
    # Boxes up to 1.1 in units of 0.6, added along the first objective by hand.
    xs = [(0.8 - a) / 0.6 for a in (0.9, 0.8, 0.6, 0.2)]
    ys = [(0.8 - b) / 0.6 for b in (0.2, 0.3, 0.6, 0.8)]
    edges = [*xs[1:], 1.1]
    wanted = sum((edge - x) * (1.1 - y) for edge, x, y in zip(edges, xs, ys, strict=True))
    assert front.hypervolume == {"search": pytest.approx(wanted)}


def test_a_failed_candidate_is_never_a_member(store: ItemStore) -> None:
    history = searched(POINTS, store)
    for event in (asked(1, "c00005"), failed("c00005")):
        history.apply(event)
    front = compute_front(history, store)
    assert "c00005" not in ids(front)
    assert front.failures == {"nonfinite_weights": 1}
    assert front.evaluations == 6


def test_selection_scores_decide_once_all_are_there(store: ItemStore) -> None:
    history = searched(POINTS, store)
    chosen = ["c00000", "c00001", "c00002"]
    history.apply(SelectionEvent(ids=tuple(chosen)))
    assert compute_front(history, store).split == "search"
    for name in (*chosen, "base", "math"):
        value = [1.0, 1.0] if name == "c00002" else [1.0, 0.0]
        history.apply(scored(name, {"a.acc": value, "b.acc": value}, "selection", store))
    front = compute_front(history, store)
    assert front.split == "selection"
    assert ids(front) == ["c00002"]
    assert set(front.hypervolume) == {"search", "selection"}
    # What an earlier, smaller budget had scored again has no say, as if it never had been.
    history.apply(scored("c00003", {"a.acc": [1.0] * 2, "b.acc": [1.0] * 2}, "selection", store))
    assert compute_front(history, store).to_json() == front.to_json()


def test_what_failed_on_selection_items_does_not_hold_up_the_rest(store: ItemStore) -> None:
    history = searched(POINTS, store)
    history.apply(SelectionEvent(ids=("c00000", "c00001")))
    for name in ("c00000", "math"):
        history.apply(scored(name, {"a.acc": [1.0], "b.acc": [0.0]}, "selection", store))
    history.apply(failed("c00001", "selection"))
    history.apply(failed("base", "selection"))
    front = compute_front(history, store)
    assert front.split == "selection"
    assert ids(front) == ["c00000"]
    assert front.references[0].id == "base"  # beside it with search scores


def test_without_baselines_there_is_no_front(store: ItemStore) -> None:
    with pytest.raises(UsageError, match=r"error\[E507\]: there is no front yet; .*; go on with"):
        compute_front(History.fold(begin()[:3]), store)


def test_with_nothing_searched_the_front_is_empty(store: ItemStore) -> None:
    front = compute_front(History.fold(begin()), store)
    assert front.members == ()
    assert front.hypervolume == {"search": 0.0}
    with pytest.raises(UsageError, match=r"error\[E507\]: the front is empty"):
        pick(front, "knee")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("c00002", "c00002"),
        ("knee", "c00001"),
        ("best:a.acc", "c00000"),
        ("best:a", "c00000"),
        ("best:b", "c00002"),
        ("best:mean", "c00001"),
        ("best:worst", "c00001"),
        ("prefer:knee", "c00001"),
        ("prefer:a=1", "c00000"),
        ("prefer:a=0.5, b=0.5", "c00001"),
        ("prefer:a.acc=0.1,b.acc=0.9", "c00002"),
        ("prefer:a=3,b=1", "c00004"),
        ("a>=0.3,b>=0.3", "c00001"),
        ("a.acc >= 0.6", "c00000"),
        ("b<=0.45", "c00000"),
        ("b>=5e-1", "c00002"),
        ("math", "math"),
    ],
)
def test_picks(front: Front, text: str, wanted: str) -> None:
    assert pick(front, text).id == wanted


def test_the_json_names_the_picks_and_the_baselines_a_member_equals(store: ItemStore) -> None:
    history = searched(POINTS, store)
    history.apply(asked(1, "c00005"))
    history.apply(scored("c00005", {"a.acc": [1.0], "b.acc": [1.0]}, store=store, recipe="recipe-math"))
    history.candidates["c00005"].recipe = "recipe-math"
    front = compute_front(history, store)
    data = front.to_json()
    assert data["picks"] == {
        text: pick(front, text).id
        for text in ("knee", "best:a.acc", "best:b.acc", "best:mean", "best:worst")
    }
    equals = {member["id"]: member["equals"] for member in data["members"]}
    assert equals.pop("c00005") == ["math"]
    assert not any(equals.values())
    assert labels(front)["c00005"].endswith("= math")
    assert "c00005 (= math)" in repr(pick(front, "c00005"))
    empty = compute_front(History.fold(begin()), store)
    assert empty.to_json()["picks"] == {}


def test_a_failed_baseline_is_named(store: ItemStore) -> None:
    history = searched(POINTS, store)
    history.apply(failed("uniform"))
    front = compute_front(history, store)
    assert front.to_json()["failed_baselines"] == {"uniform": "nonfinite_weights: layer 3"}
    assert [member.id for member in front.references] == ["base", "math"]


def test_a_constraint_must_hold_at_the_lower_bound(front: Front) -> None:
    metric = pick(front, "c00000").metrics["search"]["a.acc"]
    bound = metric.value - 1.645 * metric.stderr
    assert pick(front, f"a>={bound - 1e-6:.6f}").id == "c00000"
    nearest = (
        r"E507.*no member satisfies `a>=.*the nearest is c00000: a.acc 0.9, .*misses `a>=.*95 % bound"
    )
    with pytest.raises(UsageError, match=nearest):
        pick(front, f"a>={bound + 1e-4:.6f}")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "c99999",
            r"E506.*`c99999` is no member of the front; members: c000.*; baselines: base, math; "
            r"give an id of these, knee, best:METRIC, best:mean, best:worst, prefer:A=0.7,B=0.3 or "
            r"METRIC>=VALUE",
        ),
        ("c00003", "`c00003` is no member of the front"),
        ("a>=60", r"E506.*`a>=60`: scores are shares of 1; write a.acc>=0.6 for 60 %"),
        ("best:c", r"`c` is no objective; objectives: a.acc, b.acc"),
        ("best:a.ac", r"`a.ac` is no objective.*did you mean `a.acc`\?"),
        ("best:", "is no member"),
        ("prefer:a=x", "`a=x` must be NAME=NUMBER"),
        ("prefer:a", "`a` must be NAME=NUMBER"),
        ("prefer:a=1,a.acc=2", "`a` and `a.acc` are one objective, a.acc, stated twice"),
        ("prefer:a=0,b=0", "at least 0 and not all 0"),
        ("prefer:a=-1,b=2", "at least 0 and not all 0"),
        ("prefer:a=nan", "at least 0 and not all 0"),
        ("prefer:c=1", "`c` is no objective"),
        ("a>=high", "must be METRIC>=VALUE"),
        ("a>=1e", "must be METRIC>=VALUE"),
        ("a>=1..2", "must be METRIC>=VALUE"),
        ("c>=0.5", "`c` is no objective"),
        ("a>0.5", "`a>0.5` must be METRIC>=VALUE"),
    ],
)
def test_a_pick_that_does_not_fit_says_what_would(front: Front, text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        pick(front, text)


def test_a_short_name_of_two_objectives_is_refused(store: ItemStore) -> None:
    objectives = [{"metric": m, "direction": "maximize"} for m in ("a.acc", "a.norm")]
    events = begin(objectives=objectives)
    events[2:4] = [scored(name, {"a.acc": [0.2], "a.norm": [0.2]}) for name in ("base", "math")]
    rows = {"a.acc": [1.0, 0.0], "a.norm": [1.0, 0.0]}
    front = compute_front(History.fold([*events, asked(0, "c00000"), scored("c00000", rows)]), store)
    with pytest.raises(UsageError, match=r"`a` is more than one objective; objectives: a.acc, a.norm"):
        pick(front, "best:a")
    assert pick(front, "best:a.norm").id == "c00000"


def test_json_holds_no_times_hosts_or_paths() -> None:
    done = finished()
    text = done.text
    assert json.loads(text) == done.front.to_json()
    assert str(done.directory.parent) not in text
    assert "seconds" not in text
    assert "time" not in text
    assert set(done.front.to_json()) == {
        "schema",
        "campaign",
        "split",
        "objectives",
        "members",
        "baselines",
        "picks",
        "ideal",
        "nadir",
        "hypervolume",
        "evaluations",
        "failures",
        "failed_baselines",
        "constraints",
        "infeasible",
        "raced",
        "smooth",
    }
    assert done.front.split == "selection"
    assert len(done.front.members) > 1


def config_of(*optimizers: str, **fields: Any) -> dict[str, Any]:
    """That of the finished campaign with another optimizer, or with stages, each `SEARCHES KIND`."""
    config = finished().history.config
    kinds: dict[str, Any] = {"optimizer": {**config["optimizer"], "kind": optimizers[0]}}
    if len(optimizers) > 1:
        stages = [each.partition(" ") for each in optimizers]
        kinds["stages"] = [{"searches": s, "kind": kind or None} for s, _, kind in stages]
    return {**config, **kinds, **fields}


def told_by(*optimizers: str, **fields: Any) -> Front:
    """The front of a finished campaign, had it had this optimizer, or these stages."""
    done = finished()
    assert done.history.campaign is not None
    history = fold_records(events_of(done.directory))
    history.campaign = replace(done.history.campaign, config=config_of(*optimizers, **fields))
    return compute_front(history, ItemStore(done.directory / ITEMS_FOLDER))


def test_it_says_how_smooth_values_rank_the_candidates() -> None:
    done = finished()
    data = done.front.to_json()
    searched = {c.evaluations["search"].key: c for c in done.history.searched()}
    found = [c.evaluations["search"].metrics for c in searched.values()]
    shown = []
    for metric, choice in data["smooth"].items():
        pairs = [(each[metric].smooth, each[metric].value) for each in found]
        assert choice == {"correlation": round(spearmanr(*zip(*pairs, strict=True)).statistic, 4)}
        shown.append(f"{metric} {choice['correlation']:.2f}")
    assert list(data["smooth"]) == [objective.metric for objective in done.front.objectives]
    assert all("smooth" in m for m in data["members"][0]["metrics"]["search"].values())
    line = f"rank correlation of smooth and reported values: {', '.join(shown)}"
    assert " ".join(smooth_lines(done.front, 100)) == line, "NSGA-II does not look at them"


@pytest.mark.parametrize(
    ("optimizers", "fields", "steers"),
    [
        (("surrogate",), {}, True),
        (("auto",), {}, True),
        (("auto",), {"search_space": {"layer_path": {}}}, False),
        (("nsga2",), {}, False),
        (("a person's own",), {}, False),
        (("merge ", "path "), {}, True),
        (("merge auto", "path random"), {}, True),
        (("merge nsga2", "both auto"), {}, False),
        (("merge random", "path hm3"), {}, True),
    ],
)
def test_which_value_is_used_is_said_where_the_search_goes_by_smooth_values(
    optimizers: tuple[str, ...], fields: dict[str, Any], steers: bool
) -> None:
    front = told_by(*optimizers, **fields)
    for choice in front.to_json()["smooth"].values():
        assert choice.get("used") == ("smooth" if steers else None)
        assert ("reason" in choice) == steers
    few = replace(front, steering=(Choice(0, 0.3, "smooth", "too few to tell"), front.steering[1]))
    assert ("0.30 (too few to tell)" in " ".join(smooth_lines(few, 100))) == steers


@pytest.mark.parametrize(
    ("optimizers", "used"),
    [(("surrogate",), "smooth"), (("cma-es",), "reported"), (("merge surrogate", "path "), "reported")],
)
def test_one_candidate_without_a_smooth_value_counts_where_asks_are_made_again(
    optimizers: tuple[str, ...], used: str
) -> None:
    front = told_by(*optimizers)
    assert front.is_steered
    history = fold_records(events_of(finished().directory))
    found = [c.evaluations["search"].metrics for c in history.searched()]
    outcomes = [complete(front.objectives, metrics) for metrics in found]
    outcomes[0] = replace(outcomes[0], smooth=())
    assert history.campaign is not None
    stated = replace(history.campaign, config=config_of(*optimizers)).smooth_share
    assert stated is not None
    assert {choice.used for choice in steering(outcomes, share=stated).choices} == {used}


def test_weak_smooth_values_are_said_not_to_be_gone_by() -> None:
    front = told_by("surrogate")
    weak = Choice(0, 0.314, "reported", "weak")
    front = replace(front, steering=(weak, Choice(1, 0.9, "smooth", "correlated")))
    first, second = (objective.metric for objective in front.objectives)
    assert smooth_lines(front, 200) == [
        f"rank correlation of smooth and reported values: {first} 0.31 (weak: the search goes by the "
        f"reported value), {second} 0.90"
    ]
    assert all(len(line) <= 60 for line in smooth_lines(front, 60))
    assert front.to_json()["smooth"][first] == {
        "correlation": 0.314,
        "used": "reported",
        "reason": "weak",
    }


def test_a_refinement_goes_by_smooth_values_whatever_the_campaign_began_with() -> None:
    done = finished()
    history = fold_records(events_of(done.directory))
    history.refinements.append(RefineEvent(preference=(0.5, 0.5), evaluations=4))
    front = compute_front(history, ItemStore(done.directory / ITEMS_FOLDER))
    assert {choice["used"] for choice in front.to_json()["smooth"].values()} == {"smooth"}


def test_it_says_what_gradients_cost() -> None:
    front = replace(finished().front, slopes=50, slope_cost=23.125, evaluations=137)
    assert slope_words(front) == (
        "50 gradients and losses cost as much as 23.1 evaluations, beside 137 of merges"
    )
    assert slope_words(replace(front, slopes_failed=3)) == f"{slope_words(front)}; 3 failed"
