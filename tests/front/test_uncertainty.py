"""Selection bias where it is known: models without differences, of which the luckiest are chosen."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import numpy as np
import pytest

from evomerge.front import uncertainty
from evomerge.front.compute import compute_front
from evomerge.front.statistics import Interval, Optimism
from evomerge.front.uncertainty import FrontUncertainty, front_uncertainty
from evomerge.ledger.events import SelectionEvent
from evomerge.ledger.history import History
from evomerge.ledger.item_store import ItemStore
from evomerge.objectives.objective import Objective, Scaling
from tests.hand_made import asked, begin, scored

ITEMS = 60
NAMES = [f"c{number:05d}" for number in range(40)]


def drawn(rng: np.random.Generator, chance: float) -> dict[str, list[float]]:
    return {m: (rng.random(ITEMS) < chance).astype(float).tolist() for m in ("a.acc", "b.acc")}


def lucky(store: ItemStore, seed: int, easier: float = 0.0) -> History:
    """40 equally good models; the best on search items are re-scored, where items are harder for all."""
    rng = np.random.default_rng(seed)
    events = begin()
    events[2:4] = [scored(name, drawn(rng, 0.6), store=store) for name in ("base", "math")]
    events.append(asked(0, *NAMES))
    events += [scored(name, drawn(rng, 0.6), store=store) for name in NAMES]
    history = History.fold(events)
    chosen = [member.id for member in compute_front(history, store).members]
    history.apply(SelectionEvent(ids=tuple(chosen)))
    for name in (*chosen, "base", "math"):
        history.apply(scored(name, drawn(rng, 0.6 - easier), "selection", store))
    return history


def judged(history: History, store: ItemStore) -> FrontUncertainty:
    front = compute_front(history, store)
    splits = ("search", "selection") if front.split == "selection" else ("search",)
    return front_uncertainty(history, store, front.objectives, front.scaling, splits)  # type: ignore[arg-type]


@pytest.fixture
def few_volumes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hypervolumes, which take longest, from few resamples, for tests that do not look at them."""
    few = functools.partial(uncertainty.hypervolume_interval, resamples=20)
    monkeypatch.setattr(uncertainty, "hypervolume_interval", few)


@pytest.mark.usefixtures("few_volumes")
def test_luck_shows_as_optimism(tmp_path: Path) -> None:
    found = []
    for seed in range(12):
        store = ItemStore(tmp_path / str(seed))
        history = lucky(store, seed)
        result = judged(history, store)
        assert result.optimism is not None
        assert result.best_on_search == tuple(sorted(history.selection or ()))
        own = [history.candidates[name].evaluations for name in result.best_on_search]
        by_hand = np.mean(
            [
                [e["search"].metrics[m].value - e["selection"].metrics[m].value for e in own]
                for m in ("a.acc", "b.acc")
            ]
        )
        assert result.optimism.mean.value == pytest.approx(by_hand)
        assert result.optimism.mean.low < result.optimism.mean.value < result.optimism.mean.high
        found.append(result.optimism.mean.value)
    # All models are equal, so that whatever the chosen ones lose is selection bias.
    assert np.mean(found) > 0.03


@pytest.mark.usefixtures("few_volumes")
def test_what_is_harder_for_all_is_no_bias(tmp_path: Path) -> None:
    raw, net = [], []
    for seed in range(12):
        store = ItemStore(tmp_path / str(seed))
        result = judged(lucky(store, seed, easier=0.25), store)
        assert result.optimism is not None
        assert result.shrinkage is not None
        raw.append(result.optimism.mean.value)
        net.append(result.shrinkage.mean.value)
    assert np.mean(raw) > 0.25
    assert 0.0 < np.mean(net) < 0.15


def test_hypervolume_is_that_of_the_front_with_an_interval(tmp_path: Path) -> None:
    store = ItemStore(tmp_path)
    history = lucky(store, 3)
    front, result = compute_front(history, store), judged(history, store)
    for split in ("search", "selection"):
        interval = result.hypervolume[split]
        assert interval.value == pytest.approx(front.hypervolume[split])
        assert interval.low < interval.high


@pytest.mark.usefixtures("few_volumes")
def test_baselines_that_were_chosen_by_their_scores_say_nothing_of_luck(tmp_path: Path) -> None:
    """The best single coefficient and the greedy soup are lucky themselves: they would hide luck."""
    store = ItemStore(tmp_path)
    history = lucky(store, 3)
    before = judged(history, store)
    assert history.baselines is not None
    shown = (*history.baselines.shown, "single-0.7", "soup-math+code")
    history.apply(dataclasses.replace(history.baselines, shown=shown))
    for name in shown[2:]:
        for split, value in (("search", 1.0), ("selection", 0.0)):
            rows = {m: [value] * ITEMS for m in ("a.acc", "b.acc")}
            history.apply(scored(name, rows, split, store))  # type: ignore[arg-type]
    assert history.selection is None
    history.apply(SelectionEvent(ids=before.best_on_search))
    assert {"single-0.7", "soup-math+code"} <= {m.id for m in compute_front(history, store).references}
    assert judged(history, store).shrinkage == before.shrinkage


def test_amounts_of_unlike_units_have_no_mean() -> None:
    found = Optimism((Interval(0.02, 0.01, 0.03), Interval(4.0, 3.0, 5.0)), Interval(2.01, 1.5, 2.5))
    alike = (Objective("a.acc", "maximize"), Objective("b.acc", "maximize"))
    unlike = (Objective("a.acc", "maximize"), Objective("b.perplexity", "minimize"))
    for objectives, mean in (
        (alike, {"value": 2.01, "low": 1.5, "high": 2.5}),
        (unlike, None),
    ):
        data = FrontUncertainty({}, (), found, found, objectives).to_json()
        assert data["optimism"]["mean"] == data["shrinkage"]["mean"] == mean
        assert data["optimism"]["objectives"][objectives[1].metric]["value"] == 4.0


def test_before_the_selection_phase_there_is_no_optimism(tmp_path: Path) -> None:
    store = ItemStore(tmp_path)
    rng = np.random.default_rng(0)
    history = History.fold(
        [*begin(), asked(0, "c00000"), scored("c00000", drawn(rng, 0.5), store=store)]
    )
    result = judged(history, store)
    assert (result.optimism, result.shrinkage) == (None, None)
    assert result.to_json()["optimism"] is None
    assert set(result.hypervolume) == {"search"}


def test_without_per_item_results_nothing_is_claimed(tmp_path: Path) -> None:
    history = History.fold(
        [*begin(), asked(0, "c00000"), scored("c00000", {"a.acc": [1.0], "b.acc": [1.0]})]
    )
    front = compute_front(history, ItemStore(tmp_path))
    result = front_uncertainty(
        history, ItemStore(tmp_path), front.objectives, Scaling((0, 0), (1, 1)), ("search",)
    )
    assert result.hypervolume == {}


def test_only_the_last_selection_counts(tmp_path: Path) -> None:
    """What an earlier selection scored is no member, however good it looked."""
    store = ItemStore(tmp_path)
    history = lucky(store, 3)
    first, *rest = history.selection or ()
    assert rest
    perfect = {metric: [1.0] * ITEMS for metric in ("a.acc", "b.acc")}
    history.apply(scored(first, perfect, "selection", store))
    before = judged(history, store).hypervolume["selection"].value
    history.apply(SelectionEvent(ids=tuple(rest)))
    after = judged(history, store).hypervolume["selection"].value
    assert after < before
    assert after == pytest.approx(compute_front(history, store).hypervolume["selection"])
