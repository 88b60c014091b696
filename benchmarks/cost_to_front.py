r"""CPU seconds to a front: a search as mergekit-evolve's against `auto`, to one hypervolume on test items.

Theirs: CMA-ES on weighted sums (six weight vectors, `--evaluations` 120, one coefficient per expert and layer
group), every candidate merged to disk, loaded and scored by stock lm-eval. Its candidates are scored here by
our worker, as stock lm-eval gives the same numbers (the largest difference is printed); what one costs is
measured on `--candidates` of them done their way: merged and saved by `save_pretrained` (the merge by our
kernels, in memory, which is cheaper than mergekit's: `benchmarks/vs_mergekit.py`), loaded, scored by
`simple_evaluate` at its best of three batch sizes. Neither baselines nor the choice on selection items is
counted for them.

Ours: `auto` on one gene per expert and weight matrix, everything in one process on one thread, for rising
budgets until its front, chosen on selection items, has their hypervolume on test items. Everything is
counted: loading, preparation, baselines, gradients, scoring of the chosen on selection items. `ratio_alike`
leaves the last two kinds of evaluations out, as they are left out for them: search against search. Other
`--arms` show what each part brings: without gradients (`surrogate-tensors`), without a model either
(`nsga2-layers`), the same search at our price of a candidate (`cma-es-layers`); with `+racing` they race.

    python benchmarks/cost_to_front.py experiments/quickstart/campaign.yaml --out runs/cost_to_front
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import shutil
import statistics
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

import torch
import yaml
from front_quality import Judge, measure
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from sample_efficiency import ARMS, with_arm
from test_scores import open_worker
from transformers import AutoModelForCausalLM, AutoTokenizer

from evomerge.campaign.campaign import Campaign, load_campaign
from evomerge.campaign.check import CheckReport, check_campaign
from evomerge.campaign.file import BaselinesSection, RacingSection, WorkersSection
from evomerge.campaign.prepared import prepared_space
from evomerge.ledger.history import History
from evomerge.run.driver import run
from evomerge.run.job import Job
from evomerge.run.worker import Worker

BATCH_SIZES = (32, 64, 128)


def in_process(campaign: Campaign, single: list[float]) -> Campaign:
    """The campaign with its one worker in the driver's process, so that its CPU time is all there is.

    `single` are the coefficients of its baselines; it does not race.
    """
    evaluation = campaign.config.evaluation.model_copy(update={"threads": 1, "device": "cpu"})
    changes = {
        "workers": WorkersSection(pool="inline", count=1),
        "evaluation": evaluation,
        "baselines": BaselinesSection(single=single),
        "racing": None,
    }
    return replace(campaign, config=campaign.config.model_copy(update=changes))


def search_tasks(campaign: Campaign) -> dict[Path, list[str]]:
    """Folder of lm-eval tasks to the names of those of the search split."""
    found: dict[Path, list[str]] = defaultdict(list)
    for file in campaign.evaluator_files:
        stated = yaml.safe_load(Path(file).read_text())
        found[(Path(file).parent / stated["include_path"]).resolve()].append(stated["tasks"]["search"])
    return dict(found)


def merge_to_disk(worker: Worker, recipe: Any, base: Path, out: Path) -> float:
    """CPU seconds of a merge written to a folder in bfloat16."""
    engine = worker._loaded()
    job = Job("theirs", "evaluate", recipe.to_json(), "search")
    began = time.process_time()
    model = engine._merge(job).model
    state = {name: tensor.to(torch.bfloat16) for name, tensor in model.state_dict().items()}
    model.save_pretrained(out, state_dict=state)
    for file in base.glob("tokenizer*"):
        shutil.copy(file, out)
    return time.process_time() - began


def score_theirs(
    folder: Path, tasks: dict[Path, list[str]], batch_size: int
) -> tuple[float, list[float]]:
    """CPU seconds of loading a folder and scoring it by stock lm-eval, and the accuracies."""
    began = time.process_time()
    values: list[float] = []
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    lm = HFLM(pretrained=model, tokenizer=AutoTokenizer.from_pretrained(folder), batch_size=batch_size)
    for place, names in tasks.items():
        with contextlib.redirect_stderr(io.StringIO()), contextlib.chdir(place):
            manager = TaskManager(include_path=".", include_defaults=False)
            found: Any = simple_evaluate(
                model=lm, tasks=names, task_manager=manager, bootstrap_iters=0, log_samples=False
            )
        values += [float(found["results"][name]["acc,none"]) for name in names]
    return time.process_time() - began, values


def their_candidate(
    worker: Worker, campaign: Campaign, history: History, report: CheckReport, out: Path, count: int
) -> dict[str, Any]:
    """What one candidate costs them, phase by phase: medians over the first `count` evaluated ones."""
    assert history.prepared is not None
    space = prepared_space(campaign, history.prepared, report.paths)
    tasks = search_tasks(campaign)
    done = [
        each for each in history.candidates.values() if each.genome and "search" in each.evaluations
    ]
    merging, scoring, differences = [], [], []
    batch_size = BATCH_SIZES[0]
    for number, candidate in enumerate(done[: count + 1]):
        recipe = space.decode(candidate.genome or ())
        folder = out / "theirs"
        shutil.rmtree(folder, ignore_errors=True)
        merge = merge_to_disk(worker, recipe, Path(report.paths["base"]), folder)
        if number == 0:
            # The first warms up; it also finds the batch size.
            times = {size: score_theirs(folder, tasks, size)[0] for size in BATCH_SIZES}
            batch_size = min(times, key=lambda size: times[size])
            continue
        seconds, values = score_theirs(folder, tasks, batch_size)
        merging.append(merge)
        scoring.append(seconds)
        metrics = candidate.evaluations["search"].metrics
        recorded = [metrics[objective.metric].value for objective in campaign.objectives]
        differences.append(max(abs(a - b) for a, b in zip(values, recorded, strict=True)))
    return {
        "merge_s": statistics.median(merging), "score_s": statistics.median(scoring),
        "batch_size": batch_size, "largest_difference": max(differences),
    }  # fmt: skip


def beside_the_search(history: History, total: float) -> float:
    """Share of our seconds on the clock that went into baselines and into scores on selection items."""
    names = set(history.reference_ids())
    spent = sum(
        sum(evaluation.seconds.values())
        for name, candidate in history.candidates.items()
        for split, evaluation in candidate.evaluations.items()
        if name in names or split != "search"
    )
    return spent / total


def phases(history: History, total: float) -> dict[str, float]:
    """Shares of our seconds on the clock; what no job says is the driver's (optimizer, ledger, `prepare`)."""
    found: dict[str, float] = defaultdict(float)
    for candidate in history.candidates.values():
        for evaluation in candidate.evaluations.values():
            for phase, value in evaluation.seconds.items():
                found[phase] += value / total
    for batch in history.slopes:
        for slope in batch.values():
            for phase, value in slope.seconds.items():
                found["gradients" if phase == "slope" else phase] += value / total
    found["driver"] = 1.0 - sum(found.values())
    return {f"share_{phase}": round(share, 4) for phase, share in found.items()}


def our_search(
    campaign: Campaign,
    name: str,
    seed: int,
    budget: int,
    report: CheckReport,
    judge: Judge,
    folder: Path,
    theirs: float,
) -> dict[str, Any]:
    """What an arm reaches with a budget and what that took, beside the CPU seconds of theirs."""
    arm, _, races = name.partition("+")
    ours = with_arm(campaign, ARMS[arm], seed, budget)
    if races:
        ours = replace(ours, config=ours.config.model_copy(update={"racing": RacingSection()}))
    shutil.rmtree(folder, ignore_errors=True)
    began, clock = time.process_time(), time.perf_counter()
    history = run(ours, folder, report.paths, report.storage)
    seconds, clock = time.process_time() - began, time.perf_counter() - clock
    found = measure(ours, history, report, judge, folder)["hypervolume"]
    alike = theirs / (seconds * (1.0 - beside_the_search(history, clock)))
    row = {"seed": seed, "arm": name, "budget": budget, "ours": found, "cpu_s": seconds}
    row |= {"ratio": theirs / seconds, "ratio_alike": alike, "cost": history.cost}
    return row | phases(history, clock)


def in_words(row: dict[str, Any], fewer: float) -> str:
    """The ratio as a product of fewer and of cheaper evaluations."""
    less = row["ratio"]
    return (
        f"seed {row['seed']}, {row['arm']}: {less:.1f} times less CPU: {fewer:.1f} times fewer\n"
        f"evaluations, each {less / fewer:.1f} times cheaper; {row['ratio_alike']:.1f} times less without\n"
        "baselines and scores on selection items, which are not counted for them"
    )


def main() -> None:
    """Print theirs, ours for each budget, and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("campaign", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[20])
    parser.add_argument("--budgets", type=int, nargs="+", default=[24, 30, 36, 48, 60])
    every = [*ARMS, *(f"{arm}+racing" for arm in ARMS)]
    parser.add_argument("--arms", nargs="+", choices=every, default=["auto-tensors"], help="ours")
    parser.add_argument("--evaluations", type=int, default=120, help="theirs")
    parser.add_argument("--candidates", type=int, default=5)
    parser.add_argument("--single", type=float, nargs="+", default=[0.6, 0.7, 0.8, 0.9, 1.0])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    campaign = in_process(load_campaign(arguments.campaign), arguments.single)
    report = check_campaign(campaign)
    report.raise_problems()
    worker = open_worker(campaign, report.paths, report.storage, arguments.out / "cache")
    judge = Judge(worker, campaign, arguments.out / "test_items.json")
    for seed in arguments.seeds:
        theirs = with_arm(campaign, ARMS["cma-es-layers"], seed, arguments.evaluations)
        folder = arguments.out / f"theirs-{seed}"
        history = run(theirs, folder, report.paths, report.storage)
        goal = measure(theirs, history, report, judge, folder)["hypervolume"]
        costs = their_candidate(worker, theirs, history, report, arguments.out, arguments.candidates)
        whole = arguments.evaluations * (costs["merge_s"] + costs["score_s"])
        print(json.dumps({"seed": seed, "theirs": goal, "cpu_s": whole} | costs), flush=True)
        for name in arguments.arms:
            for budget in arguments.budgets:
                folder = arguments.out / f"{name}-{seed}-{budget}"
                row = our_search(campaign, name, seed, budget, report, judge, folder, whole)
                print(json.dumps(row), flush=True)
                if row["ours"] >= goal:
                    print(in_words(row, arguments.evaluations / row["cost"]), flush=True)
                    break
            else:
                print(f"seed {seed}, {name}: their hypervolume {goal:.3f} was not reached")


if __name__ == "__main__":
    main()
