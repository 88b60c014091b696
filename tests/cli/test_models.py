from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

from tests.cli.terminal import call
from tests.tiny_runs import finished


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    """The knee as a checkpoint, without scores."""
    folder = tmp_path_factory.mktemp("exports")
    shutil.copytree(finished().directory, folder / "run")  # exporting is logged there
    out = folder / "knee"
    found = call("export", folder / "run", "knee", out, "--no-rescore")
    assert found.code == 0, found.err
    return out, found


def test_export(export):
    out, found = export
    assert (out / "model.safetensors").is_file()
    assert f"wrote {out}: " in found.out
    assert "recipe " in found.out
    assert "selection" in found.out
    assert "warning: the export was not scored" in found.err


def test_export_refuses_what_is_there(export):
    out, _ = export
    found = call("export", finished().directory, "knee", out)
    assert found.code == 2
    assert "error[E601]" in found.err
    assert "--overwrite" in found.err


@pytest.mark.parametrize("pick", ["c99999", "best:nothing", "prefer:pets=x"])
def test_export_of_nothing(pick, tmp_path):
    found = call("export", finished().directory, pick, tmp_path / "out", "--json")
    assert found.code == 2
    assert found.json["errors"][0]["code"] == "E506"
    assert not (tmp_path / "out").exists()


def test_what_can_be_refused_without_torch_is(tmp_path):
    """A pick, a target, a broken file: none of them loads what takes seconds."""
    run = finished().directory
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "notes.txt").write_text("mine")
    (tmp_path / "broken.yml").write_text("merge_method: linear\nmodels: [")
    (tmp_path / "evaluator.yaml").write_text("schema: 1\nkind: lm_evall\n")
    base = finished().file.parent / "models" / "base"
    one = f"merge_method: linear\nmodels: [{{model: {base}, parameters: {{weight: 1}}}}]\n"
    (tmp_path / "one.yml").write_text(one)
    commands = [
        (["export", run, "kne", tmp_path / "out"], 2),
        (["export", run, "knee", tmp_path / "there"], 2),
        (["merge", tmp_path / "broken.yml", tmp_path / "out"], 3),
        (["merge", tmp_path / "one.yml", tmp_path / "out", "--rope", "nobody"], 3),
        (["moe", tmp_path / "broken.yml", tmp_path / "out"], 3),
        (["align", base, base, tmp_path / "there"], 2),
        (["barrier", base, base, "--text", tmp_path / "nothing.txt"], 3),
        (["kinship", base, tmp_path / "there", tmp_path / "there"], 4),
        (["kinship", base, base], 2),
        (["score", finished().file.parent / "models" / "base", tmp_path / "evaluator.yaml"], 3),
    ]
    code = f"""
import sys
from evomerge.cli.app import main
for words, expected in {[([str(word) for word in words], code) for words, code in commands]!r}:
    assert main(words) == expected, words
    assert not {{"torch", "transformers", "lm_eval"}} & set(sys.modules), words
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for text in ("E506", "E601", "broken.yml", "E108", "E138", "E101", "E202"):
        assert text in done.stderr


def test_merge_gives_the_same_weights(export, tmp_path):
    out, _ = export
    found = call("merge", out / "recipe.json", tmp_path / "again", "--json")
    assert found.code == 0, found.err
    assert found.json["recipe"] == json.loads((out / "evomerge.json").read_text())["recipe"]
    weights = [folder / "model.safetensors" for folder in (out, tmp_path / "again")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_merge_of_a_faulty_recipe(tmp_path):
    file = tmp_path / "recipe.json"
    file.write_text('{"schema": 1, "sources": {}}')
    found = call("merge", file, tmp_path / "out")
    assert found.code == 3
    assert str(file) in found.err


def test_score_is_what_the_search_recorded(export):
    out, _ = export
    evaluator = finished().file.parent / "evaluators" / "pets.yaml"
    words = ("score", out, evaluator, "--split", "selection", "--batch-size", 8)
    name = json.loads((out / "evomerge.json").read_text())["candidate"]
    recorded = finished().history.candidates[name].evaluations["selection"].metrics["pets.acc"]
    data = call(*words, "--json").json
    assert data["metrics"]["pets.acc"] == recorded.to_json()
    assert len(data["items"]["pets.acc"]) == recorded.items
    found = call(*words)
    assert found.code == 0
    assert f"{100 * recorded.value:.1f} ± {100 * recorded.stderr:.1f}" in found.out
    assert found.err == ""


def test_a_logit_ensemble_is_scored_as_what_it_is(tmp_path):
    models = finished().file.parent / "models"
    evaluator = finished().file.parent / "evaluators" / "pets.yaml"
    words = ("score", models / "math", evaluator, "--split", "selection")
    alone, twice, all_three = (
        call(*words, *(f"--ensemble={models / name}" for name in others), "--json").json
        for others in ((), ("math",), ("code", "base"))
    )
    assert twice["items"] == alone["items"]
    assert all_three["ensemble"] == [str(models / name) for name in ("code", "base")]
    assert "ensemble" not in alone
    said = call(*words, "--ensemble", models / "math").out
    assert "logit ensemble of 2 models: no checkpoint, cannot be exported" in said
    (tmp_path / "size.yaml").write_text("schema: 1\nkind: size\nname: size\n")
    refused = call("score", models / "math", tmp_path / "size.yaml", "--ensemble", models / "code")
    assert refused.code == 2
    assert "E500" in refused.err
    assert "scored by log-likelihoods only" in refused.err
    refused = call(*words, "--ensemble", models / "code", "--lm-eval-json", tmp_path / "out")
    assert refused.code == 2
    assert "leave --lm-eval-json out" in refused.err


def test_score_of_no_model(tmp_path):
    (tmp_path / "model-a").mkdir()
    evaluator = finished().file.parent / "evaluators" / "pets.yaml"
    found = call("score", tmp_path / "model-b", evaluator)
    assert found.code == 4
    assert "error[E201]" in found.err
    assert f"did you mean {tmp_path / 'model-a'}?" in found.err
    assert call("score", f"org/name@{'0' * 40}", evaluator).code == 4
    assert call("score", tmp_path / "model-a", evaluator).code == 4
    assert call("score", finished().file.parent / "models" / "base", tmp_path / "x.yaml").code == 3


def test_lm_eval_results_of_other_kinds_are_refused_before_scoring(export, tmp_path):
    evaluator = tmp_path / "size.yaml"
    evaluator.write_text("schema: 1\nkind: size\nname: size\n")
    found = call("score", export[0], evaluator, "--lm-eval-json", tmp_path / "results")
    assert found.code == 2
    assert "E500" in found.err
    assert "lm-eval tasks only; its kind is `size`; leave --lm-eval-json out" in found.err
    assert found.out == ""
