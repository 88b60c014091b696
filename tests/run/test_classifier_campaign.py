"""Campaigns of models that are no decoders, end to end: a classifier of pictures and one of texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers import ViTImageProcessorPil

from evomerge.cli.verify.invariants import verify
from evomerge.evaluators.kinds import load_declaration
from evomerge.run.scoring import score_checkpoint
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
