"""A word tokenizer, a tiny random Llama and task folders on JSON lines."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from evomerge.evaluators.evaluator import Subject

WORDS = ["a", "and", "bird", "cat", "dog", "eats", "fish", "is", "not", "red", "runs", "the", "tree"]


def build_tokenizer(*, bos: bool = False) -> PreTrainedTokenizerFast:
    special = ["<pad>", "<s>", "</s>", "<unk>"]
    pieces = [*special, *WORDS, *"0123456789?.:", "Q", "A", "answer", "\n", " "]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Digits(True), pre_tokenizers.Punctuation()]
    )
    if bos:
        from tokenizers.processors import TemplateProcessing

        tokenizer.post_processor = TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", vocabulary["<s>"])]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=128,
    )


def lively(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Weights large enough for choices to differ by nats."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                values = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(2.0 * values * parameter.shape[-1] ** -0.5)
    return model.eval()


def build_llama(vocabulary: int, seed: int = 0, **fields: Any) -> LlamaForCausalLM:
    settings: dict[str, Any] = {
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    model: LlamaForCausalLM = lively(LlamaForCausalLM(LlamaConfig(**{**settings, **fields})), seed)
    return model


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()


@pytest.fixture(scope="session")
def model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    return build_llama(len(tokenizer))


@pytest.fixture
def subject(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> Subject:
    return Subject(model, tokenizer, batch_size=4)


def sentence(rng: random.Random, low: int, high: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(low, high)))


def make_items(seed: int, count: int) -> list[dict[str, Any]]:
    """Four-choice items with contexts and choices of many lengths, some choices sharing their start."""
    rng = random.Random(seed)
    items = []
    for _ in range(count):
        start = sentence(rng, 0, 2)
        choices = [f" {start} {sentence(rng, 1, 4)}".replace("  ", " ") for _ in range(4)]
        question = f"Q: {sentence(rng, 3, 20)} ? A:"
        items.append({"question": question, "choices": choices, "answer": rng.randrange(4)})
    return items


TASK = """\
task: NAME
dataset_path: json
dataset_kwargs: {data_files: {test: data/NAME.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: question
doc_to_choice: choices
doc_to_target: answer
target_delimiter: ""
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
"""

DECLARATION = """\
schema: 1
kind: lm_eval
name: pets
include_path: tasks
tasks: {search: pets_search, selection: pets_selection, test: pets_test}
metrics: [acc, acc_norm]
block_size: 7
"""

Bench = Callable[..., Path]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Writes a declaration with its three tasks and returns the declaration's path."""

    def write(
        task: str = TASK,
        declaration: str = DECLARATION,
        counts: tuple[int, int, int] = (17, 6, 5),
        items: Callable[[int, int], list[dict[str, Any]]] = make_items,
    ) -> Path:
        folder = tmp_path / "tasks"
        (folder / "data").mkdir(parents=True)
        for seed, (split, count) in enumerate(
            zip(("search", "selection", "test"), counts, strict=True)
        ):
            name = f"pets_{split}"
            (folder / f"{name}.yaml").write_text(task.replace("NAME", name))
            lines = [json.dumps(item) for item in items(seed, count)]
            (folder / "data" / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
        path = tmp_path / "pets.yaml"
        path.write_text(declaration)
        return path

    return write


@pytest.fixture
def parrot(tokenizer: Any) -> Any:
    """A model that goes round the tokens 4 to 8 in order, whatever it reads."""
    model = build_llama(len(tokenizer), num_hidden_layers=1, hidden_size=64, num_attention_heads=1,
                        num_key_value_heads=1, tie_word_embeddings=False)  # fmt: skip
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.zero_()
        for token in range(len(tokenizer)):
            model.model.embed_tokens.weight[token, token] = 1.0
            model.lm_head.weight[4 + (token - 3) % 5, token] = 1.0
    return model
