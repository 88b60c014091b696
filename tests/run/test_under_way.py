"""Jobs by themselves: tried again where their workers were lost, and not for ever."""

from __future__ import annotations

import pytest

from evomerge.errors import EnvironmentFault
from evomerge.run.job import Job
from evomerge.run.under_way import UnderWay
from tests.clocks import PlayedClock
from tests.run.test_dispatch import PlayedPool


def over_a_pool(losses: list[str]) -> tuple[UnderWay, PlayedPool]:
    time = PlayedClock()
    pool = PlayedPool(1, time, {"prepare": losses}, {})
    return UnderWay(pool, time.clock, lambda: None, lambda: None), pool


def test_the_first_job_of_a_session_is_tried_again_too() -> None:
    under_way, pool = over_a_pool(["node_lost", "worker_died"])
    assert under_way.run_once(Job("prepare", "prepare")).status == "ok"
    assert [at for _, at in pool.given] == [0.0, 2.0, 6.0]
    assert len(under_way) == 0


def test_the_first_job_of_a_session_is_given_up_in_the_end() -> None:
    under_way, pool = over_a_pool(["node_lost"] * 6)
    with pytest.raises(EnvironmentFault, match=r"E405.*node_lost"):
        under_way.run_once(Job("prepare", "prepare"))
    assert len(pool.given) == 6
