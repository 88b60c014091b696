"""Models over several devices: the split is computed for real, and carried out on a machine without any.

Both devices are the processor here, so that every map, buffer, hook and pass is the real one and only the
copies between devices have nothing to do; where there are two, the last test makes them.
"""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from evomerge.campaign.campaign import load_campaign
from evomerge.campaign.prepared import prepared_space
from evomerge.checkpoint.folder import open_folder
from evomerge.checkpoint.reader import open_readers
from evomerge.errors import EnvironmentFault
from evomerge.merge.device_map import balanced, device_of, make_device_map, visible_devices
from evomerge.merge.materialize import LiveModel
from evomerge.merge.plan import make_plan
from evomerge.merge.skeleton import allocate
from evomerge.merge.statistics.weights import WeightStatistics
from evomerge.run import engine
from evomerge.run.job import Job
from evomerge.run.worker import Worker
from evomerge.run.worker_setup import worker_setup
from tests.tiny_runs import finished


@given(st.lists(st.integers(0, 50), min_size=1, max_size=9), st.integers(1, 4))
def test_the_largest_share_is_the_least_that_whole_parts_in_order_allow(
    sizes: list[int], count: int
) -> None:
    places = balanced(sizes, count)
    assert places == sorted(places)
    assert set(places) <= set(range(count))

    def largest(where: tuple[int, ...]) -> int:
        return max(sum(s for s, p in zip(sizes, where, strict=True) if p == n) for n in range(count))

    orders = itertools.combinations_with_replacement(range(count), len(sizes))
    assert largest(tuple(places)) == min(map(largest, orders))


def skeleton(kind: str, **fields: object) -> PreTrainedModel:
    config = AutoConfig.for_model(
        kind, hidden_size=32, num_hidden_layers=6, num_attention_heads=4, vocab_size=200,
        bos_token_id=0, eos_token_id=1, pad_token_id=1, **fields,
    )  # fmt: skip
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    return model


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt_neox", "gpt2", "phi", "mixtral"])
def test_layers_are_whole_and_in_order(kind: str, tied: bool) -> None:
    devices = ["one", "two", "three"]
    model = skeleton(kind, tie_word_embeddings=tied)
    found = make_device_map(model, devices)
    assert set(found.values()) == set(devices)
    for name, _ in [*model.named_parameters(), *model.named_buffers()]:
        assert sum(f"{name}.".startswith(f"{part}.") for part in found) == 1, name
    layers = [where for name, where in found.items() if name.rpartition(".")[2].isdigit()]
    assert len(layers) == 6
    assert layers == sorted(layers, key=devices.index)
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    names = {id(module): name for name, module in model.named_modules()}
    assert found[names[id(embeddings)]] == "one"
    assert found[names[id(head)]] == ("one" if head.weight is embeddings.weight else "three")


def test_a_map_with_a_hole_is_an_error() -> None:
    assert device_of("model.layers.1.mlp.weight", {"model.layers.1": "b", "": "a"}) == "b"
    with pytest.raises(KeyError, match="does not cover"):
        device_of("lm_head.weight", {"model": "a"})


def test_memory_is_given_out_where_the_map_says() -> None:
    """The second device is `meta` here: another one, if without memory."""
    model = skeleton("llama")
    found = make_device_map(model, ["cpu", "meta"])
    before = dict(model.named_parameters())
    buffers = allocate(model, found)
    for name, parameter in model.named_parameters():
        assert parameter.device.type == device_of(name, found)
        assert parameter.shape == before[name].shape
    assert model.get_buffer("model.rotary_emb.inv_freq").device.type == "cpu"
    assert {buffers[f"model.layers.{n}"].device.type for n in (0, 5)} == {"cpu", "meta"}
    rest = [name for name in buffers if not name.startswith("model.layers")]
    assert rest == [":torch.float32:cpu", ":torch.float32:meta"]


def test_a_worker_over_two_devices_gives_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole workers: merge passes, hooks, packed scoring; logits and scores are those of one device."""
    source = finished()
    campaign = load_campaign(source.file)
    paths = {name: str(reference.path) for name, reference in campaign.references().items()}
    setup = worker_setup(campaign, paths, "bfloat16", tmp_path, False)
    assert source.history.prepared is not None
    space = prepared_space(campaign, source.history.prepared, paths)
    recipes = [space.decode(space.snap([value] * len(space.genes))) for value in (0.3, 0.7)]
    monkeypatch.setattr(engine, "visible_devices", lambda device, count: [device] * count)
    one, two = Worker(setup), Worker(dataclasses.replace(setup, devices=2))
    tokens = torch.randint(0, 16, (3, 9), generator=torch.Generator().manual_seed(0))
    for number, recipe in enumerate(recipes):
        job = Job(f"c{number}", "evaluate", recipe.to_json())
        plain, spread = one.run(job), two.run(job)
        assert plain.status == spread.status == "ok", spread.message
        assert plain.measured == spread.measured
        assert all((plain.items[name] == spread.items[name]).all() for name in plain.items)
        models = [worker._loaded().live().model for worker in (one, two)]
        with torch.no_grad():
            assert torch.equal(*(model(input_ids=tokens).logits for model in models))
    assert not hasattr(models[0], "hf_device_map")
    hooked = {name for name, module in models[1].named_modules() if hasattr(module, "_hf_hook")}
    assert set(models[1].hf_device_map) <= hooked


def test_too_few_devices_are_named() -> None:
    assert visible_devices("cpu", 1) == ["cpu"]
    with pytest.raises(EnvironmentFault, match=r"E401\] workers.gpus: a worker has \d+ devices.* 999"):
        visible_devices("cuda", 999)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_two_devices_hold_what_one_does() -> None:
    source = finished()
    campaign = load_campaign(source.file)
    paths = {name: Path(str(reference.path)) for name, reference in campaign.references().items()}
    assert source.history.prepared is not None
    space = prepared_space(
        campaign, source.history.prepared, {name: str(path) for name, path in paths.items()}
    )
    folders = {name: open_folder(path, name) for name, path in paths.items()}
    plan = make_plan(
        space.decode(space.snap([0.4] * len(space.genes))), folders, WeightStatistics(folders)
    )
    readers = open_readers(folders)
    one = LiveModel.load(folders["base"], "float32", "cuda:0")
    two = LiveModel.load(folders["base"], "float32", spread=["cuda:0", "cuda:1"])
    for live in (one, two):
        live.materialize(plan, readers)
    assert {parameter.device.index for parameter in two.model.parameters()} == {0, 1}
    merged = two.model.state_dict()
    assert all(torch.equal(t.cpu(), merged[name].cpu()) for name, t in one.model.state_dict().items())
    tokens = torch.randint(0, 16, (3, 9), generator=torch.Generator().manual_seed(0)).to("cuda:0")
    with torch.no_grad():
        logits = [live.model(input_ids=tokens).logits for live in (one, two)]
    assert logits[1].device == tokens.device
    torch.testing.assert_close(*logits)
