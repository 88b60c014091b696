"""What does each optimizer find with few evaluations, and what does it cost to ask? Without models.

For each problem and optimizer the hypervolume after some evaluations, median over seeds, and the CPU seconds
that asking and telling cost per candidate, and per one of the last fifty. Merge-like problems are judged on
test items, the front chosen on selection items; the seed draws another problem as well. A lesson is that of a
campaign with the largest number of evaluations.

    python benchmarks/optimizers.py --arms surrogate nsga2 random-global --problems merge24 merge168
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np

from evomerge.optimizers.builtin import KINDS
from evomerge.optimizers.kinds import make_optimizer, optimizer_settings
from evomerge.optimizers.slopes import SlopeGround, SlopeOptimizer, SlopeRequest
from evomerge.run.search import MOST_LEARNING
from evomerge.run.slopes import PASSES
from evomerge.testing.problems import TestProblem, dtlz2, merge_like, zdt1, zdt2

PROBLEMS: dict[str, Callable[[int], TestProblem]] = {
    "zdt1": lambda seed: zdt1(),
    "zdt2": lambda seed: zdt2(),
    "dtlz2": lambda seed: dtlz2(),
    "merge24": lambda seed: merge_like(seed=seed),
    "merge168": lambda seed: merge_like(modules=7, seed=seed),
    "merge2000": lambda seed: merge_like(layers=32, modules=21, seed=seed),
    "merge24-accuracies": lambda seed: merge_like(seed=seed, smooth=False),
    "merge168-accuracies": lambda seed: merge_like(modules=7, seed=seed, smooth=False),
    "merge-5-tasks": lambda seed: merge_like(modules=7, experts=5, seed=seed),
}

LAST = 50
"""Candidates at the end whose cost is printed apart: a model of all results costs most there."""


def search(
    kind: str,
    options: dict[str, str],
    problem: TestProblem,
    seed: int,
    population: int,
    at: list[int],
    steady: int,
) -> tuple[list[float], float, float]:
    """Hypervolume after each of `at` evaluations, slopes counted, and CPU seconds of asking and telling one.

    The seconds are a mean over all candidates, with what a lesson takes, and one over the last `LAST`.
    `steady` candidates are pending at a time in steady state; 0 for generations.
    """
    read: dict[str, str | float | bool] = {
        name: float(value) if value.replace(".", "").isdigit() else value
        for name, value in options.items()
    }
    optimizer = make_optimizer(
        kind,
        problem.genes,
        problem.objectives,
        population=population,
        seed=seed,
        initial=problem.initial,
        settings=optimizer_settings(kind, read),
        schedule="steady_state" if steady else "generational",
    )
    evaluated, spent, pending, learned = [], 0.0, [], 0.0
    each: list[float] = []
    begun = time.process_time()
    if isinstance(optimizer, SlopeOptimizer) and problem.ground is not None and problem.slope:
        allowance = MOST_LEARNING * max(at) * sum(problem.ground.items)
        optimizer.begin(replace(problem.ground, allowance=allowance, backward=PASSES))
        while requests := optimizer.slopes():
            if learned >= MOST_LEARNING * max(at):
                optimizer.enough()
                break
            learned += sum(map(partial(_cost, problem.ground), requests))
            optimizer.tell_slopes([problem.slope(request) for request in requests])
    spent += time.process_time() - begun
    while len(evaluated) + learned < max(at):
        begun = time.process_time()
        if steady:
            while len(pending) < steady:
                pending += [(len(evaluated) + len(pending), genome) for genome in optimizer.ask()]
            numbers, batch = [pending[0][0]], [pending.pop(0)[1]]
        else:
            batch = optimizer.ask()
            numbers = None
        asked = time.process_time() - begun
        outcomes = [problem.outcome(genome) for genome in batch]
        evaluated += batch
        begun = time.process_time()
        optimizer.tell(outcomes, numbers)
        asked += time.process_time() - begun
        each += [asked / len(batch)] * len(batch)
    counts = [max(1, round(count - learned)) for count in at]
    costs = (spent + sum(each)) / len(each), float(np.mean(each[-LAST:]))
    return [problem.quality(evaluated[:count]) for count in counts], *costs


def _cost(ground: SlopeGround, request: SlopeRequest) -> float:
    """Of a slope, in evaluations."""
    passes = [PASSES if weight > 0.0 else 1.0 for weight in request.weights]
    answered = sum(len(items) * each for items, each in zip(request.items, passes, strict=True))
    return answered / sum(ground.items)


def main() -> None:
    """Run and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--arms", nargs="*", default=list(KINDS), help="KIND or KIND:OPTION=VALUE,...")
    parser.add_argument("--problems", nargs="*", default=list(PROBLEMS), choices=list(PROBLEMS))
    parser.add_argument("--seeds", type=int, nargs="*", default=[1, 2, 3, 4, 5])
    parser.add_argument("--at", type=int, nargs="*", default=[50, 100, 200])
    parser.add_argument("--population", type=int, default=20)
    parser.add_argument("--steady", type=int, default=0, help="pending candidates; 0 for generations")
    arguments = parser.parse_args()
    columns = "".join(f"{count:>9}" for count in arguments.at)
    for name in arguments.problems:
        print(f"\n{name:<40}{columns}{'s/candidate':>13}{'the last':>10}", flush=True)
        for arm in arguments.arms:
            kind, _, rest = arm.partition(":")
            options = dict(pair.split("=") for pair in rest.split(",") if pair)
            run = partial(
                search,
                kind,
                options,
                population=arguments.population,
                at=arguments.at,
                steady=arguments.steady,
            )
            found = [run(problem=PROBLEMS[name](seed), seed=seed) for seed in arguments.seeds]
            median = np.median([values for values, *_ in found], axis=0)
            cost, last = np.median([costs for _, *costs in found], axis=0)
            cells = "".join(f"{value:>9.3f}" for value in median)
            print(f"{arm:<40}{cells}{cost:>13.4f}{last:>10.4f}", flush=True)


if __name__ == "__main__":
    main()
