"""The forward pass of packed batches: scored places alone in the last layer, aligned rows, live weights."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from evomerge.evaluators import forward
from evomerge.evaluators.forward import aligned_rows, narrow_last_layer
from evomerge.evaluators.packed import answer, grow, pack
from evomerge.evaluators.packed import likelihoods as with_graph
from evomerge.evaluators.packing import alone
from tests.evaluators.conftest import build_llama
from tests.evaluators.test_packed import flat, four_choices

VOCABULARY = 61


@pytest.fixture
def llama() -> Any:
    return build_llama(VOCABULARY)


def packed(items: Any, **changes: Any) -> Any:
    arguments = {"batch_size": 50, "max_length": 128, "vocabulary": VOCABULARY, "hidden": 32}
    return pack(items, "tree", **{**arguments, **changes}, device="cpu")


def likelihoods(model: Any, block: Any) -> list[float]:
    return [each.loglikelihood for each in answer(model, block)]


def test_the_last_layer_works_on_the_scored_places_alone(
    llama: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {module: name for name, module in llama.model.layers.named_modules()}
    linear = nn.Linear.forward
    seen: dict[str, torch.Size] = {}

    def noted(module: nn.Linear, inputs: torch.Tensor) -> torch.Tensor:
        seen[names.get(module, "")] = inputs.shape
        return linear(module, inputs)

    monkeypatch.setattr(nn.Linear, "forward", noted)
    items = four_choices(0, 6, context=30)
    block = packed(items)
    (batch,) = block.batches
    narrow = likelihoods(llama, block)
    whole = (*batch.tokens.shape, 32)
    some = (1, len(batch.cells), 32)
    parts = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.o_proj", "mlp.up_proj")
    assert [seen[f"0.{part}"] for part in parts] == [whole] * 4
    assert [seen[f"1.{part}"] for part in parts] == [some, whole, some, some]
    monkeypatch.setattr(forward, "MOST_PLACES", 0.0)
    assert narrow == pytest.approx(likelihoods(llama, block), abs=1e-5)
    assert seen["1.mlp.up_proj"] == whole


def gradients(model: Any, block: Any) -> dict[str, torch.Tensor]:
    model.zero_grad()
    for _, values in with_graph(model, block):
        values.sum().backward()
    return {name: each.grad.clone() for name, each in model.named_parameters()}


def test_gradients_through_the_scored_places_are_those_of_all(
    llama: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = packed(four_choices(2, 6, context=30))
    rows: list[int] = []

    def noted(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        rows.append(inputs[0].shape[:-1].numel())

    llama.model.layers[-1].mlp.up_proj.register_forward_pre_hook(noted)
    narrow = gradients(llama, block)
    monkeypatch.setattr(forward, "MOST_PLACES", 0.0)
    whole = gradients(llama, block)
    assert rows[0] < rows[1] == block.batches[0].tokens.numel()
    # Other places have no part in it, so that sums run over fewer rows and round otherwise.
    for name, each in whole.items():
        assert (narrow[name] - each).norm() <= 1e-5 * each.norm(), name


def test_weights_that_change_in_place_change_the_answers_and_back(llama: Any) -> None:
    items = four_choices(1, 4)
    block = packed(items)
    first = likelihoods(llama, block)
    before = {name: value.clone() for name, value in llama.state_dict().items()}
    with torch.no_grad():
        for parameter in llama.parameters():
            parameter.mul_(1.25)
    second = likelihoods(llama, block)
    assert second == pytest.approx([alone(llama, r, 128) for r in flat(items)], abs=1e-4)
    assert max(abs(np.subtract(first, second))) > 0.1
    llama.load_state_dict(before)
    assert likelihoods(llama, block) == first
    assert not any("forward" in vars(module) for module in llama.modules())


def test_a_layer_that_runs_twice_sees_all_places(llama: Any) -> None:
    layers = llama.model.layers
    llama.model.layers = nn.ModuleList([layers[0], layers[0]])
    items = four_choices(2, 4)
    expected = [alone(llama, request, 128) for request in flat(items)]
    assert likelihoods(llama, packed(items)) == pytest.approx(expected, abs=1e-4)


class Routed(nn.Module):
    """As mixtures of experts answer: hidden states and what the router thought."""

    def forward(self, hidden: torch.Tensor) -> tuple[torch.Tensor, int]:
        return hidden + 1.0, hidden.shape[1]


def test_a_module_that_answers_more_than_hidden_states_keeps_the_rest(llama: Any) -> None:
    llama.model.layers[-1].mlp = Routed()
    hidden, cells = torch.randn(2, 5, 3), torch.tensor([1, 7])
    with narrow_last_layer(llama, cells, (2, 5)):
        found, rest = llama.model.layers[-1].mlp(hidden)
        other, _ = llama.model.layers[-1].mlp(hidden[:1])
    assert rest == 2
    expected = torch.zeros(10, 3)
    expected[cells] = hidden.view(10, 3)[cells] + 1.0
    assert torch.equal(found, expected.view(2, 5, 3))
    assert torch.equal(other, hidden[:1] + 1.0), "another shape is none of a batch"


def test_linear_layers_of_uneven_width_write_aligned_rows() -> None:
    torch.manual_seed(0)
    layers = nn.ModuleDict(
        {"uneven": nn.Linear(8, 13), "even": nn.Linear(8, 32), "short": nn.Linear(8, 13)}
    )
    layers["short"].to(torch.bfloat16)
    inputs = torch.randn(2, 3, 8)
    expected = layers["uneven"](inputs).detach()
    with torch.inference_mode(), aligned_rows(layers):  # type: ignore[arg-type]
        found = layers["uneven"](inputs)
        assert [name for name, each in layers.items() if "forward" in vars(each)] == ["uneven"]
    assert found.shape == (2, 3, 13)
    assert found.stride() == (48, 16, 1)
    torch.testing.assert_close(found, expected)
    assert not any("forward" in vars(each) for each in layers.values())


@pytest.mark.parametrize("hidden", [320, 4096])
def test_rows_are_nearly_full(hidden: int) -> None:
    items = four_choices(3, 50, context=60)
    (batch,) = packed(items, max_length=512, hidden=hidden).batches
    nodes = sum(len(grow(item, 512).tokens) for item in items)
    assert batch.tokens.numel() < 1.08 * nodes


def test_packing_many_items_tries_few_widths(monkeypatch: pytest.MonkeyPatch) -> None:
    from evomerge.evaluators import packed as module

    tried: list[int] = []
    fit = module._fit
    monkeypatch.setattr(module, "_fit", lambda sizes, width: tried.append(width) or fit(sizes, width))
    packed(four_choices(4, 400, context=3), batch_size=400)
    assert len(tried) <= 5 * 64
