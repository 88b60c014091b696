"""Gradients by weight against plain backward passes of transformers' own models, in checkpoint tensors."""

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from evomerge.checkpoint.folder import open_folder
from evomerge.checkpoint.reader import open_readers
from evomerge.merge.materialize import LiveModel
from evomerge.merge.plan import make_plan
from evomerge.merge.slopes import Slopes, differentiable
from evomerge.merge.statistics.weights import WeightStatistics
from evomerge.recipe.recipe import MERGED, CheckpointSource, MergedSource, single_source_recipe
from tests.merge.test_binding import FAMILIES

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


@pytest.mark.parametrize("family", ["llama_tied", "phi3", "gpt2", "gpt_neox", "mixtral"])
def test_slopes_are_contracted_gradients(tmp_path: Path, family: str) -> None:
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
    layout = folders["base"].layout
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
        for tensor, place in folders["base"].places.items():
            delta = tensors[name][tensor].double() - tensors["base"][tensor].double()
            expected[row, places.index(place)] += 0.9 * float(
                (delta * gradients[tensor].double()).sum()
            )
    assert slopes.experts == EXPERTS
    assert slopes.places == places
    assert np.linalg.norm(found - expected) < 1e-5 * np.linalg.norm(expected)
    assert not any(p.requires_grad or p.grad is not None for p in live.model.parameters())
    assert (slopes.take() == 0.0).all()
