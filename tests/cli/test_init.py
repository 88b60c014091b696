from __future__ import annotations

import json
from pathlib import Path

import huggingface_hub.constants
import pytest

from evomerge.campaign.campaign import load_campaign
from evomerge.cli.starter.tasks import BUCKETS, ITEMS, TASKS, TRAINING
from evomerge.evaluators.lm_eval_declaration import load_evaluator
from evomerge.search_space import load_search_space
from tests.cli.terminal import Forked, call
from tests.cli.test_hub_models import put_into_cache
from tests.evaluators.test_splits import write_task
from tests.tiny_runs import finished

SPACES = Path(__file__).parents[2] / "search_spaces"


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    """A starter with toy models, and what the command said."""
    folder = tmp_path_factory.mktemp("init") / "toys"
    # In a fork, so that training leaves no state behind in the process of the tests.
    found = Forked(folder.parent / "out", "init", folder).wait(120)
    assert found.code == 0, found.err
    return folder, found


@pytest.fixture
def models():
    return finished().file.parent / "models"


def test_init_says_what_it_does_and_what_to_do(toys):
    folder, found = toys
    assert "training toy models" in found.err
    assert found.out == f"evomerge run {folder / 'campaign.yaml'} --dir {folder / 'run'}\n"
    assert sorted(path.name for path in folder.parent.iterdir()) == ["out", "toys"]


def test_the_starter_has_no_faults(toys):
    folder, _ = toys
    found = call("check", folder / "campaign.yaml")
    assert found.code == 0, found.err
    assert found.err == ""


def test_the_starter_runs_and_its_experts_conflict(toys):
    folder, _ = toys
    file = folder / "campaign.yaml"
    text = file.read_text()
    for before, after in (
        ("pool: local", "pool: inline"),
        ("evaluations: 40", "evaluations: 8"),
    ):
        assert before in text
        text = text.replace(before, after)
    short = folder / "short.yaml"
    short.write_text(text + "baselines: {single: [0.3]}\n")
    found = Forked(folder.parent / "out", "run", short, "--dir", folder / "run", "--json").wait(120)
    assert found.code == 0, found.err
    scores = {
        member["id"]: [member["metrics"]["selection"][f"{task}.acc"]["value"] for task in TASKS]
        for member in found.json["baselines"]
    }
    assert scores["largest"][0] > 0.9 > 0.5 > scores["largest"][1]
    assert scores["smallest"][1] > 0.9 > 0.5 > scores["smallest"][0]
    best = max(
        min(member["metrics"]["selection"][f"{task}.acc"]["value"] for task in TASKS)
        for member in found.json["members"]
    )
    assert best > 0.7


def test_splits_are_disjoint_and_whole(toys):
    folder, _ = toys
    for task in TASKS:
        assert load_evaluator(folder / "evaluators" / f"{task}.yaml").problems() == []
        seen: set[str] = set()
        for split, count in ITEMS.items():
            path = folder / "evaluators" / "tasks" / "data" / f"{task}_{split}.jsonl"
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            assert len(rows) == count
            for row in rows:
                right = int(row["choices"][row["answer"]])
                digits = [int(choice) for choice in row["choices"]]
                assert right == (max(digits) if task == "largest" else min(digits))
                assert str(right) in row["question"]
            questions = {row["question"] for row in rows}
            assert not questions & seen
            seen |= questions
    assert not set(TRAINING) & {number for part in BUCKETS.values() for number in part}


def test_init_with_models_of_ones_own(models, tmp_path):
    words = ["--base", models / "base", "--expert", f"math={models / 'math'}"]
    found = call(
        "init", tmp_path / "new" / "start", *words, "--expert", f"no={models / 'code'}", "--json"
    )
    assert found.code == 0, found.err
    file = tmp_path / "new" / "start" / "campaign.yaml"
    assert found.json == {
        "campaign": str(file),
        "run": f"evomerge run {file} --dir {file.parent / 'run'}",
    }
    campaign = load_campaign(file)
    assert campaign.references()["no"].path == str(models / "code")
    assert str(tmp_path) not in file.read_text().split("schema:")[1], "paths are relative"
    assert not (file.parent / "models").exists()
    assert "# " in (file.parent / "search_space.yaml").read_text()
    checked = call("check", file)
    assert checked.code == 0, checked.err
    assert "genes, method task_arithmetic" in checked.out


def test_the_search_is_the_measured_one(tmp_path, models):
    words = ["--base", models / "base", "--expert", f"math={models / 'math'}"]
    assert call("init", tmp_path / "new", *words).code == 0
    campaign = load_campaign(tmp_path / "new" / "campaign.yaml")
    assert campaign.space == load_search_space(SPACES / "task_arithmetic_tensors.yaml")
    section = campaign.config.optimizer
    assert (section.kind, section.population, section.options) == ("auto", 8, {})


def test_init_with_tasks_of_ones_own(models, tmp_path):
    source = write_task(tmp_path / "source")
    own = ["--base", models / "base", "--expert", f"math={models / 'math'}"]
    words = [*own, "--task", "pets", "--include-path", source]
    found = call("init", tmp_path / "start", *words)
    assert found.code == 0, found.err
    assert "task pets: " in found.err
    assert "toy" not in found.err
    file = tmp_path / "start" / "campaign.yaml"
    campaign = load_campaign(file)
    assert [(o.metric, o.direction) for o in campaign.objectives] == [("pets.acc", "maximize")]
    assert [path.parent.parent for path in campaign.evaluator_files] == [file.parent / "evaluators"]
    data = call("check", file, "--json").json
    assert sum(data["items"]["pets"].values()) == 40
    assert "toy tasks, which say little about your models" in call("init", tmp_path / "toy", *own).err


def test_init_fetches_no_data_by_itself(models, tmp_path):
    words = ["--base", models / "base", "--expert", f"math={models / 'math'}", "--task", "arc_easy"]
    found = call("init", tmp_path / "new", *words)
    assert found.code == 3
    assert "error[E144]" in found.err
    assert "not on this machine: allenai/ai2_arc (ARC-Easy)" in found.err
    assert "`--download` fetches it" in found.err
    assert list(tmp_path.iterdir()) == []


def test_hub_references(models, tmp_path):
    commit = "0123456789" * 4
    found = call("init", tmp_path / "a", "--base", f"org/b@{commit}", "--expert", f"x=org/c@{commit}")
    assert found.code == 0, found.err
    reference = load_campaign(tmp_path / "a" / "campaign.yaml").references()["x"]
    assert (reference.hub, reference.revision) == ("org/c", commit)


def test_a_hub_base_in_the_cache_is_looked_at(models, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    base = put_into_cache(tmp_path / "hub", models / "base")
    words = ["--base", f"{base['hub']}@{base['revision']}", "--expert", f"math={models / 'math'}"]
    assert call("init", tmp_path / "new", *words).code == 0
    checked = call("check", tmp_path / "new" / "campaign.yaml")
    assert checked.code == 0, checked.err


@pytest.mark.parametrize("name", ["empty", "."])
def test_an_empty_folder_will_do(name, models, tmp_path, monkeypatch):
    """Also the one we are in, which no other can replace."""
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty" if name == "." else tmp_path)
    words = ["--base", models / "base", "--expert", f"math={models / 'math'}"]
    found = call("init", name, *words)
    assert found.code == 0, found.err
    names = {path.name for path in (tmp_path / "empty").iterdir()}
    assert names == {"campaign.yaml", "evaluators", "schemas", "search_space.yaml"}
    assert call("check", Path(name) / "campaign.yaml").code == 0


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["--base", "{models}/base"], 2, "--base and --expert go together"),
        (["--expert", "a={models}/math"], 2, "--base and --expert go together"),
        (["--base", "{models}/base", "--expert", "{models}/math"], 2, "an expert is NAME=FOLDER"),
        (["--base", "{models}/base", *["--expert", "a={models}/math"] * 2], 2, "given twice"),
        (["--base", "{models}/bse", "--expert", "a={models}/math"], 4, "did you mean {models}/base?"),
        (["--task", "arc_easy"], 2, "toy models can do toy tasks only"),
        (
            ["--base", "{models}/base", "--expert", "a={models}/math", *["--task", "arc_easy"] * 2],
            2,
            "a --task is given twice",
        ),
        (["--base", "org/name", "--expert", "a={models}/math"], 4, "error[E201]"),
        (["--base", "{models}/base", "--expert", "uniform={models}/math"], 3, "error[E136]"),
        (["--base", "{models}/base", "--expert", "a b={models}/math"], 3, "error[E136]"),
        (
            ["--base", "{models}/base", "--expert", "a={models}/math", "--expert", "b={models}/math"],
            3,
            "error[E117]",
        ),
    ],
)
def test_init_refuses(words, code, text, models, tmp_path):
    found = call("init", tmp_path / "new", *(word.format(models=models) for word in words))
    assert found.code == code
    assert text.format(models=models) in found.err
    assert list(tmp_path.iterdir()) == []


def test_init_keeps_off_used_folders(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    found = call("init", tmp_path)
    assert found.code == 3
    assert "error[E135]" in found.err
    assert "thesis.tex" in found.err
    assert call("init", tmp_path / "thesis.tex").code == 3
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_nothing_is_left_of_a_failed_start(models, tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("evomerge.cli.starter.write.write_tasks", full)
    words = ["--base", models / "base", "--expert", f"math={models / 'math'}"]
    found = call("init", tmp_path / "new", *words)
    assert found.code == 5
    assert "error[E403]" in found.err
    assert list(tmp_path.iterdir()) == []
