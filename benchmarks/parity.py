"""Largest difference between our log-likelihoods and stock lm-eval's, for each shipped task and model.

Every evaluator of the repository whose data is there, on the search items: log-likelihood tasks through
our packed scorer against `lm_eval.evaluate` on the same live model in float32; of generation tasks the
texts are compared. Prints a table and asserts nothing; `tests/evaluators/test_shipped_tasks.py` holds the
limit, 1e-4.

    python -m benchmarks.parity [--models FOLDER ...] [--evaluators FILE ...]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

import torch
from lm_eval import evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import AutoModelForCausalLM, AutoTokenizer

from evomerge.evaluators.code_execution import install_code_eval
from evomerge.evaluators.evaluator import Subject
from evomerge.evaluators.items import item_id
from evomerge.evaluators.lm_eval_declaration import LmEvalDeclaration, load_evaluator, task_files
from evomerge.evaluators.lm_eval_tasks import LmEvalTasks

REPOSITORY = Path(__file__).parents[1]
Replies = dict[str, list[Any]]


def ours(declaration: LmEvalDeclaration, subject: Subject) -> tuple[Replies, dict[str, float]]:
    """Replies by item, and metrics."""
    evaluator = LmEvalTasks(declaration)
    task = evaluator._split("search").task
    found: Replies = {}
    process = task.process_results

    def spy(doc: dict[str, Any], results: list[Any]) -> Any:
        found[item_id(doc)] = results
        return process(doc, results)

    task.process_results = spy
    scores = evaluator.evaluate(subject, "search")
    return found, {name: metric.value for name, metric in scores.metrics.items()}


def stock(declaration: LmEvalDeclaration, subject: Subject) -> tuple[Replies, dict[str, float]]:
    """The same from lm-eval's own loop."""
    name = declaration.tasks.search
    lm = HFLM(pretrained=subject.model, tokenizer=subject.tokenizer, batch_size=subject.batch_size)
    with contextlib.chdir(declaration.folder), contextlib.redirect_stderr(io.StringIO()):
        tasks = TaskManager(include_path=".", include_defaults=False).load([name])
        for task in tasks["tasks"].values():
            task.set_config("num_fewshot", declaration.num_fewshot or task.config.num_fewshot or 0)
        result: Any = evaluate(
            lm=lm, task_dict=tasks, bootstrap_iters=0, log_samples=True, confirm_run_unsafe_code=True
        )
    replies = {item_id(s["doc"]): s["filtered_resps"] for s in result["samples"][name]}
    return replies, {key.partition(",")[0]: value for key, value in result["results"][name].items()}


def difference(mine: Replies, theirs: Replies) -> str:
    """Largest difference of log-likelihoods, or the number of texts that differ."""
    texts = [key for key, replies in theirs.items() if isinstance(replies[0], str)]
    if texts:
        return f"{sum(mine[key] != theirs[key] for key in texts)} of {len(texts)} texts differ"
    gaps = [
        abs(a[0] - b[0])
        for key, replies in theirs.items()
        for a, b in zip(mine[key], replies, strict=True)
    ]
    return f"{max(gaps):.1e}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    models = sorted((REPOSITORY / "experiments" / "quickstart" / "models").glob("*/"))
    parser.add_argument("--models", type=Path, nargs="*", default=models)
    files = sorted((REPOSITORY / "evaluators").glob("*/*.yaml"))
    parser.add_argument("--evaluators", type=Path, nargs="*", default=files)
    chosen = parser.parse_args()
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    install_code_eval()
    print("| evaluator | model | items | largest difference | equal scores |")
    print("| --- | --- | --- | --- | --- |")
    for folder in chosen.models:
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        subject = Subject(model, AutoTokenizer.from_pretrained(folder), batch_size=32)
        for path in chosen.evaluators:
            declaration = load_evaluator(path)
            if not all(task.data_files() for task in task_files(declaration).values()):
                continue
            mine, metrics = ours(declaration, subject)
            theirs, expected = stock(declaration, subject)
            equal = all(
                metrics[f"{declaration.name}.{metric}"] == expected[metric.partition(",")[0]]
                for metric in declaration.metrics
            )
            place = f"{path.parent.name}/{declaration.name}"
            gap = difference(mine, theirs)
            print(
                f"| {place} | {folder.name} | {len(mine)} | {gap} | {'yes' if equal else 'NO'} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
