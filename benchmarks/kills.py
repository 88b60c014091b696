"""What becomes of a search whose driver is killed again and again: ours, and Optuna's NSGA-II beside it.

mergekit-evolve cannot take part: it writes down nothing to go on from. Optuna keeps its trials in a journal
file or a database, and a script that opens the study again and asks for the trials that are missing is what
its documentation calls resuming. Each search makes evaluations of 10 ms whose scores follow from the point
alone, is killed (SIGKILL) at random moments and started again until it ends by itself, and is then compared
with one that was left alone. Ours are the trials of row F1 of `tests/faults` with the generational schedule.

Printed: kills; results of points that were evaluated before, beyond those of the search left alone; records
that stay unfinished for ever; searches whose front differs from that of the one left alone.

    python -m benchmarks.kills [--searches 10]
"""

from __future__ import annotations

import argparse
import hashlib
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from tests.faults.bed import judge, session, write_toy_campaign
from tests.tiny_runs import forked

SECONDS = 0.01
EVALUATIONS = 60
POPULATION = 6
MOST_KILLS = 60


@dataclass
class Found:
    """Sums over searches."""

    kills: int = 0
    repeated: int = 0
    unfinished: int = 0
    differing: int = 0


def until_it_ends(rng: random.Random, work: Callable[[], Any], longest: float) -> int:
    """Run something in children that are killed, until one ends; the number of kills."""
    kills = 0
    while forked(work, kill_after=rng.uniform(0.02, longest)) != 0:
        kills += 1
        longest *= 1.1  # on a slow machine, sessions that die before they begin get more time
        if kills > MOST_KILLS:
            raise SystemExit("no progress under kills")
    return kills


def scores(point: dict[str, float]) -> tuple[float, float]:
    """Two objectives of a point, both maximised: a trade-off with deterministic noise."""
    values = list(point.values())
    drawn = hashlib.sha256(repr(values).encode()).digest()
    noise = [byte / 2550 for byte in drawn[:2]]
    mean = sum(values) / len(values)
    return mean + noise[0], 1.0 - mean**2 + noise[1]


def optuna_session(open_storage: Callable[[], Any]) -> None:
    """What a user's script does: open the study, or begin it, and ask for what is missing."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        study_name="kills", storage=open_storage(), directions=["maximize", "maximize"],
        sampler=optuna.samplers.NSGAIISampler(population_size=POPULATION, seed=1), load_if_exists=True,
    )  # fmt: skip

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        point = {name: trial.suggest_float(name, 0.0, 1.0, step=0.05) for name in "abc"}
        time.sleep(SECONDS)
        return scores(point)

    def done() -> int:
        return len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))

    study.optimize(objective, n_trials=EVALUATIONS - done())


def optuna_front(study: optuna.Study) -> list[tuple[float, ...]]:
    """Values of the best trials, sorted."""
    return sorted({tuple(trial.values) for trial in study.best_trials})


def repeats(study: optuna.Study) -> int:
    """Complete trials of points that had one before."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    points = Counter(tuple(trial.params.values()) for trial in trials)
    return sum(count - 1 for count in points.values())


def optuna_kills(searches: int, storage: Callable[[Path], Callable[[], Any]]) -> Found:
    """Searches by Optuna, each killed until it ends."""
    found = Found()
    with tempfile.TemporaryDirectory() as name:
        alone = Path(name) / "alone"
        alone.mkdir()
        if forked(lambda: optuna_session(storage(alone))) != 0:
            raise SystemExit("the undisturbed search failed")
        undisturbed = optuna.load_study(study_name="kills", storage=storage(alone)())
        for number in range(searches):
            folder = Path(name) / str(number)
            folder.mkdir()
            rng = random.Random(f"kills {number}")
            found.kills += until_it_ends(rng, lambda f=folder: optuna_session(storage(f)), 0.6)
            study = optuna.load_study(study_name="kills", storage=storage(folder)())
            found.repeated += max(0, repeats(study) - repeats(undisturbed))
            found.unfinished += len(study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))
            found.differing += optuna_front(study) != optuna_front(undisturbed)
    return found


def our_kills(searches: int) -> Found:
    """Campaigns with toy workers, each killed until it ends."""
    found = Found()
    for number in range(searches):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            file = write_toy_campaign(folder, seconds=SECONDS)
            rng = random.Random(f"kills {number}")
            kills = until_it_ends(rng, lambda file=file: session(file), 0.6)
            tally = judge(folder, kills)
            # Whatever was asked has an end: `judge` verifies the folder.
            found.kills += kills
            found.repeated += tally.doubled
            found.differing += tally.differing
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--searches", type=int, default=10)
    searches = parser.parse_args().searches
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    rows = {
        "evomerge": lambda: our_kills(searches),
        "Optuna, journal": lambda: optuna_kills(
            searches, lambda folder: lambda: JournalStorage(JournalFileBackend(str(folder / "journal")))
        ),
        "Optuna, SQLite": lambda: optuna_kills(
            searches, lambda folder: lambda: RDBStorage(f"sqlite:///{folder / 'study.db'}")
        ),
    }
    print(f"{searches} searches each\n")
    print("| search | kills | repeated | unfinished for ever | fronts differing |")
    print("| --- | --- | --- | --- | --- |")
    for name, run in rows.items():
        found = run()
        print(f"| {name} | {found.kills} | {found.repeated} | {found.unfinished} "
              f"| {found.differing} of {searches} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
