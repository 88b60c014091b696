"""Objectives that losses stand for, and those beside them: how long answers are, accuracies to be low."""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evomerge.errors import ConfigError
from evomerge.evaluators import questions
from evomerge.ledger.events import PreparedEvaluator
from evomerge.ledger.ledger import read_history
from evomerge.objectives.objective import Objective
from evomerge.optimizers.slopes import SlopeGround
from evomerge.run import replay
from evomerge.run.engine import Engine
from evomerge.run.job import Job, JobResult
from evomerge.run.slopes import slope_ground
from tests.cli.terminal import call
from tests.evaluators.conftest import TASK
from tests.evaluators.test_losses import JUDGE, PASSES
from tests.evaluators.test_margins import WRITE
from tests.tiny_models import write_campaign, write_evaluator
from tests.tiny_runs import events_of, forked, run_file

OPTIONS: dict[str, Any] = {"steps": 3, "items": 4, "look_from": 2, "look_every": 2}
LEARNED = {"kind": "learned-front", "population": 4, "options": OPTIONS}
AUTO = {"kind": "auto", "population": 4, "options": {"steps": 3, "items": 4}}
QUALITY, LENGTH, CHOICES = (
    {"metric": "songs.chrf", "direction": "maximize"},
    {"metric": "songs.tokens", "direction": "minimize"},
    {"metric": "pets.acc", "direction": "maximize"},
)


def a_campaign(
    folder: Path,
    objectives: Sequence[Mapping[str, str]],
    optimizer: Mapping[str, Any],
    task: str = TASK,
    **fields: Any,
) -> Path:
    """A campaign of choices and of answers that are written."""
    file = write_campaign(
        folder,
        counts=(12, 8, 8),
        evaluators=("pets",),
        objectives=list(objectives),
        optimizer=optimizer,
        budget={"evaluations": 12},
    )
    counts = (12, 6, 6)
    write_evaluator(
        folder / "evaluators",
        "songs",
        task=WRITE,
        counts=counts,
        **{"metrics": ["chrf", "tokens"], **fields},
    )
    for path in (folder / "evaluators" / "tasks").glob("pets*.yaml"):
        path.write_text(task.replace("NAME", path.stem))
    config = json.loads(file.read_text())
    config["evaluators"] = ["evaluators/pets.yaml", "evaluators/songs.yaml"]
    file.write_text(json.dumps(config))
    return file


def slopes(directory: Path) -> list[dict[str, Any]]:
    return [event for event in events_of(directory) if event["event"] == "slope"]


def test_how_long_answers_are_is_not_learned(tmp_path: Path) -> None:
    run_file(a_campaign(tmp_path, [QUALITY, LENGTH, CHOICES], LEARNED), tmp_path / "run")
    found = slopes(tmp_path / "run")
    assert found
    for event in found:
        quality, length, choices = event["losses"]
        assert quality > 0 < choices
        assert length is None
        assert event["weights"][1] == 0.0
    verified = call("verify", tmp_path / "run")
    assert verified.code == 0, verified.out


@pytest.mark.parametrize("metric", ["tokens", "looped"])
def test_check_says_that_no_loss_stands_for_an_objective(tmp_path: Path, metric: str) -> None:
    objectives = [{"metric": f"songs.{metric}", "direction": "minimize"}]
    file = a_campaign(tmp_path, objectives, LEARNED, metrics=["chrf", metric])
    checked = call("check", file)
    assert checked.code == 3
    said = " ".join(checked.err.split())
    assert "error[E149]" in said
    assert (
        "no gradients to learn from; no objective has losses that fall as it gets better; take" in said
    )
    assert call("check", a_campaign(tmp_path, objectives, AUTO, metrics=["chrf", metric])).code == 0


def test_auto_takes_the_surrogate_where_no_loss_stands_for_an_objective(tmp_path: Path) -> None:
    run_file(a_campaign(tmp_path, [LENGTH], AUTO), tmp_path / "run")
    assert not slopes(tmp_path / "run")
    history = read_history(tmp_path / "run" / "ledger.jsonl")
    assert history.stopped == "budget"
    hows = {c.origin.how for c in history.candidates.values() if c.origin is not None}
    assert hows
    assert not hows & {"map", "chart"}
    assert call("verify", tmp_path / "run").code == 0


@pytest.mark.parametrize("loss", ["labels", "entropy"])
def test_an_accuracy_to_be_low_is_not_learned_to_be_high(tmp_path: Path, loss: str) -> None:
    """Refused before any baseline is paid for; what a file does not say, lm-eval does."""
    unstated = TASK.replace(", higher_is_better: true", "")
    low = {"metric": "pets.acc", "direction": "minimize"}
    optimizer = LEARNED | {"options": OPTIONS | {"loss": loss}}
    file = a_campaign(tmp_path, [low, LENGTH], optimizer, unstated)
    assert call("check", file).code == 0, "no items are looked at"
    with pytest.raises(ConfigError, match=r"E149.*no objective has (losses that fall|choices)"):
        run_file(file, tmp_path / "run")
    assert [event["event"] for event in events_of(tmp_path / "run")] == ["campaign", "prepared"]
    kept = a_campaign(tmp_path, [{**low, "direction": "maximize"}, LENGTH], optimizer, unstated)
    run_file(kept, tmp_path / "high")
    assert slopes(tmp_path / "high")


def as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses as they were recorded when they stood for every metric of an evaluator."""
    prepare = Engine.prepare

    def then(self: Engine, job: Job) -> JobResult:
        found = prepare(self, job)
        assert found.prepared is not None
        known = found.prepared.evaluators.items()
        evaluators = {n: replace(each, loss_directions=None, losses=True) for n, each in known}
        return replace(found, prepared=replace(found.prepared, evaluators=evaluators))

    monkeypatch.setattr(Engine, "prepare", then)


@pytest.mark.parametrize("objectives", [[QUALITY, LENGTH], [LENGTH]], ids=["beside", "alone"])
def test_a_campaign_from_before_goes_on_with_the_losses_it_began_with(
    objectives: list[Mapping[str, str]], tmp_path: Path
) -> None:
    file, directory = a_campaign(tmp_path, objectives, LEARNED), tmp_path / "run"

    def begun() -> None:
        with pytest.MonkeyPatch.context() as then:
            as_before(then)
            run_file(file, directory)

    assert forked(begun, "slopes.before_record=kill@3") == -signal.SIGKILL
    assert len(slopes(directory)) == 2
    assert "loss_directions" not in (directory / "ledger.jsonl").read_text()
    gone_on = call("run", file, "--dir", directory)
    assert gone_on.code == 0, gone_on.err
    found = slopes(directory)
    assert len(found) > 2
    assert all(loss is not None for event in found for loss in event["losses"])
    verified = call("verify", directory)
    assert verified.code == 0, verified.out + verified.err


def test_a_campaign_from_before_goes_on_with_targets_that_are_answers(tmp_path: Path) -> None:
    """Of answers that code judges there were losses; whether targets are right ones is now to be stated."""
    objectives = [CHOICES, {"metric": "songs.passes", "direction": "maximize"}]
    file, directory = a_campaign(tmp_path, objectives, LEARNED), tmp_path / "run"
    songs = write_evaluator(
        tmp_path / "evaluators", "songs", task=PASSES, metrics=["passes"], counts=(12, 6, 6)
    )
    (songs.parent / "tasks" / "judge.py").write_text(JUDGE)

    def begun() -> None:
        with pytest.MonkeyPatch.context() as then:
            as_before(then)
            then.setattr(questions, "_refuse_targets", lambda *_: None)
            run_file(file, directory, grants=("task_code",))

    assert forked(begun, "slopes.before_record=kill@3") == -signal.SIGKILL
    verified = call("verify", directory)
    assert verified.code == 0, verified.out + verified.err
    assert "2  batches of slopes asked again" in verified.out
    refused = call("run", file, "--dir", directory, "--allow-task-code")
    assert refused.code != 0
    assert "E148" in refused.err
    assert "`learn_targets: true` says that they are" in " ".join(refused.err.split())
    songs.write_text(json.dumps({**json.loads(songs.read_text()), "learn_targets": True}))
    gone_on = call("run", file, "--dir", directory, "--allow-task-code")
    assert gone_on.code == 0, gone_on.err
    assert all(loss is not None for event in slopes(directory) for loss in event["losses"])
    assert call("verify", directory).code == 0


def test_an_optimizer_that_asks_for_what_is_not_there_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def everything(*given: Any) -> SlopeGround:
        found = slope_ground(*given)
        return replace(found, items=(max(found.items),) * len(found.items))

    monkeypatch.setattr(replay, "slope_ground", everything)
    file = a_campaign(tmp_path, [QUALITY, LENGTH], LEARNED)
    with pytest.raises(ConfigError, match=r"E148.*no losses stand for .* minimize songs\.tokens"):
        run_file(file, tmp_path / "run")


def prepared(**fields: Any) -> PreparedEvaluator:
    return PreparedEvaluator(
        digest="", metrics=("a.acc", "a.f1"), items={}, deterministic=True, **fields
    )


@pytest.mark.parametrize(
    ("fields", "by_labels", "by_entropy"),
    [
        ({"losses": True, "choices": True, "loss_directions": {"a.acc": True}}, "+", "+"),
        ({"losses": True, "choices": False, "loss_directions": {"a.acc": False}}, "-", ""),
        ({"losses": False, "choices": True, "loss_directions": {}}, "", "+-"),
        ({"losses": True, "choices": True, "loss_directions": {"a.f1": True}}, "", "+-"),
        ({"losses": True, "choices": True}, "+-", "+-"),
        ({}, "", ""),
    ],
)
def test_what_an_objective_is_learned_from(
    fields: dict[str, Any], by_labels: str, by_entropy: str
) -> None:
    """`+`: `a.acc` can be learned to be high, `-`: to be low. The last two are earlier ledgers."""
    each = {"+": Objective("a.acc", "maximize"), "-": Objective("a.acc", "minimize")}
    found = prepared(**fields)
    assert "".join(s for s, o in each.items() if found.teaches(o)) == by_labels
    assert "".join(s for s, o in each.items() if found.teaches(o, entropy=True)) == by_entropy
