"""What a tracker is told of a campaign: numbers after each result, under stable names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from evomerge.front.trace import BestSoFar
from evomerge.ledger.bounds import bounds_of
from evomerge.ledger.candidate import Candidate
from evomerge.ledger.history import History


@dataclass(frozen=True)
class About:
    """Which run of which campaign.

    `run` is the same for all sessions in one folder, and differs elsewhere; `whole`: all of the campaign
    follows, from its ledger, in place of what was sent so before.
    """

    campaign: str
    run: str
    config: Mapping[str, Any]
    whole: bool = False


@dataclass(frozen=True)
class Record:
    """Numbers at one moment: `step` counts results of the search, `seconds` is running time."""

    step: int
    seconds: float
    values: Mapping[str, float]


class Tracker(Protocol):
    """One run in an experiment tracker. Called from one thread, in this order; may raise what it likes."""

    def start(self, about: About) -> None:
        """Begin the run, or go on with it."""

    def log(self, record: Record) -> None:
        """Add numbers."""

    def finish(self, summary: Mapping[str, float]) -> None:
        """End this session of the run; `summary` holds what is known at its end."""


def about(history: History, *, whole: bool = False) -> About:
    """The run that a history belongs to; it must have begun. What is sent whole is a run of its own."""
    assert history.campaign is not None
    started = round(history.started)
    run = f"{history.campaign.identity[:12]}-{started}{'-sync' if whole else ''}"
    return About(history.stated.name, run, dict(history.config), whole)


@dataclass
class Recorder:
    """Turns what is new in a history into records; ask it after each event.

    With `skip_known`, what is there when it is first asked was told to the tracker before.
    """

    skip_known: bool = False
    _seen: set[str] = field(default_factory=set)
    _settled: int = -1
    _best: BestSoFar | None = None

    def __call__(self, history: History) -> list[Record]:
        """Records of the results that came since the last call, one each."""
        first, self.skip_known = self.skip_known, False
        if history.scaling is None or history.settled == self._settled:
            return []
        self._settled = history.settled
        found = []
        if self._best is None:
            self._best = BestSoFar(history.stated.objectives, history.scaling, bounds_of(history))
            found.append(Record(0, history.elapsed, _baselines(history)))
        for candidate in history.candidates.values():
            if candidate.is_baseline or not candidate.is_settled or candidate.id in self._seen:
                continue
            self._seen.add(candidate.id)
            values = self._values(history, candidate)
            found.append(Record(len(self._seen), history.elapsed, values))
        return [] if first else found

    def _values(self, history: History, candidate: Candidate) -> dict[str, float]:
        assert self._best is not None
        values: dict[str, float] = {}
        if "search" in candidate.evaluations:
            evaluation = candidate.evaluations["search"]
            self._best.add(evaluation.metrics)
            values |= {f"score/{name}": metric.value for name, metric in evaluation.metrics.items()}
            values["seconds of the last"] = sum(evaluation.seconds.values())
        for objective, best in zip(self._best.objectives, self._best.best, strict=True):
            if best is not None:
                values[f"best/{objective.metric}"] = best
        values["hypervolume"] = self._best.hypervolume
        values["evaluations"] = history.cost
        values |= {f"failed/{kind}": float(count) for kind, count in history.failed_kinds.items()}
        if history.raced:
            values["raced"] = float(history.raced)
        return values


def _baselines(history: History) -> dict[str, float]:
    scored = {name: history.candidates[name].evaluations for name in history.reference_ids()}
    return {
        f"baseline/{name}/{metric}": found.value
        for name, evaluations in scored.items()
        if "search" in evaluations
        for metric, found in evaluations["search"].metrics.items()
    }
