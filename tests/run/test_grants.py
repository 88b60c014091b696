"""What needs a word: tasks that run code, and searching on a public benchmark's items."""

import json
from pathlib import Path

import pytest

from evomerge.campaign.campaign import load_campaign
from evomerge.campaign.check import check_campaign
from evomerge.cli.app import main
from evomerge.cli.verify.invariants import verify
from evomerge.run.driver import run
from tests.evaluators.conftest import TASK
from tests.tiny_models import write_campaign, write_evaluator
from tests.tiny_runs import events_of, front_text

CODE = TASK.replace("doc_to_text: question", "doc_to_text: !function prompts.ask")


@pytest.fixture
def coded(tmp_path: Path) -> Path:
    """A campaign with a task that runs a function of its own."""
    write_evaluator(tmp_path / "evaluators", "pets", task=CODE, counts=(8, 6, 6))
    (tmp_path / "evaluators" / "tasks" / "prompts.py").write_text(
        "def ask(doc):\n    return doc['question']\n"
    )
    return write_campaign(tmp_path, evaluators=["pets", "birds"], budget={"evaluations": 6})


def test_code_needs_its_flag_and_the_ledger_says_who_had_it(coded: Path, tmp_path: Path) -> None:
    assert [p.code for p in check_campaign(load_campaign(coded)).problems] == ["E126"] * 3
    campaign = load_campaign(coded)
    report = check_campaign(campaign, {"task_code"})
    assert report.problems == []
    history = run(campaign, tmp_path / "run", report.paths, report.storage, grants=["task_code"])
    granted = [event for event in events_of(tmp_path / "run") if event["event"] == "granted"]
    assert [event["grants"] for event in granted] == [["task_code"]]
    assert history.grants == {"task_code"}
    assert "pets.acc" in front_text(tmp_path / "run")
    assert verify(tmp_path / "run") == []
    assert main(["run", str(coded), "--dir", str(tmp_path / "other")]) == 3
    # A grant holds for its session: to go on takes the flag again.
    larger = json.loads(coded.read_text()) | {"budget": {"evaluations": 7}}
    coded.write_text(json.dumps(larger))
    assert main(["run", str(coded), "--dir", str(tmp_path / "run")]) == 3
    assert main(["run", str(coded), "--dir", str(tmp_path / "run"), "--allow-task-code"]) == 0
    granted = [event for event in events_of(tmp_path / "run") if event["event"] == "granted"]
    assert len(granted) == 1


def test_score_takes_the_flag(coded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["score", str(coded.parent / "models/base"), str(coded.parent / "evaluators/pets.yaml")]
    assert main(words) == 3
    assert "E126" in capsys.readouterr().err
    assert main([*words, "--allow-task-code", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"]["pets.acc"]["items"] == 6


def test_a_benchmark_needs_its_flag_where_it_is_an_objective(tmp_path: Path) -> None:
    file = write_campaign(tmp_path)
    path = tmp_path / "evaluators" / "arc.yaml"
    tasks = {"search": "arc_easy", "selection": "arc_challenge", "test": "openbookqa"}
    declared = {"schema": 1, "kind": "lm_eval", "name": "arc", "tasks": tasks, "metrics": ["acc"]}
    path.write_text(json.dumps(declared))
    config = json.loads(file.read_text())
    config["evaluators"].append("evaluators/arc.yaml")
    file.write_text(json.dumps(config))
    assert check_campaign(load_campaign(file)).problems == []
    config["objectives"].append({"metric": "arc.acc", "direction": "maximize"})
    file.write_text(json.dumps(config))
    (problem,) = check_campaign(load_campaign(file)).problems
    assert "error[E127]" in str(problem)
    assert "task arc_easy searches on the items that allenai/ai2_arc is scored on" in str(problem)
    assert "--allow-benchmark-test" in problem.todo
    assert check_campaign(load_campaign(file), {"benchmark_test"}).problems == []
