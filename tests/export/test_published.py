"""What is published: weights, side files, scores, and what is counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from evomerge.checkpoint.folder import open_folder
from evomerge.export.export import export_candidate, merge_recipe
from evomerge.export.files import check_manifest
from evomerge.ledger.history import LEDGER_FILE
from evomerge.ledger.records import RecordFile
from tests.export.finished import (
    CHAT,
    Finished,
    changed,
    exports,
    flip_last,
)
from tests.files.test_staging import names


def test_weights_are_the_recipe_by_hand(finished: Finished, tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = export_candidate(finished.directory, finished.real_merge(), out)
    recipe = json.loads((out / "recipe.json").read_text())
    tables = recipe["sources"]["merged"]["coefficients"]["weight"]
    written = load_file(out / "model.safetensors")
    base, experts = finished.weights("base"), {n: finished.weights(n) for n in ("math", "code")}
    assert set(written) == set(base)
    for name, tensor in written.items():
        total = base[name].double().numpy().copy()
        for expert, table in tables.items():
            layer = ".".join(name.split(".")[1:3])
            keys = [key for key in (layer, "layers") if key in table and name.split(".")[1] == "layers"]
            outer = {"embed_tokens": "embed", "norm": "final_norm"}.get(name.split(".")[1], "head")
            key = keys[0] if keys else outer if outer in table and "layers" not in name else ""
            total += table[key] * (experts[expert][name].double() - base[name].double()).numpy()
        reference = torch.from_numpy(total)
        # One unit in the last place of bfloat16: float32 sums may fall on the other side of a tie.
        error = (tensor.double() - reference).abs()
        assert bool((error <= reference.abs() * 2**-8 + 1e-12).all()), name
        assert tensor.dtype == torch.bfloat16
    assert report.recipe == finished.history.candidates[report.candidate].recipe


def test_an_expert_is_exported_bit_for_bit(finished: Finished, tmp_path: Path) -> None:
    report = export_candidate(finished.directory, "math", tmp_path / "out", rescore=False)
    written, own = load_file(tmp_path / "out" / "model.safetensors"), finished.weights("math")
    assert all(torch.equal(written[name], own[name]) for name in own)
    assert "math is a baseline, not a result of the search" in report.warnings


def test_side_files_are_the_base_s_own_bytes(finished: Finished, exported: Any) -> None:
    out, report = exported
    for name in ("tokenizer.json", "chat_template.jinja"):
        assert (out / name).read_bytes() == (finished.model("base") / name).read_bytes()
    assert (out / "generation_config.json").read_text() == '{"max_new_tokens":  7}\n'
    config = json.loads((out / "config.json").read_text())
    assert config["dtype"] == "bfloat16"
    assert config["num_hidden_layers"] == 2
    assert sorted(report.files) == names(out)
    assert report.files == {path.name: path.stat().st_size for path in out.iterdir()}


def test_plain_transformers_loads_it(exported: Any) -> None:
    out, _ = exported
    model, info = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer.chat_template == CHAT
    tokens = tokenizer("the cat eats", return_tensors="pt")["input_ids"]
    assert bool(model(tokens).logits.isfinite().all())


def test_the_manifest_fits_and_nothing_names_this_machine(finished: Finished, exported: Any) -> None:
    out, report = exported
    assert check_manifest(out) == []
    manifest = json.loads((out / "evomerge.json").read_text())
    assert manifest["candidate"] == report.candidate
    assert manifest["recipe"] == report.recipe
    assert manifest["campaign"] == "tiny"
    assert manifest["scores"] == report.to_json()["scores"]
    for path in out.iterdir():
        assert str(finished.root).encode() not in path.read_bytes(), path.name
    with changed(out / "config.json", flip_last):
        assert check_manifest(out) == ["config.json: changed"]


def test_scores_are_recorded_and_measured(finished: Finished, exported: Any) -> None:
    out, report = exported
    known = finished.history.candidates[report.candidate].evaluations
    assert report.scores["selection"] == known["selection"].metrics
    assert report.scores["search"] == known["search"].metrics
    assert {m.items for m in report.scores["test"].values()} == {16}
    assert "| metric | search | selection | test |" in (out / "README.md").read_text()
    assert json.loads(json.dumps(report.to_json()))["test_uses"] == report.test_uses >= 1


def test_the_model_is_reloaded_once(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For the look at its keys and for all evaluators and splits together."""
    loaded = []
    load = AutoModelForCausalLM.from_pretrained

    def counted(folder: Path, **options: Any) -> Any:
        loaded.append(Path(folder).name)
        return load(folder, **options)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", counted)
    report = export_candidate(finished.directory, "knee", tmp_path / "out")
    assert len(report.scores["test"]) == len(report.scores["selection"]) == 2
    assert len(loaded) == 1


def test_every_use_of_test_items_is_counted(finished: Finished, exported: Any, tmp_path: Path) -> None:
    before = len(exports(finished.directory, "test_used"))
    again = export_candidate(finished.directory, finished.knee(), tmp_path / "again")
    other = export_candidate(finished.directory, "base", tmp_path / "other")
    export_candidate(finished.directory, "base", tmp_path / "unscored", rescore=False)
    assert (again.test_uses, other.test_uses) == (before + 1, before + 2)
    used = exports(finished.directory, "test_used")
    assert [event["id"] for event in used[-2:]] == [finished.knee(), "base"]
    assert used[-1]["metrics"] == other.to_json()["scores"]["test"]
    text = (tmp_path / "other" / "README.md").read_text()
    models = len({event["recipe"] for event in used})
    assert f"scored {before + 2} times by exports, on {models} models" in text
    assert "not scored on test items" in (tmp_path / "unscored" / "README.md").read_text()
    assert exports(finished.directory, "export")[-1]["out"] == "unscored"
    # Test items give the same scores each time.
    assert again.scores["test"] == exported[1].scores["test"]


def test_one_can_export_while_a_run_holds_the_ledger(
    finished: Finished, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with RecordFile.open(finished.directory / LEDGER_FILE, create=False):
        report = export_candidate(finished.directory, "knee", tmp_path / "out")
    assert "Loading weights" not in capfd.readouterr().err
    assert report.candidate == finished.knee()


def test_a_candidate_that_is_a_baseline_is_told(finished: Finished, tmp_path: Path) -> None:
    known = finished.history.candidates
    recipes = {known[name].recipe: name for name in ("base", "math", "code")}
    copy = next(c for c in finished.history.searched() if c.recipe in recipes)
    report = export_candidate(finished.directory, copy.id, tmp_path / "out", rescore=False)
    assert f"{copy.id} is the baseline {recipes[copy.recipe]} itself" in report.warnings


def test_sharded_weights_are_the_same(exported: Any, finished: Finished, tmp_path: Path) -> None:
    out, _ = exported
    export_candidate(finished.directory, "knee", tmp_path / "out", shard_bytes=8_000, rescore=False)
    folder = open_folder(tmp_path / "out", "sharded")
    assert len(folder.files) > 2
    whole = load_file(out / "model.safetensors")
    for name, header in folder.tensors.items():
        with safe_open(tmp_path / "out" / header.file, "pt") as shard:
            assert torch.equal(shard.get_tensor(name), whole[name])


def test_its_recipe_makes_the_same_bits(exported: Any, tmp_path: Path) -> None:
    out, report = exported
    again = merge_recipe(out / "recipe.json", tmp_path / "again")
    assert again.recipe == report.recipe
    assert again.candidate is None
    assert again.scores == {}
    for name in ("model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja"):
        assert (tmp_path / "again" / name).read_bytes() == (out / name).read_bytes()
    assert check_manifest(tmp_path / "again") == []
    assert "## Scores" not in (tmp_path / "again" / "README.md").read_text()


def test_random_candidates_score_the_same_after_export(finished: Finished, tmp_path: Path) -> None:
    ids = [c.id for c in finished.history.searched()]
    for number, name in enumerate(np.random.default_rng(0).choice(ids, 3, replace=False)):
        report = export_candidate(finished.directory, str(name), tmp_path / str(number))
        assert (
            report.scores["search"] == finished.history.candidates[name].evaluations["search"].metrics
        )
