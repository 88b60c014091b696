"""Data sets that `check` opens: counted as lm-eval reads them, and a fault where they are not here."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from evomerge.campaign.campaign import load_campaign
from evomerge.campaign.check import CheckReport, check_campaign
from evomerge.evaluators.kinds import load_declaration, open_evaluator
from evomerge.objectives.scores import SPLITS
from tests.tiny_models import write_campaign

LOCAL = "dataset_path: json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_campaign(tmp_path)
    return tmp_path


def change(folder: Path, old: str, new: str, name: str = "pets") -> None:
    for split in SPLITS:
        path = folder / "evaluators" / "tasks" / f"{name}_{split}.yaml"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new.replace("SPLIT", split)))


def look(folder: Path, *grants: Any) -> CheckReport:
    return check_campaign(load_campaign(folder / "campaign.yaml"), grants, data=True)


def as_array(folder: Path) -> None:
    """The items of `pets` as one JSON array a split, which only `datasets` reads."""
    for split in SPLITS:
        path = folder / "evaluators" / "tasks" / "data" / f"pets_{split}.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        path.with_suffix(".json").write_text(json.dumps(rows))
    change(folder, ".jsonl", ".json")


def test_data_of_other_formats_is_counted(folder: Path) -> None:
    as_array(folder)
    campaign = load_campaign(folder / "campaign.yaml")
    assert check_campaign(campaign).estimates["items"] == 24  # those of `birds`
    found = look(folder)
    assert found.problems == []
    assert found.items["pets"] == {"search": 24, "selection": 16, "test": 16}
    assert found.estimates["items"] == 48
    assert found.estimates["seconds"] > check_campaign(campaign).estimates["seconds"]


def test_items_are_those_that_the_evaluator_scores(folder: Path) -> None:
    as_array(folder)
    declaration = load_declaration(folder / "evaluators" / "pets.yaml")
    evaluator = open_evaluator(declaration)
    opened = declaration.open_items()
    for split in SPLITS:
        assert sorted(opened.ids[split]) == sorted(evaluator.item_ids(split))


def test_items_that_a_tasks_code_chooses_are_counted_after_it(folder: Path) -> None:
    change(folder, LOCAL, f"process_docs: !function few.choose\n{LOCAL}")
    code = "def choose(docs):\n    return docs.select(range(5))\n"
    (folder / "evaluators" / "tasks" / "few.py").write_text(code)
    assert [problem.code for problem in look(folder).problems] == ["E126"] * 3
    assert look(folder, "task_code").items["pets"] == dict.fromkeys(SPLITS, 5)


def test_a_data_set_that_is_not_here_is_a_fault_and_nothing_is_asked_for_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets
    import huggingface_hub.constants

    for module in (datasets.config, huggingface_hub.constants):
        monkeypatch.setattr(module, "HF_HUB_OFFLINE", False)

    def never(*_: object) -> None:
        raise AssertionError("something is asked for over the network")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, never)
    monkeypatch.setattr(socket, "getaddrinfo", never)
    change(folder, LOCAL, "dataset_path: org/pets\ndataset_name: all")
    kwargs = "dataset_kwargs: {data_files: {test: data/pets_SPLIT.jsonl}}"
    for split in SPLITS:
        path = folder / "evaluators" / "tasks" / f"pets_{split}.yaml"
        path.write_text(path.read_text().replace(kwargs.replace("SPLIT", split), ""))
    change(folder, "data/", "https://no.such.host.invalid/", "birds")
    found = look(folder, "benchmark_test")
    first, *others = found.problems
    assert (first.code, first.field) == ("E144", "tasks.search")
    assert first.file.endswith("evaluators/pets.yaml")
    assert first.line > 0
    assert "not on this machine: org/pets (all)" in first.wrong
    assert "datasets.load_dataset('org/pets', 'all')" in first.todo
    assert [(p.code, p.field) for p in others] == [("E144", f"tasks.{split}") for split in SPLITS]
    assert "copy it here and name its place in birds_search.yaml" in others[0].todo
    assert not datasets.config.HF_HUB_OFFLINE
    # A run finds it in its workers, and starts without this look.
    assert check_campaign(load_campaign(folder / "campaign.yaml"), {"benchmark_test"}).problems == []


def test_items_of_two_evaluators_are_compared_whatever_their_format(folder: Path) -> None:
    data = folder / "evaluators" / "tasks" / "data"
    as_array(folder)
    items = json.loads((data / "pets_search.json").read_text())[:16]
    (data / "birds_test.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    (problem,) = look(folder).problems
    assert problem.code == "E128"
    assert "16 test items are search items there" in problem.found


def test_opening_data_loads_no_torch(folder: Path) -> None:
    as_array(folder)
    code = f"""
import sys
from pathlib import Path
from evomerge.campaign.campaign import load_campaign
from evomerge.campaign.check import check_campaign
assert not check_campaign(load_campaign(Path({str(folder / "campaign.yaml")!r})), data=True).problems
print(sorted({{"torch", "transformers", "lm_eval", "ray", "pymoo"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
