"""Studies: the same campaigns as one by one, shared where they can be, in one table."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import scipy.stats

from evomerge.cli.verify.invariants import verify
from evomerge.front.folder import open_campaign_folder
from evomerge.run.study import campaigns
from evomerge.run.study.table import estimate, study_table
from tests.cli.terminal import Forked, Output, call
from tests.faults.bed import end_of, write_toy_campaign
from tests.faults.sessions import command, toy_pool, toys
from tests.faults.toy import executions
from tests.tiny_runs import events_of

ARMS = """\
schema: 1
arms:
  search: {}
  random: {optimizer.kind: random}
"""
TWO = ["search", "random"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "arms.yaml").write_text(ARMS)
    return write_toy_campaign(tmp_path)


@pytest.fixture(autouse=True)
def toy_workers(file: Path) -> Iterator[None]:
    with toys(), mock.patch.object(campaigns, "open_pool", toy_pool):
        yield


def study(file: Path, *words: object) -> Output:
    folder = file.parent
    arms = ["--arms", folder / "arms.yaml"]
    return call("study", "run", file, *arms, "--dir", folder / "study", *words)


def alone(file: Path, directory: Path, arm: str, seed: int) -> tuple[str, list[str]]:
    """The end of the same campaign, run by itself."""
    kind = ["--set", "optimizer.kind=random"] if arm == "random" else []
    name = f"name=tiny-{arm}-{seed}"
    code = command("run", file, "--dir", directory, "--seed", str(seed), "--set", name, *kind)
    assert code == 0
    return end_of(directory)


def shape(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["arm"], row["seed"], row["phase"], row["split"], row["evaluations"], row["failures"]


@pytest.mark.parametrize("at_once", [1, 3])
def test_a_study_is_its_campaigns_one_by_one(file: Path, at_once: int, capfd: Any) -> None:
    found = study(file, "--seeds", 2, "--at-once", at_once, "--json")
    assert found.code == 0, found.err
    assert found.err.splitlines()[-1].endswith("ends (4 of 4 campaigns)")
    rows = found.json["rows"]
    expected = [(arm, seed, "done", "selection", 18, 0) for arm in TWO for seed in (7, 8)]
    assert list(map(shape, rows)) == expected
    runs = file.parent / "study" / "runs"
    names = sorted(path.name for path in runs.glob("*/"))
    assert names == sorted(f"{arm}-{seed}" for arm in TWO for seed in (7, 8))
    for row in rows:
        folder = runs / f"{row['arm']}-{row['seed']}"
        assert verify(folder) == []
        log = (folder / "run.log").read_text()
        assert log.count("a session begins") == 1
        front = open_campaign_folder(folder).front()
        assert row["hypervolume"] == pytest.approx(front.hypervolume["selection"], abs=1e-12)
        means = [
            np.mean([m.metrics["selection"][o.metric].value for o in front.objectives])
            for m in front.members
        ]
        assert row["best_mean"] == pytest.approx(max(means))
    one = alone(file, file.parent / "alone", "random", 8)
    assert end_of(runs / "random-8") == one
    again = study(file, "--seeds", 2, "--json")
    assert again.json == found.json
    assert "begins" not in again.err, "nothing is left to do"
    table = call("study", "table", file.parent / "study")
    head = table.out.splitlines()[0]
    assert head.split("  ")[0] == "arm"
    for word in (
        "done",
        "hypervolume",
        "gain on search",
        "best mean",
        "best worst",
        "seconds",
        "failed",
    ):
        assert word in head
    assert "2 of 2" in table.out
    lines = call("study", "table", file.parent / "study", "--markdown").out.splitlines()
    assert len(lines) == 4
    assert len({line.count("|") for line in lines}) == 1


def test_what_one_campaign_measured_no_other_measures_again(file: Path) -> None:
    assert study(file, "--seeds", 2).code == 0
    runs = file.parent / "study" / "runs"
    begun = [name for name, _, _ in executions(file.parent)]
    evaluated = [
        e for folder in runs.glob("*/") for e in events_of(folder) if e["event"] == "evaluated"
    ]
    own = [e for e in evaluated if "same_as" not in e and "shared" not in e]
    assert len(begun) == len(own) == len({e["key"] for e in evaluated})
    assert sum("shared" in e for e in evaluated) >= 3 * 6, "baselines at least"


def test_seeds_and_arms_may_be_added_and_not_changed(file: Path) -> None:
    assert study(file, "--seeds", "3,9", "--set", "budget.evaluations=6").code == 0
    arms = file.parent / "arms.yaml"
    arms.write_text(ARMS + "  wide: {optimizer.population: 8}\n")
    found = study(file, "--seeds", 1, "--json")
    assert found.code == 0, found.err
    table = study_table(file.parent / "study")
    assert [(arm.arm, arm.done, arm.seeds) for arm in table.arms] == [
        ("search", 3, 3), ("random", 3, 3), ("wide", 1, 3),
    ]  # fmt: skip
    assert table.arms[0].gain is None
    assert table.arms[2].gain is not None
    assert (table.arms[2].gain.n, table.arms[2].gain.low) == (1, None)
    ledger = file.parent / "study" / "runs" / "wide-7" / "ledger.jsonl"
    ledger.write_bytes(ledger.read_bytes()[:20])  # killed while it wrote its first record
    arm = study_table(file.parent / "study").arms[2]
    assert (arm.arm, arm.done, arm.seeds, arm.measures) == ("wide", 0, 3, {})
    arms.write_text(ARMS.replace("random}", "nsga2}"))
    refused = study(file, "--seeds", 1)
    assert refused.code == 3
    assert "E504] " in refused.err
    assert 'was optimizer.kind="random", is optimizer.kind="nsga2"' in refused.err


def test_a_signal_stops_all_and_the_study_goes_on(file: Path) -> None:
    write_toy_campaign(file.parent, seconds=0.05)
    words = ["study", "run", file, "--arms", file.parent / "arms.yaml", "--dir", file.parent / "study"]
    words += ["--seeds", "1", "--at-once", "2"]
    run = Forked(file.parent / "out", *words)
    run.wait_until(lambda: len(executions(file.parent)) >= 20)
    run.signal(signal.SIGTERM)
    stopped = run.wait()
    assert stopped.code == 75, stopped.err
    assert (
        f"go on with: evomerge study run {file} --dir {file.parent / 'study'} --seeds 1" in stopped.err
    )
    data = call("study", "table", file.parent / "study", "--json").json
    assert {row["phase"] for row in data["rows"]} == {"stopped"}
    write_toy_campaign(file.parent)
    done = call(*words)
    assert done.code == 0, done.err
    for arm in TWO:
        end = end_of(file.parent / "study" / "runs" / f"{arm}-7")
        assert end == alone(file, file.parent / f"alone-{arm}", arm, 7)


def test_an_arm_that_fails_does_not_stop_the_others(file: Path) -> None:
    bad = {f"{number}/c{i:05d}": "fail:nonfinite_weights" for number in (0,) for i in range(18)}
    write_toy_campaign(file.parent, faults=bad)
    found = study(file, "--seeds", 1)
    assert found.code == 8, found.err
    assert "search-7: error[E50" in found.err
    assert "random-7: ends (1 of 2 campaigns)" in found.err
    assert "campaigns that have not come to their end are left out" in found.err


@pytest.mark.parametrize(
    ("arms", "words", "code", "fault"),
    [
        ("schema: 1\narms: {}\n", [], 3, "arms"),
        ("schema: 1\narms: {a b: {}}\n", [], 3, "this is no name of an arm; found 'a b'"),
        ("schema: 1\narms: {a: {optimizer.kin: x}}\n", [], 3, "optimizer.kin: unknown field"),
        ("schema: 1\narms: {a: {}, b: {seed: 5}}\n", [], 2, "states the seeds itself; an arm does: b"),
        (ARMS, ["--seeds", "many"], 2, "these are no seeds; found `many`"),
        (ARMS, ["--seeds", "²"], 2, "these are no seeds; found `²`"),
        (ARMS, ["--seeds", "3,3"], 2, "these are no seeds"),
        (ARMS, ["--seeds", "0"], 2, "a study has a seed at least"),
        (ARMS, ["--set", "seed=4"], 2, "a study states the seeds itself"),
        (ARMS, ["--json", "--markdown"], 2, "exclude one another"),
        (
            "schema: 1\narms: {a: {}, b: {objectives.1.direction: minimize}}\n",
            [], 2, "arm `b` has other objectives than `a`",
        ),
    ],
)  # fmt: skip
def test_faults_leave_no_folder(file: Path, arms: str, words: list[str], code: int, fault: str) -> None:
    (file.parent / "arms.yaml").write_text(arms)
    found = study(file, *words)
    assert found.code == code
    text = found.out + found.err
    assert fault in text
    assert not (file.parent / "study").exists()


def test_a_folder_of_something_else(file: Path, tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "thesis.tex").touch()
    found = study(file)
    assert found.code == 3
    assert "E135" in found.err
    none = call("study", "table", tmp_path)
    assert none.code == 2
    assert "no study here; it has no study.json" in none.err
    assert "no study here; there is no such folder" in call("study", "table", tmp_path / "no").err
    (tmp_path / "study.json").write_text(json.dumps({"schema": 1, "arms": []}))
    assert "cannot be read" in call("study", "table", tmp_path).err


def test_intervals_are_students() -> None:
    values = [0.31, 0.35, 0.28, 0.40, 0.33]
    found = estimate(values)
    error = scipy.stats.sem(values)
    low, high = scipy.stats.t.interval(0.95, 4, loc=np.mean(values), scale=error)
    assert (found.mean, found.low, found.high) == pytest.approx((np.mean(values), low, high))
    assert estimate([0.5]).high is None
