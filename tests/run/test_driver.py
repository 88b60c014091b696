"""Campaigns end to end on tiny models: any pool, any interruption, one front."""

from __future__ import annotations

import contextlib
import functools
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

from evomerge import failpoint
from evomerge.campaign.campaign import load_campaign
from evomerge.cli.verify.invariants import verify
from evomerge.errors import (
    CampaignInUse,
    CheckpointError,
    ConfigError,
    EnvironmentFault,
    Interrupted,
    LedgerDamaged,
    Stopped,
    TooManyFailures,
)
from evomerge.evaluators.lm_eval_tasks import LmEvalTasks
from evomerge.front.compute import compute_front
from evomerge.ledger.history import LEDGER_FILE, History
from evomerge.ledger.item_store import ItemStore
from evomerge.ledger.records import RecordFile
from evomerge.run import dispatch
from evomerge.run.driver import _unusable, run
from evomerge.run.engine import Engine
from evomerge.run.progress import Progress
from tests.hand_made import fold_records
from tests.local_workers import forked_workers
from tests.noting_worker import LOADED
from tests.shared import made_once
from tests.tiny_models import write_campaign
from tests.tiny_runs import events_of, finished, forked, front_text, run_file

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The files of the finished campaign, to be run anew (recipes do not depend on where they lie)."""
    source = finished().file.parent
    shutil.copytree(source, tmp_path / "c", ignore=shutil.ignore_patterns("run"))
    return tmp_path / "c"


def small(folder: Path, **overrides: Any) -> Path:
    """A shorter campaign over the same files: 8 candidates in generations of 4."""
    sections = {
        "optimizer": {"population": 4},
        "budget": {"evaluations": 8},
        "baselines": {"single": [0.5]},
    }
    return write_campaign(folder, **{**sections, **overrides})


@functools.cache
def whole_small() -> str:
    """The front of the shorter campaign when nothing disturbs it."""

    def make(root: Path) -> None:
        source = finished().file.parent
        shutil.copytree(source, root / "c", ignore=shutil.ignore_patterns("run"))
        run_file(small(root / "c"), root / "c" / "run")

    return front_text(made_once("small-campaign", make) / "c" / "run")


def stop_after(events: int, kind: type[Exception] = Stopped) -> Callable[[], Any]:
    """A stop request that comes true when it has been asked often enough."""
    left = [events]

    def request() -> Any:
        left[0] -= 1
        return kind("enough") if left[0] < 0 else None

    return request


def kinds(directory: Path) -> list[str]:
    return [event["event"] for event in events_of(directory)]


def test_a_campaign_leaves_what_the_design_says() -> None:
    done = finished()
    history = done.history
    order = list(dict.fromkeys(kinds(done.directory)))
    assert order == [
        "campaign",
        "prepared",
        "evaluated",
        "baselines",
        "asked",
        "told",
        "selection",
        "stopped",
    ]
    assert history.stopped == "budget"
    assert history.budget_used == 18
    assert {"base", "math", "code", "uniform", "single-0.4", "single-0.8"} <= set(history.candidates)
    # Baselines seed the search and are not computed twice.
    seeds = [history.candidates[name] for name in history.generations[0][:4]]
    assert [seed.evaluations["search"].same_as for seed in seeds] == ["base", "math", "code", "uniform"]
    computed = [
        e["key"] for e in events_of(done.directory) if e["event"] == "evaluated" and "same_as" not in e
    ]
    assert len(set(computed)) == len(computed)
    # Each expert is better than the base at its own task: the test bed is worth searching.
    base = history.candidates["base"].evaluations["search"].metrics
    for expert, metric in (("math", "pets.acc"), ("code", "birds.acc")):
        found = history.candidates[expert].evaluations["search"].metrics[metric]
        assert found.value > base[metric].value + 0.1
    assert front_text(done.directory) == done.text


def test_the_average_of_three_is_scored_once_and_called_so(tmp_path: Path) -> None:
    budget = {"evaluations": 6}
    baselines = {"single": [0.8]}
    file = write_campaign(tmp_path, experts=("math", "code", "law"), budget=budget, baselines=baselines)
    history = run_file(file, tmp_path / "run")
    same = {c.id: history.baselines_equal_to(c) for c in history.candidates.values()}
    (average,) = (name for name, equal in same.items() if equal == ("uniform",))
    candidate = history.candidates[average]
    assert set(candidate.genome or ()) == {0.333}
    assert candidate.evaluations["search"].same_as == "uniform"
    assert verify(tmp_path / "run") == []


def test_running_a_finished_campaign_again_adds_nothing(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    shutil.copytree(finished().directory, directory)
    before = (directory / LEDGER_FILE).read_bytes()
    run_file(finished().file, directory)
    assert (directory / LEDGER_FILE).read_bytes() == before


def test_stopped_and_run_again_is_the_same(folder: Path) -> None:
    file, directory = folder / "campaign.yaml", folder / "run"
    rounds = 0
    while True:
        kind = Stopped if rounds % 2 else Interrupted
        try:
            run_file(file, directory, stop_request=stop_after(9, kind))
            break
        except (Stopped, Interrupted):
            rounds += 1
            last = events_of(directory)[-1]
            assert (last["event"], last["reason"]) == ("stopped", kind.__name__.lower())
        assert rounds < 30, "no progress"
    assert rounds >= 3
    assert front_text(directory) == finished().text


def test_a_larger_budget_goes_on_as_if_it_had_been_there(folder: Path) -> None:
    directory = folder / "run"
    for evaluations in (7, 8, 13):  # in the middle of generations, and by too little for a new one
        file = write_campaign(folder, budget={"evaluations": evaluations})
        history = run_file(file, directory)
        assert history.budget_used == evaluations
        assert history.stopped == "budget"
    run_file(write_campaign(folder), directory)
    assert front_text(directory) == finished().text
    assert verify(directory) == [], "what only smaller budgets re-scored is no part of the front"
    again = run_file(write_campaign(folder, budget={"evaluations": 6}), directory)
    assert again.budget_used == 18


KILLS = [
    "ledger.before_append=kill@3",
    "ledger.mid_append=kill@2",
    "item_store.after_create=kill@1",
    "ledger.after_write=kill@4",
    "item_store.mid_append=kill@5",
    "ledger.after_fsync=kill@3",
    "dispatch.after_items=kill@1",
    "driver.before_tell=kill@1",
    "item_store.after_fsync=kill@4",
    "ledger.mid_append=exit@5",
    "ledger.after_fsync=kill@2",
]


def test_killed_at_one_failpoint_after_the_other_it_ends_with_the_same_front(folder: Path) -> None:
    file = small(folder)
    codes = [forked(lambda: run_file(file, folder / "run"), kill) for kill in KILLS]
    assert sum(code in (-9, 70) for code in codes) >= 8, codes
    assert set(codes) <= {-9, 70, 0}
    assert forked(lambda: run_file(file, folder / "late"), "driver.before_selection=kill") == -9
    for name in ("run", "late"):
        run_file(file, folder / name)
        assert front_text(folder / name) == whole_small()
        results = [e for e in events_of(folder / name) if e["event"] == "evaluated"]
        assert len({(e["id"], e["split"]) for e in results}) == len(results), "counted twice"


def test_killed_at_random_moments_it_ends_with_the_same_front(folder: Path) -> None:
    rng = random.Random(4)
    file, directory = folder / "campaign.yaml", folder / "run"
    for _ in range(5):
        assert forked(lambda: run_file(file, directory), kill_after=rng.uniform(0.3, 2.5)) in (0, -9)
    run_file(file, directory)
    assert front_text(directory) == finished().text


def test_one_process_worker_is_as_good_as_none(folder: Path) -> None:
    """The driver of such a run needs no heavy library, and the worker no optimizer and no Ray."""
    code = f"""
import sys
from pathlib import Path
from tests.tiny_models_free import run_light
run_light(Path({str(folder)!r}), "one", {{"pool": "local", "count": 1}})
heavy = {{"torch", "transformers", "lm_eval", "ray", "datasets"}}
print(sorted(heavy & set(sys.modules)))
"""
    write_campaign(folder, workers={"pool": "local", "count": 1})
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, timeout=120
    )
    assert done.stdout.strip().endswith("[]"), done.stderr
    assert front_text(folder / "one") == finished().text
    loaded = set(json.loads((folder / LOADED).read_text()))
    assert "torch" in loaded
    assert not {"pymoo", "ray", "optuna", "moocore"} & loaded


@contextlib.contextmanager
def killed_once(method: str, marker: Path) -> Iterator[None]:
    """Forked workers of which the first to call this method of `Engine` gets a SIGKILL in it.

    By the worker itself: seen from outside it may be done, or idle, before the signal comes.
    """
    whole = getattr(Engine, method)

    def call(engine: Engine, *given: Any) -> Any:
        with contextlib.suppress(FileExistsError):
            marker.touch(exist_ok=False)
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(engine, *given)

    with mock.patch.object(Engine, method, call), forked_workers():
        yield


def test_a_worker_killed_while_it_prepares_is_replaced(folder: Path) -> None:
    file = small(folder, workers={"pool": "local", "count": 1})
    with killed_once("prepare", folder / "killed"):
        history = run_file(file, folder / "run")
    assert (folder / "killed").exists()
    assert history.stopped == "budget"
    assert history.failures() == {}


def test_four_process_workers_give_the_same_front(folder: Path) -> None:
    with forked_workers():
        run_file(write_campaign(folder, workers={"pool": "local", "count": 4}), folder / "run")
    assert front_text(folder / "run") == finished().text


def test_two_workers_one_of_them_killed_and_the_driver_too(folder: Path) -> None:
    """SIGKILL of a driver with busy workers, then of a worker in the middle of a job."""
    file = write_campaign(folder, workers={"pool": "local", "count": 2})
    directory = folder / "run"

    def drive() -> None:
        # The driver kills itself, so that a slow machine cannot let it finish first.
        failpoint._armed.update(failpoint.parse("ledger.after_fsync=kill@12"))
        with forked_workers():
            run_file(file, directory)

    driver = multiprocessing.get_context("fork").Process(target=drive)
    driver.start()
    workers: set[psutil.Process] = set()
    end = time.monotonic() + 200
    while driver.is_alive() and time.monotonic() < end:
        with contextlib.suppress(psutil.NoSuchProcess):
            workers |= set(psutil.Process(driver.pid).children(recursive=True))
        time.sleep(0.02)
    driver.join(10)
    assert driver.exitcode == -signal.SIGKILL
    assert len(workers) >= 2
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert alive == []

    with killed_once("evaluate", folder / "killed"):
        history = run_file(file, directory)
    lost = [event for event in events_of(directory) if event["event"] == "lost"]
    assert [event["failure"] for event in lost] == ["worker_died"]
    assert history.failures() == {}
    assert front_text(directory) == finished().text


def refused(folder: Path, error: type[Exception], words: str, file: Path | None = None) -> str:
    before = (folder / "run" / LEDGER_FILE).read_bytes()
    with pytest.raises(error, match=words) as caught:
        run_file(file or folder / "campaign.yaml", folder / "run")
    assert (folder / "run" / LEDGER_FILE).read_bytes() == before, "a refusal writes nothing"
    return str(caught.value)


@pytest.fixture
def begun(folder: Path) -> Path:
    """As `folder`, with the finished run in `run`."""
    shutil.copytree(finished().directory, folder / "run")
    return folder


def test_a_changed_field_is_named_and_nothing_runs(begun: Path) -> None:
    file = write_campaign(begun, evaluation={"batch_size": 4}, seed=8)
    text = refused(begun, ConfigError, r"E504\] \S+campaign.yaml evaluation.batch_size: changed", file)
    assert "was 8, is 4; only budget, workers, results may change" in text
    assert "E504" in text.splitlines()[1]
    assert "seed: changed since the campaign began; was 7, is 8" in text
    space = {
        "schema": 1,
        "method": "task_arithmetic",
        "coefficients": {"weight": {"field": "layer", "low": 0.0, "high": 2.0}},
    }
    file = write_campaign(begun, space=space)
    refused(
        begun, ConfigError, r"search_space.coefficients.weight.high: changed.*was 1.5, is 2.0", file
    )


def test_changed_weights_are_refused(begun: Path) -> None:
    path = begun / "models/code/model.safetensors"
    weights = load_file(path)
    weights["model.norm.weight"][0] += 1
    save_file(weights, path, metadata={"format": "pt"})
    refused(begun, CheckpointError, r"E239\] \S+models/code: the weights of `code` changed since")


def test_weights_that_change_under_way_are_noticed_at_the_next_candidate(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / "models/code/model.safetensors"
    sound = path.read_bytes()
    plain = LmEvalTasks.evaluate
    calls = [0]

    def altering(self: LmEvalTasks, *arguments: Any) -> Any:
        calls[0] += 1
        if calls[0] == 2 * 7 + 1:  # two evaluators; the baselines and a candidate are scored
            with path.open("r+b") as file:
                file.seek(-1, os.SEEK_END)
                file.write(bytes([sound[-1] ^ 1]))
        return plain(self, *arguments)

    monkeypatch.setattr(LmEvalTasks, "evaluate", altering)
    with pytest.raises(
        CheckpointError, match=r"E239\] \S+code/model.safetensors: the weights of `code` changed"
    ):
        run_file(small(folder), folder / "run")
    events = events_of(folder / "run")
    assert events[-1]["reason"] == "fault"
    assert not [event for event in events if event["event"] in ("failed", "lost")]
    before = fold_records(events).budget_used
    assert 0 < before < 8
    path.write_bytes(sound)
    assert run_file(small(folder), folder / "run").budget_used == 8


def test_changed_items_are_refused(begun: Path) -> None:
    data = begun / "evaluators/tasks/data/birds_selection.jsonl"
    lines = data.read_text().splitlines()
    item = json.loads(lines[0])
    lines[0] = json.dumps(item | {"answer": (item["answer"] + 1) % 4})
    data.write_text("\n".join(lines) + "\n")
    refused(begun, ConfigError, r"E504\] birds: evaluator `birds` or its items changed since")


def test_an_evaluator_taken_away_is_refused(begun: Path) -> None:
    text = json.loads((begun / "campaign.yaml").read_text())
    text["evaluators"].pop()
    text["objectives"].pop()
    (begun / "campaign.yaml").write_text(json.dumps(text))
    refused(begun, ConfigError, r"E504\] \S+ objectives: changed")


def test_a_ledger_of_another_optimizer_state_is_refused(begun: Path) -> None:
    copy = begun / "forged"
    copy.mkdir()
    with RecordFile.open(copy / LEDGER_FILE, create=True) as ledger:
        for event in events_of(begun / "run"):
            event = {k: v for k, v in event.items() if k not in ("n", "format")}
            if event["event"] == "told":
                event["state"] = "0" * 64
            ledger.append(event)
    shutil.copytree(begun / "run" / "items", copy / "items")
    with pytest.raises(LedgerDamaged, match=r"E505\]: the ledger cannot be replayed; .*generation 0"):
        run_file(begun / "campaign.yaml", copy)


def test_a_second_driver_is_refused_at_once(folder: Path) -> None:
    file = small(folder)
    errors: list[str] = []

    def second(history: History, progress: Progress) -> None:
        if not errors:
            code = forked(lambda: run_file(file, folder / "run"))
            try:
                run_file(file, folder / "run")
            except CampaignInUse as error:
                errors.append(f"{code} {error}")

    run_file(file, folder / "run", observer=second)
    assert errors[0].startswith("1 error[E501]")
    assert str(os.getpid()) in errors[0]


def test_a_folder_of_other_things_is_left_alone(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"E135\] \S+models: this is no campaign folder; 3 files"):
        run_file(folder / "campaign.yaml", folder / "models")
    with pytest.raises(ConfigError, match=r"E135\] \S+space.yaml: this is a file, no folder"):
        run_file(folder / "campaign.yaml", folder / "space.yaml")
    assert sorted(path.name for path in (folder / "models").iterdir()) == ["base", "code", "math"]


def test_an_expert_with_nan_is_refused_before_the_first_ask(folder: Path) -> None:
    path = folder / "models/math/model.safetensors"
    weights = load_file(path)
    weights["model.layers.1.mlp.up_proj.weight"][2, 3] = torch.nan
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(
        CheckpointError, match=r"E232\] \S+math model.layers.1.mlp.up_proj.weight: math has"
    ):
        run_file(folder / "campaign.yaml", folder / "run")
    assert kinds(folder / "run") == ["campaign"]


def test_what_weights_and_baselines_show_is_told_before_the_search(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    models = folder / "models"
    shutil.copy(models / "base/model.safetensors", models / "math/model.safetensors")
    for split in ("search", "selection", "test"):  # two names for one task
        data = folder / "evaluators/tasks/data"
        shutil.copy(data / f"pets_{split}.jsonl", data / f"birds_{split}.jsonl")
    file = small(folder, budget={"evaluations": 4}, baselines={"single": [0.4, 0.8, 1.2]})
    run_file(file, folder / "run")
    told = [record.getMessage() for record in caplog.records if "[E" in record.getMessage()]
    assert [line[:13] for line in told] == ["warning[E233]", "warning[E131]"]
    assert "math equals the base" in told[0]
    assert "`pets.acc` and `birds.acc` get better together" in told[1]
    assert "correlation 1.0000 over" in told[1]


def test_an_expert_over_the_deadline_is_named_with_it() -> None:
    found = _unusable("math", "deadline", "took over 60 s")
    assert isinstance(found, ConfigError)
    with pytest.raises(ConfigError, match=r"E139\] workers.deadline: `math` takes longer.*60 s"):
        raise found


def test_a_merge_that_overflows_is_a_failure_and_never_in_the_front(folder: Path) -> None:
    """Stored in float16, a large coefficient makes infinite weights."""
    space = {
        "schema": 1,
        "method": "task_arithmetic",
        "coefficients": {
            "weight": {"field": "model", "outside_layers": "shared", "high": 1e6, "step": 0.001}
        },
    }
    file = small(folder, space=space, dtype="float16", optimizer={"kind": "random", "population": 4})
    campaign_paths: Mapping[str, str] = {
        n: str(folder / "models" / n) for n in ("base", "math", "code")
    }

    with contextlib.suppress(TooManyFailures):
        run(load_campaign(file), folder / "run", campaign_paths, "float16")
    history = fold_records(events_of(folder / "run"))
    assert set(history.failures()) <= {"nonfinite_weights", "nonfinite_logits"}
    assert sum(history.failures().values()) >= 3
    wrong = [c.id for c in history.candidates.values() if c.failure]
    front = compute_front(history, ItemStore(folder / "run" / "items"))
    assert not set(wrong) & {member.id for member in front.members}
    assert "NaN" not in json.dumps(front.to_json(), allow_nan=False)


def test_an_evaluator_that_raises_costs_one_candidate(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = LmEvalTasks.evaluate
    calls = [0]

    def sometimes(self: LmEvalTasks, *arguments: Any) -> Any:
        calls[0] += 1
        if calls[0] in (13, 15):  # each candidate is scored by two evaluators
            raise ZeroDivisionError("an evaluator's own fault")
        return plain(self, *arguments)

    monkeypatch.setattr(LmEvalTasks, "evaluate", sometimes)
    history = run_file(small(folder), folder / "run")
    assert history.failures() == {"error": 2}
    assert history.budget_used == 8
    failed = [event for event in events_of(folder / "run") if event["event"] == "failed"]
    assert "ZeroDivisionError: an evaluator's own fault (test_driver.py:" in failed[0]["message"]
    # The same failures, replayed from the ledger.
    assert run_file(small(folder), folder / "run").failures() == {"error": 2}


def test_when_everything_fails_alike_the_breaker_stops_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = LmEvalTasks.evaluate
    calls = [0]

    def broken(self: LmEvalTasks, *arguments: Any) -> Any:
        calls[0] += 1
        if calls[0] > 2 * 4:  # base, experts and uniform are scored
            raise RuntimeError("the disk of the task is gone")
        return plain(self, *arguments)

    monkeypatch.setattr(LmEvalTasks, "evaluate", broken)
    file = small(folder, optimizer={"kind": "nsga2", "population": 12, "options": {"start": "random"}},
                 budget={"evaluations": 24})  # fmt: skip
    with pytest.raises(
        TooManyFailures, match=r"E508.*6 of 10 candidates failed.*disk of the task is gone"
    ):
        run_file(file, folder / "run")
    last = events_of(folder / "run")[-1]
    assert (last["event"], last["reason"]) == ("stopped", "breaker")
    monkeypatch.setattr(LmEvalTasks, "evaluate", plain)
    history = run_file(file, folder / "run")
    assert history.failures() == {"error": 6}
    assert history.budget_used == 24


def test_a_fault_of_the_machine_is_charged_to_nobody(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = LmEvalTasks.evaluate
    calls = [0]

    def full(self: LmEvalTasks, *arguments: Any) -> Any:
        calls[0] += 1
        if calls[0] == 13:
            raise EnvironmentFault("no room on the disk of the worker")
        return plain(self, *arguments)

    file = small(folder)
    whole = whole_small()
    monkeypatch.setattr(LmEvalTasks, "evaluate", full)
    with pytest.raises(EnvironmentFault, match="no room on the disk of the worker"):
        run_file(file, folder / "run")
    assert events_of(folder / "run")[-1]["reason"] == "fault"
    history = run_file(file, folder / "run")
    assert history.failures() == {}
    assert front_text(folder / "run") == whole


def test_a_base_that_failed_once_is_tried_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = LmEvalTasks.evaluate

    def broken(self: LmEvalTasks, *arguments: Any) -> Any:
        raise MemoryError("other programs use it all")

    file = small(folder)
    monkeypatch.setattr(LmEvalTasks, "evaluate", broken)
    with pytest.raises(
        EnvironmentFault, match=r"E405\] base: `base` itself cannot be scored; out_of_memory"
    ):
        run_file(file, folder / "run")
    monkeypatch.setattr(LmEvalTasks, "evaluate", plain)
    run_file(file, folder / "run")
    assert front_text(folder / "run") == whole_small()


def test_hours_are_a_limit_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = small(folder, budget={"evaluations": None, "hours": 1.0})
    late = [0.0]
    plain = dispatch.Dispatcher.elapsed
    monkeypatch.setattr(dispatch.Dispatcher, "elapsed", lambda self: plain(self) + late[0])

    def look(history: History, progress: Progress) -> None:
        if history.budget_used >= 6:
            late[0] = 3600.0

    history = run_file(file, folder / "run", observer=look)
    assert history.stopped == "hours"
    assert history.budget_used == 6
    assert history.selection is not None
    assert history.elapsed > 3600
    late[0] = 0.0
    # The hours that are over are remembered, and pauses between sessions do not count.
    assert run_file(file, folder / "run").budget_used == 6


def test_progress_is_shown_of_every_phase(folder: Path) -> None:
    phases: list[str] = []
    before = signal.getsignal(signal.SIGINT)

    def look(history: History, progress: Progress) -> None:
        phases.append(progress.phase)
        assert progress.budget == 8

    run_file(small(folder), folder / "run", observer=look)
    assert list(dict.fromkeys(phases)) == ["prepare", "baselines", "search", "selection", "done"]
    assert signal.getsignal(signal.SIGINT) is before


def test_steady_state_with_one_worker_is_the_same_after_any_stop(folder: Path) -> None:
    file = small(folder, optimizer={"kind": "nsga2", "population": 4, "schedule": "steady_state"})
    run_file(file, folder / "whole")
    stopped = 0
    while True:
        try:
            run_file(file, folder / "run", stop_request=stop_after(6))
            break
        except Stopped:
            stopped += 1
        assert stopped < 20, "no progress"
    assert stopped >= 2
    assert front_text(folder / "run") == front_text(folder / "whole")
