r"""Every merge method at the same budget: the best it finds, its front, and what a candidate costs.

A campaign for each method by NSGA-II, in the method's own default space (one value of each coefficient for
the whole model). What is chosen on selection items is scored on test items: the member of the highest mean,
and the hypervolume of the front by the first campaign's scaling. A candidate's CPU seconds are those of its
merge and of scoring it on search items, the median over the search. The calibration text of `regmean` and
`fisher` is drawn as the experts' training items are, and stands in no split. Methods of two models are given
the first two experts, methods of one the second. Everything is done in this process on one thread; rows,
campaigns and scores are kept in the folder, so that the script can be stopped and go on.

    python benchmarks/merge_methods.py experiments/quickstart/campaign.yaml \
        --out runs/merge_methods --evaluations 10 --items 60 --test-items 150
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

import numpy as np
import torch
import yaml
from front_quality import Judge

from evomerge.campaign.campaign import Campaign, load_campaign
from evomerge.campaign.check import check_campaign
from evomerge.campaign.recorded import recorded_recipe
from evomerge.front.compute import compute_front
from evomerge.ledger.history import ITEMS_FOLDER, History
from evomerge.ledger.item_store import ItemStore
from evomerge.objectives.objective import Scaling
from evomerge.objectives.pareto import hypervolume
from evomerge.recipe.calibration import Calibration
from evomerge.recipe.catalogue import METHODS
from evomerge.run.driver import run
from evomerge.run.job import Job, JobResult, WorkerSetup
from evomerge.run.pool.inline import InlinePool
from evomerge.run.worker import Worker

BED = Path(__file__).resolve().parent.parent / "experiments" / "quickstart"
FIRST = "task_arithmetic"


class ClockedWorker(Worker):
    """A worker that notes the CPU seconds of what it scores on search items."""

    def __init__(self, setup: WorkerSetup) -> None:
        super().__init__(setup)
        self.spent: list[float] = []

    def run(self, job: Job) -> JobResult:
        """Do a job, as a worker does."""
        began = time.process_time()
        result = super().run(job)
        if job.kind == "evaluate" and job.split == "search":
            self.spent.append(time.process_time() - began)
        return result


def calibration_text(file: Path, count: int) -> None:
    """Lines of each of the bed's tasks, made by the bed's own script."""
    drawn = file.with_suffix(".jsonl")
    subprocess.run(
        [sys.executable, BED / "held_out_texts.py", drawn, "--count", str(count)], check=True
    )
    lines = [json.loads(line) for line in drawn.read_text(encoding="utf-8").splitlines()]
    file.write_text(
        "".join(f"{each['context']}{each['answer']}".replace("\n", " ") + "\n" for each in lines)
    )


def fewer_items(evaluators: Sequence[Path], out: Path, items: int, test_items: int) -> list[str]:
    """Copies of evaluators with the first items of each split of their tasks alone."""
    folder = evaluators[0].parent
    if not out.exists():
        shutil.copytree(folder, out)
        for file in out.rglob("*.jsonl"):
            kept = test_items if file.stem.endswith("_test") else items
            lines = file.read_text(encoding="utf-8").splitlines(keepends=True)[:kept]
            file.write_text("".join(lines), encoding="utf-8")
    return [str(out / file.relative_to(folder)) for file in evaluators]


def space_of(name: str, text: Path) -> dict[str, Any]:
    """A method's default space; where that searches nothing, its `lambda`, or else its first coefficient."""
    method = METHODS[name]
    space: dict[str, Any] = {"schema": 1, "method": name}
    if not any(each.free for each in method.coefficients):
        names = [each.name for each in method.coefficients]
        space["coefficients"] = {"lambda" if "lambda" in names else names[0]: {}}
    if method.on_inputs is not None:
        space["calibration"] = str(text)
    return space


def taken(name: str, experts: Sequence[str]) -> tuple[str, ...]:
    """The experts that a method is given: as many as it takes."""
    most = METHODS[name].inputs[1]
    return tuple(experts[1:2] if most == 1 else experts[:most])


def setup_of(campaign: Campaign, methods: Sequence[str], cache: Path, text: Path) -> WorkerSetup:
    """What the worker of several methods is told."""
    report = check_campaign(campaign)
    report.raise_problems()
    evaluation = campaign.config.evaluation
    seen = Calibration(str(text), hashlib.sha256(text.read_bytes()).hexdigest())
    return WorkerSetup(
        sources=dict(report.paths),
        evaluators=tuple(str(path) for path in campaign.evaluator_files),
        methods=tuple(dict.fromkeys((*methods, FIRST))),
        trims=("tensor",),
        dtype=evaluation.dtype,
        storage=report.storage,
        device="cpu",
        threads=1,
        batch_size=evaluation.batch_size,
        cache=str(cache),
        kernels="plain",
        calibration=seen if any(METHODS[name].on_inputs for name in methods) else None,
    )


def measured(
    campaign: Campaign, history: History, folder: Path, judge: Judge, scaling: Scaling | None
) -> tuple[dict[str, Any], Scaling]:
    """The front on test items, and the scaling it was measured by."""
    front = compute_front(history, ItemStore(folder / ITEMS_FOLDER))
    scaling = scaling or front.scaling
    signs = np.array([objective.sign for objective in campaign.objectives])

    def on_test(name: str) -> np.ndarray:
        arrays = judge.items(recorded_recipe(history, history.candidates[name]))
        return np.array([array.mean() for array in arrays])

    values = {member.id: on_test(member.id) for member in front.members}
    # Chosen by the mean on selection items, then judged on test items.
    best = min(front.members, key=lambda member: sum(member.scaled)).id
    row = {
        "evaluations": history.budget_used,
        "failures": history.failed_kinds.total(),
        "members": len(values),
        "best": float(values[best].mean()),
        "hypervolume": hypervolume(scaling.scale(np.array([signs * each for each in values.values()]))),
        "references": {name: float(on_test(name).mean()) for name in history.reference_ids()},
    }
    return row, scaling


def table(rows: dict[str, dict[str, Any]]) -> str:
    """In Markdown, by the best mean, methods of fewer experts last."""
    most = max(len(row["experts"]) for row in rows.values())
    head = ["method", "best mean, %", "its hypervolume", "front", "CPU s a candidate"]
    lines = ["| " + " | ".join(head) + " |", "| --- | ---: | ---: | ---: | ---: |"]
    for name, row in sorted(rows.items(), key=lambda i: (-len(i[1]["experts"]), -i[1]["best"])):
        few = "" if len(row["experts"]) == most else f" ({' and '.join(row['experts'])})"
        found = f"{100 * row['best']:.1f} | {row['hypervolume']:.3f} | {row['members']} | "
        lines.append(f"| `{name}`{few} | {found}{row['cpu_s']:.2f} |")
    references = next(row for row in rows.values() if len(row["experts"]) == most)["references"]
    lines += [f"| {name} | {100 * value:.1f} | | | |" for name, value in references.items()]
    return "\n".join(lines)


def main() -> None:
    """A row for each method, and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("campaign", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--evaluations", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--methods", nargs="*", default=sorted(METHODS))
    parser.add_argument("--items", type=int, default=300, help="search and selection items of a task")
    parser.add_argument("--test-items", type=int, default=600)
    parser.add_argument("--texts", type=int, default=16, help="calibration lines of a task")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    out = arguments.out.resolve()
    (out / "campaigns").mkdir(parents=True, exist_ok=True)
    text = out / "calibration.txt"
    if not text.exists():
        calibration_text(text, arguments.texts)
    whole = load_campaign(arguments.campaign)
    evaluators = fewer_items(
        whole.evaluator_files, out / "evaluators", arguments.items, arguments.test_items
    )
    models = {name: {"path": each.path} for name, each in whole.references().items()}
    stated = yaml.safe_load(arguments.campaign.read_text(encoding="utf-8")) | {
        "seed": arguments.seed,
        "base": models["base"],
        "evaluators": evaluators,
        "optimizer": {"kind": "nsga2", "population": (arguments.evaluations + 1) // 2},
        "budget": {"evaluations": arguments.evaluations},
        "baselines": {"single": [0.4, 0.8]},
        "workers": {"pool": "inline", "count": 1, "kernels": "plain"},
        "results": str(out / "results"),
    }
    methods = sorted(
        arguments.methods, key=lambda name: (name != FIRST, -(METHODS[name].inputs[1] or 99))
    )
    alike: dict[tuple[str, ...], list[str]] = {}
    for name in methods:
        alike.setdefault(taken(name, whole.experts), []).append(name)
    kept = out / "rows.json"
    rows: dict[str, dict[str, Any]] = json.loads(kept.read_text()) if kept.exists() else {}
    scaling: Scaling | None = None
    for experts, names in alike.items():
        pool: InlinePool | None = None
        for name in names:
            if name in rows and scaling is not None:
                continue
            file = out / "campaigns" / f"{name}.yaml"
            own = {"name": name, "search_space": space_of(name, text)}
            own["experts"] = {each: models[each] for each in experts}
            file.write_text(yaml.safe_dump(stated | own, sort_keys=False))
            campaign = load_campaign(file)
            if pool is None:
                setup = setup_of(campaign, names, out / "cache", text)
                pool = InlinePool(setup, ClockedWorker)
                worker: Any = pool._worker
                judge = Judge(worker, campaign, out / f"test-{len(experts)}.json")
            worker.spent.clear()
            began, folder = time.process_time(), out / "runs" / name
            history = run(
                campaign, folder, setup.sources, setup.storage, pool=lambda _, pool=pool: pool
            )
            row, scaling = measured(campaign, history, folder, judge, scaling)
            if name in rows:  # its scaling alone was wanted
                continue
            row["cpu_s"] = statistics.median(worker.spent) if worker.spent else float("nan")
            row |= {"experts": experts, "cpu_s_all": time.process_time() - began}
            rows[name] = row
            kept.write_text(json.dumps(rows, indent=1))
            print(json.dumps({"method": name} | row), flush=True)
    print(table({name: rows[name] for name in rows}))


if __name__ == "__main__":
    main()
