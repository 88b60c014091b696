"""What a slope does without: dense adapters, kept activations, a gradient of the model, parts made anew."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from evomerge.merge.passes import blocks, by_function, contract
from evomerge.merge.passes.blocks import LowRankDelta
from evomerge.merge.slopes import Slopes
from tests.run.slope_bed import EXPERTS, Bed, bed_with, some_weights

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


@pytest.fixture
def bed() -> Bed:
    return bed_with(tied=True)


def counted(monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> list[Any]:
    """Calls of a method from now on: whom each is of."""
    calls = []
    plain = getattr(owner, name)

    def counting(self: Any, *args: Any, **named: Any) -> Any:
        calls.append(self)
        return plain(self, *args, **named)

    monkeypatch.setattr(owner, name, counting)
    return calls


@pytest.mark.parametrize("by_row", [False, True], ids=["places", "rows"])
def test_an_adapter_is_contracted_by_its_factors(by_row: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    bed = bed_with(tied=True, by_tensor=by_row, by_row=by_row)
    monkeypatch.setattr(blocks, "BLOCK", 256)  # several stretches of rows
    weights = some_weights(bed)
    plain = bed.recipe(weights, "task_arithmetic")
    trimmed = bed.recipe(weights, "ties", density=0.5)
    first = bed.slope(plain).gradient
    products = counted(monkeypatch, LowRankDelta, "_product")
    assert np.array_equal(bed.slope(plain).gradient, first), "the merge lies there already"
    assert np.count_nonzero(first[EXPERTS.index("lora")]) > 0
    assert not products, "a task vector of low rank was made dense"
    with monkeypatch.context() as without:
        without.setattr(contract, "LowRankDelta", type(None))
        dense = bed.slope(plain).gradient
    assert products, "it was not made dense"
    lora = EXPERTS.index("lora")
    np.testing.assert_allclose(
        first[lora], dense[lora], rtol=1e-4, atol=1e-6 * np.abs(dense[lora]).max()
    )
    assert np.array_equal(np.delete(first, lora, 0), np.delete(dense, lora, 0))
    if not by_row:
        products.clear()
        bed.slope(trimmed)
        assert products, "what is trimmed must be"


def test_all_layers_but_the_last_are_computed_again_in_the_backward_pass(
    bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = bed.recipe(some_weights(bed), "task_arithmetic")
    bed.loss(recipe)  # what is run once for a new model is run
    passes = counted(monkeypatch, LlamaDecoderLayer, "forward")
    bed.loss(recipe)
    forward = list(passes)
    passes.clear()
    bed.slope(recipe)
    last = forward[-1]
    assert passes.count(last) == forward.count(last) > 0
    again = {layer for layer in forward if layer is not last}
    assert again, "a model of one layer shows nothing"
    assert all(passes.count(layer) == 2 * forward.count(layer) for layer in again)


def test_a_gradient_is_freed_before_the_next_is_there(
    bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = bed.worker._loaded().live().model
    plain = Slopes.receive
    held: list[list[str]] = []

    def looking(self: Slopes, name: str, parameter: torch.nn.Parameter) -> None:
        held.append([key for key, each in model.named_parameters() if each.grad is not None])
        plain(self, name, parameter)
        assert parameter.grad is None

    monkeypatch.setattr(Slopes, "receive", looking)
    bed.slope(bed.recipe(some_weights(bed), "task_arithmetic"))
    assert {len(names) for names in held} == {1}
    assert len({name for (name,) in held}) > 10


def test_parts_are_made_once_for_merges_and_gradients(
    bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    plain = by_function.LINEAR["star"]

    def counting(stack: torch.Tensor, **numbers: float) -> torch.Tensor:
        made.append(stack.shape)
        return plain(stack, **numbers)

    monkeypatch.setitem(by_function.LINEAR, "star", counting)
    for seed in (0, 1):
        bed.slope(bed.recipe(some_weights(bed, seed), "star", eta=0.77))
        # Two layers of seven matrices and two norms; embeddings, which are the head, and the last norm.
        assert len(made) == 2 * 9 + 2
