"""Make a bed of two text classifiers: small BERTs that read numbers in words, one English, one French.

Run `python experiments/digits/make_text_bed.py`: models, texts, evaluators and a campaign file go into
`runs/digits/texts` (or the folder that is named). A text is a number below ten thousand in words, its class
the number's largest digit. The base learns both languages for a short while; each expert goes on with one of
them alone, head included, and forgets the other. Numbers that judge are never trained on. `--hidden 768
--layers 12` are BERT's own sizes; the default trains in minutes on one core.
"""

import argparse
import copy
import json
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import yaml
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.append(str(HERE.parent / "quickstart"))

from lexicon import english_number, french_number  # noqa: E402

LANGUAGES: dict[str, Callable[[int], str]] = {"english": english_number, "french": french_number}
SEED = 7
NUMBERS = 10_000
JUDGED = 400
BATCH = 64
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def build_tokenizer() -> BertTokenizerFast:
    """A tokenizer that knows every word of a number in both languages, and the hyphen."""
    words = {w for n in range(NUMBERS) for say in LANGUAGES.values() for w in pieces(say(n))}
    vocabulary = {word: row for row, word in enumerate((*SPECIAL, "-", *sorted(words)))}
    return BertTokenizerFast(vocab=vocabulary, strip_accents=False, model_max_length=32)


def pieces(text: str) -> list[str]:
    """The words of a text."""
    return text.replace("-", " ").split()


def label_of(number: int) -> int:
    """The largest digit."""
    return max(map(int, str(number)))


def train(
    model: BertForSequenceClassification,
    tokenizer: BertTokenizerFast,
    items: list[tuple[str, int]],
    steps: int,
    rate: float,
) -> None:
    """AdamW on random batches, the rate rising for a tenth of the steps and falling to zero."""
    model.train()
    rng = random.Random(SEED)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)
    for _ in range(steps):
        chosen = rng.sample(items, BATCH)
        given = tokenizer([text for text, _ in chosen], padding=True, return_tensors="pt")
        labels = torch.tensor([label for _, label in chosen])
        loss = torch.nn.functional.cross_entropy(model(**given).logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval()


def accuracy(
    model: BertForSequenceClassification, tokenizer: BertTokenizerFast, items: list[tuple[str, int]]
) -> float:
    """The share of texts whose largest logit is that of their digit."""
    with torch.inference_mode():
        given = tokenizer([text for text, _ in items], padding=True, return_tensors="pt")
        said = model(**given).logits.argmax(1).tolist()
    return sum(a == b for a, (_, b) in zip(said, items, strict=True)) / len(items)


def campaign() -> dict[str, object]:
    """The campaign file's content."""
    return {
        "schema": 1,
        "name": "numbers-in-words",
        "seed": SEED,
        "base": {"path": "models/base"},
        "experts": {name: {"path": f"models/{name}"} for name in LANGUAGES},
        "search_space": "space.yaml",
        "evaluators": [f"evaluators/{name}.yaml" for name in LANGUAGES],
        "objectives": [{"metric": f"{name}.acc", "direction": "maximize"} for name in LANGUAGES],
        "optimizer": {"kind": "nsga2", "population": 12},
        "budget": {"evaluations": 60},
        "evaluation": {"dtype": "float32", "batch_size": 64, "threads": 1, "device": "cpu"},
        "workers": {"pool": "inline", "count": 1},
        "dtype": "float32",
    }


def main() -> None:
    """Train the models and write everything."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", nargs="?", type=Path, default=ROOT / "runs" / "digits" / "texts")
    parser.add_argument("--hidden", type=int, default=96)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--base-steps", type=int, default=40)
    parser.add_argument("--expert-steps", type=int, default=60)
    arguments = parser.parse_args()
    out = arguments.out
    began = time.perf_counter()
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    tokenizer = build_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=arguments.hidden, num_hidden_layers=arguments.layers,
        num_attention_heads=max(2, arguments.hidden // 64), intermediate_size=4 * arguments.hidden,
        max_position_embeddings=32, num_labels=10, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    numbers = list(range(NUMBERS))
    random.Random(SEED).shuffle(numbers)
    told: dict[str, list[tuple[str, int]]] = {}
    judged: dict[str, list[tuple[str, int]]] = {}
    for place, (name, say) in enumerate(LANGUAGES.items()):
        # No number judges in one language and teaches in the other.
        own = numbers[place * JUDGED : (place + 1) * JUDGED]
        judged[name] = [(say(n), label_of(n)) for n in own]
        told[name] = [(say(n), label_of(n)) for n in numbers[len(LANGUAGES) * JUDGED :]]
    base = BertForSequenceClassification(config)
    both = [item for items in told.values() for item in items]
    train(base, tokenizer, both, arguments.base_steps, 1e-3)
    models = {"base": base}
    for name in LANGUAGES:
        models[name] = copy.deepcopy(base)
        train(models[name], tokenizer, told[name], arguments.expert_steps, 1e-3)
    for name, model in models.items():
        model.save_pretrained(out / "models" / name)
        tokenizer.save_pretrained(out / "models" / name)
    (out / "evaluators").mkdir(exist_ok=True)
    for name, items in judged.items():
        lines = [json.dumps({"text": text, "label": label}) for text, label in items]
        (out / "evaluators" / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        declared = {"schema": 1, "kind": "text_classification", "name": name, "items": f"{name}.jsonl"}
        (out / "evaluators" / f"{name}.yaml").write_text(yaml.safe_dump(declared, sort_keys=False))
        found = {n: accuracy(m, tokenizer, items) for n, m in models.items()}
        print(name, *(f"{n} {100 * a:.1f}" for n, a in found.items()), f"({len(items)} texts)")
    space = {
        "schema": 1,
        "method": "task_arithmetic",
        "coefficients": {"weight": {"field": "layer_module", "low": 0.0, "high": 1.5}},
    }
    (out / "space.yaml").write_text(yaml.safe_dump(space, sort_keys=False))
    (out / "campaign.yaml").write_text(yaml.safe_dump(campaign(), sort_keys=False))
    parameters = sum(p.numel() for p in base.parameters())
    took = time.perf_counter() - began
    print(f"wrote {out} in {took:.0f} s: models of {parameters:,} parameters")


if __name__ == "__main__":
    main()
