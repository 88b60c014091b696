"""Steps 8 and 10: whole campaigns on the card, with a worker killed under load, and beside the CPU's."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.bed import Bed
from benchmarks.gpu.report import Report
from evomerge.campaign.campaign import load_campaign
from evomerge.files.yaml_file import load_yaml
from evomerge.front.folder import open_campaign_folder
from evomerge.front.front import Front, pick
from evomerge.ledger.history import History
from evomerge.run.driver import run
from evomerge.run.progress import Progress
from tests.local_workers import forked_workers
from tests.tiny_models import write_campaign

ROOT = Path(__file__).parents[2]
SLACK = 200e6
"""Bytes of a card that others may take or give while a worker dies."""


def campaign_file(bed: Bed, name: str, **sections: Any) -> Path:
    """The quickstart campaign (or, tiny, a toy's) with some sections changed."""
    if bed.tiny:
        changed = {
            **sections,
            "optimizer": {"kind": "nsga2", "population": 4},
            "budget": {"evaluations": 6},
        }
        return write_campaign(bed.folder / "toy", **changed).rename(bed.folder / "toy" / f"{name}.yaml")
    source = ROOT / "experiments/quickstart/campaign.yaml"
    config = json.loads(json.dumps(load_yaml(source)[0]))
    config |= sections
    for each in (config["base"], *config["experts"].values()):
        each["path"] = str(source.parent / each["path"])
    config["search_space"] = str((source.parent / config["search_space"]).resolve())
    config["evaluators"] = [str((source.parent / each).resolve()) for each in config["evaluators"]]
    path = bed.folder / f"{name}.yaml"
    path.write_text(json.dumps(config))
    return path


def finish(file: Path, directory: Path, observer: Any = None) -> Front:
    """Run a campaign file to its end."""
    campaign = load_campaign(file)
    paths = {name: str(reference.path) for name, reference in campaign.references().items()}
    run(campaign, directory, paths, "bfloat16", observer=observer)
    return open_campaign_folder(directory).front()


def evaluation(bed: Bed, device: str) -> Mapping[str, Any]:
    """The section of a campaign file."""
    return {"dtype": "float32", "batch_size": 8 if bed.tiny else 64, "threads": 1, "device": device}


class Killer:
    """Kills a worker in the middle of a campaign, once, and looks at the card's memory before and after."""

    def __init__(self, bed: Bed) -> None:
        self.bed = bed
        self.killed = 0
        self.before = self.after = 0

    def __call__(self, history: History, progress: Progress) -> None:
        """The observer of a run."""
        if self.killed or progress.phase != "search" or not progress.running:
            return
        workers = sorted(multiprocessing.active_children(), key=lambda each: each.pid or 0)
        if not workers or workers[0].pid is None:
            return
        self.before = self._free()
        self.killed = workers[0].pid
        os.kill(self.killed, signal.SIGKILL)
        workers[0].join(10.0)
        end = time.monotonic() + 5.0
        while self.bed.device != "cpu" and time.monotonic() < end and self._free() <= self.before:
            time.sleep(0.1)
        self.after = self._free()

    def _free(self) -> int:
        return 0 if self.bed.device == "cpu" else torch.cuda.mem_get_info()[0]


def two_workers(bed: Bed, report: Report) -> None:
    """Step 8: the front of two workers, one of them killed, is that of one; the card gets its memory back."""
    bed.drop_workers()
    sections = {
        "optimizer": {"kind": "nsga2", "population": 6 if bed.tiny else 10},
        "budget": {"evaluations": 12 if bed.tiny else 30},
        "evaluation": evaluation(bed, bed.device),
    }
    fronts, seconds = {}, {}
    killer = Killer(bed)
    for count in (1, 2):
        workers = {"pool": "local", "count": count, "kernels": "plain"}
        file = campaign_file(bed, f"workers-{count}", **sections, workers=workers)
        # Forks of a process that has used a card cannot use it.
        started = forked_workers() if bed.device == "cpu" else contextlib.nullcontext()
        began = time.perf_counter()
        with started:
            front = finish(file, bed.folder / f"run-workers-{count}", killer if count == 2 else None)
        seconds[count] = time.perf_counter() - began
        fronts[count] = json.dumps(front.to_json(), sort_keys=True)
        report.say(f"{count} workers: {seconds[count]:.1f} s, {len(front.members)} on the front",
                   **{f"seconds_{count}": seconds[count]})  # fmt: skip
    same = fronts[1] == fronts[2]
    report.say(
        f"fronts {'the same' if same else 'DIFFER'}; a worker was {'' if killer.killed else 'NOT '}killed",
        fronts_equal=same, killed=bool(killer.killed),
    )  # fmt: skip
    if bed.device != "cpu":
        freed = killer.after - killer.before
        left = torch.cuda.mem_get_info()[0]
        report.say(
            f"the killed worker's memory came back: {freed / 1e6:.0f} MB; free at the end "
            f"{left / 1e9:.2f} GB, {'all of it' if left >= killer.after - SLACK else 'NOT ALL'}",
            freed=freed, free_at_end=left,
        )  # fmt: skip


def against_cpu(bed: Bed, report: Report) -> None:
    """Step 10: a short campaign on the card and on the CPU; their picks within the printed intervals."""
    cores = max(1, (os.cpu_count() or 1) - 2)
    fronts = {}
    for label, device in (("device", bed.device), ("cpu", "cpu")):
        count = 1 if bed.tiny or label == "device" else min(8, cores)
        pool = "inline" if count == 1 else "local"
        sections = {
            "optimizer": {"kind": "nsga2", "population": 10},
            "budget": {"evaluations": 30},
            "evaluation": evaluation(bed, device),
            "workers": {"pool": pool, "count": count, "kernels": "plain"},
        }
        file = campaign_file(bed, f"front-{label}", **sections)
        began = time.perf_counter()
        fronts[label] = finish(file, bed.folder / f"run-front-{label}")
        took = time.perf_counter() - began
        report.say(f"{label}, {count} workers: {took:.1f} s, {len(fronts[label].members)} on the front",
                   **{f"{label}_seconds": took})  # fmt: skip
    outside = []
    for choice in ("knee", *(f"best:{o.metric}" for o in fronts["cpu"].objectives)):
        cells = []
        for objective in fronts["cpu"].objectives:
            one, other = (_metric(front, choice, objective.metric) for front in fronts.values())
            # The intervals that a front prints are plus and minus 1.96 standard errors.
            apart = abs(one.value - other.value) > 1.96 * (one.stderr + other.stderr)
            outside += [f"{choice} {objective.metric}"] * apart
            cells.append(f"{one.value:.3f}/{other.value:.3f}")
        report.say(f"{choice}: device/cpu {'  '.join(cells)}", **{choice: cells})
    report.say(f"picks outside each other's intervals: {', '.join(outside) or 'none'}", outside=outside)


def _metric(front: Front, choice: str, metric: str) -> Any:
    return pick(front, choice).metrics[front.split][metric]
