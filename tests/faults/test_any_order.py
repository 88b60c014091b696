"""F38: asks, results, failures, deaths, resumes and larger budgets in any order Hypothesis thinks of."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from unittest import mock

from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from evomerge import failpoint
from evomerge.cli.verify.invariants import verify
from evomerge.errors import EvomergeError, Stopped
from tests.faults.bed import (
    RUN,
    SCHEDULES,
    doubled_results,
    ledger_of,
    lost_events,
    session,
    stop_after,
    write_toy_campaign,
)
from tests.faults.harness import Tally, Trial, row
from tests.tiny_runs import events_of

POINTS = (
    "ledger.before_append",
    "ledger.mid_append",
    "ledger.after_write",
    "ledger.after_fsync",
    "item_store.after_write",
    "item_store.after_fsync",
    "dispatch.after_items",
    "driver.before_tell",
    "driver.after_tell",
    "driver.before_asked",
)
FAULTS = ("fail:nonfinite_weights", "memory once", "memory")


class Campaigns(RuleBasedStateMachine):
    """One campaign folder, and everything that can happen to it between two looks."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="evomerge-tests-"))
        self.budget, self.schedule, self.faults = 6, 0, dict[str, str]()
        self.seen = 0

    def teardown(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def _file(self) -> Path:
        sections = {**SCHEDULES[self.schedule], "budget": {"evaluations": self.budget}}
        return write_toy_campaign(self.folder, sections, faults=self.faults)

    @rule(schedule=st.integers(0, 1))
    def choose_a_schedule(self, schedule: int) -> None:
        if not ledger_of(self.folder).exists():
            self.schedule = schedule

    @rule(more=st.integers(1, 5))
    def extend(self, more: int) -> None:
        self.budget = min(self.budget + more, 24)

    @rule(number=st.integers(0, 23), fault=st.sampled_from(FAULTS))
    def let_a_candidate_fail(self, number: int, fault: str) -> None:
        self.faults[f"c{number:05d}"] = fault

    @rule(steps=st.integers(0, 25))
    def stop_after(self, steps: int) -> None:
        self._run(stop_request=stop_after(steps, Stopped))

    @rule()
    def run_to_the_end(self) -> None:
        self._run()

    @rule(point=st.sampled_from(POINTS), hit=st.integers(1, 6))
    def die(self, point: str, hit: int) -> None:
        armed = failpoint.parse(f"{point}=raise@{hit}")
        with mock.patch.dict(failpoint._armed, armed, clear=True):
            self._run()

    @rule(cut=st.integers(1, 200))
    def tear_the_tail(self, cut: int) -> None:
        """As a death in the middle of a write would: never more than the last record."""
        path = ledger_of(self.folder)
        if path.exists() and path.stat().st_size:
            torn = b'deadbeef {"event":"evaluated","metrics":{"pets.acc"'[:cut]
            with path.open("ab") as ledger:
                ledger.write(torn)

    def _run(self, **options: object) -> None:
        with contextlib.suppress(EvomergeError, failpoint.FailpointHit):
            session(self._file(), **options)

    @invariant()
    def everything_holds(self) -> None:
        if not ledger_of(self.folder).exists():
            return
        events = events_of(self.folder / RUN)
        if events:
            assert verify(self.folder / RUN) == []
        assert lost_events(self.folder, events) == 0
        assert doubled_results(events) == 0
        assert len(events) >= self.seen
        self.seen = len(events)


@row("F38", "asks, results, failures, deaths, resumes in any order", quick=6, t1=200, t2=5000)
def test_f38_anything_in_any_order(trial: Trial) -> Tally:
    """Random walks through all of it; every invariant is looked at after every step."""
    examples = int(os.environ.get("EVOMERGE_EXAMPLES", "6"))
    chosen = settings(
        max_examples=examples,
        stateful_step_count=8,
        deadline=None,
        derandomize=False,
        database=None,
        suppress_health_check=list(HealthCheck),
    )

    machine = seed(trial.index)(Campaigns)
    run_state_machine_as_test(machine, settings=chosen)
    return Tally(injections=examples)
