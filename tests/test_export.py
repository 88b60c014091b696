import itertools
import json
import os
import shutil
import signal
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from evomerge import export, failpoint
from evomerge.campaign import load_campaign
from evomerge.check import check_campaign, raise_problems
from evomerge.checkpoint.folder import open_folder
from evomerge.driver import run
from evomerge.errors import (
    CampaignInUse,
    CheckpointError,
    ConfigError,
    EnvironmentFault,
    ExportCheckFailed,
    LedgerDamaged,
    UsageError,
)
from evomerge.export import ExportReport, export_candidate, merge_recipe
from evomerge.export.files import check_manifest, output_config, published_recipe
from evomerge.export.verify import StreamedDigests, check_loading, check_scores, check_weights
from evomerge.front import compute_front, pick
from evomerge.history import EXPORTS_FILE, ITEMS_FOLDER, LEDGER_FILE, History
from evomerge.item_store import ItemStore
from evomerge.ledger import Ledger, read_events
from evomerge.materialize import write_checkpoint
from evomerge.recipe import CheckpointSource, MergedSource, Recipe, identity_path
from evomerge.scores import Metric
from tests.test_staging import largest_file, names
from tests.tiny_models import write_campaign, write_model

CHAT = "{% for m in messages %}{{ m.content }}\n{% endfor %}"


@dataclass(frozen=True)
class Finished:
    """A campaign that has run to its end; tests read it, and put back what they change."""

    root: Path
    directory: Path
    history: History

    def knee(self) -> str:
        front = compute_front(self.history, ItemStore(self.directory / ITEMS_FOLDER))
        return pick(front, "knee").id

    def real_merge(self) -> str:
        """A candidate that is none of the baselines."""
        plain = {c.recipe for c in self.history.candidates.values() if c.is_baseline}
        return next(c.id for c in self.history.searched() if c.recipe not in plain)

    def model(self, name: str) -> Path:
        return self.root / "models" / name

    def weights(self, name: str) -> dict[str, torch.Tensor]:
        return load_file(self.model(name) / "model.safetensors")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    root = tmp_path_factory.mktemp("campaign")
    file = write_campaign(
        root,
        experts=("math", "code"),
        optimizer={"population": 4},
        budget={"evaluations": 8},
        baselines={"single": [0.5]},
    )
    base = root / "models" / "base"
    (base / "chat_template.jinja").write_text(CHAT)
    (base / "generation_config.json").write_text('{"max_new_tokens":  7}\n')
    (base / "README.md").write_text("a card that must not be copied")
    campaign = load_campaign(file)
    report = check_campaign(campaign)
    raise_problems(report)
    history = run(campaign, root / "run", report.paths, report.storage)
    return Finished(root, root / "run", history)


@pytest.fixture(scope="module")
def exported(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ExportReport]:
    out = tmp_path_factory.mktemp("exports") / "knee"
    return out, export_candidate(finished.directory, "knee", out)


@contextmanager
def changed(path: Path, change: Callable[[bytes], bytes]) -> Iterator[None]:
    """A file with other content for a while."""
    before = path.read_bytes()
    path.write_bytes(change(before))
    try:
        yield
    finally:
        path.write_bytes(before)


def flip_last(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def exports(directory: Path, kind: str) -> list[dict[str, Any]]:
    path = directory / EXPORTS_FILE
    return [e for e in read_events(path) if e["event"] == kind] if path.exists() else []


# -- what is published


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
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
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
    with Ledger.open(finished.directory / LEDGER_FILE, create=False):
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


# -- what is asked for


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("c3", r"E506.*no candidate `c3`; there are \d+, the last is c\d+; did you mean c00003\?"),
        ("c99999999", r"E506.*no candidate `c99999999`; there are \d+, the last is c\d+"),
        ("knees", r"E506.*`knees` is no member of the front"),
        ("best:speed", r"E506.*`speed` is no objective"),
    ],
)
def test_a_choice_that_fits_nothing(
    finished: Finished, tmp_path: Path, choice: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        export_candidate(finished.directory, choice, tmp_path / "out")
    assert names(tmp_path) == []


def test_a_dominated_candidate_is_exported_with_a_warning(finished: Finished, tmp_path: Path) -> None:
    front = compute_front(finished.history, ItemStore(finished.directory / ITEMS_FOLDER))
    on_front = {member.recipe for member in front.members}
    lost = next(c.id for c in finished.history.searched() if c.recipe not in on_front)
    report = export_candidate(finished.directory, lost, tmp_path / "out")
    assert any(f"{lost} is not on the front" in line for line in report.warnings)
    assert "This model is not one of them." in (tmp_path / "out" / "README.md").read_text()


def test_no_campaign_here(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"E509.*no campaign here; it has no ledger.jsonl"):
        export_candidate(tmp_path, "knee", tmp_path / "out")


def copy_ledger(
    finished: Finished, to: Path, change: Callable[[dict[str, Any]], dict[str, Any] | None]
) -> Path:
    """A campaign folder with the same items and other events; None leaves an event out."""
    to.mkdir()
    shutil.copytree(finished.directory / ITEMS_FOLDER, to / ITEMS_FOLDER)
    with Ledger.open(to / LEDGER_FILE, create=True) as ledger:
        for event in read_events(finished.directory / LEDGER_FILE):
            plain = {key: value for key, value in event.items() if key not in ("n", "format")}
            wanted = change(plain)
            if wanted is not None:
                ledger.append(wanted)
    return to


def test_a_failed_candidate_and_one_that_waits(finished: Finished, tmp_path: Path) -> None:
    first, second = (c.id for c in itertools.islice(finished.history.searched(), 2))

    def change(event: dict[str, Any]) -> dict[str, Any] | None:
        if event["event"] == "evaluated" and event["id"] == first and event["split"] == "search":
            kept = {key: event[key] for key in ("id", "recipe", "split", "time")}
            return {"event": "failed", "failure": "nonfinite_weights", "message": "NaN in T", **kept}
        if event["event"] in ("selection", "told"):
            return None
        gone = event["event"] == "evaluated" and (event["id"], event["split"]) != (first, "search")
        return None if gone and (event["id"] == second or event["split"] == "selection") else event

    directory = copy_ledger(finished, tmp_path / "run", change)
    with pytest.raises(UsageError, match=rf"E507.*`{first}` failed.*nonfinite_weights: NaN in T"):
        export_candidate(directory, first, tmp_path / "out")
    with pytest.raises(UsageError, match=rf"E507.*`{second}` has not been evaluated yet; run on"):
        export_candidate(directory, second, tmp_path / "out")
    report = export_candidate(directory, "knee", tmp_path / "out")
    assert "the selection phase is not done: the front is by search scores" in report.warnings
    assert set(report.scores) == {"search", "test"}


def test_the_log_of_exports_is_held_or_damaged(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export.log, "WAIT", 0.1)
    directory = copy_ledger(finished, tmp_path / "run", lambda event: event)
    with Ledger.open(directory / EXPORTS_FILE, create=True):
        with pytest.raises(CampaignInUse, match="E501"):
            export_candidate(directory, "knee", tmp_path / "out")
        assert names(tmp_path) == ["run"]
        report = export_candidate(directory, "knee", tmp_path / "out", rescore=False)
    assert any("not noted in the campaign: error[E501]" in line for line in report.warnings)
    (directory / EXPORTS_FILE).write_bytes(b"what is this\nand this\n")
    with pytest.raises(LedgerDamaged, match=r"E502.*exports.jsonl"):
        export_candidate(directory, "knee", tmp_path / "second")
    assert names(tmp_path) == ["out", "run"]


# -- what must not be published


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
    merge = export.open_merge(recipe, {}, None)
    digests = StreamedDigests()
    write_checkpoint(merge.plan, merge.readers, tmp_path, written=digests.add)
    shutil.copy(finished.model("base") / "config.json", tmp_path)
    check_weights(tmp_path, merge.plan, digests.by_name)
    return tmp_path, merge.plan, digests.by_name


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
    with pytest.raises(ExportCheckFailed) as raised:
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


def test_the_target_is_refused_before_any_work(finished: Finished, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(UsageError, match=r"E601.*the target exists; give `--overwrite`"):
        export_candidate(finished.directory / "nowhere", "knee", tmp_path / "out")


@pytest.mark.parametrize("inside", ["models/math", ""])
def test_an_export_never_replaces_what_it_is_made_of(finished: Finished, inside: str) -> None:
    target = finished.root / inside
    with changed_config(finished.root):
        before = (finished.model("math") / "model.safetensors").read_bytes()
        with pytest.raises(UsageError, match=r"E601.*the export is made of what this folder holds"):
            export_candidate(finished.directory, "knee", target, overwrite=True)
        assert (finished.model("math") / "model.safetensors").read_bytes() == before


@contextmanager
def changed_config(root: Path) -> Iterator[None]:
    """Make a folder look like a model folder for a while."""
    (root / "config.json").write_text("{}")
    try:
        yield
    finally:
        (root / "config.json").unlink()


# -- recipes made by hand


def hand_made(finished: Finished, **changes: Any) -> Recipe:
    merged = MergedSource(
        method="task_arithmetic",
        inputs=("math", "code"),
        base="base",
        coefficients={"weight": {"math": {"": 0.25}, "code": {"": 0.5}}},
    )
    paths = {name: CheckpointSource(str(finished.model(name))) for name in ("base", "math", "code")}
    fields: dict[str, Any] = {
        "sources": {**paths, "merged": merged},
        "path": identity_path(2),
        "outer": dict.fromkeys(("embed", "final_norm", "head"), "merged"),
    }
    return Recipe(**{**fields, **changes})


def write_recipe(path: Path, recipe: Recipe) -> Path:
    path.write_text(json.dumps(recipe.to_json()))
    return path


def test_paths_are_relative_to_the_recipe(finished: Finished, tmp_path: Path) -> None:
    shutil.copytree(finished.root / "models", tmp_path / "models")
    sources = {
        name: CheckpointSource(f"models/{name}") if isinstance(source, CheckpointSource) else source
        for name, source in hand_made(finished).sources.items()
    }
    file = write_recipe(tmp_path / "recipe.json", hand_made(finished, sources=sources))
    report = merge_recipe(file, tmp_path / "out")
    published = json.loads((tmp_path / "out" / "recipe.json").read_text())
    assert {s["path"] for s in published["sources"].values() if "path" in s} == {
        "../models/base",
        "../models/math",
        "../models/code",
    }
    # The digests that were left out are filled in, and so the published recipe refuses other weights.
    assert all(len(s["checkpoint"]) == 64 for s in published["sources"].values() if "path" in s)
    assert report.recipe != hand_made(finished).digest
    assert merge_recipe(tmp_path / "out" / "recipe.json", tmp_path / "again").recipe == report.recipe
    weights = tmp_path / "models" / "math" / "model.safetensors"
    weights.write_bytes(flip_last(weights.read_bytes()))
    with pytest.raises(CheckpointError, match=r"E239.*`math` are not those the recipe means"):
        merge_recipe(tmp_path / "out" / "recipe.json", tmp_path / "third")


def test_stacked_layers_and_another_dtype(finished: Finished, tmp_path: Path) -> None:
    path = (*identity_path(2), *identity_path(2, "math")[1:])
    recipe = hand_made(finished, path=path, dtype="float32")
    merge_recipe(write_recipe(tmp_path / "recipe.json", recipe), tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["num_hidden_layers"], config["dtype"]) == (3, "float32")
    written = load_file(tmp_path / "out" / "model.safetensors")
    own = finished.weights("math")
    rest = "self_attn.q_proj.weight"
    assert torch.equal(written[f"model.layers.2.{rest}"], own[f"model.layers.1.{rest}"].float())
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").config.num_hidden_layers == 3


def write_adapter(folder: Path, rank: int = 4, alpha: float = 8.0) -> dict[str, torch.Tensor]:
    """A LoRA adapter of the tiny base on its query projections; returns its deltas in float64."""
    folder.mkdir()
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    generator = torch.Generator().manual_seed(0)
    factors, deltas = {}, {}
    for layer in range(2):
        module = f"model.layers.{layer}.self_attn.q_proj"
        a = torch.randn(rank, 32, generator=generator)
        b = torch.randn(32, rank, generator=generator)
        prefix = f"base_model.model.{module}"
        factors |= {f"{prefix}.lora_A.weight": a, f"{prefix}.lora_B.weight": b}
        deltas[f"{module}.weight"] = alpha / rank * b.double() @ a.double()
    save_file(factors, folder / "adapter_model.safetensors", {"format": "pt"})
    return deltas


def test_an_adapter_is_merged_into_a_full_model(finished: Finished, tmp_path: Path) -> None:
    deltas = write_adapter(tmp_path / "lora")
    base = CheckpointSource(str(finished.model("base")))
    merged = MergedSource("task_arithmetic", ("lora",), "base", {"weight": {"lora": {"": 0.5}}})
    # The adapter stands first: it is opened after the base all the same.
    sources = {"lora": CheckpointSource("lora"), "base": base, "merged": merged}
    file = write_recipe(tmp_path / "recipe.json", hand_made(finished, sources=sources, dtype="float32"))
    merge_recipe(file, tmp_path / "out")
    written, own = load_file(tmp_path / "out" / "model.safetensors"), finished.weights("base")
    assert set(written) == set(own)
    for name, tensor in written.items():
        reference = own[name].double() + 0.5 * deltas.get(name, torch.zeros(()).double())
        assert torch.allclose(tensor.double(), reference, rtol=0, atol=1e-5), name
    AutoModelForCausalLM.from_pretrained(tmp_path / "out")


def test_an_adapter_without_its_base(finished: Finished, tmp_path: Path) -> None:
    write_adapter(tmp_path / "lora")
    recipe = {
        "sources": {"lora": {"path": "lora"}},
        "path": [["lora", 0], ["lora", 1]],
        "outer": dict.fromkeys(("embed", "final_norm", "head"), "lora"),
        "tokenizer": "lora",
    }
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    with pytest.raises(CheckpointError, match=r"E204.*lora is an adapter, not a full model"):
        merge_recipe(tmp_path / "recipe.json", tmp_path / "out")


def test_tied_embeddings_stay_tied(tmp_path: Path) -> None:
    for number, name in enumerate(("base", "math", "code")):
        write_model(tmp_path / "models" / name, expert=number or None, tie_word_embeddings=True)
    tied = Finished(tmp_path, tmp_path, History())
    merge_recipe(write_recipe(tmp_path / "recipe.json", hand_made(tied)), tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert "lm_head.weight" not in load_file(tmp_path / "out" / "model.safetensors")
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_a_model_without_a_tokenizer_is_merged_with_a_warning(tmp_path: Path) -> None:
    for number, name in enumerate(("base", "math", "code")):
        write_model(tmp_path / "models" / name, expert=number or None, tokenizer=False)
    plain = Finished(tmp_path, tmp_path, History())
    file = write_recipe(tmp_path / "recipe.json", hand_made(plain))
    report = merge_recipe(file, tmp_path / "out")
    assert report.warnings == ("base has no tokenizer files, and so has the export",)


def test_faults_of_a_recipe_file(finished: Finished, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match=r"E101.*recipe.json: no such file; check the path"):
        merge_recipe(tmp_path / "recipe.json", out)
    (tmp_path / "recipe.json").write_text("method: ties\n")
    with pytest.raises(ConfigError, match=r"E102.*a recipe is a JSON file"):
        merge_recipe(tmp_path / "recipe.json", out)
    file = write_recipe(tmp_path / "recipe.json", hand_made(finished, tokenizer="merged"))
    with pytest.raises(
        ConfigError, match=r"E138.*tokenizer: names no checkpoint source; found 'merged'"
    ):
        merge_recipe(file, out)
    gone = {**hand_made(finished).sources, "base": CheckpointSource(f"org/name@{'0' * 40}")}
    file = write_recipe(tmp_path / "recipe.json", hand_made(finished, sources=gone))
    with pytest.raises(CheckpointError, match=r"E201\] base: .*org/name is not in the local hub cache"):
        merge_recipe(file, out)
    gone = {
        **hand_made(finished).sources,
        "math": CheckpointSource("nowhere"),
        "code": CheckpointSource("nor here"),
    }
    file = write_recipe(tmp_path / "recipe.json", hand_made(finished, sources=gone))
    with pytest.raises(CheckpointError, match=r"E201.*math: no such folder") as raised:
        merge_recipe(file, out)
    assert len(raised.value.problems) == 2
    assert names(tmp_path) == ["recipe.json"]


def test_weights_that_overflow_are_not_published(finished: Finished, tmp_path: Path) -> None:
    merged = MergedSource("task_arithmetic", ("math",), "base", {"weight": {"math": {"": 1e6}}})
    sources = {**hand_made(finished).sources, "merged": merged}
    recipe = hand_made(finished, sources=sources, dtype="float16")
    file = write_recipe(tmp_path / "recipe.json", recipe)
    with pytest.raises(
        ExportCheckFailed, match=r"E602.*the merge has no finite result.*has NaN or inf"
    ):
        merge_recipe(file, tmp_path / "out")
    assert names(tmp_path) == ["recipe.json"]


def test_a_hub_model_keeps_its_name(finished: Finished, tmp_path: Path) -> None:
    hub = f"org/name@{'a' * 40}"
    recipe = published_recipe(hand_made(finished), {"base": hub}, finished.root / "out")
    assert recipe.checkpoints["base"].path == hub
    assert recipe.checkpoints["math"].path == "../models/math"
    assert published_recipe(recipe, {}, Path("/srv/out")).checkpoints["math"].path == "math"


def test_config_follows_the_recipe() -> None:
    config = {
        "_name_or_path": "/home/me/secret",
        "auto_map": {"AutoModel": "x.py"},
        "torch_dtype": "float32",
        "num_hidden_layers": 2,
        "text_config": {"torch_dtype": "float32", "hidden_size": 4},
    }
    result, warnings = output_config(config, "bfloat16", {"num_hidden_layers": 3})
    assert result == {
        "torch_dtype": "bfloat16",
        "dtype": "bfloat16",
        "num_hidden_layers": 3,
        "text_config": {"torch_dtype": "bfloat16", "hidden_size": 4},
    }
    assert warnings == ("config.json named remote code (auto_map); it is left out of the export",)
    assert config["auto_map"]


# -- faults on the way

EXPORT_POINTS = (
    *("staged", "weights", "files", "checked", "card", "described"),
    *("synced", "exchanged", "published", "cleaned"),
)


def run_killed(action: Callable[[], object], point: str) -> None:
    """Run `action` in a child that SIGKILLs itself at a failpoint."""
    child = os.fork()
    if child == 0:
        failpoint._armed = failpoint.parse(f"export.{point}=kill")
        try:
            action()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), f"export.{point} was not reached"
    assert os.WTERMSIG(status) == signal.SIGKILL


def first_bytes(folder: Path) -> bytes:
    """A probe of which export a folder holds: the first weights."""
    data = (folder / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return data[8 + length : 8 + length + 64]


@pytest.mark.parametrize("point", EXPORT_POINTS)
def test_killed_over_an_existing_export(finished: Finished, tmp_path: Path, point: str) -> None:
    out = tmp_path / "out"
    old = write_recipe(tmp_path / "old.json", hand_made(finished))
    new = write_recipe(tmp_path / "new.json", hand_made(finished, dtype="float32"))
    merge_recipe(old, out)
    before = first_bytes(out)
    run_killed(lambda: merge_recipe(new, out, overwrite=True), point)
    assert check_manifest(out) == []
    open_folder(out, "export")
    published = point in ("exchanged", "published", "cleaned")
    assert (first_bytes(out) != before) == published
    merge_recipe(new, out, overwrite=True)
    assert check_manifest(out) == []
    assert first_bytes(out) != before
    assert names(tmp_path) == ["new.json", "old.json", "out"]


@pytest.mark.parametrize("point", ["checked", "scored", "described", "renamed", "cleaned"])
def test_killed_while_exporting_a_candidate(finished: Finished, tmp_path: Path, point: str) -> None:
    out = tmp_path / "out"
    before = len(exports(finished.directory, "test_used"))
    run_killed(lambda: export_candidate(finished.directory, "knee", out), point)
    assert out.exists() == (point in ("renamed", "cleaned"))
    if out.exists():
        assert check_manifest(out) == []
    # What was seen of the test items is counted, whether the export was published or not.
    assert len(exports(finished.directory, "test_used")) == before + (point != "checked")
    export_candidate(finished.directory, "knee", out, overwrite=True, rescore=False)
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("size", [100, 3_000, 20_000])
@pytest.mark.parametrize("over", [False, True])
def test_a_full_disk(finished: Finished, tmp_path: Path, size: int, over: bool) -> None:
    out = tmp_path / "out"
    file = write_recipe(tmp_path / "recipe.json", hand_made(finished))
    if over:
        merge_recipe(file, out)
    before = {path.name: path.read_bytes() for path in out.iterdir()} if over else {}
    with largest_file(size), pytest.raises(EnvironmentFault, match=r"E403.*out: no room to write"):
        merge_recipe(file, out, overwrite=over)
    assert names(tmp_path) == (["out", "recipe.json"] if over else ["recipe.json"])
    if over:
        assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_full_disk_under_the_small_files(finished: Finished, tmp_path: Path) -> None:
    # Weights in shards below the limit, and a tokenizer above it.
    file = write_recipe(tmp_path / "recipe.json", hand_made(finished))
    template = finished.model("base") / "vocab.json"
    template.write_text(json.dumps({f"w{i}": i for i in range(10_000)}))
    try:
        with largest_file(30_000), pytest.raises(EnvironmentFault, match=r"E403.*out: no room"):
            merge_recipe(file, tmp_path / "out", shard_bytes=8_000)
    finally:
        template.unlink()
    assert names(tmp_path) == ["recipe.json"]


def test_random_candidates_score_the_same_after_export(finished: Finished, tmp_path: Path) -> None:
    ids = [c.id for c in finished.history.searched()]
    for number, name in enumerate(np.random.default_rng(0).choice(ids, 3, replace=False)):
        report = export_candidate(finished.directory, str(name), tmp_path / str(number))
        assert (
            report.scores["search"] == finished.history.candidates[name].evaluations["search"].metrics
        )
