"""Racing: the rule against scipy, whom one races against, whole campaigns that race."""

from __future__ import annotations

import copy
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import ttest_rel

from evomerge.campaign.campaign import load_campaign
from evomerge.cli.candidate import candidate_json
from evomerge.cli.verify.invariants import examine, verify
from evomerge.errors import ConfigError, Stopped, UsageError
from evomerge.evaluators.racing import (
    REFERENCES,
    Race,
    References,
    beaten_by,
    compact,
    looks,
    race_over,
    spread_out,
)
from evomerge.export.choice import _candidate
from evomerge.front.compute import compute_front
from evomerge.ledger.events import (
    AskedCandidate,
    AskedEvent,
    PreparedEvaluator,
    PreparedEvent,
    PreparedLayout,
    RacedEvent,
    RacingRecord,
)
from evomerge.ledger.history import History
from evomerge.ledger.item_store import ItemReference, ItemStore
from evomerge.ledger.records import RecordFile
from evomerge.ledger.repair import repair_folder
from evomerge.objectives.objective import Complete, Failed, Objective, Raced, raced
from evomerge.objectives.pareto import non_dominated
from evomerge.objectives.scores import Metric
from tests.local_workers import forked_workers
from tests.tiny_models import write_campaign
from tests.tiny_runs import Finished, events_of, front_text, run_file

RACING = {"racing": {"threshold": 0.5}, "budget": {"evaluations": 14}}


def race(results: list[np.ndarray], threshold: float = 1.0, signs: tuple[float, ...] = ()) -> Race:
    names = tuple(f"t{index}.acc" for index in range(len(results)))
    signs = signs or (-1.0,) * len(results)
    ids = tuple(f"r{row}" for row in range(len(results[0])))
    return Race(names, signs, ids, tuple(map(compact, results)), threshold)


def test_the_rule_is_a_paired_test_on_every_objective() -> None:
    """Against scipy's paired t statistic, which is this z, on random accuracies and on real numbers."""
    rng = np.random.default_rng(0)
    decided = []
    for trial in range(300):
        items = (int(rng.integers(5, 60)), int(rng.integers(5, 60)))
        numbers = [rng.normal(size=(4, n)) if trial % 2 else rng.random((4, n)).round() for n in items]
        own = [rng.normal(size=n) if trial % 2 else rng.random(n).round() for n in items]
        signs = (-1.0, 1.0) if trial % 3 else (-1.0, -1.0)
        threshold = float(rng.uniform(0.05, 1.5))
        found = beaten_by(race(numbers, threshold, signs), {"t0.acc": own[0], "t1.acc": own[1]})
        statistics = np.array(
            [
                [ttest_rel(sign * mine, sign * other).statistic for other in theirs]
                for sign, mine, theirs in zip(signs, own, numbers, strict=True)
            ]
        )
        wins = np.flatnonzero((statistics >= threshold).all(axis=0))
        assert found == (f"r{wins[0]}" if len(wins) else None)
        decided.append(found is not None)
    assert 30 < sum(decided) < 270


def test_equal_results_beat_nobody_and_constant_ones_do() -> None:
    ones, zeros = np.ones((1, 8)), np.zeros(8)
    assert beaten_by(race([ones, ones]), {"t0.acc": zeros, "t1.acc": zeros}) == "r0"
    assert beaten_by(race([ones, ones]), {"t0.acc": zeros, "t1.acc": np.ones(8)}) is None
    one = race([np.ones((1, 8))])
    assert beaten_by(one, {"t0.acc": zeros[:1]}) is None  # a single item has no spread
    with pytest.raises(ValueError, match=r"9 results of t0\.acc, the references have 8"):
        beaten_by(one, {"t0.acc": np.zeros(9)})


def test_looks_end_before_the_last_block() -> None:
    assert looks([30, 12], [10, 10]) == [(10, 10), (20, 12)]
    assert looks([30, 12], [10, 10], first=2) == [(20, 12)]
    assert looks([31], [10]) == [(10,), (20,), (30,)]
    assert looks([10], [10]) == []


def test_racing_over_known_results_stops_where_the_prefix_says() -> None:
    rng = np.random.default_rng(1)
    results = [(rng.random((5, 40)) < 0.6).astype(float), (rng.random((5, 25)) < 0.6).astype(float)]
    ends = set()
    for _ in range(200):
        own = {"t0.acc": (rng.random(40) < 0.5) * 1.0, "t1.acc": (rng.random(25) < 0.5) * 1.0}
        given = race(results)
        found = race_over(given, own, [10, 10])
        expected = None
        for seen in ((10, 10), (20, 20), (30, 25)):
            winner = beaten_by(
                given, {"t0.acc": own["t0.acc"][: seen[0]], "t1.acc": own["t1.acc"][: seen[1]]}
            )
            if winner is not None:
                expected = (seen, winner)
                break
        assert found == expected
        if found is not None:
            # What a raced model has answered decides the same; less than that decides nothing.
            part = {"t0.acc": own["t0.acc"][: found[0][0]], "t1.acc": own["t1.acc"][: found[0][1]]}
            assert race_over(given, part, [10, 10]) == found
            short = {metric: values[:-1] for metric, values in part.items()}
            assert race_over(given, short, [10, 10]) is None
        ends.add(found and found[0])
    assert ends == {None, (10, 10), (20, 20), (30, 25)}


def test_accuracies_travel_as_bytes() -> None:
    zeros_and_ones = np.array([[0.0, 1.0]])
    assert compact(zeros_and_ones).dtype == np.uint8
    for other in ([[0.5, 1.0]], [[2.0, 1.0]], [[-1.0, 0.0]]):
        assert compact(np.array(other)).tolist() == other


def test_references_are_the_non_dominated_ones() -> None:
    rng = np.random.default_rng(2)
    values = rng.random((120, 2)).round(2)
    references = References()
    for index, row in enumerate(values.tolist()):
        references.add(f"m{index}", Complete(tuple(row), (0.0, 0.0)))
    references.add("failed", Failed("deadline"))
    references.add("raced", Raced(10, (-9.0, -9.0)))
    references.add("not allowed", Complete((-9.0, -9.0), (0.0, 0.0), violations=(0.1,)))
    expected = [f"m{index}" for index in np.flatnonzero(non_dominated(values))]
    assert list(references.chosen()) == expected


def test_a_large_front_is_thinned_evenly() -> None:
    angles = np.linspace(0.0, np.pi / 2, 500)
    values = np.stack([1 - np.cos(angles), 5 * (1 - np.sin(angles))], axis=1)
    references = References()
    for index, row in enumerate(values.tolist()):
        references.add(f"m{index}", Complete(tuple(row), (0.0, 0.0)))
    rows = [int(name[1:]) for name in references.chosen()]
    assert len(rows) == REFERENCES
    assert (rows[0], rows[-1]) == (0, 499)
    assert max(np.diff(rows)) <= 2 * 500 / (REFERENCES - 1) + 1
    assert spread_out(values, 2) == [0, 499]


def test_a_raced_bound_is_better_than_what_was_measured() -> None:
    objectives = (Objective("a.acc", "maximize"), Objective("b.loss", "minimize"))
    found = raced(objectives, {"a.acc": Metric(0.5, 0.1, 20), "b.loss": Metric(2.0, 0.2, 20)}, 40)
    assert found == Raced(40, (pytest.approx(-0.6645), pytest.approx(1.671)))


@pytest.fixture(scope="module")
def race_run(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A campaign that races, run to its end in this process. Not to be changed."""
    folder = tmp_path_factory.mktemp("race")
    file = write_campaign(folder, **RACING)
    history = run_file(file, folder / "run")
    store = ItemStore(folder / "run" / "items")
    return Finished(file, folder / "run", history, compute_front(history, store))


def test_raced_candidates_are_given_up_counted_and_no_members(race_run: Finished) -> None:
    history = race_run.history
    lost = [c for c in history.candidates.values() if c.raced is not None]
    own = [c for c in lost if c.raced is not None and c.raced.same_as is None]
    assert own
    assert history.raced == len(own)
    assert all("search" not in c.evaluations and c.is_settled for c in lost)
    assert not {c.id for c in lost} & {m.id for m in race_run.front.members}
    assert not {c.id for c in lost} & set(history.selection or ())
    items = sum(sum(c.seen.values()) for c in own)
    assert history.search_items == 48
    assert history.cost == pytest.approx(history.budget_used - len(own) + items / 48)
    assert history.budget_used > 14  # what is saved buys more candidates
    assert 14 <= history.cost < 15
    assert race_run.front.to_json()["raced"] == len(own)
    shown = candidate_json(history, own[0])
    assert shown["raced"]["beaten_by"] == own[0].beaten_by
    assert shown["raced"]["seen"] == dict(own[0].seen)


def test_races_have_keys_and_records_of_their_own(race_run: Finished) -> None:
    history = race_run.history
    for event in events_of(race_run.directory):
        if event["event"] == "raced" and "same_as" not in event:
            assert history.first_scored(event["key"]) is None
            found = {
                m: len(v)
                for r in event["items"].values()
                for m, v in race_run.store.read(ItemReference(**r)).items()
            }
            counts = {metric: m["items"] for metric, m in event["metrics"].items()}
            assert found == counts | {f"{metric}~smooth": count for metric, count in counts.items()}
            assert set(event["seen"].values()) <= {10, 20}
        if event["event"] == "asked":
            assert event["racing"]["references"]


def test_verify_decides_races_again(race_run: Finished) -> None:
    found = examine(race_run.directory)
    assert found.problems == []
    assert found.checked["races decided again"] >= 10
    assert found.checked["reference sets found again"] == len(race_run.history.generations)


def altered(race_run: Finished, folder: Path, events: list[dict[str, Any]]) -> str:
    folder.mkdir()
    os.symlink(race_run.directory / "items", folder / "items")
    with RecordFile.open(folder / "ledger.jsonl", create=True) as ledger:
        for event in events:
            ledger.append({k: v for k, v in event.items() if k not in ("n", "format")})
    return "\n".join(map(str, verify(folder)))


def test_verify_sees_a_race_that_was_decided_otherwise(race_run: Finished, tmp_path: Path) -> None:
    events = copy.deepcopy(events_of(race_run.directory))
    lost = next(event for event in events if event["event"] == "raced")
    lost["beaten_by"] = "uniform"
    assert "a race ends otherwise; recorded a loss to uniform after (10, 10)" in altered(
        race_run, tmp_path / "loser", events
    )
    events = copy.deepcopy(events_of(race_run.directory))
    asked = next(event for event in events if event["event"] == "asked")
    asked["racing"]["references"] = asked["racing"]["references"][1:]
    assert "a batch races against others than the best known" in altered(
        race_run, tmp_path / "others", events
    )
    events = copy.deepcopy(events_of(race_run.directory))
    for event in events:
        if event["event"] == "asked":
            event["racing"]["digest"] = "0" * 64
    assert "per-item results are not those of the race" in altered(race_run, tmp_path / "items", events)


def test_verify_sees_a_smooth_value_that_its_items_do_not_give(
    race_run: Finished, tmp_path: Path
) -> None:
    assert examine(race_run.directory).checked["smooth values equal to the mean of their items"] > 50
    for kind in ("evaluated", "raced"):
        events = copy.deepcopy(events_of(race_run.directory))
        changed = next(event for event in events if event["event"] == kind)
        metric, found = next(iter(changed["metrics"].items()))
        found["smooth"] += 0.01
        told = altered(race_run, tmp_path / kind, events)
        assert f"the smooth value of {metric} is not the mean of its items" in told
        del found["smooth"]
        told = altered(race_run, tmp_path / f"{kind}-none", events)
        assert f"smooth values of {metric}, which has no mean of them" in told


def test_repair_ends_where_items_of_a_race_are_damaged(race_run: Finished, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(race_run.directory, run)
    events = events_of(run)
    number, lost = next((n, e) for n, e in enumerate(events) if e["event"] == "raced" and e["items"])
    reference = next(iter(lost["items"].values()))
    segment = run / "items" / reference["segment"]
    data = bytearray(segment.read_bytes())
    data[reference["offset"] + reference["length"] - 1] ^= 1
    segment.write_bytes(data)
    report = repair_folder(run, tmp_path / "copy")
    assert report.events == number
    assert report.damaged_items == lost["id"]
    assert events_of(tmp_path / "copy") == events[:number]


def comparable(directory: Path) -> list[str]:
    """What a run decided, without clocks and places in files."""
    left_out = (
        "n",
        "time",
        "elapsed",
        "seconds",
        "items",
        "format",
        "versions",
        "crc",
        "config",
        "identity",
    )
    return sorted(
        json.dumps({k: v for k, v in event.items() if k not in left_out}, sort_keys=True)
        for event in events_of(directory)
        if event["event"] in ("asked", "raced", "evaluated", "told", "selection")
    )


def test_two_workers_come_to_the_same(race_run: Finished, tmp_path: Path) -> None:
    shutil.copytree(race_run.file.parent, tmp_path / "two", ignore=shutil.ignore_patterns("run"))
    file = write_campaign(tmp_path / "two", **RACING, workers={"pool": "local", "count": 2})
    with forked_workers():
        run_file(file, tmp_path / "two" / "run")
    assert front_text(tmp_path / "two" / "run") == race_run.text
    assert comparable(tmp_path / "two" / "run") == comparable(race_run.directory)


def test_stopped_again_and_again_it_comes_to_the_same(race_run: Finished, tmp_path: Path) -> None:
    stops = 0
    while True:
        left = [7]

        def enough(left: list[int] = left) -> Stopped | None:
            left[0] -= 1
            return Stopped("enough") if left[0] < 0 else None

        try:
            run_file(race_run.file, tmp_path / "run", stop_request=enough)
            break
        except Stopped:
            stops += 1
        assert stops < 30
    assert stops >= 3
    assert front_text(tmp_path / "run") == race_run.text
    assert comparable(tmp_path / "run") == comparable(race_run.directory)


def test_racing_in_steady_state(race_run: Finished, tmp_path: Path) -> None:
    shutil.copytree(race_run.file.parent, tmp_path / "st", ignore=shutil.ignore_patterns("run"))
    file = write_campaign(
        tmp_path / "st", **RACING, optimizer={"population": 6, "schedule": "steady_state"}
    )
    left = [14]

    def enough() -> Stopped | None:
        left[0] -= 1
        return Stopped("enough") if left[0] < 0 else None

    with pytest.raises(Stopped, match="enough"):
        run_file(file, tmp_path / "st" / "run", stop_request=enough)
    history = run_file(file, tmp_path / "st" / "run")
    assert history.raced > 0
    assert 14 <= history.cost < 15
    assert verify(tmp_path / "st" / "run") == []


def test_a_raced_candidate_is_not_exported(race_run: Finished) -> None:
    lost = next(c.id for c in race_run.history.candidates.values() if c.raced is not None)
    with pytest.raises(UsageError, match=r"error\[E507\]: `c\d+` was given up in a race"):
        _candidate(race_run.history, race_run.front, lost)


@pytest.mark.parametrize("section", [{"threshold": 0}, {"first": 0}, {"z": 1.0}])
def test_faults_of_the_section(section: dict[str, Any], tmp_path: Path, race_run: Finished) -> None:
    data = json.loads(race_run.file.read_text())
    data["racing"] = section
    data["search_space"] = str(race_run.file.parent / "space.yaml")
    data["evaluators"] = [str(race_run.file.parent / name) for name in data["evaluators"]]
    (tmp_path / "campaign.yaml").write_text(json.dumps(data))
    with pytest.raises(ConfigError, match=r"racing\.(threshold|first|z)"):
        load_campaign(tmp_path / "campaign.yaml")


def test_a_repeat_of_a_raced_merge_is_beaten_too() -> None:
    """Counted once, known by its recipe; a repeat costs nothing."""
    lost = RacedEvent(
        id="c00000",
        recipe="r",
        key="k",
        metrics={},
        items={},
        beaten_by="base",
        seen={"a": 10, "b": 10},
    )
    asked = AskedEvent(
        generation=0,
        candidates=tuple(AskedCandidate(id=f"c0000{n}", genome=(0.0,), recipe="r") for n in range(2)),
        racing=RacingRecord(references=("base",), digest="d"),
    )
    evaluator = PreparedEvaluator(digest="", metrics=(), items={"search": 40}, deterministic=True)
    prepared = PreparedEvent(
        checkpoints={},
        storage="float32",
        layout=PreparedLayout(layers=1, places=(), parameters=0),
        evaluators={"a": evaluator, "b": evaluator},
    )
    again = replace(lost, id="c00001", same_as="c00000")
    history = History.fold([prepared, asked, lost, again])
    assert history.raced_as == {"r": "c00000"}
    assert (history.budget_used, history.raced, history.cost) == (1, 1, 0.25)
    assert history.candidates["c00001"].is_settled
    assert not history.candidates["c00001"].is_counted
    assert history.references == [("base",)]
