"""CPU seconds to score one model: lm-eval's `simple_evaluate` at its best batch size against our evaluator.

Both score the same task file with the same live model in float32; `simple_evaluate` gets its
TaskManager ready-made and is spared bootstrap and samples. Prints ratios and asserts nothing. Ours is
timed warm, as for every candidate but a worker's first; the first call is shown beside it. CPU seconds
(children included) on one thread are those of a quiet machine also on a busy one.

    python benchmarks/evaluate.py [--repeats 3] [--threads 1] [--items 200] [--only smollm2]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import os
import random
import resource
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

import torch
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from evomerge.evaluators.evaluator import Subject
from evomerge.evaluators.kinds import open_evaluator
from evomerge.evaluators.lm_eval_declaration import LmEvalDeclaration, load_evaluator

REPOSITORY = Path(__file__).parents[1]
VOCABULARY = 4096
BATCH_SIZES = (1, 16, 64)
TRAINED = ("quickstart", "smollm2")
"""Test beds whose base is scored, where it is there (`experiments/smollm2/fetch.py` brings the second)."""

SHAPES = {"1.3 M": (128, 6, 4), "16 M": (320, 12, 5)}
TASK = """\
task: NAME
dataset_path: json
dataset_kwargs: {data_files: {test: NAME.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
target_delimiter: ""
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
"""


def random_model(hidden: int, layers: int, heads: int) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=hidden * 8 // 3,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        initializer_range=0.1,
    )
    return LlamaForCausalLM(config).eval()


def random_tokenizer() -> PreTrainedTokenizerFast:
    pieces = ["<pad>", "</s>", "<unk>"] + [f"w{i}" for i in range(VOCABULARY - 3)]
    tokenizer = Tokenizer(models.WordLevel({p: i for i, p in enumerate(pieces)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


def write_items(folder: Path, items: int) -> Path:
    """Four-choice items with contexts of 25 to 90 words and choices of 1 to 6."""
    rng = random.Random(0)

    def text(low: int, high: int) -> str:
        count = rng.randint(low, high)
        return " ".join(f"w{rng.randrange(VOCABULARY - 3)}" for _ in range(count))

    for split in ("search", "selection", "test"):
        rows = [
            {
                "question": text(25, 90),
                "choices": [" " + text(1, 6) for _ in range(4)],
                "answer": rng.randrange(4),
            }
            for _ in range(items if split == "search" else 4)
        ]
        (folder / f"bench_{split}.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
        (folder / f"bench_{split}.yaml").write_text(TASK.replace("NAME", f"bench_{split}"))
    names = ", ".join(f"{split}: bench_{split}" for split in ("search", "selection", "test"))
    path = folder / "declaration.yml"
    path.write_text(
        f"schema: 1\nkind: lm_eval\nname: bench\ninclude_path: .\ntasks: {{{names}}}\n"
        "metrics: [acc, acc_norm]\nblock_size: 50\n"
    )
    return path


def cpu_clock() -> float:
    """CPU seconds of this process and of the children it waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def seconds(work: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """CPU seconds of the best of `repeats` runs, and what the last one returned."""
    best = float("inf")
    for _ in range(repeats):
        start = cpu_clock()
        with contextlib.redirect_stderr(io.StringIO()):
            result = work()
        best = min(best, cpu_clock() - start)
    return best, result


def compare(label: str, model: Any, tokenizer: Any, path: Path, repeats: int, batch: int) -> None:
    declaration: LmEvalDeclaration = load_evaluator(path)
    task = declaration.tasks.search
    before = Path.cwd()
    os.chdir(declaration.folder)
    manager = TaskManager(include_path=".", include_defaults=False)
    stock: dict[int, float] = {}
    found: Any = None
    for size in BATCH_SIZES:
        lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=size)

        def once(lm: Any = lm) -> Any:
            return simple_evaluate(
                model=lm, tasks=[task], task_manager=manager, bootstrap_iters=0, log_samples=False
            )

        stock[size], found = seconds(once, repeats)
    os.chdir(before)
    ours: dict[str, float] = {}
    equal = True
    for scorer in ("lm_eval", "packed"):
        evaluator = open_evaluator(declaration.model_copy(update={"scorer": scorer}))
        score = partial(evaluator.evaluate, Subject(model, tokenizer, batch_size=batch), "search")
        ours[f"{scorer} first"], _ = seconds(score, 1)
        ours[scorer], scores = seconds(score, repeats)
        for metric in declaration.metrics:
            expected = found["results"][task][f"{metric},none"]
            equal &= scores.metrics[f"{declaration.name}.{metric}"].value == expected
    best = min(stock, key=lambda size: stock[size])
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    print(f"\n{label}: {parameters:.1f} M parameters, {evaluator.item_count('search')} items of {task}")
    for size, took in stock.items():
        print(f"  simple_evaluate, batch {size:<3}      {took:8.3f} s")
    print(f"  ours through lm-eval, batch {batch:<3} {ours['lm_eval']:8.3f} s")
    print(f"  ours packed, batch {batch:<3}          {ours['packed']:8.3f} s")
    print(f"  ours packed, first call         {ours['packed first']:8.3f} s")
    print(f"  simple_evaluate (batch {best}) / packed = {stock[best] / ours['packed']:.2f}")
    print(f"  accuracies equal: {'yes' if equal else 'NO'}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--batch", type=int, default=64, help="items of one batch of the packed scorer")
    parser.add_argument("--only", default="", help="part of a model's label")
    options = parser.parse_args()
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    torch.set_num_threads(options.threads)
    for label in TRAINED:
        trained = REPOSITORY / "experiments" / label / "models/base"
        if not trained.exists() or options.only not in label:
            continue
        model = AutoModelForCausalLM.from_pretrained(trained, dtype=torch.float32).eval()
        tokenizer = AutoTokenizer.from_pretrained(trained)
        for path in sorted((REPOSITORY / "evaluators" / label).glob("*.yaml")):
            compare(label, model, tokenizer, path, options.repeats, options.batch)
    for label, shape in SHAPES.items():
        if options.only in label:
            with tempfile.TemporaryDirectory() as folder:
                path = write_items(Path(folder), options.items)
                pair = random_model(*shape), random_tokenizer()
                compare(f"random {label}", *pair, path, options.repeats, options.batch)


if __name__ == "__main__":
    main()
