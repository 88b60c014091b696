"""What a candidate costs the driver does not grow with those before it: nothing is walked again for each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.driver import opened, write_campaign

walks: Counter[str] = Counter()


class WatchedList(list[Any]):
    """Counts how often it is walked, or searched."""

    def __iter__(self) -> Iterator[Any]:
        walks["list"] += 1
        return super().__iter__()

    def __reversed__(self) -> Iterator[Any]:
        walks["list"] += 1
        return super().__reversed__()

    def __contains__(self, one: object) -> bool:
        walks["list"] += 1
        return super().__contains__(one)


class WatchedDict(dict[Any, Any]):
    """Counts how often all of it is walked."""

    def __iter__(self) -> Iterator[Any]:
        walks["dict"] += 1
        return super().__iter__()

    def keys(self) -> Any:
        walks["dict"] += 1
        return super().keys()

    def values(self) -> Any:
        walks["dict"] += 1
        return super().values()

    def items(self) -> Any:
        walks["dict"] += 1
        return super().items()


@pytest.mark.parametrize("schedule", ["generational", "steady_state"])
def test_nothing_of_the_history_is_walked_once_more_for_more_candidates(
    tmp_path: Path, schedule: str
) -> None:
    found = []
    for evaluations in (60, 120):
        folder = tmp_path / str(evaluations)
        campaign = write_campaign(folder / "files", schedule, evaluations, 10)
        (folder / "run").mkdir()
        driver, _ = opened(campaign, folder / "run", 8)
        history = driver.history
        history.candidates = WatchedDict(history.candidates)
        history.turns, history.arrivals = WatchedList(history.turns), WatchedList(history.arrivals)
        history.generations = WatchedList(history.generations)
        walks.clear()
        driver.search()
        driver.dispatcher.ledger.close()
        assert history.budget_used == evaluations
        found.append(dict(walks))
    assert found[0] == found[1]
    assert found[0], "a search begins with what is there"
