"""Statistics on calibration inputs; RegMean and Fisher merging against least squares and autograd."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForImageClassification, ViTImageProcessorPil

from evomerge.campaign.campaign import load_campaign
from evomerge.campaign.check import check_campaign
from evomerge.checkpoint.adapter import open_adapter
from evomerge.checkpoint.folder import open_folder
from evomerge.checkpoint.reader import open_readers
from evomerge.errors import ConfigError
from evomerge.export.export import export_candidate, merge_recipe
from evomerge.merge.passes import calibrated
from evomerge.merge.passes.blocks import Scratch
from evomerge.merge.passes.execute import execute
from evomerge.merge.plan import make_plan
from evomerge.merge.statistics.weights import WeightStatistics
from evomerge.recipe.calibration import Calibration
from evomerge.recipe.json_form import recipe_from_json
from evomerge.recipe.recipe import CheckpointSource, single_source_recipe
from evomerge.run.driver import run
from tests.checkpoint.folders import llama, write_family
from tests.merge.passes.cases import TEXT, merged
from tests.other_models import tiny
from tests.tiny_models import write_campaign

UP = "model.layers.1.mlp.up_proj.weight"
DOWN = "model.layers.0.mlp.down_proj.weight"
NORM = "model.layers.1.input_layernorm.weight"
SHARES = {"a": 0.2, "b": 0.9, "c": 0.4}
ITEMS = [json.loads(line) for line in Path(TEXT.path).read_text().splitlines()]


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    return write_family(tmp_path_factory.mktemp("family"), dtype=torch.float32)


@pytest.fixture(scope="module")
def engine(family, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    return family, WeightStatistics(family, cache), open_readers(family)


def recipe_of(family, method, text=TEXT, **tables):
    source = dataclasses.replace(merged(method, weight=SHARES, **tables), calibration=text)
    checkpoints = {name: CheckpointSource(str(f.path)) for name, f in family.items()}
    return single_source_recipe({**checkpoints, "merged": source}, "merged", 2, "float32")


def made(engine, method, tensor, **tables):
    family, statistics, readers = engine
    entry = make_plan(recipe_of(family, method, **tables), family, statistics).by_name[tensor]
    out = torch.empty(entry.shape)
    assert execute(entry, readers, out, Scratch())
    return out.double().numpy()


def inputs_of(folder, module):
    """What a linear layer sees, all tokens of all items: float64 [tokens, in]."""
    model = AutoModelForCausalLM.from_pretrained(folder.path, dtype=torch.float64)
    seen = []
    model.get_submodule(module).register_forward_hook(lambda m, given, out: seen.append(given[0][0]))
    with torch.no_grad():
        for ids in ITEMS:
            model(torch.tensor([ids]))
    return torch.cat(seen).numpy()


@pytest.mark.parametrize("tensor", [UP, DOWN])
def test_regmean_is_the_least_squares_fit_of_all_outputs(engine, tensor):
    family, _, readers = engine
    rows, targets = [], []
    for name, share in SHARES.items():
        seen = inputs_of(family[name], tensor.removesuffix(".weight"))
        factor = (share / len(seen)) ** 0.5
        rows.append(factor * seen)
        targets.append(factor * seen @ readers[name].read(tensor).double().numpy().T)
    wanted, *_ = np.linalg.lstsq(np.vstack(rows), np.vstack(targets), rcond=None)
    np.testing.assert_allclose(made(engine, "regmean", tensor, alpha=1.0), wanted.T, atol=3e-5)


@pytest.mark.parametrize("alpha", [0.9, 1.0])
def test_regmean_of_fewer_tokens_than_inputs_raises_no_noise(alpha):
    rng = torch.Generator().manual_seed(1)
    deltas = torch.randn(2, 8, 64, generator=rng)
    seen = torch.randn(2, 20, 64, generator=rng)
    grams = [(x.T @ x) / 20 for x in seen]
    exact = [(x.double().T @ x.double()) / 20 for x in seen]
    shrunk = [alpha * g + (1 - alpha) * g.diagonal().diag() for g in exact]
    wanted = sum(d.double() @ g for d, g in zip(deltas, shrunk, strict=True))
    wanted = wanted @ torch.linalg.pinv(shrunk[0] + shrunk[1], rtol=1e-12, hermitian=True)
    found = calibrated.regmean(deltas, [1.0, 1.0], alpha, grams)
    torch.testing.assert_close(found, wanted.float(), rtol=1e-4, atol=1e-4)


def test_fisher_weighs_by_squared_gradients_of_each_item(engine):
    family, _, readers = engine
    total, weights = 0.0, 0.0
    base = readers["base"].read(UP).double()
    for name, share in SHARES.items():
        model = AutoModelForCausalLM.from_pretrained(family[name].path, dtype=torch.float64)
        squares = []
        for ids in ITEMS:
            logits = model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
            (slope,) = torch.autograd.grad(
                logits.gather(1, torch.tensor(ids[1:])[:, None]).sum(), [model.get_parameter(UP)]
            )
            squares.append(slope.square())
        factor = share * (torch.stack(squares).mean(0) + 1e-6)
        total = total + factor * (readers[name].read(UP).double() - base)
        weights = weights + factor
    wanted = (base + total / weights).numpy()
    np.testing.assert_allclose(made(engine, "fisher", UP), wanted, rtol=1e-5, atol=1e-6)


def test_what_has_no_gram_matrix_is_averaged(engine):
    readers = engine[2]
    mean = sum(s * readers[n].read(NORM).double() for n, s in SHARES.items()) / sum(SHARES.values())
    np.testing.assert_allclose(made(engine, "regmean", NORM), mean.numpy(), rtol=1e-6)


def test_equal_statistics_average_and_equal_experts_stay():
    deltas = torch.randn(3, 6, 4, generator=torch.Generator().manual_seed(1))
    gram = torch.eye(4) * 2.0
    for found in (
        calibrated.regmean(deltas, [1.0, 1.0, 1.0], 0.5, [gram] * 3),
        calibrated.fisher(deltas, [1.0, 1.0, 1.0], [torch.full((6, 4), 0.3)] * 3),
    ):
        torch.testing.assert_close(found, deltas.mean(0), rtol=1e-5, atol=1e-6)
    grams = [(x := torch.randn(9, 4)).T @ x for _ in range(3)]
    same = calibrated.regmean(deltas[:1].repeat(3, 1, 1), [1.0, 0.5, 0.2], 0.9, grams)
    torch.testing.assert_close(same, deltas[0], rtol=1e-5, atol=1e-6)


def test_gathered_once_and_the_same_in_any_process(engine, family):
    _, statistics, _ = engine
    first = statistics.calibrated.of("input_grams", TEXT, "a")
    files = list(statistics._cache.directory.glob("input_grams-*.safetensors"))
    again = WeightStatistics(family).calibrated.of("input_grams", TEXT, "a")
    read = WeightStatistics(family, statistics._cache.directory).calibrated.of("input_grams", TEXT, "a")
    assert files
    for tensor, gram in first.items():
        assert np.array_equal(gram, again[tensor])
        assert np.array_equal(gram, read[tensor])


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_an_adapters_inputs_are_those_of_the_adapted_model(tmp_path, family):
    tuned = get_peft_model(llama(), LoraConfig(r=2, target_modules=["up_proj"]))
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape) * 0.3)
    tuned.save_pretrained(tmp_path / "x")
    sources = {"base": family["base"], "x": open_adapter(tmp_path / "x", "x", family["base"])}
    found = WeightStatistics(sources).calibrated.of("input_grams", TEXT, "x")[DOWN]
    plain = WeightStatistics(sources).calibrated.of("input_grams", TEXT, "base")[DOWN]
    assert np.abs(found - plain).max() > 1e-4


def test_another_text_is_another_recipe_and_its_place_is_not(tmp_path, family):
    other = tmp_path / "other.txt"
    other.write_bytes(Path(TEXT.path).read_bytes())
    moved = Calibration("other.txt").located(tmp_path)
    first, second = recipe_of(family, "regmean"), recipe_of(family, "regmean", moved)
    assert first.digest == second.digest
    assert recipe_from_json(first.to_json(), "x") == first
    other.write_text("[1, 2, 3]\n")
    assert (
        recipe_of(family, "regmean", Calibration("other.txt").located(tmp_path)).digest != first.digest
    )
    with pytest.raises(ConfigError, match=r"E239.*not the one that is meant"):
        moved.content()


@pytest.mark.parametrize(
    ("method", "text", "match"),
    [
        ("regmean", None, r"E111.*regmean needs a calibration text"),
        ("tsv_m", TEXT, r"E111.*tsv_m takes no calibration text"),
    ],
)
def test_faults(engine, method, text, match):
    family, statistics, _ = engine
    with pytest.raises(ConfigError, match=match):
        make_plan(recipe_of(family, method, text), family, statistics)


def test_a_text_without_items_is_named(tmp_path, engine):
    (tmp_path / "empty.txt").write_text("\n[4]\n")
    text = Calibration("empty.txt").located(tmp_path)
    with pytest.raises(ConfigError, match=r"E109.*empty\.txt.*no item"):
        engine[1].calibrated.of("fisher", text, "a")


@pytest.mark.parametrize("strange", [96, -1])
def test_token_ids_that_the_models_do_not_have(engine, tmp_path, strange):
    (tmp_path / "ids.txt").write_text(f"[1, 2, 3]\n\n[4, {strange}]\n")
    text = Calibration("ids.txt").located(tmp_path)
    with pytest.raises(ConfigError, match=rf"E108.*ids\.txt:3.*id {strange} is none of a, .* below 96"):
        engine[1].calibrated.of("fisher", text, "a")


def test_a_search_with_a_calibration_text_and_its_export(tmp_path):
    """Statistics are made by `prepare`; an export is the merge that was scored; its recipe merges anew."""
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "text.txt").write_text("a cat sat\nthe dog ran home\n[1, 2, 3, 4, 5]\n")
    write_campaign(
        tmp_path,
        evaluators=("pets",),
        space={"schema": 1, "method": "regmean", "calibration": "own/text.txt",
               "coefficients": {"weight": {"field": "model"}}},
        budget={"evaluations": 4}, optimizer={"population": 4}, baselines={"single": [0.5]},
    )  # fmt: skip
    campaign = load_campaign(tmp_path / "campaign.yaml")
    report = check_campaign(campaign)
    report.raise_problems()
    history = run(campaign, tmp_path / "run", report.paths, report.storage)
    assert list((tmp_path / "run").rglob("input_grams-*.safetensors"))
    found = next(c for c in history.searched() if c.recipe not in plain_recipes(history))
    out = tmp_path / "out"
    export_candidate(tmp_path / "run", found.id, out)
    stated = json.loads((out / "recipe.json").read_text())["sources"]["merged"]["calibration"]
    assert stated["path"] == "../own/text.txt"
    merge_recipe(out / "recipe.json", tmp_path / "again")
    first, second = (load_file(folder / "model.safetensors") for folder in (out, tmp_path / "again"))
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


@pytest.fixture(scope="module")
def seeing(tmp_path_factory):
    """Two ViT classifiers and nine pictures of random pixels."""
    folder = tmp_path_factory.mktemp("seeing")
    names = {0: "cat", 1: "dog"}
    for number, name in enumerate(("base", "a", "b")):
        model = tiny(
            "vit", number, num_channels=3, num_labels=2, id2label=names, label2id={"cat": 0, "dog": 1}
        )
        model.save_pretrained(folder / name)
        ViTImageProcessorPil(size={"height": 8, "width": 8}).save_pretrained(folder / name)
    rng = np.random.default_rng(3)
    images = rng.integers(0, 256, (9, 8, 8, 3), dtype=np.uint8)
    np.savez(folder / "some.npz", images=images, labels=np.array(["cat", "dog", "cat"] * 3))
    family = {name: open_folder(folder / name, name) for name in ("base", "a", "b")}
    return family, Calibration("some.npz").located(folder), torch.from_numpy(images)


def pixels_of(images):
    """As the processor's defaults have it: mean and deviation one half."""
    return (images.permute(0, 3, 1, 2).double() / 255.0 - 0.5) / 0.5


def test_statistics_on_pictures_are_those_of_what_the_model_sees(seeing):
    family, pictures, images = seeing
    found = WeightStatistics(family).calibrated
    model = AutoModelForImageClassification.from_pretrained(family["a"].path, dtype=torch.float64)
    seen = []
    dense = dict(model.named_modules())
    name = next(n for n in dense if n.endswith("1.intermediate.dense") or n.endswith("1.mlp.fc1"))
    dense[name].register_forward_hook(lambda m, given, out: seen.append(given[0][0]))
    squares = 0.0
    for picture, label in zip(pixels_of(images), [0, 1, 0] * 3, strict=True):
        chance = model(picture[None]).logits[0].log_softmax(-1)[label]
        (slope,) = torch.autograd.grad(chance, [dense[name].weight])
        squares = squares + slope.square() / len(images)
    rows = torch.cat(seen).detach()
    grams = found.of("input_grams", pictures, "a")
    tensor = next(t for t in grams if t.endswith("1.intermediate.dense.weight"))
    gram = grams[tensor]
    np.testing.assert_allclose(gram, (rows.T @ rows / len(rows)).numpy(), rtol=1e-4, atol=1e-5)
    diagonal = found.of("fisher", pictures, "a")[tensor]
    np.testing.assert_allclose(diagonal, squares.numpy(), rtol=1e-3, atol=1e-9)


def test_items_that_a_model_does_not_read_are_named(seeing, family, tmp_path):
    classifiers, pictures, _ = seeing
    with pytest.raises(ConfigError, match=r"E111.*a is a ViTForImageClassification"):
        WeightStatistics(classifiers).calibrated.of("input_grams", TEXT, "a")
    with pytest.raises(ConfigError, match=r"E111.*pictures need models.*a is a LlamaForCausalLM"):
        WeightStatistics(family).calibrated.of("fisher", pictures, "a")
    with np.load(pictures.path) as arrays:
        np.savez(tmp_path / "owls.npz", images=arrays["images"], labels=np.array(["owl"] * 9))
    owls = Calibration("owls.npz").located(tmp_path)
    assert WeightStatistics(classifiers).calibrated.of("input_grams", owls, "a")
    with pytest.raises(ConfigError, match=r"E128.*owls\.npz.*label 'owl'; the model has cat, dog"):
        WeightStatistics(classifiers).calibrated.of("fisher", owls, "a")


def plain_recipes(history):
    return {c.recipe for c in history.candidates.values() if c.is_baseline}
