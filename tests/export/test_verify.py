"""What must not be published: other bits, scores, weights or items than those of the search."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from evomerge.errors import (
    CheckpointError,
    ConfigError,
    ExportCheckFailed,
    LedgerDamaged,
)
from evomerge.export import export
from evomerge.export.export import export_candidate
from evomerge.export.verify import StreamedDigests, check_loading, check_scores, check_weights
from evomerge.merge.materialize import write_checkpoint
from evomerge.objectives.scores import Metric
from tests.export.finished import (
    Finished,
    changed,
    copy_ledger,
    exports,
    flip_last,
    hand_made,
)
from tests.files.test_staging import names


def test_other_scores_than_recorded(finished: Finished, tmp_path: Path) -> None:
    knee = finished.knee()

    def change(event: dict[str, Any]) -> dict[str, Any]:
        if event["event"] == "evaluated" and event["id"] == knee and event["split"] == "selection":
            event["metrics"]["pets.acc"]["value"] += 0.0625
        return event

    directory = copy_ledger(finished, tmp_path / "run", change)
    message = r"E602\] pets.acc: the reloaded model has another selection score.*nothing was published"
    with pytest.raises(ExportCheckFailed, match=message) as raised:
        export_candidate(directory, knee, tmp_path / "out")
    assert raised.value.exit_code == 9
    assert names(tmp_path) == ["run"]
    assert exports(directory, "test_used") == []


def test_a_recipe_that_decodes_otherwise(finished: Finished, tmp_path: Path) -> None:
    def change(event: dict[str, Any]) -> dict[str, Any]:
        for entry in event.get("candidates", ()):
            entry["genome"] = [0.5 for _ in entry["genome"]]
        return event

    directory = copy_ledger(finished, tmp_path / "run", change)
    with pytest.raises(LedgerDamaged, match=r"E505.*the ledger decodes to another recipe"):
        export_candidate(directory, "knee", tmp_path / "out")


def test_weights_that_changed_since(finished: Finished, tmp_path: Path) -> None:
    weights = finished.model("code") / "model.safetensors"
    with (
        changed(weights, flip_last),
        pytest.raises(CheckpointError, match=r"E239\] \S*/code: the weights of `code` are not those"),
    ):
        export_candidate(finished.directory, finished.real_merge(), tmp_path / "out")
    assert names(tmp_path) == []


def test_items_that_changed_since(finished: Finished, tmp_path: Path) -> None:
    data = finished.root / "evaluators" / "tasks" / "data" / "pets_test.jsonl"
    with (
        changed(data, lambda lines: lines.split(b"\n", 1)[1]),
        pytest.raises(ConfigError, match=r"E504\] \S*pets.yaml pets: the evaluator or its items"),
    ):
        export_candidate(finished.directory, "knee", tmp_path / "out")
    assert names(tmp_path) == []


def test_bits_that_change_on_the_way(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(folder: Path, *rest: Any) -> None:
        weights = folder / "model.safetensors"
        weights.write_bytes(flip_last(weights.read_bytes()))
        check_weights(folder, *rest)

    monkeypatch.setattr(export, "check_weights", damaged)
    with pytest.raises(ExportCheckFailed, match=r"E602.*differs from what was streamed; nothing was"):
        export_candidate(finished.directory, "knee", tmp_path / "out")
    assert names(tmp_path) == []


@pytest.fixture
def streamed(finished: Finished, tmp_path: Path) -> tuple[Path, Any, dict[str, str]]:
    """Weights and config of a merge with its plan and the digests of what was streamed."""
    recipe = hand_made(finished)
    merge = export.open_merge(recipe, {}, None, lambda: tmp_path / "adapters")
    digests = StreamedDigests()
    write_checkpoint(merge.plan, merge.readers, tmp_path, written=digests.add)
    shutil.copy(finished.model("base") / "config.json", tmp_path)
    check_weights(tmp_path, merge.specs, digests.by_name)
    return tmp_path, merge.specs, digests.by_name


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


NORM = "model.norm.weight"


def test_the_check_of_weights_names_what_is_wrong(streamed: Any) -> None:
    folder, plan, digests = streamed

    def change(tensors: dict[str, torch.Tensor]) -> None:
        del tensors[NORM]
        tensors["model.layers.0.extra.weight"] = torch.zeros(2)
        tensors["lm_head.weight"] = tensors["lm_head.weight"].float()
        tensors["model.embed_tokens.weight"][3, 1] += 1

    rewrite(folder, change)
    with pytest.raises(ExportCheckFailed, match="E602") as raised:
        check_weights(folder, plan, digests)
    found = {problem.field: problem.wrong for problem in raised.value.problems}
    assert found == {
        NORM: "tensor is missing",
        "model.layers.0.extra.weight": "tensor was not planned",
        "lm_head.weight": "tensor has another shape or dtype",
        "model.embed_tokens.weight": "tensor differs from what was streamed",
    }


def test_a_truncated_file_is_no_checkpoint(streamed: Any) -> None:
    folder, plan, digests = streamed
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(ExportCheckFailed, match=r"E602.*the written folder cannot be read.*E212"):
        check_weights(folder, plan, digests)


def test_transformers_must_find_every_key(streamed: Any) -> None:
    folder, _, _ = streamed
    check_loading(folder, "float32")
    rewrite(folder, lambda tensors: tensors.update({"model.norm.wrong": tensors.pop(NORM)}))
    with pytest.raises(ExportCheckFailed, match=r"missing keys; model.norm.weight") as raised:
        check_loading(folder, "float32")
    assert "unexpected keys; model.norm.wrong" in str(raised.value)


def test_logits_must_be_finite(streamed: Any) -> None:
    folder, _, _ = streamed
    rewrite(folder, lambda tensors: tensors[NORM].fill_(float("nan")))
    with pytest.raises(ExportCheckFailed, match="logits are not finite"):
        check_loading(folder, "float32")


def test_a_folder_transformers_cannot_load(streamed: Any) -> None:
    folder, _, _ = streamed
    (folder / "config.json").write_text("{}")
    with pytest.raises(ExportCheckFailed, match="transformers cannot load the written folder"):
        check_loading(folder, "float32")


def test_scores_on_other_devices_may_differ_by_a_standard_error() -> None:
    then, near, far = Metric(0.5, 0.05, 100), Metric(0.53, 0.05, 100), Metric(0.56, 0.05, 100)
    versions = {"torch": ("2.10", "2.13")}
    assert check_scores("selection", {"m": then}, {"m": then}, "cpu", {}) == ()
    (warning,) = check_scores("selection", {"m": then}, {"m": near}, "cuda:0", {})
    assert "recorded 0.5 on 100 items, reloaded 0.53 on 100" in warning
    with pytest.raises(ExportCheckFailed, match=r"other versions: torch 2.10 then, 2.13 now"):
        check_scores("selection", {"m": then}, {"m": near}, "cpu", versions)
    with pytest.raises(ExportCheckFailed, match="another selection score"):
        check_scores("selection", {"m": then}, {"m": far}, "cuda:0", {})
    with pytest.raises(ExportCheckFailed, match="m: selection score was not measured"):
        check_scores("selection", {"m": then}, {}, "cpu", {})
