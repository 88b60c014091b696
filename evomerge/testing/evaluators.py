"""What every evaluator must do, as functions that a test calls.

Usage, in a test of your own::

    from pathlib import Path
    from evomerge.testing.evaluators import CHECKS, opened, tiny_subject

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    def test_conformance(check):
        check(lambda: opened(Path("my_evaluator.yaml")), tiny_subject())

A check takes a function that makes the evaluator anew and a subject it can judge: the tiny random model from
`tiny_subject`, whose tokens are bytes, or any other. Checks raise AssertionError with what was expected. For
an evaluator that measures time, which gives other numbers each time, use `CLOCKED_CHECKS`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evomerge.errors import CandidateError
from evomerge.evaluators.evaluator import Evaluator, Subject
from evomerge.evaluators.kinds import load_declaration, open_evaluator
from evomerge.objectives.scores import SPLITS, Scores, mean_metric

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Make = Callable[[], Evaluator]
Check = Callable[[Make, Subject], None]


def opened(path: Path) -> Evaluator:
    """The evaluator that a declaration file names.

    Raises:
        ConfigError: with every fault of the declaration.
    """
    return open_evaluator(load_declaration(path))


def tiny_subject(seed: int = 0, batch_size: int = 4) -> Subject:
    """A random two-layer Llama of about 20,000 parameters whose tokens are bytes; it reads 256 at once."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = byte_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        made: Any = LlamaForCausalLM(config)
        model = made.eval().requires_grad_(False)
        for parameter in model.parameters():
            # Large enough for answers to differ clearly.
            if parameter.ndim > 1:
                parameter.normal_(0.0, 2.0 * parameter.shape[-1] ** -0.5)
    statistics = {"l1": 12.5, "l2": 1.5, "tensors_written": 0.0}
    return Subject(model, tokenizer, statistics=statistics, batch_size=batch_size)


def byte_tokenizer() -> PreTrainedTokenizerBase:
    """A tokenizer whose tokens are the 256 bytes and `<pad>`, `<s>`, `</s>`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = ["<pad>", "<s>", "</s>", *alphabet]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    make: Any = PreTrainedTokenizerFast
    made: PreTrainedTokenizerBase = make(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )
    return made


def _same(one: Scores, two: Scores) -> bool:
    first, second = one.arrays(), two.arrays()
    alike = one.metrics == two.metrics and first.keys() == second.keys()
    return alike and all(np.array_equal(first[name], second[name]) for name in first)


def check_names(make: Make, subject: Subject) -> None:
    """Metrics begin with the evaluator's name and are those that scores hold."""
    evaluator = make()
    assert evaluator.metrics, "an evaluator needs a metric"
    for metric in evaluator.metrics:
        assert metric.startswith(f"{evaluator.name}."), f"`{metric}` does not begin with the name"
    found = set(evaluator.evaluate(subject, "search").metrics)
    assert set(evaluator.metrics) <= found, f"no score for {set(evaluator.metrics) - found}"


def check_items(make: Make, subject: Subject) -> None:
    """Splits have items, in the order of their hashes, the same each time, and share none."""
    one, two = make(), make()
    for split in SPLITS:
        ids = one.item_ids(split)
        assert ids == two.item_ids(split), f"{split}: another order when made again"
        assert len(ids) == one.item_count(split) > 0, f"{split}: {one.item_count(split)} items"
        assert list(ids) == sorted(ids), f"{split}: items do not stand in the order of their hashes"
        for other in SPLITS[: SPLITS.index(split)]:
            assert not {*ids} & {*one.item_ids(other)}, f"{other} and {split} share items"


def check_scores(make: Make, subject: Subject) -> None:
    """Values are finite; where results stand for each item, value and error are those of their mean."""
    evaluator = make()
    for split in SPLITS:
        scores = evaluator.evaluate(subject, split)
        count = evaluator.item_count(split)
        for name, metric in scores.metrics.items():
            assert type(metric.value) is float, f"{name}: {metric.value!r} is no Python float"
            assert math.isfinite(metric.value), f"{name} is {metric.value}"
            assert metric.stderr >= 0.0, f"{name}: its standard error is {metric.stderr}"
            assert metric.items == count, f"{name}: {metric.items} items instead of {count}"
        for name, values in scores.items.items():
            assert name in scores.metrics, f"results of items of `{name}`, which has no score"
            assert values.dtype == np.float64, f"{name}: results of dtype {values.dtype}"
            assert values.shape == (count,), f"{name}: results of shape {values.shape}"
            assert np.isfinite(values).all(), f"{name}: a result is not finite"
            found, metric = mean_metric(values), scores.metrics[name]
            near = math.isclose(found.value, metric.value, rel_tol=1e-9, abs_tol=1e-12)
            assert near, f"{name} is {metric.value}, its items' mean {found.value}"
            near = math.isclose(found.stderr, metric.stderr, rel_tol=1e-9, abs_tol=1e-12)
            assert near, f"{name}: error {metric.stderr}, by its items {found.stderr}"
        smooth = {name: m.smooth for name, m in scores.metrics.items() if m.smooth is not None}
        assert smooth.keys() == scores.smooth.keys(), "smooth values without a mean, or the reverse"
        for name, values in scores.smooth.items():
            assert values.dtype == np.float64, f"{name}: smooth values of dtype {values.dtype}"
            assert values.shape == (count,), f"{name}: smooth values of shape {values.shape}"
            assert np.isfinite(values).all(), f"{name}: a smooth value is not finite"
            near = math.isclose(float(np.mean(values)), smooth[name], rel_tol=1e-9, abs_tol=1e-12)
            assert near, f"{name}: smooth value {smooth[name]}, its items' mean {np.mean(values)}"


def check_blocks(make: Make, subject: Subject) -> None:
    """Blocks that do not exist or come twice are refused."""
    evaluator = make()
    for blocks in ([], [0, 0], [1, 0], [-1], [10**6]):
        try:
            evaluator.evaluate(subject, "search", blocks)
        except ValueError as error:
            if not str(error):
                raise AssertionError(f"blocks {blocks}: the ValueError has no words") from error
        else:
            raise AssertionError(f"blocks {blocks} are taken; expected ValueError")


def check_repeats(make: Make, subject: Subject) -> None:
    """Equal calls give equal bits, in one evaluator and in another; the splits do not disturb each other."""
    one, two = make(), make()
    first = one.evaluate(subject, "search")
    one.evaluate(subject, "selection")
    assert _same(first, one.evaluate(subject, "search")), "a second evaluation gives other scores"
    assert _same(first, two.evaluate(subject, "search")), "another evaluator gives other scores"


def check_prefix(make: Make, subject: Subject) -> None:
    """The first block gives the same results by itself as among the others."""
    evaluator = make()
    whole, first = (evaluator.evaluate(subject, "search", b) for b in (None, [0]))
    for name, values in first.smooth.items():
        same = np.array_equal(values, whole.smooth[name][: len(values)])
        assert same, f"{name}: smooth values of block 0 differ"
    for name, values in first.items.items():
        count = len(values)
        assert 0 < count <= evaluator.item_count("search"), f"{name}: {count} items in block 0"
        assert first.metrics[name].items == count, f"{name}: its count is not that of its items"
        if name.removeprefix(f"{evaluator.name}.") not in getattr(evaluator, "ratios", ()):
            assert np.array_equal(values, whole.items[name][:count]), f"{name}: block 0 differs"


def check_leaves_the_model_alone(make: Make, subject: Subject) -> None:
    """Weights, mode, and the random state of torch and NumPy are afterwards as they were."""
    import torch

    before = {name: tensor.clone() for name, tensor in subject.model.state_dict().items()}
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]
    mode = subject.model.training
    make().evaluate(subject, "search")
    for name, tensor in subject.model.state_dict().items():
        assert torch.equal(tensor, before[name]), f"evaluation changed {name}"
    assert subject.model.training == mode, "evaluation changed the mode of the model"
    assert torch.equal(torch.get_rng_state(), torch_state), "evaluation drew from torch's random state"
    drawn = np.random.get_state()[1]  # type: ignore[index]
    assert np.array_equal(drawn, numpy_state), "evaluation drew from NumPy's random state"


def check_broken_model(make: Make, subject: Subject) -> None:
    """A model with NaN weights is refused (CandidateError or a NaN score), unless weights do not matter."""
    sound = make().evaluate(subject, "search")
    broken = replace(subject, model=_broken(subject.model))
    try:
        found = make().evaluate(broken, "search")
    except CandidateError as error:
        if not error.kind:
            raise AssertionError("the CandidateError has no kind") from error
        return
    assert found.non_finite() or _same(found, sound), "NaN weights give scores like any other"


def _broken(model: PreTrainedModel) -> PreTrainedModel:
    import torch

    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.fill_(math.nan)
    return other


CLOCKED_CHECKS: tuple[Check, ...] = (
    check_names,
    check_items,
    check_scores,
    check_blocks,
    check_leaves_the_model_alone,
    check_broken_model,
)
"""Checks of an evaluator whose numbers differ each time."""

CHECKS: tuple[Check, ...] = (*CLOCKED_CHECKS, check_repeats, check_prefix)
"""All checks."""
