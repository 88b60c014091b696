"""Classifiers of texts and pictures: transformers' own logits as the oracle, and the conformance suite."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ViTImageProcessorPil

from evomerge.errors import CandidateError, ConfigError
from evomerge.evaluators.evaluator import BlockEvaluator, Subject
from evomerge.evaluators.kinds import load_declaration
from evomerge.evaluators.losses import Differentiable
from evomerge.testing.evaluators import CHECKS, byte_tokenizer, opened
from tests.other_models import tiny

CLASSES = ("cat", "dog", "owl")


def declare(folder: Path, **fields: object) -> Path:
    path = folder / "own.yaml"
    path.write_text(json.dumps({"schema": 1, "name": "own", "block_size": 7, **fields}))
    return path


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    folder = tmp_path_factory.mktemp("vit")
    size = {"height": 8, "width": 8}
    ViTImageProcessorPil(size=size, image_mean=[0.4] * 3, image_std=[0.2] * 3).save_pretrained(folder)
    names = dict(enumerate(CLASSES))
    model = tiny(
        "vit", num_channels=3, num_labels=3, id2label=names, label2id={n: i for i, n in names.items()}
    )
    return Subject(model, None, batch_size=4, folder=folder)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty pictures of random pixels, as arrays and as a folder of classes."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (60, 8, 8, 3), dtype=np.uint8)
    labels = np.array([CLASSES[n % 3] for n in range(60)])
    np.savez(folder / "arrays.npz", images=images, labels=labels)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        (folder / "classes" / label).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / "classes" / label / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def reading() -> Subject:
    tokenizer = byte_tokenizer()
    model = tiny("bert", vocab_size=len(tokenizer), num_labels=3)
    return Subject(model, tokenizer, batch_size=4)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    lines = [{"text": f"word {n} " * (1 + n % 9), "label": n % 3} for n in range(60)]
    (folder / "items.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_they_pass_the_conformance_suite(check, seeing, pictures, reading, texts):
    check(lambda: opened(declare(pictures, kind="image_classification", images="arrays.npz")), seeing)
    check(lambda: opened(declare(texts, kind="text_classification", items="items.jsonl")), reading)


def test_pictures_are_scored_by_the_models_own_logits(seeing, pictures):
    evaluator = opened(declare(pictures, kind="image_classification", images="arrays.npz"))
    found = evaluator.evaluate(seeing, "search")
    with np.load(pictures / "arrays.npz") as file:
        pixels = (file["images"].astype(np.float32) / 255.0 - 0.4) / 0.2
        classes = np.array([CLASSES.index(label) for label in file["labels"]])
    with torch.inference_mode():
        logits = seeing.model(torch.from_numpy(pixels.transpose(0, 3, 1, 2))).logits.numpy()
    items = [item["idx"][1] for item in evaluator._splits["search"].items]
    right = (logits.argmax(1) == classes)[items]
    assert found.items["own.acc"].tolist() == right.tolist()
    others = np.where(np.eye(3, dtype=bool)[classes], -np.inf, logits).max(1)
    margins = (logits[np.arange(60), classes] - others)[items]
    np.testing.assert_allclose(found.smooth["own.acc"], np.tanh(margins / 2), atol=1e-5)
    assert found.metrics["own.acc"].value == right.mean()


def test_a_folder_of_classes_holds_the_same_pictures(seeing, pictures):
    arrays = opened(declare(pictures, kind="image_classification", images="arrays.npz"))
    whole = dict.fromkeys(("search", "selection", "test"), "classes")
    folder = opened(declare(pictures, kind="image_classification", images="classes"))
    one = [arrays.evaluate(seeing, split).metrics["own.acc"] for split in whole]
    two = [folder.evaluate(seeing, split).metrics["own.acc"] for split in whole]
    # Dealt out by other hashes, so that only all splits together are the same.
    assert sum(m.items for m in one) == sum(m.items for m in two) == 60
    hits = [round(sum(m.value * m.items for m in found)) for found in (one, two)]
    assert hits[0] == hits[1]
    assert folder.declaration.digest() != arrays.declaration.digest()


def test_texts_are_scored_by_the_models_own_logits(reading, texts):
    evaluator = opened(declare(texts, kind="text_classification", items="items.jsonl"))
    assert isinstance(evaluator, BlockEvaluator)
    found = evaluator.evaluate(reading, "search")
    right = []
    for item in evaluator._splits["search"].items:
        ids = reading.tokenizer(item["text"], truncation=True, max_length=64)["input_ids"]
        with torch.inference_mode():
            logits = reading.model(input_ids=torch.tensor([ids])).logits[0]
        right.append(float(int(logits.argmax()) == item["label"]))
    assert found.items["own.acc"].tolist() == right


def test_losses_are_those_of_the_models_own_logits(seeing, pictures, reading, texts):
    shown = opened(declare(pictures, kind="image_classification", images="arrays.npz"))
    written = opened(declare(texts, kind="text_classification", items="items.jsonl"))
    for evaluator, subject in ((shown, seeing), (written, reading)):
        assert isinstance(evaluator, Differentiable)
        assert evaluator.loss_directions("search")
        assert evaluator.has_choices("search")
        wanted = [0, 1, 3, 8, 9, 11]
        items = [evaluator._splits["search"].items[number] for number in wanted]
        classes = [evaluator._class_of(item, evaluator._head(subject).labels) for item in items]
        with torch.no_grad():
            chances = subject.model(**evaluator.inputs(subject, items)).logits.double().softmax(1)
        chances = chances.numpy()
        expected = {
            False: -np.log(chances[np.arange(6), classes]),
            True: -(chances * np.log(chances)).sum(1),
        }
        for entropy, values in expected.items():
            batches = list(evaluator.losses(subject, "search", wanted, entropy=entropy))
            assert [number for numbers, _ in batches for number in numbers] == wanted
            found = torch.cat([batch for _, batch in batches])
            assert found.requires_grad
            np.testing.assert_allclose(found.detach().numpy(), values, rtol=1e-5)
        with pytest.raises(ValueError, match="items must be ascending"):
            next(evaluator.losses(subject, "search", [1, 0]))


def test_what_cannot_be_scored_is_said(seeing, reading, pictures, texts, tmp_path):
    with np.load(pictures / "arrays.npz") as file:
        np.savez(tmp_path / "float.npz", images=file["images"] / 255.0, labels=file["labels"])
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    for name, match in (("float.npz", r"E102.*uint8.*float64 \[60, 8, 8, 3\]"), ("other.npz", "has x")):
        with pytest.raises(ConfigError, match=match):
            opened(declare(tmp_path, kind="image_classification", images=name))
    (tmp_path / "cut.npz").write_bytes((pictures / "arrays.npz").read_bytes()[:200])
    with pytest.raises(ConfigError, match=r"E102.*cut.npz: a damaged .npz file"):
        opened(declare(tmp_path, kind="image_classification", images="cut.npz"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"E102.*no pictures in folders of classes"):
        opened(declare(tmp_path, kind="image_classification", images="empty"))
    with pytest.raises(ConfigError, match=r"E101.*no such file"):
        opened(declare(tmp_path, kind="image_classification", images="nowhere"))
    bare = replace(seeing, folder=tmp_path)
    evaluator = opened(declare(pictures, kind="image_classification", images="arrays.npz"))
    with pytest.raises(ConfigError, match=r"E128.*no image processor.*preprocessor_config.json"):
        evaluator.evaluate(bare, "search")
    (texts / "more.jsonl").write_text(
        "".join(json.dumps({"text": f"t{n}", "label": "owl"}) + "\n" for n in range(20))
    )
    wrong = opened(declare(texts, kind="text_classification", items="more.jsonl"))
    with pytest.raises(ConfigError, match=r"E128.*class that the model does not have.*'owl'.*LABEL_0"):
        wrong.evaluate(reading, "search")
    broken = tiny("bert", vocab_size=reading.model.config.vocab_size)
    with torch.no_grad():
        broken.classifier.bias[0] = float("nan")
    sound = opened(declare(texts, kind="text_classification", items="items.jsonl"))
    with pytest.raises(CandidateError, match="not finite"):
        sound.evaluate(replace(reading, model=broken), "search")
    assert load_declaration(declare(texts, kind="text_classification", items="items.jsonl")).by_block
