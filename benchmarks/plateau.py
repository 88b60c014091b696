r"""Where would `budget.plateau` have ended a search, and what would have been missed? From ledgers alone.

For each run and share: the evaluations that were spent when the next population was first expected to add
less than the share, and how much of the hypervolume there was by then, of that which all candidates of the
run have. Hypervolume is that on selection items, of the candidates that were scored on them.

    python -m benchmarks.plateau runs/sample_efficiency/auto-layers-20-200 --shares 0.05 0.02 0.01
"""

from __future__ import annotations

import argparse
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evomerge.ledger.bounds import feasible
from evomerge.ledger.events import AskedEvent
from evomerge.ledger.history import LEDGER_FILE, History
from evomerge.ledger.ledger import read_events
from evomerge.objectives.objective import complete
from evomerge.objectives.pareto import hypervolume
from evomerge.run.limits import expected_gain


@dataclass(frozen=True)
class Stop:
    """Where a plateau would have ended a run.

    Attributes:
        spent: evaluations by then; None where the run ended before.
        share: of the whole run's hypervolume on selection items.
    """

    spent: float | None
    share: float


def stops(directory: Path, shares: Collection[float]) -> tuple[float, dict[float, Stop]]:
    """Evaluations that a run spent, and its stop by share."""
    events = list(read_events(directory / LEDGER_FILE))
    whole = History.fold(events)
    everything = _volume(whole, list(whole.candidates))
    found: dict[float, Stop] = {}
    for number, event in enumerate(events):
        if not isinstance(event, AskedEvent) or event.refinement is not None:
            continue
        then = History.fold(events[: number + 1])
        gain = expected_gain(then)
        for share in shares:
            if share not in found and gain is not None and gain < share:
                asked = {candidate.id for candidate in event.candidates}
                told = [name for name in then.candidates if name not in asked]
                found[share] = Stop(then.cost, _volume(whole, told) / everything)
    return whole.cost, {share: found.get(share, Stop(None, 1.0)) for share in shares}


def _volume(history: History, names: Collection[str]) -> float:
    """Of candidates, on selection items, in the campaign's scaling."""
    objectives, scaling = history.stated.objectives, history.scaling
    assert scaling is not None
    candidates = [history.candidates[name] for name in names]
    scored = feasible(history, [c for c in candidates if "selection" in c.evaluations])
    values = [complete(objectives, c.evaluations["selection"].metrics).values for c in scored]
    return hypervolume(scaling.scale(np.array(values, dtype=np.float64).reshape(-1, len(objectives))))


def main() -> None:
    """Print a line for each run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="folders of campaigns that have run")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.05, 0.02, 0.01])
    arguments = parser.parse_args()
    print(
        f"{'run':<28}{'spent':>8}" + "".join(f"{f'plateau {share}':>22}" for share in arguments.shares)
    )
    for directory in arguments.runs:
        spent, found = stops(directory, arguments.shares)
        cells = [
            "not reached" if stop.spent is None else f"at {stop.spent:.0f}: {stop.share:.3f}"
            for stop in found.values()
        ]
        print(f"{directory.name:<28}{spent:>8.0f}" + "".join(f"{cell:>22}" for cell in cells))


if __name__ == "__main__":
    main()
