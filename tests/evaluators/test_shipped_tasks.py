"""Every task folder of the repository: our log-likelihoods and accuracies are stock lm-eval's."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from evomerge.evaluators.evaluator import Subject
from evomerge.evaluators.items import item_id
from evomerge.evaluators.kinds import load_declaration, open_evaluator
from evomerge.evaluators.lm_eval_declaration import LmEvalDeclaration, load_evaluator, task_files
from tests.evaluators.conftest import build_llama
from tests.evaluators.test_lm_eval_tasks import stock

REPOSITORY = Path(__file__).parents[2]
SHIPPED = [
    path
    for path in sorted((REPOSITORY / "evaluators").glob("**/*.yaml"))
    if "tasks" not in path.relative_to(REPOSITORY).parts
    and isinstance(load_declaration(path), LmEvalDeclaration)
]


def byte_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE trained on the task, whose tokens cross words and spaces as real ones do."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<pad>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_shipped_tasks_score_as_in_stock_lm_eval(path: Path) -> None:
    declaration = load_evaluator(path)
    split_file = task_files(declaration)["search"]
    if not all(task.data_files() for task in task_files(declaration).values()):
        pytest.skip("the data of this task is not built")
    if split_file.output_type == "generate_until":
        pytest.skip("generated answers have a test of their own")
    texts = [line for data in split_file.data_files() for line in data.read_text().splitlines()]
    tokenizer = byte_tokenizer([" ".join(map(str, json.loads(text).values())) for text in texts])
    model = build_llama(len(tokenizer), max_position_embeddings=1024)
    subject = Subject(model, tokenizer, batch_size=32)
    evaluator = open_evaluator(declaration.model_copy(update={"scorer": "packed"}))
    task = evaluator._split("search").task  # type: ignore[attr-defined]
    found: dict[str, tuple[float, ...]] = {}
    process = task.process_results

    def spy(doc: dict[str, Any], results: list[tuple[float, bool]]) -> Any:
        found[item_id(doc)] = tuple(value for value, _ in results)
        return process(doc, results)

    task.process_results = spy
    scores = evaluator.evaluate(subject, "search")
    expected = stock(path, subject, split_file.name, bootstrap_iters=0)
    for sample in expected["samples"][split_file.name]:
        values = [reply[0] for reply in sample["filtered_resps"]]
        assert found[item_id(sample["doc"])] == pytest.approx(values, abs=1e-4)
    for metric in declaration.metrics:
        ours = scores.metrics[f"{declaration.name}.{metric}"].value
        assert ours == expected["results"][split_file.name][f"{metric},none"]
