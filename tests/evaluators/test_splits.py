"""Splits made of a task: disjoint, complete, stable, and stock lm-eval's own numbers."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.cli.app import main
from evomerge.errors import ConfigError
from evomerge.evaluators.evaluator import Subject
from evomerge.evaluators.items import item_id, split_of
from evomerge.evaluators.kinds import open_evaluator
from evomerge.evaluators.lm_eval_declaration import benchmark_problem, load_evaluator
from evomerge.evaluators.splits import make_splits
from evomerge.objectives.scores import SPLITS
from tests.evaluators.conftest import TASK, make_items
from tests.evaluators.test_lm_eval_tasks import stock


def write_task(folder: Path, text: str = TASK, items: list[dict[str, Any]] | None = None) -> Path:
    """A folder with the one task `pets`."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    (folder / "pets.yaml").write_text(text.replace("NAME", "pets"))
    lines = [json.dumps(item) for item in items or make_items(4, 40)]
    (folder / "data" / "pets.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def items_of(out: Path, split: str) -> list[dict[str, Any]]:
    lines = (out / "tasks" / "data" / f"pets_{split}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.text(max_size=8), min_size=1, max_size=20))
def test_an_item_is_in_the_split_its_content_names(items: list[str]) -> None:
    assert [split_of(item) for item in items] == [split_of(item) for item in reversed(items)][::-1]


def test_shares_are_kept() -> None:
    counts = Counter(split_of(item_id({"q": number})) for number in range(8000))
    assert counts["search"] == pytest.approx(4000, abs=150)
    assert counts["selection"] == pytest.approx(2000, abs=130)
    assert counts["test"] == pytest.approx(2000, abs=130)
    uneven = Counter(split_of(item_id({"q": n}), (8, 1, 1)) for n in range(1000))
    assert uneven["search"] > 730


def test_splits_tile_the_task_and_equal_items_stay_together(tmp_path: Path) -> None:
    items = [*make_items(4, 40), {"id": "again", **make_items(4, 3)[2]}]
    source = write_task(tmp_path / "source", items=items)
    report = make_splits("pets", tmp_path / "out", include_path=source)
    parts = {split: items_of(tmp_path / "out", split) for split in SPLITS}
    assert sorted(item_id(doc) for part in parts.values() for doc in part) == sorted(
        map(item_id, items)
    )
    ids = {split: {item_id(doc) for doc in part} for split, part in parts.items()}
    assert not ids["search"] & ids["selection"]
    assert not ids["search"] & ids["test"]
    assert not ids["selection"] & ids["test"]
    assert report.counts == {split: len(part) for split, part in parts.items()}
    assert report.digest == load_evaluator(report.declaration).digest()
    assert load_evaluator(report.declaration).problems() == []


def test_the_same_task_gives_the_same_files_in_any_order(tmp_path: Path) -> None:
    items = make_items(4, 40)
    first = make_splits("pets", tmp_path / "a", include_path=write_task(tmp_path / "s", items=items))
    again = make_splits("pets", tmp_path / "b", include_path=tmp_path / "s")
    assert first.digest == again.digest
    for name in first.files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    write_task(tmp_path / "s", items=[*reversed(items), *make_items(5, 9)])
    make_splits("pets", tmp_path / "c", include_path=tmp_path / "s")
    for split in SPLITS:
        before = {item_id(doc) for doc in items_of(tmp_path / "a", split)}
        assert before <= {item_id(doc) for doc in items_of(tmp_path / "c", split)}


def test_stock_lm_eval_gives_each_number_again(tmp_path: Path, subject: Subject) -> None:
    text = TASK.replace("doc_to_text: question", 'doc_to_text: "{{question}} é"') + (
        "process_docs: !function clean.shorten\nnum_fewshot: 2\ndescription: 'the: #1 \"cat\"'\n"
        "fewshot_config: {sampler: first_n}\n"
    )
    source = write_task(tmp_path / "source", text)
    (source / "clean.py").write_text(
        "def shorten(docs):\n    return docs.map(lambda d: {'question': d['question'][:30]})\n"
    )
    with pytest.raises(ConfigError, match=r"E126.*process_docs: !function clean.shorten.*--allow-task"):
        make_splits("pets", tmp_path / "out", include_path=source)
    assert not (tmp_path / "out").exists()
    report = make_splits("pets", tmp_path / "out", include_path=source, allow_code=True)
    assert report.examples > 0
    declaration = load_evaluator(report.declaration)
    # What the task's code did to the items is done; nothing is left to run.
    assert declaration.problems() == []
    evaluator = open_evaluator(declaration)
    for split in ("search", "test"):
        assert all(len(doc["question"]) <= 30 for doc in items_of(tmp_path / "out", split))
        expected = stock(report.declaration, subject, f"pets_{split}", bootstrap_iters=0)
        found = evaluator.evaluate(subject, split)
        for metric in ("acc", "acc_norm"):
            value = expected["results"][f"pets_{split}"][f"{metric},none"]
            assert found.metrics[f"pets.{metric}"].value == value
        shown = expected["samples"][f"pets_{split}"][0]["arguments"][0][0]
        assert shown.startswith('the: #1 "cat"')


def test_code_that_a_task_still_needs_comes_along(tmp_path: Path) -> None:
    text = TASK.replace("doc_to_text: question", "doc_to_text: !function prompts.ask")
    source = write_task(tmp_path / "source", f"include: base.yaml\ntask: NAME\n{text[11:]}")
    (source / "base.yaml").write_text("description: 'Choose. '\n")
    (source / "prompts.py").write_text("def ask(doc):\n    return 'Q ' + doc['question']\n")
    report = make_splits("pets", tmp_path / "out", include_path=source, allow_code=True)
    (source / "prompts.py").unlink()
    assert "tasks/code0/prompts.py" in report.files
    declaration = load_evaluator(report.declaration)
    assert "E126" in str(declaration.problems()[0])
    before = declaration.digest()
    assert open_evaluator(declaration, allow_code=True).item_count("search") > 0
    (tmp_path / "out/tasks/code0/prompts.py").write_text("def ask(doc):\n    return ''\n")
    assert declaration.digest() != before


@pytest.mark.parametrize(
    ("task", "changes", "message"),
    [
        ("cats", {}, r"E123\].*no task `cats`"),
        ("pets", {"name": "my pets"}, r"E136\].*`my pets`"),
        ("pets", {"shares": (1, 0, 1)}, r"E128\].*three numbers above 0"),
        ("pets", {"shares": (1, 1, 1000)}, r"E128\].*too few items; 40 items, none of them for search"),
        ("pets", {"items": "train"}, r"E128\].*no train items"),
    ],
)
def test_what_cannot_be_split(tmp_path: Path, task: str, changes: dict[str, Any], message: str) -> None:
    source = write_task(tmp_path / "source")
    with pytest.raises(ConfigError, match=message):
        make_splits(task, tmp_path / "out", include_path=source, **changes)
    assert not (tmp_path / "out").exists()


def test_nothing_is_written_over(tmp_path: Path) -> None:
    source = write_task(tmp_path / "source")
    with pytest.raises(ConfigError, match=r"E135\].*in the way"):
        make_splits("pets", source, include_path=source)


def test_a_public_benchmark_needs_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A data set by its hub name, found as a folder of that name: nothing is downloaded."""
    hub = tmp_path / "org" / "quiz"
    hub.mkdir(parents=True)
    for number, split in enumerate(("train", "test")):
        lines = [json.dumps(item) for item in make_items(number, 30)]
        (hub / f"{split}.jsonl").write_text("\n".join(lines))
    text = TASK.replace("dataset_path: json", "dataset_path: org/quiz").replace(
        "dataset_kwargs: {data_files: {test: data/NAME.jsonl}}", "training_split: train"
    )
    source = write_task(tmp_path / "source", text)
    monkeypatch.chdir(tmp_path)
    scored = make_splits("pets", tmp_path / "scored", include_path=source)
    assert scored.benchmark == "org/quiz"
    problem = benchmark_problem(load_evaluator(scored.declaration))
    assert problem is not None
    assert "error[E127]" in str(problem)
    assert "searches on the items that org/quiz is scored on" in str(problem)
    assert scored.examples == 30
    trained = make_splits("pets", tmp_path / "trained", include_path=source, items="train")
    assert trained.benchmark is None
    assert benchmark_problem(load_evaluator(trained.declaration)) is None


def test_installed_tasks_go_by_name(tmp_path: Path) -> None:
    path = tmp_path / "arc.yaml"
    tasks = "{search: arc_easy, selection: arc_challenge, test: openbookqa}"
    path.write_text(f"schema: 1\nkind: lm_eval\nname: arc\ntasks: {tasks}\nmetrics: [acc]\n")
    declaration = load_evaluator(path)
    assert declaration.problems() == []
    problem = benchmark_problem(declaration)
    assert problem is not None
    assert "allenai/ai2_arc" in problem.wrong
    path.write_text(path.read_text().replace("openbookqa", "openbookqa_no_such"))
    assert "E123" in str(load_evaluator(path).problems()[0])


def test_nothing_is_fetched_and_nothing_loaded_for_a_data_set_that_is_not_here(tmp_path: Path) -> None:
    """Also where no variable of the environment forbids a network."""
    text = TASK.replace("dataset_path: json", "dataset_path: org/quiz\ndataset_name: hard").replace(
        "dataset_kwargs: {data_files: {test: data/NAME.jsonl}}", ""
    )
    source = write_task(tmp_path / "source", text)
    code = f"""
import socket, sys
asked = []
def ask(*words, **_):
    asked.append(words)
    raise OSError("no network in tests")
socket.getaddrinfo = socket.socket.connect = ask
from evomerge.cli.app import main
words = ["split", "pets", {str(tmp_path / "out")!r}, "--include-path", {str(source)!r}]
assert main(words) == 3
assert not asked
assert not {{"torch", "lm_eval", "transformers"}} & set(sys.modules)
"""
    environment = {name: value for name, value in os.environ.items() if "OFFLINE" not in name}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "error[E144]" in done.stderr
    assert "not on this machine: org/quiz (hard)" in done.stderr
    assert done.stderr.rstrip().endswith("`--download` fetches it")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("download", [True, False])
def test_only_a_word_lets_a_library_ask_a_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, download: bool
) -> None:
    text = TASK.replace("dataset_path: json", "dataset_path: org/quiz").replace(
        "dataset_kwargs: {data_files: {test: data/NAME.jsonl}}", ""
    )
    source = write_task(tmp_path / "source", text)
    offline = []

    def load(*_: Any, **__: Any) -> None:
        offline.append(datasets.config.HF_HUB_OFFLINE)
        raise ConnectionError("not here")

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(ConfigError, match=r"E144.*org/quiz; ConnectionError: not here"):
        make_splits("pets", tmp_path / "out", include_path=source, download=download)
    assert offline == [not download]
    assert datasets.config.HF_HUB_OFFLINE is False


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_task(tmp_path / "source")
    words = ["split", "pets", str(tmp_path / "out"), "--include-path", str(source)]
    assert main([*words, "--shares", "60,20,20", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert sum(told["items"].values()) == 40
    assert told["declaration"] == "pets.yaml"
    assert main([*words, "--shares", "a"]) == 2
    assert main(words) == 3
    assert "E135" in capsys.readouterr().err
