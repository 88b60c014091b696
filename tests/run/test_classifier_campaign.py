"""Campaigns of models that are no decoders, end to end: a classifier of pictures and one of texts."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file
from transformers import ViTImageProcessorPil

from evomerge.checkpoint.compare import compare_with_base
from evomerge.checkpoint.folder import open_folder
from evomerge.cli.verify.invariants import verify
from evomerge.evaluators.kinds import load_declaration
from evomerge.export.export import merge_recipe
from evomerge.objectives.scores import SPLITS
from evomerge.recipe.recipe import MERGED, CheckpointSource, MergedSource, single_source_recipe
from evomerge.run.job import Job, MeasuredSlope, SlopeWork, WorkerSetup
from evomerge.run.scoring import score_checkpoint
from evomerge.run.worker import Worker
from evomerge.testing.evaluators import byte_tokenizer
from tests.cli.terminal import call
from tests.other_models import FAMILIES, tiny
from tests.tiny_models import write_campaign
from tests.tiny_runs import run_file

EXPERTS = ("one", "two")


def pixels_of(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy((images.astype(np.float32) / 255.0 - 0.5) / 0.5).permute(0, 3, 1, 2)


def write_pictures(root: Path, models: dict[str, Any]) -> None:
    """Random pictures; an expert's own items have the classes that it says."""
    size = {"height": 8, "width": 8}
    processor = ViTImageProcessorPil(size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    for name, model in models.items():
        processor.save_pretrained(root / "models" / name)
        if name == "base":
            continue
        rng = np.random.default_rng(EXPERTS.index(name))
        images = rng.integers(0, 256, (64, 8, 8, 3), dtype=np.uint8)
        with torch.inference_mode():
            labels = model(pixel_values=pixels_of(images)).logits.argmax(1).numpy()
        np.savez(root / "evaluators" / f"{name}.npz", images=images, labels=labels)
        say(root, name, kind="image_classification", images=f"{name}.npz")


def write_texts(root: Path, models: dict[str, Any]) -> None:
    tokenizer = byte_tokenizer()
    for name, model in models.items():
        tokenizer.save_pretrained(root / "models" / name)
        if name == "base":
            continue
        lines = []
        for number in range(64):
            text = f"{name} {number * 37 % 101} {'ab' * (number % 5)}"
            with torch.inference_mode():
                ids = torch.tensor([tokenizer(text)["input_ids"]])
                label = int(model(input_ids=ids).logits[0].argmax())
            lines.append(json.dumps({"text": text, "label": label}) + "\n")
        (root / "evaluators" / f"{name}.jsonl").write_text("".join(lines))
        say(root, name, kind="text_classification", items=f"{name}.jsonl")


def say(root: Path, name: str, **fields: Any) -> None:
    data = {"schema": 1, "name": name, "block_size": 16, **fields}
    (root / "evaluators" / f"{name}.yaml").write_text(json.dumps(data))


WRITE = {"vit": (write_pictures, {"num_channels": 3}), "bert": (write_texts, {"vocab_size": 259})}


def test_gradients_of_a_classifiers_losses(tmp_path: Path) -> None:
    """By cross-entropy, and by AdaMerging's entropy, against finite differences."""
    (tmp_path / "evaluators").mkdir()
    models = {n: tiny("vit", i, spread=0.3, num_channels=3) for i, n in enumerate(("base", *EXPERTS))}
    for name, model in models.items():
        model.save_pretrained(tmp_path / "models" / name)
    write_pictures(tmp_path, models)
    folders = {name: str(tmp_path / "models" / name) for name in models}
    setup = WorkerSetup(
        sources=folders, evaluators=tuple(str(tmp_path / "evaluators" / f"{n}.yaml") for n in EXPERTS),
        methods=("task_arithmetic",), trims=("tensor",), dtype="float64", storage="float32", device="cpu",
        threads=1, batch_size=4, cache=str(tmp_path),
    )  # fmt: skip
    worker, base = Worker(setup), open_folder(tmp_path / "models" / "base", "base")
    places = base.layout_by(tensor=False, row=False).places
    sources = {name: CheckpointSource(path) for name, path in folders.items()}
    items = {"one.acc": (0, 2, 5), "two.acc": (1, 3)}
    rng = np.random.default_rng(1)
    weights = rng.uniform(0.1, 0.6, (2, len(places)))
    along = rng.normal(size=weights.shape)
    along /= np.linalg.norm(along)

    def slope(moved: np.ndarray, entropy: bool, shares: dict[str, float]) -> MeasuredSlope:
        rows = zip(EXPERTS, moved.tolist(), strict=True)
        tables = {name: dict(zip(places, row, strict=True)) for name, row in rows}
        source = MergedSource(
            "task_arithmetic", EXPERTS, "base", {"weight": tables, "lambda": {"*": {"": 1.0}}}
        )
        recipe = single_source_recipe({**sources, MERGED: source}, MERGED, base.layers, "float32")
        job = Job("s", "slope", recipe.to_json(), slope=SlopeWork(shares, items, entropy))
        result = worker.run(job)
        assert result.slope is not None, result.message
        return result.slope

    shares = {"one.acc": 0.5, "two.acc": 1.5}
    for entropy in (False, True):

        def loss(steps: float, entropy: bool = entropy) -> float:
            found = slope(weights + 2e-3 * steps * along, entropy, {}).losses
            return sum(share * found[name] for name, share in shares.items())

        expected = (8 * (loss(1) - loss(-1)) - (loss(2) - loss(-2))) / (12 * 2e-3)
        found = slope(weights, entropy, shares).gradient
        assert np.sum(found * along) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("family", WRITE)
def test_a_campaign_of_classifiers_from_check_to_export(family: str, tmp_path: Path) -> None:
    write, fields = WRITE[family]
    (tmp_path / "evaluators").mkdir()
    models = {n: tiny(family, i, spread=0.3, **fields) for i, n in enumerate(("base", *EXPERTS))}
    for name, model in models.items():
        model.save_pretrained(tmp_path / "models" / name)
    write(tmp_path, models)
    file = write_campaign(
        tmp_path, experts=EXPERTS, evaluators=EXPERTS, budget={"evaluations": 8},
        optimizer={"population": 4}, dtype="float32",
    )  # fmt: skip
    checked = call("check", file, "--json")
    assert checked.code == 0, checked.out
    history = run_file(file, tmp_path / "run")
    assert len(history.candidates) >= 8
    own = history.candidates["c00001"].evaluations["search"].metrics["one.acc"]
    assert (own.value, own.smooth is not None) == (1.0, True)  # the expert on what it said itself
    assert verify(tmp_path / "run") == []

    out = tmp_path / "out"
    shown = call("export", tmp_path / "run", "best:mean", out, "--json")
    assert shown.code == 0, shown.out
    loaded, found = getattr(transformers, FAMILIES[family][0]).from_pretrained(
        out, output_loading_info=True
    )
    assert not any(found.values()), found
    assert loaded.config.num_labels == models["base"].config.num_labels
    again = score_checkpoint(
        out, tmp_path / "evaluators" / "one.yaml",
        split="test", dtype="float32", batch_size=8, device="cpu",
    )  # fmt: skip
    assert again.metrics["one.acc"].value == shown.json["scores"]["test"]["one.acc"]["value"]
    assert load_declaration(tmp_path / "evaluators" / "one.yaml").by_block


CLASSES = {"base": 10, "one": 3, "two": 4}


@pytest.fixture(scope="module")
def own_heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A campaign folder of image classifiers that have classes of their own."""
    root = tmp_path_factory.mktemp("heads")
    (root / "evaluators").mkdir()
    models = {}
    for number, (name, count) in enumerate(CLASSES.items()):
        names = dict(enumerate(f"{name}{n}" for n in range(count)))
        models[name] = tiny(
            "vit", number, 0.3, num_channels=3, num_labels=count, id2label=names,
            label2id={label: n for n, label in names.items()},
        )  # fmt: skip
        models[name].save_pretrained(root / "models" / name)
    write_pictures(root, models)
    for name in EXPERTS:
        path = root / "evaluators" / f"{name}.npz"
        with np.load(path) as file:
            images, labels = file["images"], [f"{name}{n}" for n in file["labels"]]
        np.savez(path, images=images, labels=np.array(labels))
        say(root, name, kind="image_classification", images=f"{name}.npz", head=name)
    return root


def write_own(root: Path, **fields: Any) -> Path:
    return write_campaign(
        root, experts=EXPERTS, evaluators=EXPERTS, budget={"evaluations": 6},
        optimizer={"population": 4}, dtype="float32", **fields,
    )  # fmt: skip


def test_each_head_lies_beside_the_merged_body(own_heads: Path) -> None:
    history = run_file(write_own(own_heads, heads="each"), own_heads / "run")
    scores = {
        (name, task): history.candidates[f"c{number:05d}"].evaluations["search"].metrics[f"{task}.acc"].value
        for number, name in enumerate(("base", *EXPERTS))
        for task in EXPERTS
    }  # fmt: skip
    assert scores["one", "one"] == scores["two", "two"] == 1.0
    assert max(scores["base", "one"], scores["two", "one"]) < 1.0
    assert verify(own_heads / "run") == []
    assert "head" not in history.prepared.layout.places

    out = own_heads / "out"
    shown = call("export", own_heads / "run", "best:mean", out, "--json")
    assert shown.code == 0, shown.out
    vit: Any = transformers.ViTForImageClassification
    model = vit.from_pretrained(out)
    base = load_file(own_heads / "models" / "base" / "model.safetensors")
    assert torch.equal(model.classifier.weight, base["classifier.weight"].bfloat16())
    # As the documentation says how a head is put on.
    classes = json.loads((out / "heads" / "two.json").read_text())
    names = {int(number): name for number, name in classes["id2label"].items()}
    config = transformers.AutoConfig.from_pretrained(out, id2label=names, label2id=classes["label2id"])
    two = vit.from_pretrained(out, config=config, dtype="float32", ignore_mismatched_sizes=True)
    head = load_file(out / "heads" / "two.safetensors")
    left, unknown = two.load_state_dict(head, strict=False)
    assert (unknown, len(left)) == ([], len(two.state_dict()) - 2)
    own = load_file(own_heads / "models" / "two" / "model.safetensors")
    assert head.keys() == {"classifier.weight", "classifier.bias"}
    assert all(torch.equal(tensor, own[name].bfloat16()) for name, tensor in head.items())
    with np.load(own_heads / "evaluators" / "two.npz") as file:
        images, labels = file["images"], file["labels"]
    with torch.inference_mode():
        said = two(pixel_values=pixels_of(images)).logits.argmax(1)
    right = [two.config.id2label[int(n)] == label for n, label in zip(said, labels, strict=True)]
    whole = [
        score_checkpoint(
            out, own_heads / "evaluators" / "two.yaml",
            split=split, dtype="float32", batch_size=8, device="cpu",
        ).metrics["two.acc"]
        for split in SPLITS
    ]  # fmt: skip
    assert sum(m.value * m.items for m in whole) == pytest.approx(sum(right))


def test_the_head_of_one_is_kept(own_heads: Path, tmp_path: Path) -> None:
    """A recipe by hand; body the average, head and classes those of `two`, bit for bit."""
    models = own_heads / "models"
    sources = {n: {"path": str(models / n), "checkpoint": ""} for n in ("base", *EXPERTS)}
    merged = {
        "method": "linear", "inputs": list(EXPERTS),
        "coefficients": {"weight": {"one": 0.3, "two": 0.7}},
    }  # fmt: skip
    recipe = {
        "sources": {**sources, "merged": merged}, "path": [["merged", n] for n in range(2)],
        "outer": {"embed": "merged", "final_norm": "merged", "head": "base"},
        "dtype": "float32", "heads": "keep:two",
    }  # fmt: skip
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    merge_recipe(tmp_path / "recipe.json", tmp_path / "out")
    found = load_file(tmp_path / "out" / "model.safetensors")
    one, two = (load_file(models / name / "model.safetensors") for name in EXPERTS)
    for name, tensor in found.items():
        if name.startswith("classifier"):
            assert torch.equal(tensor, two[name])
        else:
            torch.testing.assert_close(tensor, 0.3 * one[name] + 0.7 * two[name], rtol=1e-5, atol=1e-6)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["id2label"] == {str(n): f"two{n}" for n in range(4)}
    assert not (tmp_path / "out" / "heads").exists()


def test_heads_that_differ_are_a_stated_choice(own_heads: Path) -> None:
    def found(**fields: Any) -> str:
        checked = call("check", write_own(own_heads, **fields))
        assert checked.code != 0
        return checked.out + checked.err

    plain = found()
    assert re.search(r"E223.*one: another head.*`heads: keep:EXPERT`", plain)
    assert re.search(r"E133.*no head of this name lies beside.*`heads: each`", plain)
    assert re.search(r"E133.*no such source of a head.*keep:three", found(heads="keep:three"))


def test_classes_of_one_number_and_other_names_are_told_apart(tmp_path: Path) -> None:
    for name in ("base", "one"):
        names = {n: f"{name}{n}" for n in range(3)}
        tiny(
            "vit", num_labels=3, id2label=names, label2id={v: k for k, v in names.items()}
        ).save_pretrained(tmp_path / name)
    base, one = (open_folder(tmp_path / name, name) for name in ("base", "one"))
    (found,) = compare_with_base(base, [one])
    assert found.code == "E247"
    assert found.found.startswith("3 of 3: 0: base 'base0', one 'one0', 1: base 'base1', one 'one1'")
