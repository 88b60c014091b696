"""A campaign folder as somebody else sees it while a driver may be at work."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge.cli.lock_holder import Holder, lock_holder
from evomerge.front.folder import open_campaign_folder
from evomerge.run.pace import recorded_pace
from evomerge.run.pool.shown import STALE, Crew, read_crew
from evomerge.run.standing import Standing, standing


@dataclass(frozen=True)
class Seen:
    """Where a campaign stands, who runs it (`holder`), what its workers do (`crew`).

    `age`: seconds since the last event; `crew_age`: since the workers were told of.
    """

    directory: Path
    standing: Standing
    holder: Holder | None
    age: float
    crew: Crew | None = None
    crew_age: float = 0.0

    @property
    def is_stale(self) -> bool:
        """Whether what is told of the workers may be past: its driver is gone, another, or silent."""
        if self.crew is None or self.holder is None or self.holder.alive is False:
            return True
        teller = (self.crew.host, self.crew.pid)
        return teller != (self.holder.host, self.holder.pid) or self.crew_age > STALE

    def again(self) -> Seen:
        """The same with what the workers do now; the ledger is not read."""
        crew = read_crew(self.directory)
        holder = lock_holder(self.directory)
        return dataclasses.replace(self, holder=holder, crew=crew, crew_age=_age(crew))

    def to_json(self) -> dict[str, Any]:
        """As plain JSON data. A worker has `stale` true where what is said of it may be past."""
        crew = () if self.crew is None else self.crew.workers
        return {
            **self.standing.to_json(),
            "folder": str(self.directory),
            "last_event_seconds_ago": round(self.age, 1),
            "driver": None if self.holder is None else dataclasses.asdict(self.holder),
            "workers": [_worker_json(each) | {"stale": self.is_stale} for each in crew],
            "workers_seconds_ago": None if self.crew is None else round(self.crew_age, 1),
        }


def _worker_json(worker: Any) -> dict[str, Any]:
    data = dataclasses.asdict(worker)
    data["candidate"] = data.pop("job")
    data["seconds"] = round(data["seconds"], 1)
    data["busy"] = None if data["busy"] is None else round(data["busy"], 4)
    return data


def _age(crew: Crew | None) -> float:
    return 0.0 if crew is None else max(0.0, time.time() - crew.time)


def look(directory: Path) -> Seen:
    """A campaign folder as it stands.

    Raises:
        UsageError: E509, it is none.
        LedgerDamaged: its ledger cannot be read.
    """
    opened = open_campaign_folder(directory)
    budget = opened.history.budget
    if budget is not None and opened.history.cost >= budget + 1:
        budget = None  # it was raised since, and the ledger keeps the first one only
    now = standing(opened.history, budget=budget, pace=recorded_pace(opened.events))
    age, crew = max(0.0, time.time() - opened.history.last), read_crew(directory)
    return Seen(directory, now, lock_holder(directory), age, crew, _age(crew))
