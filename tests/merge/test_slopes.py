"""Gradients by weight against plain backward passes of transformers' own models, in checkpoint tensors."""

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from evomerge.checkpoint.folder import open_folder
from evomerge.checkpoint.open import open_source
from evomerge.checkpoint.reader import open_readers
from evomerge.merge.materialize import LiveModel
from evomerge.merge.plan import make_plan
from evomerge.merge.slopes import Slopes, differentiable
from evomerge.merge.statistics.weights import WeightStatistics
from evomerge.recipe.recipe import MERGED, CheckpointSource, MergedSource, single_source_recipe
from tests.merge.test_binding import FAMILIES
from tests.tiny_adapters import write_adapter

EXPERTS = ("b", "a")
TOKENS = torch.tensor([[5, 9, 2, 61, 7, 0, 33, 8], [4, 3, 0, 12, 90, 90, 1, 6]])
"""Token 0 pads in some of the models, and stands for itself here."""


def loss_of(model: torch.nn.Module) -> torch.Tensor:
    logits = model(input_ids=TOKENS, use_cache=False).logits[:, :-1]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), TOKENS[:, 1:].flatten())


def plain_gradients(folder: Path, out: Path) -> tuple[float, dict[str, torch.Tensor]]:
    """The loss of a model, and its gradient as a checkpoint, by transformers alone."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.Embedding):
            module.padding_idx = None
    loss = loss_of(model)
    loss.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            gradient = parameter.grad
            parameter.copy_(torch.zeros_like(parameter) if gradient is None else gradient)
    model.save_pretrained(out)
    return loss.item(), load_file(out / "model.safetensors")


@pytest.mark.parametrize("by_row", [False, True], ids=["places", "rows"])
@pytest.mark.parametrize("family", ["llama_tied", "phi3", "gpt2", "gpt_neox", "mixtral"])
def test_slopes_are_contracted_gradients(tmp_path: Path, family: str, by_row: bool) -> None:
    kind, fields = FAMILIES[family]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(getattr(transformers, kind)(**fields))
    model.save_pretrained(tmp_path / "base")
    first = {name: value.clone() for name, value in model.state_dict().items()}
    for name in EXPERTS:
        with torch.no_grad():
            for key, value in model.state_dict().items():
                value.copy_(first[key] + 0.05 * torch.randn_like(value))
        model.save_pretrained(tmp_path / name)

    folders = {name: open_folder(tmp_path / name, name) for name in ("base", *EXPERTS)}
    sources = {name: CheckpointSource(str(folder.path)) for name, folder in folders.items()}
    weights = {"b": {"": 0.4, "layers.1": 0.0}, "a": {"": 0.3}}
    merged = MergedSource(
        "task_arithmetic", EXPERTS, "base", {"weight": weights, "lambda": {"*": {"": 0.9}}}
    )
    recipe = single_source_recipe({**sources, MERGED: merged}, MERGED, 2, "float32")
    live = LiveModel.load(folders["base"], "float32")
    readers, statistics = open_readers(folders), WeightStatistics(folders)
    live.materialize(make_plan(recipe, folders, statistics), readers)
    layout = folders["base"].layout_by(tensor=by_row, row=by_row)
    places = layout.leaves
    slopes = Slopes(live, recipe, folders, statistics, readers, layout)
    with differentiable(live, slopes):
        loss = loss_of(live.model)
        loss.backward()
    found = slopes.take()

    live.model.save_pretrained(tmp_path / "merged")
    plain_loss, gradients = plain_gradients(tmp_path / "merged", tmp_path / "gradient")
    assert loss.item() == plain_loss
    tensors = {name: load_file(tmp_path / name / "model.safetensors") for name in folders}
    expected = np.zeros((len(EXPERTS), len(places)))
    for row, name in enumerate(EXPERTS):
        own = folders["base"].tensor_places if by_row else folders["base"].places
        for tensor, place in own.items():
            delta = tensors[name][tensor].double() - tensors["base"][tensor].double()
            product = 0.9 * (delta * gradients[tensor].double())
            leaves = layout.leaves_of([place])
            start = places.index(leaves[0])
            # Of places with rows, all tensors here have as many: a bias is as long as its matrix.
            parts = product.reshape(len(leaves), -1).sum(1).numpy()
            expected[row, start : start + len(leaves)] += parts
    assert slopes.experts == EXPERTS
    assert slopes.places == places
    assert np.linalg.norm(found - expected) < 1e-5 * np.linalg.norm(expected)
    assert not any(p.requires_grad or p.grad is not None for p in live.model.parameters())
    assert (slopes.take() == 0.0).all()


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("by_row", [False, True])
@pytest.mark.parametrize("family", ["llama_tied", "phi3", "gemma2", "gpt_neox"])
def test_layers_that_adapters_alone_change_have_no_gradient_of_their_matrix(
    tmp_path: Path, family: str, by_row: bool
) -> None:
    kind, fields = FAMILIES[family]
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(getattr(transformers, kind)(**fields)).save_pretrained(
        tmp_path / "base"
    )
    base = open_folder(tmp_path / "base", "base")
    folders = {"base": base}
    for rank, name in enumerate(EXPERTS, start=2):
        write_adapter(
            base.path, tmp_path / name, rank, 0.1, r=rank, lora_alpha=5, target_modules="all-linear"
        )
        folders[name] = open_source(tmp_path / name, name, base)
    sources = {name: CheckpointSource(str(folder.path)) for name, folder in folders.items()}
    weights = {"b": {"": 0.4, "layers.1": 0.0}, "a": {"": 0.3}}
    merged = MergedSource(
        "task_arithmetic", EXPERTS, "base", {"weight": weights, "lambda": {"*": {"": 0.9}}}
    )
    recipe = single_source_recipe({**sources, MERGED: merged}, MERGED, 2, "float32")
    live = LiveModel.load(base, "float32")
    readers, statistics = open_readers(folders), WeightStatistics(folders)
    live.materialize(make_plan(recipe, folders, statistics), readers)
    layout = base.row_layout if by_row else base.tensor_layout
    slopes = Slopes(live, recipe, folders, statistics, readers, layout)
    # Names of one family are its own; there the gradients are taken whole.
    assert bool(slopes.layers) == (family != "gpt_neox")
    assert bool(slopes.parameters) == (family == "gpt_neox")
    with differentiable(live, slopes):
        loss = loss_of(live.model)
        assert not any(layer.weight.requires_grad for layer in slopes.layers.values())
        loss.backward()
    found = slopes.take()
    assert not any("forward" in vars(module) for module in live.model.modules())

    live.model.save_pretrained(tmp_path / "merged")
    plain_loss, gradients = plain_gradients(tmp_path / "merged", tmp_path / "gradient")
    assert loss.item() == pytest.approx(plain_loss, rel=1e-6)
    expected = np.zeros_like(found)
    for row, name in enumerate(EXPERTS):
        for tensor, place in base.tensor_places.items():
            delta = readers[name].delta(tensor)
            if delta is not None:
                product = (delta[0] @ delta[1]).double() * gradients[tensor].double()
                leaves = [f"{place}.{number}" for number in range(len(product))] if by_row else [place]
                sums = product.sum(1) if by_row else product.sum().reshape(1)
                expected[row, [layout.leaves.index(leaf) for leaf in leaves]] += 0.9 * sums.numpy()
    assert np.count_nonzero(expected) > 0
    assert np.linalg.norm(found - expected) < 1e-5 * np.linalg.norm(expected)
