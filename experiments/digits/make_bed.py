"""Make a bed of three image classifiers: small ViTs fine-tuned on parts of scikit-learn's digits.

Run `python experiments/digits/make_bed.py`: models, pictures, evaluators and a campaign file go into
`runs/digits/bed` (or the folder that is named). The pictures (1797 of 8x8 pixels) come with scikit-learn;
half of them train, the others are dealt out to search, selection and test by content. The base learns all
ten digits for a short while; each expert goes on with one group of digits alone, its head as it is, and
forgets the others.

With `--own-heads` an expert has a head of its own for the digits of its group, which begins as those rows of
the base's; the campaign then says `heads: each`.
"""

import argparse
import copy
import time
from pathlib import Path

import numpy as np
import torch
import yaml
from sklearn.datasets import load_digits
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

ROOT = Path(__file__).resolve().parents[2]
GROUPS = {"low": (0, 1, 2, 3), "middle": (4, 5, 6), "high": (7, 8, 9)}
SEED = 7
SIZE = 8
BASE_STEPS, EXPERT_STEPS = 220, 120
BATCH = 64
MEAN = STD = 0.5


def pictures() -> tuple[np.ndarray, np.ndarray]:
    """All digits: uint8 [1797, 8, 8] and their labels [1797]."""
    data = load_digits()
    return np.round(data.images * (255.0 / 16.0)).astype(np.uint8), data.target


def pixels(images: np.ndarray) -> torch.Tensor:
    """As the image processor gives them: float32 [n, 3, 8, 8]."""
    scaled = (images.astype(np.float32) / 255.0 - MEAN) / STD
    return torch.from_numpy(scaled)[:, None].repeat(1, 3, 1, 1)


def new_model() -> ViTForImageClassification:
    """An untrained ViT of about 70,000 parameters that reads 16 patches of 2x2."""
    torch.manual_seed(SEED)
    names = {number: str(number) for number in range(10)}
    config = ViTConfig(
        hidden_size=48, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
        image_size=SIZE, patch_size=2, num_channels=3, num_labels=10, hidden_dropout_prob=0.0,
        id2label=names, label2id={name: number for number, name in names.items()},
    )  # fmt: skip
    return ViTForImageClassification(config)


def with_head_for(base: ViTForImageClassification, group: tuple[int, ...]) -> ViTForImageClassification:
    """The base with the rows of its head that are those digits, as its classes 0, 1, ..."""
    model = copy.deepcopy(base)
    model.config.id2label = {row: str(digit) for row, digit in enumerate(group)}
    model.config.label2id = {str(digit): row for row, digit in enumerate(group)}
    model.num_labels = len(group)
    head = torch.nn.Linear(model.config.hidden_size, len(group))
    with torch.no_grad():
        head.weight.copy_(base.classifier.weight[list(group)])
        head.bias.copy_(base.classifier.bias[list(group)])
    model.classifier = head
    return model


def train(
    model: ViTForImageClassification,
    images: np.ndarray,
    labels: np.ndarray,
    steps: int,
    rate: float,
    head: bool,
) -> None:
    """AdamW on random batches, the rate falling to zero; the head learns too where it is asked for."""
    model.train()
    model.classifier.requires_grad_(head)
    rng = np.random.default_rng(SEED)
    rows = np.array([model.config.label2id[str(label)] for label in labels])
    inputs, targets = pixels(images), torch.from_numpy(rows)
    learning = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        chosen = torch.from_numpy(rng.integers(0, len(labels), BATCH))
        loss = torch.nn.functional.cross_entropy(model(inputs[chosen]).logits, targets[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval()


def accuracy(model: ViTForImageClassification, images: np.ndarray, labels: np.ndarray) -> float:
    """The share of pictures whose largest logit is that of their digit."""
    with torch.inference_mode():
        said = model(pixels(images)).logits.argmax(1).tolist()
    names = [model.config.id2label[row] for row in said]
    return float(np.mean([name == str(label) for name, label in zip(names, labels, strict=True)]))


def campaign(own_heads: bool) -> dict[str, object]:
    """The campaign file's content."""
    return {
        **({"heads": "each"} if own_heads else {}),
        "schema": 1,
        "name": "digits",
        "seed": SEED,
        "base": {"path": "models/base"},
        "experts": {name: {"path": f"models/{name}"} for name in GROUPS},
        "search_space": "space.yaml",
        "evaluators": [f"evaluators/{name}.yaml" for name in GROUPS],
        "objectives": [{"metric": f"{name}.acc", "direction": "maximize"} for name in GROUPS],
        "optimizer": {"kind": "nsga2", "population": 12},
        "budget": {"evaluations": 96},
        "evaluation": {"dtype": "float32", "batch_size": 64, "threads": 1, "device": "cpu"},
        "workers": {"pool": "inline", "count": 1},
        "dtype": "float32",
    }


def save(models: dict[str, ViTForImageClassification], out: Path) -> None:
    """Each model in a folder of `models`, with the processor that reads its pictures."""
    size = {"height": SIZE, "width": SIZE}
    processor = ViTImageProcessorPil(
        do_resize=False, size=size, image_mean=[MEAN] * 3, image_std=[STD] * 3
    )
    for name, model in models.items():
        model.save_pretrained(out / "models" / name)
        processor.save_pretrained(out / "models" / name)


def main() -> None:
    """Train the models and write everything."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", nargs="?", type=Path, default=ROOT / "runs" / "digits" / "bed")
    parser.add_argument("--own-heads", action="store_true", help="a head of its own for each expert")
    arguments = parser.parse_args()
    out, own_heads = arguments.out, arguments.own_heads
    began = time.perf_counter()
    torch.set_num_threads(1)
    images, labels = pictures()
    order = np.random.default_rng(SEED).permutation(len(labels))
    learnt, held = np.array_split(order, 2)
    base = new_model()
    train(base, images[learnt], labels[learnt], BASE_STEPS, 2e-3, head=True)
    models = {"base": base}
    for name, group in GROUPS.items():
        own = learnt[np.isin(labels[learnt], group)]
        models[name] = with_head_for(base, group) if own_heads else copy.deepcopy(base)
        train(models[name], images[own], labels[own], EXPERT_STEPS, 3e-4, head=own_heads)
    save(models, out)
    (out / "evaluators").mkdir(exist_ok=True)
    for name, group in GROUPS.items():
        own = held[np.isin(labels[held], group)]
        np.savez(out / "evaluators" / f"{name}.npz", images=images[own], labels=labels[own])
        declared = {"schema": 1, "kind": "image_classification", "name": name, "images": f"{name}.npz"}
        declared |= {"head": name} if own_heads else {}
        (out / "evaluators" / f"{name}.yaml").write_text(yaml.safe_dump(declared, sort_keys=False))
        found = {n: accuracy(m, images[own], labels[own]) for n, m in models.items()}
        print(name, *(f"{n} {100 * a:.1f}" for n, a in found.items()), f"({len(own)} pictures)")
    space = {
        "schema": 1,
        "method": "task_arithmetic",
        "coefficients": {"weight": {"field": "layer_module", "low": 0.0, "high": 1.5}},
    }
    (out / "space.yaml").write_text(yaml.safe_dump(space, sort_keys=False))
    (out / "campaign.yaml").write_text(yaml.safe_dump(campaign(own_heads), sort_keys=False))
    print(f"wrote {out} in {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
