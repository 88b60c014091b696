"""Seconds to write answers: lm-eval's `hf`, padded batches, continuous batching; one model, one thread.

The shipped task that is written (`python_functions`) on the quickstart's base, and prompts of random words on
a random Llama of 16 M parameters whose answers end at stop sequences. Prints ratios and how many texts are
those of lm-eval's.

    python -m benchmarks.generation [--answers 32]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.evaluate import SHAPES, random_model, random_tokenizer
from evomerge.evaluators.continuous import live_generator
from evomerge.evaluators.evaluator import Subject
from evomerge.evaluators.lm_eval_declaration import load_evaluator
from evomerge.evaluators.lm_eval_tasks import LmEvalTasks

ROOT = Path(__file__).parents[1]
BATCH = 16


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Wall seconds, and what came of it."""
    began = time.perf_counter()
    with contextlib.redirect_stderr(io.StringIO()):
        found = work()
    return time.perf_counter() - began, found


def compare(label: str, model: Any, tokenizer: Any, asked: list[tuple[str, dict[str, Any]]]) -> None:
    """A row of the table."""
    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=BATCH)
    instances = [Instance("generate_until", {}, request, n) for n, request in enumerate(asked)]
    stock, texts = timed(lambda: lm.generate_until(instances, disable_tqdm=True))
    row, equal = f"| {label} | {len(asked)} | {stock:.2f} s |", []
    for engine in ("padded", "continuous"):
        generator = live_generator(Subject(model, tokenizer, batch_size=BATCH, generation=engine))
        took, answers = timed(lambda generator=generator: generator.generate(asked))
        row += f" {took:.2f} s | {stock / took:.2f} |"
        equal.append(sum(answer.text == text for answer, text in zip(answers, texts, strict=True)))
    print(f"{row} {equal[0]}, {equal[1]} |", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--answers", type=int, default=32)
    count = parser.parse_args().answers
    torch.set_num_threads(1)
    print(
        "| model and task | answers | lm-eval's hf | padded | ratio | continuous | ratio | equal texts |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    base = ROOT / "experiments/quickstart/models/base"
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(base)
    task = LmEvalTasks(load_evaluator(ROOT / "evaluators/python_functions/functions.yaml"))
    items = task._requests_for("search", task._split("search"), Subject(model, tokenizer)).items
    compare("quickstart, python_functions", model, tokenizer, [item[0].args for item in items[:count]])
    rng = random.Random(0)
    settings = {"until": [f"w{n}1" for n in range(9)], "max_gen_toks": 64, "do_sample": False}
    asked = [
        (" ".join(f"w{rng.randrange(4000)}" for _ in range(rng.randint(20, 60))), settings)
        for _ in range(count)
    ]
    compare("random 16 M, stop sequences", random_model(*SHAPES["16 M"]), random_tokenizer(), asked)


if __name__ == "__main__":
    main()
