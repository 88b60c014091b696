"""Does steady state find as much in less time? The production schedules on a simulated clock.

Evaluation times are lognormal (sigma 0.5, mean 1). For each problem and number of workers, both
schedules search with the same operators and seeds; the time to reach a hypervolume is compared, at the
hypervolume that the generational search ends with and at 95 % of it. Utilisation is the busy share of
all workers up to that moment. Nothing is slept: a minute of simulation is a number.

    python benchmarks/scheduler.py --seeds 1 2 3 4 5
"""

from __future__ import annotations

import argparse
import heapq
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from evomerge.objectives.objective import Complete, Objective
from evomerge.objectives.pareto import hypervolume, non_dominated
from evomerge.optimizers.kinds import make_optimizer
from evomerge.optimizers.optimizer import Optimizer, Schedule
from evomerge.optimizers.schedule import follow
from evomerge.optimizers.settings import Nsga2Settings
from evomerge.optimizers.slopes import Slope, SlopeRequest
from evomerge.run.job import Job, JobResult
from evomerge.run.pool.pool import Pool
from evomerge.search_space import Gene, Genome

SIGMA = 0.5
SIZES = ((8, 64, 64), (64, 64, 64), (256, 256, 100))
"""Workers, population of the generational search, population of the steady one."""

SHARES = (0.95, 1.0)


@dataclass(frozen=True)
class Problem:
    """A test problem: its genes, values of a genome (all minimised), and what to scale them by.

    `initial` holds genomes to begin with; `settings` are the optimizer's.
    """

    name: str
    genes: tuple[Gene, ...]
    values: Callable[[np.ndarray], tuple[float, ...]]
    scale: tuple[float, ...]
    initial: tuple[Genome, ...] = ()
    settings: Nsga2Settings = Nsga2Settings()


def plain_genes(count: int) -> tuple[Gene, ...]:
    """Genes in [0, 1] that have nothing to do with each other."""
    return tuple(Gene(f"x{i}", 0.0, 1.0, 1e-6, "weight", f"x{i}", ("embed",)) for i in range(count))


def zdt1() -> Problem:
    """Zitzler, Deb and Thiele (2000), T1: 30 variables, 2 objectives."""

    def values(x: np.ndarray) -> tuple[float, ...]:
        g = 1 + 9 * x[1:].mean()
        return float(x[0]), float(g * (1 - np.sqrt(x[0] / g)))

    settings = Nsga2Settings(start="random", operators="standard")
    return Problem("ZDT1", plain_genes(30), values, (1.0, 1.0), (), settings)


def dtlz2() -> Problem:
    """Deb, Thiele, Laumanns and Zitzler (2002), problem 2: 12 variables, 3 objectives."""

    def values(x: np.ndarray) -> tuple[float, ...]:
        g = 1 + float(((x[2:] - 0.5) ** 2).sum())
        a, b = np.pi / 2 * x[:2]
        return g * np.cos(a) * np.cos(b), g * np.cos(a) * np.sin(b), g * np.sin(a)

    settings = Nsga2Settings(start="random", operators="standard")
    return Problem("DTLZ2", plain_genes(12), values, (1.0, 1.0, 1.0), (), settings)


def merge_surrogate(layers: int = 8, seed: int = 1) -> Problem:
    """Loss of three tasks: an expert helps its own task layer by layer and hurts the others."""
    rng = np.random.default_rng(seed)
    helps = rng.dirichlet(np.full(layers, 0.8), size=3) * layers
    hurts = rng.gamma(1.0, 1.0, size=(3, 3, layers)) * (1 - np.eye(3))[:, :, None]

    def values(x: np.ndarray) -> tuple[float, ...]:
        weight = x.reshape(3, layers)
        own = (helps * 0.8 * np.abs(1 - weight) ** 1.5).mean(axis=1)
        others = 0.4 * (hurts * weight[None] ** 2).sum(axis=1).mean(axis=1)
        return tuple((1 - np.exp(-1.6 * (own + others))).tolist())

    genes = tuple(
        Gene(f"weight.{e}.layers.{i}", 0.0, 1.5, 1e-3, "weight", e, (f"layers.{i}.mlp",))
        for e in ("math", "code", "text")
        for i in range(layers)
    )
    corners = [np.zeros(3), *np.eye(3), np.full(3, 0.333)]
    initial = tuple(tuple(np.repeat(corner, layers).tolist()) for corner in corners)
    return Problem("merge surrogate", genes, values, (1.0, 1.0, 1.0), initial)


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "zdt1": zdt1,
    "dtlz2": dtlz2,
    "merge": merge_surrogate,
}


class SimulatedPool:
    """A `Pool` whose `next` moves a clock; a job takes as long as its number says, on any schedule."""

    def __init__(self, size: int, seed: int) -> None:
        self.size = size
        self.clock = self.busy = 0.0
        self._seed = seed
        self._running: list[tuple[float, int, Job]] = []
        self._queue: list[Job] = []

    def submit(self, job: Job) -> None:
        """Start it if a worker is free, else queue it."""
        if len(self._running) >= self.size:
            self._queue.append(job)
            return
        number = int(job.id[1:])
        normal = np.random.default_rng((self._seed, number)).normal()
        seconds = float(np.exp(SIGMA * normal - SIGMA**2 / 2))
        self.busy += seconds
        heapq.heappush(self._running, (self.clock + seconds, number, job))

    def next(self, timeout: float) -> JobResult | None:
        """The next to finish, at its time."""
        if not self._running:
            return None
        self.clock, _, job = heapq.heappop(self._running)
        if self._queue:
            self.submit(self._queue.pop(0))
        return JobResult(job.id, "ok")

    def used(self) -> float:
        """Busy share of all workers so far; what runs is counted up to now."""
        ahead = sum(end - self.clock for end, _, _ in self._running)
        return (self.busy - ahead) / (self.clock * self.size)

    def close(self) -> None:
        """Nothing runs."""


class SimulatedDesk:
    """A `Desk` without a ledger: candidates are test-problem genomes, results arrive by a pool's clock.

    `trace` holds (evaluations, time, utilisation, hypervolume) after every `look` results; the search
    ends with the budget or when `target` is reached.
    """

    def __init__(
        self, problem: Problem, optimizer: Optimizer, pool: SimulatedPool, budget: int, target: float
    ) -> None:
        self.problem, self.optimizer, self.budget, self.target = problem, optimizer, budget, target
        self.pool: Pool = pool
        self.simulated = pool
        self.outcomes: list[Complete] = []
        self.under_way: set[int] = set()
        self.front = np.empty((0, len(problem.scale)))
        self.trace: list[tuple[int, float, float, float]] = []
        self.done = 0

    def untold(self) -> list[int]:
        """Nothing: a simulation begins at the beginning."""
        return []

    def spent(self) -> str | None:
        """The budget, or a target that was reached."""
        reached = bool(self.trace) and self.trace[-1][3] >= self.target
        return "budget" if reached or self.done + len(self.under_way) >= self.budget else None

    def idle(self) -> int:
        """Free workers."""
        return self.pool.size - len(self.under_way)

    def busy(self) -> bool:
        """Whether a worker has something to do."""
        return bool(self.under_way)

    def has_learned_enough(self) -> bool:
        """Never."""
        return False

    def slopes(self, requests: Sequence[SlopeRequest]) -> list[Slope | None] | None:
        """None of a made-up problem."""
        return [None] * len(requests)

    def asked(self, genomes: Sequence[Genome]) -> list[int]:
        """Evaluate at once; the result arrives when its time has come."""
        first = len(self.outcomes)
        for genome in genomes:
            values = self.problem.values(np.array(genome))
            self.outcomes.append(Complete(tuple(map(float, values)), (0.0,) * len(values)))
        return list(range(first, len(self.outcomes)))

    def start(self, numbers: Sequence[int]) -> str | None:
        """Submit all of them."""
        for number in numbers:
            self.under_way.add(number)
            self.pool.submit(Job(f"c{number:05d}", "evaluate"))
        return None

    def arrived(self) -> list[int] | None:
        """The next result by the clock."""
        result = self.pool.next(0.0)
        if result is None:
            return None
        number = int(result.id[1:])
        self.under_way.discard(number)
        self.done += 1
        self._look(np.array(self.outcomes[number].values) / self.problem.scale)
        return [number]

    def tell(self, numbers: Sequence[int]) -> None:
        """Pass outcomes on."""
        self.optimizer.tell([self.outcomes[number] for number in numbers], numbers)

    def _look(self, row: np.ndarray) -> None:
        """Take a point into the front of all evaluated; hypervolume only where it changes."""
        volume = self.trace[-1][3] if self.trace else 0.0
        inside = bool((row < 1.1).all())
        if inside and not (self.front <= row).all(axis=1).any():
            self.front = np.vstack([self.front, row])
            self.front = self.front[non_dominated(self.front)]
            volume = hypervolume(self.front)
        self.trace.append((self.done, self.simulated.clock, self.simulated.used(), volume))


def run(
    problem: Problem,
    schedule: Schedule,
    size: tuple[int, int, int],
    seed: int,
    budget: int,
    target: float,
) -> list[tuple[int, float, float, float]]:
    """The trace of one simulated search."""
    workers, generation, steady = size
    names = [Objective(f"f{i}", "minimize") for i in range(len(problem.scale))]
    optimizer = make_optimizer(
        "nsga2",
        problem.genes,
        names,
        population=generation if schedule == "generational" else steady,
        seed=seed,
        initial=problem.initial,
        settings=problem.settings,
        schedule=schedule,
    )
    desk = SimulatedDesk(problem, optimizer, SimulatedPool(workers, seed), budget, target)
    follow(schedule, optimizer, desk)
    return desk.trace


def first_at(trace: list[tuple[int, float, float, float]], volume: float) -> tuple[int, float, float]:
    """(evaluations, time, utilisation) when a hypervolume was first reached; infinities if never."""
    for done, clock, used, found in trace:
        if found >= volume:
            return done, clock, used
    return trace[-1][0], float("inf"), trace[-1][2]


def main() -> None:
    """Run all cases and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="*", default=[1, 2, 3, 4, 5])
    parser.add_argument("--workers", type=int, nargs="*", default=[8, 64, 256])
    parser.add_argument("--problems", nargs="*", default=list(PROBLEMS), choices=list(PROBLEMS))
    parser.add_argument("--generations", type=int, default=30)
    parser.add_argument("--json", action="store_true", help="one JSON line per seed")
    arguments = parser.parse_args()
    head = f"{'workers':>7} {'problem':<16} {'share':>5} {'ratio of times: median (all seeds)':<50}"
    print(f"{head} {'evaluations':>13} {'used, gen.':>10} {'steady':>7} {'tail':>6}")
    for size in SIZES:
        if size[0] not in arguments.workers:
            continue
        for name in arguments.problems:
            case(PROBLEMS[name](), size, arguments)


def case(problem: Problem, size: tuple[int, int, int], arguments: argparse.Namespace) -> None:
    """One row per share: all seeds of one problem and size."""
    budget = size[1] * arguments.generations
    began = time.process_time()
    both = []
    for seed in arguments.seeds:
        one = run(problem, "generational", size, seed, budget, float("inf"))
        two = run(problem, "steady_state", size, seed, 2 * budget, one[-1][3])
        both.append((one, two))
    seconds = time.process_time() - began
    for share in SHARES:
        pairs = [
            (first_at(one, share * one[-1][3]), first_at(two, share * one[-1][3])) for one, two in both
        ]
        ratios = [a[1] / b[1] for a, b in pairs]
        needed = np.median([b[0] / a[0] for a, b in pairs])
        used = [np.median([pair[which][2] for pair in pairs]) for which in (0, 1)]
        tail = np.median([two[-1][2] for _, two in both])
        each = " ".join(f"{ratio:.2f}" for ratio in ratios)
        text = f"{np.median(ratios):.2f}  ({each})"
        print(
            f"{size[0]:>7} {problem.name:<16} {share:>5} {text:<50} {needed:>13.2f} "
            f"{used[0]:>10.3f} {used[1]:>7.3f} {tail:>6.3f}",
            flush=True,
        )
        if arguments.json:
            row = {"workers": size[0], "problem": problem.name, "share": share, "ratios": ratios}
            print(json.dumps(row | {"seconds_cpu": seconds}))


if __name__ == "__main__":
    main()
