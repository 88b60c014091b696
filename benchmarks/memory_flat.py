"""Resident memory of one worker over many candidates: it must not grow.

The models and evaluators of a campaign (by default what `evomerge init` writes), merges drawn at random
from its search space; resident memory is read after every candidate, once Python's garbage is
collected. Printed is the slope of a robust line (Theil-Sen: the median slope between all pairs of
readings) after the first quarter, in MB per 100 candidates. Goal: at most 1.

    python -m benchmarks.memory_flat [--candidates 200] [--campaign FILE]
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

from scipy.stats import theilslopes

from evomerge.campaign.campaign import load_campaign
from evomerge.campaign.check import check_campaign
from evomerge.campaign.prepared import prepared_space
from evomerge.cli.starter.write import write_starter
from evomerge.run.job import Job, WorkerSetup
from evomerge.run.worker import Worker


def resident() -> int:
    """Resident bytes of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    """Evaluate and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--candidates", type=int, default=200)
    parser.add_argument("--campaign", type=Path, help="a campaign file")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = chosen.campaign or write_starter(Path(folder) / "starter", None, {})
        measure(file, Path(folder) / "cache", chosen.candidates)


def measure(file: Path, cache: Path, candidates: int) -> None:
    """Evaluate random candidates of a campaign and print what memory they leave behind."""
    campaign = load_campaign(file)
    report = check_campaign(campaign)
    report.raise_problems()
    evaluation = campaign.config.evaluation
    worker = Worker(
        WorkerSetup(
            sources=report.paths, evaluators=tuple(map(str, campaign.evaluator_files)),
            methods=(campaign.space.method,), trims=("tensor",), dtype=evaluation.dtype,
            storage=report.storage, device="cpu", threads=1, batch_size=evaluation.batch_size,
            cache=str(cache),
        )
    )  # fmt: skip
    prepared = worker.run(Job("prepare", "prepare"))
    if prepared.prepared is None:
        raise SystemExit(prepared.message)
    space = prepared_space(campaign, prepared.prepared, report.paths)
    rng = random.Random(0)
    sizes = []
    for number in range(candidates):
        genome = space.snap([rng.uniform(gene.low, gene.high) for gene in space.genes])
        result = worker.run(Job(f"c{number}", "evaluate", space.decode(genome).to_json()))
        if result.status != "ok":
            raise SystemExit(result.message)
        gc.collect()
        sizes.append(resident() / 1e6)
        if number % max(1, candidates // 10) == 0:
            print(f"{number:>5} candidates   {sizes[-1]:8.1f} MB", flush=True)
    late = sizes[len(sizes) // 4 :]
    slope = theilslopes(late).slope * 100
    print(f"{candidates} candidates: {slope:+.3f} MB per 100, {late[0]:.1f} to {late[-1]:.1f} MB")


if __name__ == "__main__":
    main()
