"""Results shared between campaigns: nothing is paid for twice, and no front depends on what is shared."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evomerge.cli.verify.invariants import verify
from evomerge.objectives.scores import Metric
from evomerge.run.job import JobResult, Measured
from evomerge.run.shared_results import SharedResults
from tests.cli.terminal import call
from tests.faults.bed import RUN, STEADY, end_of, session, write_toy_campaign
from tests.faults.toy import executions
from tests.tiny_runs import events_of


def a_run(folder: Path, **sections: Any) -> tuple[tuple[str, list[str]], int]:
    """The end of a toy campaign of its own, and how many evaluations its workers did."""
    folder.mkdir()
    session(write_toy_campaign(folder, sections))
    assert verify(folder / RUN) == []
    return end_of(folder / RUN), len(executions(folder))


@pytest.mark.parametrize("schedule", [{}, STEADY], ids=["generational", "steady"])
def test_a_second_campaign_pays_nothing(tmp_path: Path, schedule: dict[str, Any]) -> None:
    alone, cost = a_run(tmp_path / "alone", **schedule)
    first = a_run(tmp_path / "first", results="../shared", **schedule)
    assert first == (alone, cost)
    second = a_run(tmp_path / "second", results=str(tmp_path / "shared"), **schedule)
    assert second == (alone, 0)
    events = [e for e in events_of(tmp_path / "second" / RUN) if e["event"] == "evaluated"]
    assert {event.get("shared") for event in events if "same_as" not in event} == {"tiny"}
    data = call("status", tmp_path / "second" / RUN, "--json").json
    assert data["shared"] == cost
    shown = call("status", tmp_path / "second" / RUN).out
    assert f"{cost} found among the results of other campaigns" in shown


def test_another_seed_shares_baselines_and_keeps_its_front(tmp_path: Path) -> None:
    alone, cost = a_run(tmp_path / "alone", seed=8)
    a_run(tmp_path / "first", results="../shared")
    shared, left = a_run(tmp_path / "second", results="../shared", seed=8)
    assert shared == alone
    assert left <= cost - 6, "base, experts, average and two coefficients at least"


def test_other_devices_and_other_batches_are_other_results(tmp_path: Path) -> None:
    _, cost = a_run(tmp_path / "first", results="../shared")
    _, again = a_run(tmp_path / "second", results="../shared", evaluation={"batch_size": 4})
    assert again == cost
    result = JobResult("a", "ok", measured=Measured({"a.acc": Metric(0.5, 0.1, 4)}))
    SharedResults(tmp_path / "own", "x", "cpu").add("key", result)
    assert SharedResults(tmp_path / "own", "y", "cpu").find("key", "b") is not None
    assert SharedResults(tmp_path / "own", "y", "cuda:1").find("key", "b") is None


def test_cards_of_one_kind_share(tmp_path: Path) -> None:
    result = JobResult("a", "ok", measured=Measured({"a.acc": Metric(0.5, 0.1, 4)}))
    SharedResults(tmp_path, "x", "cuda:0").add("key", result)
    assert SharedResults(tmp_path, "y", "cuda:1").find("key", "b") is not None


def test_what_does_not_have_its_digest_is_not_taken(tmp_path: Path) -> None:
    store = SharedResults(tmp_path, "x", "cpu")
    store.add("key", JobResult("a", "ok", measured=Measured({"a.acc": Metric(0.5, 0.1, 4)})))
    (file,) = (path for path in tmp_path.rglob("*") if path.is_file())
    file.write_bytes(file.read_bytes().replace(b'"value":0.5', b'"value":0.9'))
    assert store.find("key", "b") is None


def test_what_is_damaged_is_measured_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    alone, cost = a_run(tmp_path / "first", results="../shared")
    files = sorted(path for path in (tmp_path / "shared").rglob("*") if path.is_file())
    assert len(files) == cost
    files[0].write_bytes(files[0].read_bytes()[:-1])
    files[1].write_bytes(files[1].read_bytes().replace(b'"value":0.', b'"value":1.', 1))
    files[2].write_bytes(b"")
    assert a_run(tmp_path / "second", results="../shared") == (alone, 3)
    assert "is damaged, and will be measured again" in caplog.text
    assert a_run(tmp_path / "mended", results="../shared") == (alone, 0)
    (tmp_path / "file").write_text("no folder")
    with caplog.at_level(logging.WARNING):
        caplog.clear()
        assert a_run(tmp_path / "third", results="../file") == (alone, cost)
    assert next(r.levelname for r in caplog.records if "results: cannot" in r.getMessage()) == "WARNING"


def test_many_may_write_at_once(tmp_path: Path) -> None:
    def write(origin: int) -> None:
        store = SharedResults(tmp_path, f"writer{origin}", "cpu")
        for key in range(60):
            items = {"a.acc": np.arange(50, dtype=np.float64) + key}
            store.add(
                str(key),
                JobResult("x", "ok", measured=Measured({"a.acc": Metric(key, 0.1, 50)}), items=items),
            )
            assert store.find(str(key), "x") is not None

    with ThreadPoolExecutor(6) as several:
        list(several.map(write, range(6)))
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 60
    for key in range(60):
        found = SharedResults(tmp_path, "reader", "cpu").find(str(key), "y")
        assert found is not None
        result, origin = found
        assert origin.startswith("writer")
        assert result.measured is not None
        assert result.measured.metrics["a.acc"].value == key
        assert result.items["a.acc"].tolist() == [float(n + key) for n in range(50)]
