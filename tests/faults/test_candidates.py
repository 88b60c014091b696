"""Candidates that cannot be scored, or come twice: F16, F17, F19, F22, F30, F32, F33."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import psutil
import pytest
import torch
import transformers

from evomerge.campaign.campaign import load_campaign
from evomerge.campaign.prepared import prepared_space
from evomerge.cli.verify.invariants import verify
from evomerge.evaluators.lm_eval_tasks import LmEvalTasks
from evomerge.front.compute import compute_front
from evomerge.ledger.item_store import ItemStore
from evomerge.objectives.scores import Scores
from evomerge.run import driver, engine, search
from evomerge.run.job import Job, JobResult
from evomerge.run.pool.inline import InlinePool
from evomerge.run.worker import Worker
from evomerge.run.worker_setup import worker_setup
from tests.faults.bed import (
    RUN,
    doubled_results,
    run_command,
    session,
    write_toy_campaign,
)
from tests.faults.harness import Tally, Trial, row
from tests.faults.toy import executions
from tests.hand_made import fold_records
from tests.tiny_models import write_campaign, write_evaluator
from tests.tiny_runs import events_of, finished, forked, run_file


def over_tiny_models(folder: Path, **sections: Any) -> Path:
    """A campaign with real workers over the models of the tiny campaign."""
    for name in ("models", "evaluators"):
        (folder / name).symlink_to(finished().file.parent / name)
    return write_campaign(folder, **sections)


@row("F16", "NaN and infinite weights in 5 % and 30 % of the candidates", quick=4, t1=30, t2=300)
def test_f16_weights_that_are_not_finite(trial: Trial) -> Tally:
    """A coefficient so large that the merge overflows in float16: failed with the tensor's name."""
    share, rng = (0.3, 0.05)[trial.index % 2], trial.rng
    budget = 24 if share == 0.3 else 60
    file = over_tiny_models(
        trial.folder,
        dtype="float16",
        budget={"evaluations": budget},
        baselines={"single": [0.5]},
    )
    hurt: set[str] = set()

    class Overflowing(Worker):
        def run(self, job: Job) -> JobResult:
            searched = job.id[1:].isdigit() and job.split == "search"
            if searched and rng.random() < share:
                hurt.add(job.id)
                job = Job(job.id, job.kind, overflowing(dict(job.recipe or {})), job.split)
            return super().run(job)

    campaign = load_campaign(file)
    paths = {name: str(reference.path) for name, reference in campaign.references().items()}
    with mock.patch.object(driver, "open_pool", lambda workers, setup: InlinePool(setup, Overflowing)):
        history = driver.run(campaign, trial.folder / RUN, paths, "float16")
    assert set(history.failures()) <= {"nonfinite_weights"}
    failed = {c.id for c in history.candidates.values() if c.failure}
    assert failed == hurt
    assert all(".weight" in history.candidates[name].message for name in hurt)
    front = compute_front(history, ItemStore(trial.folder / RUN / "items"))
    assert not failed & {member.id for member in front.members}
    json.dumps(front.to_json(), allow_nan=False)
    assert verify(trial.folder / RUN) == []
    return Tally(injections=max(1, len(hurt)))


def overflowing(recipe: dict[str, Any]) -> dict[str, Any]:
    """The recipe with every coefficient of its merge a million times as large."""

    def grown(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: grown(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [grown(inner) for inner in value]
        return 1e6 * value + 1e6 if isinstance(value, float) else value

    merged = json.loads(json.dumps(recipe))
    for source in merged["sources"].values():
        if "coefficients" in source:
            source["coefficients"] = grown(source["coefficients"])
    return dict(merged)


def not_a_number(scores: Scores) -> Any:
    name, metric = next(iter(scores.metrics.items()))
    return Scores({**scores.metrics, name: type(metric)(math.nan, 0.1, metric.items)}, scores.items)


def a_string(scores: Scores) -> Any:
    name, metric = next(iter(scores.metrics.items()))
    return Scores({**scores.metrics, name: type(metric)("0.5", 0.1, 3)}, scores.items)  # type: ignore[arg-type]


def another_task(scores: Scores) -> Any:
    return Scores({f"other.{n.split('.')[1]}": m for n, m in scores.metrics.items()}, {})


NONSENSE: Sequence[Callable[[Scores], Any]] = (
    not_a_number,
    lambda scores: None,
    a_string,
    lambda scores: Scores({}, {}),
    another_task,
)


@row(
    "F17",
    "an evaluator that returns NaN, nothing, text, too little, another task",
    quick=5,
    t1=50,
    t2=50,
)
def test_f17_an_evaluator_that_returns_nonsense(trial: Trial) -> Tally:
    """Each kind once in one campaign of real workers: five failures, and an end like any other."""
    file = over_tiny_models(trial.folder, optimizer={"population": 4}, baselines={"single": [0.5]})
    plain, count, chance = LmEvalTasks.evaluate, [0], trial.rng
    first = 2 * 5  # base, two experts, uniform and one coefficient, by two evaluators each
    places = dict(zip(sorted(chance.sample(range(first, first + 14), 5)), NONSENSE, strict=True))

    def evaluate(self: LmEvalTasks, *arguments: Any) -> Any:
        count[0] += 1
        scores = plain(self, *arguments)
        return places[count[0] - 1](scores) if count[0] - 1 in places else scores

    with mock.patch.object(LmEvalTasks, "evaluate", evaluate):
        history = run_file(file, trial.folder / RUN)
    assert sum(history.failures().values()) == 5, history.failures()
    assert set(history.failures()) <= {"nonfinite_score", "bad_scores", "error"}
    assert history.stopped == "budget"
    assert verify(trial.folder / RUN) == []
    return Tally(injections=5)


@row("F19", "models that never stop generating", quick=1, t1=5, t2=20)
def test_f19_generation_ends_at_its_cap(trial: Trial) -> Tally:
    """A random model says no end token: the task's cap ends every answer, and the score is 0."""
    task = GENERATION
    evaluators = trial.folder / "evaluators"
    write_evaluator(
        evaluators, "talk", seed=trial.index, counts=(4, 4, 4), task=task, metrics=["exact_match"]
    )
    (trial.folder / "models").symlink_to(finished().file.parent / "models")
    file = write_campaign(
        trial.folder,
        evaluators=["talk"],
        objectives=[{"metric": "talk.exact_match", "direction": "maximize"}],
        optimizer={"population": 4},
        budget={"evaluations": 4},
        baselines={"single": [0.5]},
    )

    lengths: list[int] = []
    plain = transformers.GenerationMixin.generate

    def generate(self: Any, *arguments: Any, **options: Any) -> Any:
        out = plain(self, *arguments, **options)
        given = options.get("input_ids", arguments[0] if arguments else None)
        lengths.append(int(out.shape[1] - (0 if given is None else given.shape[1])))
        return out

    with mock.patch.object(transformers.GenerationMixin, "generate", generate):
        history = run_file(file, trial.folder / RUN)
    assert history.stopped == "budget"
    assert lengths
    assert max(lengths) <= CAP
    return Tally(injections=1)


CAP = 12
GENERATION = f"""\
task: NAME
dataset_path: json
dataset_kwargs:
  data_files:
    test: data/NAME.jsonl
output_type: generate_until
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{choices[0]}}}}"
generation_kwargs:
  until: ["</never>"]
  max_gen_toks: {CAP}
  do_sample: false
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
"""


@row("F22", "every candidate fails alike", quick=1, t1=3, t2=3)
def test_f22_the_breaker(trial: Trial) -> Tally:
    """Stopped after at most 8 evaluations with exit 8 and the common error in the message."""
    faults = {f"c{number:05d}": "fail:simulated" for number in range(40)}
    random_start = {"optimizer": {"kind": "nsga2", "population": 6, "options": {"start": "random"}}}
    file = write_toy_campaign(trial.folder, random_start, faults=faults)
    with (trial.folder / "said.txt").open("w") as said, contextlib.redirect_stderr(said):
        assert run_command(file) == 8
    text = (trial.folder / "said.txt").read_text()
    assert "error[E508]" in text
    assert "simulated" in text
    history = fold_records(events_of(trial.folder / RUN))
    assert history.budget_used <= 8 + 4  # seeds of the baselines count as scored
    assert history.stopped == "breaker"
    return Tally(injections=1)


@row("F30", "one worker scores A, B, A", quick=4, t1=20, t2=20)
def test_f30_nothing_of_the_candidate_before_remains(trial: Trial) -> Tally:
    """With packed scoring, whose prefixes are cached: the same bits for A both times."""
    source = finished()
    campaign = load_campaign(source.file)
    paths = {name: str(reference.path) for name, reference in campaign.references().items()}
    setup = worker_setup(campaign, paths, "bfloat16", trial.folder / "cache", False)
    assert source.history.prepared is not None
    space = prepared_space(campaign, source.history.prepared, paths)
    worker = Worker(setup)
    known: dict[tuple[float, ...], dict[str, np.ndarray]] = {}
    different = 0
    genomes = [space.snap([trial.rng.uniform(0, 1.5) for _ in space.genes]) for _ in range(3)]
    order = [0, 1, 0, 2, 1, 2, 0]
    for place in order:
        result = worker.run(Job("x", "evaluate", space.decode(genomes[place]).to_json()))
        assert result.status == "ok", result.message
        before = known.setdefault(tuple(genomes[place]), dict(result.items))
        different += any((before[name] != values).any() for name, values in result.items.items())
    return Tally(injections=len(order) - 3, fronts=len(order) - 3, differing=different)


def test_f30_an_uncovered_parameter_is_an_error(tmp_path: Path) -> None:
    """A plan that forgets one tensor would leave the weights of the candidate before."""
    source = finished()
    campaign = load_campaign(source.file)
    paths = {name: str(reference.path) for name, reference in campaign.references().items()}
    worker = Worker(worker_setup(campaign, paths, "bfloat16", tmp_path / "cache", False))
    assert source.history.prepared is not None
    space = prepared_space(campaign, source.history.prepared, paths)
    job = Job("x", "evaluate", space.decode(space.snap([0.5] * len(space.genes))).to_json())
    plain = engine.make_plan

    def forgetful(*arguments: Any) -> Any:
        made = plain(*arguments)
        return dataclasses.replace(made, tensors=made.tensors[1:])

    assert worker.run(job).status == "ok"
    with mock.patch.object(engine, "make_plan", forgetful):
        result = worker.run(job)
    assert (result.status, result.failure) == ("fault", "CheckpointError")
    assert "E220" in result.message


@row("F32", "hundreds of candidates in one worker", quick=120, t1=400, t2=2000)
def test_f32_memory_does_not_grow(trial: Trial) -> Tally:
    """At most 1 MB of resident memory per 100 candidates, after a warm-up."""
    count = 120 if trial.index == 0 else 400
    code = forked(lambda: grow_slowly(trial.folder, count))
    assert code == 0
    return Tally(injections=count)


def grow_slowly(folder: Path, count: int) -> None:
    """Score candidates and look at the memory of this process.

    Raises:
        AssertionError: if it grows.
    """
    source = finished()
    campaign = load_campaign(source.file)
    paths = {name: str(reference.path) for name, reference in campaign.references().items()}
    setup = worker_setup(campaign, paths, "bfloat16", folder / "cache", False)
    # Of two evaluators of one kind, one: candidates are what is counted.
    worker = Worker(dataclasses.replace(setup, evaluators=setup.evaluators[:1]))
    assert source.history.prepared is not None
    space = prepared_space(campaign, source.history.prepared, paths)
    rng = random.Random(0)
    sizes = []
    for _ in range(count + 40):
        genome = space.snap([rng.uniform(0, 1.5) for _ in space.genes])
        assert worker.run(Job("x", "evaluate", space.decode(genome).to_json())).status == "ok"
        sizes.append(psutil.Process().memory_info().rss)
    half = (len(sizes) - 40) // 2
    # Medians of the two halves: one allocation that stays until the end is no slope.
    growth = np.median(sizes[40 + half :]) - np.median(sizes[40 : 40 + half])
    assert growth <= 1e6 * max(1.0, half / 100), f"{growth / 1e6:.1f} MB in {half} candidates"


@row("F33", "one proposal in five is a repeat", quick=20, t1=100, t2=100)
def test_f33_repeats_are_evaluated_once(trial: Trial) -> Tally:
    """Every repeat shares the first one's scores and costs no budget."""
    rng, repeats = trial.rng, [0]
    plain = search.campaign_optimizer

    class Repeating:
        """Asks now and then for what it asked before."""

        def __init__(self, inner: Any) -> None:
            self.inner, self.asked, self.chance = inner, [], random.Random(3)

        def ask(self) -> Any:
            batch = self.inner.ask()
            for place in range(len(batch)):
                if self.asked and self.chance.random() < 0.2:
                    batch[place] = self.chance.choice(self.asked)
                    repeats[0] += 1
                self.asked.append(batch[place])
            return batch

        def tell(self, outcomes: Any, numbers: Any) -> None:
            self.inner.tell(outcomes, numbers)

        def state_digest(self) -> str:
            return str(len(self.asked))

    many = {
        "optimizer": {"kind": "random", "population": 10},
        "budget": {"evaluations": 100 + trial.index},
        "seed": rng.randrange(1000),
    }
    file = write_toy_campaign(trial.folder, many)
    with mock.patch.object(search, "campaign_optimizer", lambda *a: Repeating(plain(*a))):
        history = session(file)
    searched = [name for name, split, _ in executions(trial.folder) if split == "search"]
    assert len(searched) == len(set(searched))
    assert history.budget_used == 100 + trial.index
    events = events_of(trial.folder / RUN)
    shared = [
        e for e in events if e["event"] == "evaluated" and e["split"] == "search" and "same_as" in e
    ]
    assert len(shared) >= repeats[0] - 10 > 0
    return Tally(injections=len(shared), doubled=doubled_results(events), fronts=1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="F32: needs a CUDA device")
def test_f32_device_memory_does_not_grow(tmp_path: Path) -> None:
    """At most 1 % more device memory after 200 candidates."""
    file = over_tiny_models(tmp_path, evaluation={"device": "cuda"}, budget={"evaluations": 200})
    sizes: list[int] = []
    run_file(file, tmp_path / RUN, observer=lambda *_: sizes.append(torch.cuda.memory_allocated()))
    assert sizes[-1] <= 1.01 * sizes[len(sizes) // 4]
