"""lm-eval's results JSON: the fields and numbers of stock lm-eval, readable by its own reader."""

import json
from pathlib import Path
from typing import Any

import pytest
from lm_eval.utils import get_latest_filename, get_results_filenames, make_table, sanitize_model_name

from evomerge.cli.app import main
from evomerge.evaluators.evaluator import Subject
from evomerge.evaluators.kinds import open_evaluator
from evomerge.evaluators.lm_eval_declaration import load_evaluator
from evomerge.evaluators.results_file import ScoredModel, results_json, write_results
from tests.evaluators.conftest import DECLARATION, Bench
from tests.evaluators.test_lm_eval_tasks import stock
from tests.tiny_models import write_model
from tests.tiny_runs import finished

MODEL = ScoredModel("org/a:model", "float32", 8, "cpu", 1_700_000_000.25, 3.5, "abc")


def test_results_are_those_of_stock_lm_eval(bench: Bench, subject: Subject, tmp_path: Path) -> None:
    path = bench(declaration=DECLARATION + "num_fewshot: 1\n")
    declaration = load_evaluator(path)
    evaluator = open_evaluator(declaration)
    scores = {split: evaluator.evaluate(subject, split).metrics for split in ("search", "test")}
    ours = results_json(MODEL, [declaration], scores)
    for split in ("search", "test"):
        name = f"pets_{split}"
        theirs = stock(path, subject, name, surroundings=True, num_fewshot=1)
        expected = theirs["results"][name]
        assert set(ours["results"][name]) == set(expected)
        for key, value in expected.items():
            close = pytest.approx(value, abs=1e-12) if isinstance(value, float) else value
            assert ours["results"][name][key] == close, key
        for field in ("n-shot", "n-samples", "higher_is_better", "versions", "group_subtasks"):
            assert ours[field].get(name) == theirs[field].get(name), field
        same = ("task", "dataset_path", "test_split", "output_type", "num_fewshot", "doc_to_text")
        for field in same:
            assert ours["configs"][name][field] == theirs["configs"][name][field]
        missing = set(theirs) - set(ours) - {"samples", "pretty_env_info", "upper_git_hash"}
        # What lm-eval says of its tokenizer; a file without it is read all the same.
        assert all("token" in field or field == "max_length" for field in missing), missing
    table = make_table(ours)
    assert "pets_search" in table
    assert "acc_norm" in table


def test_files_are_found_under_their_own_names(bench: Bench, subject: Subject, tmp_path: Path) -> None:
    declaration = load_evaluator(bench())
    scores = {"test": open_evaluator(declaration).evaluate(subject, "test").metrics}
    data = results_json(MODEL, [declaration], scores)
    path = write_results(tmp_path / "out", MODEL, data)
    assert path.parent.name == sanitize_model_name(MODEL.name) == data["model_name_sanitized"]
    assert path.name == "results_2023-11-14T22-13-20.250000.json"
    found = get_results_filenames([str(path), str(path.with_name("samples_x.jsonl"))])
    assert get_latest_filename(found) == str(path)
    assert json.loads(path.read_text()) == json.loads(json.dumps(data))
    assert write_results(tmp_path / "one.json", MODEL, data) == tmp_path / "one.json"


def test_score_writes_it(bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = bench()
    model = write_model(tmp_path / "model")
    target = tmp_path / "results.json"
    words: list[Any] = ["score", model, path, "--split", "selection", "--lm-eval-json", target]
    assert main([*map(str, words), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    written = json.loads(target.read_text())
    assert written["results"]["pets_selection"]["acc,none"] == told["metrics"]["pets.acc"]["value"]
    assert written["config"]["model_args"]["pretrained"] == str(model)


def test_a_front_writes_one_for_each_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    campaign = finished()
    assert main(["front", str(campaign.directory), "--lm-eval-json", str(tmp_path), "--json"]) == 0
    front = json.loads(capsys.readouterr().out)
    for member in front["members"]:
        (path,) = (tmp_path / f"tiny__{member['id']}").glob("results_*.json")
        written = json.loads(path.read_text())
        assert written["evomerge"]["recipe"] == member["recipe"]
        for split, metrics in member["metrics"].items():
            for name in ("pets", "birds"):
                result = written["results"][f"{name}_{split}"]
                assert result["acc,none"] == metrics[f"{name}.acc"]["value"]
                assert result["acc_stderr,none"] == metrics[f"{name}.acc"]["stderr"]
    assert main(["front", str(campaign.directory), "--lm-eval-json", str(tmp_path / "a.json")]) == 3
    assert "E135" in capsys.readouterr().err
