"""Which candidates are scored again: against brute force, and for ten thousand of them."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from evomerge.front import selection
from evomerge.front.selection import distinct, hopeless, item_arrays, tasks, worth_rescoring
from evomerge.front.statistics import probability_non_dominated
from evomerge.ledger.events import SlopeEvent
from evomerge.ledger.events.event import Event
from evomerge.ledger.history import History
from evomerge.ledger.item_store import ItemStore
from evomerge.objectives.objective import Objective
from evomerge.objectives.scores import mean_metric
from tests.hand_made import asked, begin, scored, searched

OBJECTIVES = [Objective("a.acc", "maximize"), Objective("b.acc", "maximize")]


def random_history(
    count: int, items: int, store: ItemStore, seed: int, before: Sequence[Event] = ()
) -> tuple[History, np.ndarray]:
    """Candidates with correlated 0/1 results; also the array [objectives, candidates, items]."""
    rng = np.random.default_rng(seed)
    skill = rng.uniform(0.1, 0.9, size=(2, count, 1))
    hits = (rng.random((2, 1, items)) * 0.6 + rng.random((2, count, items)) * 0.4 < skill).astype(float)
    names = [f"c{n:05d}" for n in range(count)]
    events = [*begin(), *before, asked(0, *names)]
    for number, name in enumerate(names):
        rows = {"a.acc": hits[0, number].tolist(), "b.acc": hits[1, number].tolist()}
        events.append(scored(name, rows, store=store))
    return History.fold(events), hits


def test_the_sieves_lose_nobody_who_is_likely_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selection, "AT_ONCE", 30)
    for seed in range(2):
        store = ItemStore(tmp_path / f"items{seed}")
        history, hits = random_history(90, 60, store, seed)
        chosen = worth_rescoring(history, OBJECTIVES, store)
        whole = probability_non_dominated(
            list(hits), [-1, -1], resamples=1000, seed=3, tasks=["a", "b"]
        )
        clear = {f"c{n:05d}" for n in np.flatnonzero(whole >= 0.12)}
        out = {f"c{n:05d}" for n in np.flatnonzero(whole < 0.08)}
        assert clear <= set(chosen)
        assert not out & set(chosen)
        assert chosen == sorted(chosen)
        assert worth_rescoring(history, OBJECTIVES, store) == chosen


def test_where_search_items_were_learned_from_others_are_scored_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that none beats by a wide margin, first asked first; as many as `LEARNED` says."""
    store = ItemStore(tmp_path / "items")
    plain, hits = random_history(90, 60, store, 0)
    likely = worth_rescoring(plain, OBJECTIVES, store)
    events = [
        SlopeEvent(batch=0, number=0, request="", weights=(1.0, 0.0), losses=(1.0, 1.0), cost=0.1)
    ]
    learned, _ = random_history(90, 60, ItemStore(tmp_path / "same"), 0, events)
    values = -hits.mean(axis=2).T
    errors = hits.std(axis=2, ddof=1).T / np.sqrt(60)
    clear = ~hopeless(values, np.maximum(errors, 1e-3))
    for most in (0, 30, 1000):
        monkeypatch.setattr(selection, "LEARNED", most)
        chosen = worth_rescoring(learned, OBJECTIVES, ItemStore(tmp_path / "same"))
        others = [name for name in chosen if name not in likely]
        left_out = [f"c{n:05d}" for n in np.flatnonzero(clear) if f"c{n:05d}" not in chosen]
        assert set(likely) <= set(chosen)
        assert len(chosen) == max(len(likely), min(most, int(clear.sum())))
        assert not others or not left_out or max(others) < min(left_out)
        assert chosen == sorted(chosen)
    failed = [SlopeEvent(batch=0, number=0, request="", weights=(1.0, 0.0), failure="error")]
    unlearned, _ = random_history(90, 60, ItemStore(tmp_path / "failed"), 0, failed)
    assert worth_rescoring(unlearned, OBJECTIVES, ItemStore(tmp_path / "failed")) == likely


def test_hopeless_is_dominance_by_a_margin() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(300, 3))
    errors = rng.uniform(0, 0.3, size=(300, 3))
    found = hopeless(values, errors)
    best = [
        i for i in range(300) if not ((values <= values[i]).all(1) & (values < values[i]).any(1)).any()
    ]
    for i in range(300):
        beaten = any(
            all(values[i] - values[j] > 3 * np.hypot(errors[i], errors[j]))
            and all(values[i] > values[j])
            for j in best
        )
        assert found[i] == beaten
    assert not found[best].any()


def test_a_score_without_spread_does_not_make_its_owner_hopeless() -> None:
    # 0 of 300 right has no standard error of its own, yet 1 of 300 is no better than chance.
    none, one = mean_metric(np.zeros(300)), mean_metric(np.array([1.0] + [0.0] * 299))
    values = np.array([[-none.value] * 2, [-one.value] * 2])
    errors = np.array([[none.stderr] * 2, [one.stderr] * 2])
    assert not hopeless(values, errors).any()


def test_equal_merges_are_one(tmp_path: Path) -> None:
    store = ItemStore(tmp_path)
    rows = {"a.acc": [1.0, 0.0], "b.acc": [0.0, 1.0]}
    history = History.fold(
        [
            *begin(),
            asked(0, "c00000", "c00001"),
            scored("c00000", rows, store=store),
            scored("c00001", rows, store=store, key="key-c00000-search", same_as="c00000"),
        ]
    )
    assert [c.id for c in distinct(history.searched(), "search")] == ["c00000"]
    assert worth_rescoring(history, OBJECTIVES, store) == ["c00000"]


def test_without_items_the_front_itself_is_taken(tmp_path: Path) -> None:
    history = searched({"c00000": (0.5, 0.5), "c00001": (0.4, 0.4), "c00002": (0.3, 0.6)})
    store = ItemStore(tmp_path)
    assert item_arrays(history.searched(), OBJECTIVES, "search", store) is None
    assert worth_rescoring(history, OBJECTIVES, store) == ["c00000", "c00002"]


def test_nobody_scored_nobody_chosen(tmp_path: Path) -> None:
    assert worth_rescoring(History.fold(begin()), OBJECTIVES, ItemStore(tmp_path)) == []


def test_metrics_of_one_evaluator_share_a_task() -> None:
    assert tasks([*OBJECTIVES, Objective("a.acc_norm", "maximize")]) == ["a", "b", "a"]


def test_ten_thousand_candidates_need_little_memory(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(size=(10_000, 3))
    errors = np.full((10_000, 3), 0.03)
    tracemalloc.start()
    found = hopeless(values, errors)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.mean() > 0.5
    assert peak < 30e6  # all pairs at once would be 300 MB
