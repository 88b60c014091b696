"""How long does a front take where nobody dominates anybody? Members by the thousand, five objectives.

Made-up results on 200 items for each objective, with one sum of right answers for all candidates, so that
each is a member. Seconds of processor for the front with its probabilities, and for what a person decides by
(groups, spanning members, cards).

    python -m benchmarks.front --members 1000 2000 5000
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from evomerge.front.compute import compute_front
from evomerge.front.decision import decide
from evomerge.front.draws import draw
from evomerge.ledger.events import BaselinesEvent, Event
from evomerge.ledger.history import History
from evomerge.ledger.item_store import ItemStore
from tests.hand_made import asked, begin, scored

OBJECTIVES, ITEMS, RIGHT = 5, 200, 600
METRICS = [f"t{number}.acc" for number in range(OBJECTIVES)]


def made_up(members: int, store: ItemStore) -> History:
    """A search whose candidates all have `RIGHT` answers right, differently spread over the objectives."""
    rng = np.random.default_rng(0)
    stated = [{"metric": metric, "direction": "maximize"} for metric in METRICS]
    fields = {"objectives": stated, "constraints": [], "experts": {}, "baselines": {"single": []}}
    first, prepared, *_ = begin(**fields)
    rows = {metric: [1.0] * 80 + [0.0] * (ITEMS - 80) for metric in METRICS}
    baselines = [scored(name, rows, store=store) for name in ("base", "math")]
    frozen = BaselinesEvent(
        ideal=(-0.9,) * OBJECTIVES, nadir=(-0.3,) * OBJECTIVES, shown=("base", "math")
    )
    names = [f"c{number:05d}" for number in range(members)]
    events: list[Event] = [first, prepared, *baselines, frozen, asked(0, *names)]
    for name in names:
        right = rng.multinomial(RIGHT, rng.dirichlet(np.full(OBJECTIVES, 40.0)))
        answers = {}
        for metric, count in zip(METRICS, right, strict=True):
            values = np.zeros(ITEMS)
            values[rng.permutation(ITEMS)[:count]] = 1.0
            answers[metric] = values.tolist()
        events.append(scored(name, answers, store=store))
    return History.fold(events)


def main() -> None:
    """Print a line for each number of members."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--members", type=int, nargs="+", default=[1000, 2000, 5000])
    print(f"{'candidates':>10}{'members':>10}{'front s':>10}{'decision s':>12}")
    for members in parser.parse_args().members:
        with tempfile.TemporaryDirectory(dir="/dev/shm") as scratch:
            store = ItemStore(Path(scratch) / "items")
            history = made_up(members, store)
            began = time.process_time()
            front = compute_front(history, store)
            between = time.process_time()
            decide(front, draw(front, history, store))
            end = time.process_time()
        taken = f"{between - began:>10.2f}{end - between:>12.2f}"
        print(f"{members:>10}{len(front.members):>10}{taken}", flush=True)


if __name__ == "__main__":
    main()
