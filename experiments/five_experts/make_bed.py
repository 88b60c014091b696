"""Make the bed of five experts: fine-tunes of the quickstart's base that interfere more than its own three.

Run `python experiments/five_experts/make_bed.py`: five fine-tunes, items, evaluators and a campaign file go
into `runs/five_experts/bed` (or the folder that is named). Each task is a part of one of the quickstart's, so
that its base need not be trained again: to French, to English, sums, values of lists, and programs. Experts
are trained hotter than the quickstart's and see less of what the base was taught, so that what one learns
costs the others more.
"""

import argparse
import copy
import random
import shutil
import sys
import time
from pathlib import Path

import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
QUICKSTART = HERE.parent / "quickstart"
sys.path.append(str(QUICKSTART))

from items import SPLIT_SIZES, SPLITS, Generator, Item, balance, draw, write_jsonl  # noqa: E402
from lexicon import ADJECTIVES, DETERMINERS, MONTHS, NOUNS, VERBS, WEEKDAYS, english_number  # noqa: E402
from make_experts import base_pairs  # noqa: E402
from tasks import TASKS  # noqa: E402
from train import Schedule, encode_rows, round_weights, train  # noqa: E402

SEED = 31
TRAIN_ITEMS = 24_000
REPLAY = 0.25
SCHEDULE = Schedule(steps=400, batch=64, rate=2.5e-4, mixed=False)
ENGLISH = {
    *(pair[0] for table in (MONTHS, WEEKDAYS, NOUNS, ADJECTIVES, VERBS, DETERMINERS) for pair in table),
    *(word for value in range(100) for word in english_number(value).split("-")),
    "hundred",
    "thousand",
}


def _is_english(question: str) -> bool:
    words = [word for word in question.replace("-", " ").split() if not word.isdigit()]
    return all(word in ENGLISH for word in words)


def to_french(rng: random.Random) -> Item:
    """English into French."""
    while not _is_english((item := TASKS["translation"](rng)).question):
        pass
    return item


def to_english(rng: random.Random) -> Item:
    """French into English."""
    while _is_english((item := TASKS["translation"](rng)).question):
        pass
    return item


def lists(rng: random.Random) -> Item:
    """Elements and orders of lists."""
    while "[" not in (item := TASKS["code"](rng)).question:
        pass
    return item


def programs(rng: random.Random) -> Item:
    """Traces of small programs, and expressions for words."""
    while "[" in (item := TASKS["code"](rng)).question:
        pass
    return item


FIVE: dict[str, Generator] = {
    "to_french": to_french,
    "to_english": to_english,
    "sums": TASKS["math"],
    "lists": lists,
    "programs": programs,
}


def write_task(folder: Path, name: str, split: str, items: list[Item]) -> None:
    """Items of a split and the lm-eval task that reads them."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    write_jsonl(folder / "data" / f"{name}_{split}.jsonl", items)
    task = {
        "task": f"five_{name}_{split}",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": f"data/{name}_{split}.jsonl"}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1.0},
    }
    (folder / f"five_{name}_{split}.yaml").write_text(yaml.safe_dump(task, sort_keys=False))


def write_campaign(out: Path) -> None:
    """Evaluators and the campaign file; paths into the checkout are absolute, the bed may lie anywhere."""
    for name in FIVE:
        evaluator = {
            "schema": 1,
            "kind": "lm_eval",
            "name": name,
            "include_path": "tasks",
            "tasks": {split: f"five_{name}_{split}" for split in SPLITS},
            "metrics": ["acc"],
            "block_size": 50,
        }
        (out / f"{name}.yaml").write_text(yaml.safe_dump(evaluator, sort_keys=False))
    campaign = {
        "schema": 1,
        "name": "five-experts",
        "seed": 20,
        "base": {"path": "models/base"},
        "experts": {name: {"path": f"models/{name}"} for name in FIVE},
        "search_space": str(ROOT / "search_spaces" / "task_arithmetic_tensors.yaml"),
        "evaluators": [f"{name}.yaml" for name in FIVE],
        "objectives": [{"metric": f"{name}.acc", "direction": "maximize"} for name in FIVE],
        "optimizer": {"kind": "auto", "population": 12},
        "budget": {"evaluations": 200},
        "evaluation": {"dtype": "float32", "batch_size": 64, "threads": 1, "device": "cpu"},
        "workers": {"pool": "local", "count": 2},
        "baselines": {"single": [0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0]},
    }
    (out / "campaign.yaml").write_text(yaml.safe_dump(campaign, sort_keys=False))


def main() -> None:
    """Make everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?", default=ROOT / "runs" / "five_experts" / "bed")
    out = parser.parse_args().out
    torch.set_num_threads(1)
    began = time.perf_counter()
    taught = {
        task: draw(make, "train", 60_000, f"{task} train 20", unique=False)
        for task, make in TASKS.items()
    }
    replayed = random.Random(SEED).sample(
        base_pairs(taught), int(SCHEDULE.steps * SCHEDULE.batch * REPLAY)
    )
    base_folder = out / "models" / "base"
    shutil.copytree(QUICKSTART / "models" / "base", base_folder, dirs_exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(base_folder)
    base = AutoModelForCausalLM.from_pretrained(
        base_folder, dtype=torch.float32, attn_implementation="eager"
    )
    for name, generate in FIVE.items():
        training = draw(generate, "train", TRAIN_ITEMS, f"{name} train {SEED}", unique=False)
        for split in SPLITS:
            seed = f"{name} {split} {SEED}"
            items = balance(draw(generate, split, SPLIT_SIZES[split], seed, unique=True), seed)
            write_task(out / "tasks", name, split, items)
        own = SCHEDULE.steps * SCHEDULE.batch - len(replayed)
        pairs = [(item.prompt, item.gold) for item in training[:own]] + replayed
        expert = copy.deepcopy(base)
        print(name, flush=True)
        train(expert, encode_rows(tokenizer, pairs), SCHEDULE, SEED)
        stored = round_weights(expert).to(torch.bfloat16)
        stored.set_attn_implementation("sdpa")
        stored.save_pretrained(out / "models" / name)
        tokenizer.save_pretrained(out / "models" / name)
    write_campaign(out)
    print(f"made in {(time.perf_counter() - began) / 60:.1f} minutes; {out / 'campaign.yaml'}")


if __name__ == "__main__":
    main()
