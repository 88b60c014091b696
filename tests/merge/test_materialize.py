"""Materialising: the live model and the exported folder hold the same bits, whatever the method."""

import functools
import json
import shutil

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Gemma2Config

from evomerge.checkpoint.adapter import open_adapter
from evomerge.checkpoint.folder import open_folder
from evomerge.checkpoint.reader import TensorReader, open_readers
from evomerge.errors import CandidateError, CheckpointError
from evomerge.merge.materialize import LiveModel, write_checkpoint
from evomerge.merge.plan import make_plan
from evomerge.merge.statistics.weights import WeightStatistics
from evomerge.recipe.catalogue import METHODS
from evomerge.recipe.recipe import LayerStep, Recipe, single_source_recipe
from tests.checkpoint.folders import SIZES, llama, save, write_family
from tests.merge.passes import reference
from tests.merge.passes.cases import CASES, EXPERTS, merged
from tests.merge.plan.test_plan import checkpoints

TOKENS = torch.arange(5, 25)[None]


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    return write_family(tmp_path_factory.mktemp("family"))


@pytest.fixture(scope="module")
def engine(family):
    return family, WeightStatistics(family), open_readers(family)


@pytest.fixture(scope="module")
def live_in(family):
    """One live model a dtype, which takes candidate after candidate, as a worker's does."""
    return functools.cache(lambda dtype: LiveModel.load(family["base"], dtype))


def plan_for(engine, source, dtype="bfloat16"):
    family, statistics, _ = engine
    sources = {**checkpoints(family), "merged": source}
    return make_plan(single_source_recipe(sources, "merged", 2, dtype), family, statistics)


def export(plan, readers, folder, shard_bytes=15_000):
    folder.mkdir()
    write_checkpoint(plan, readers, folder, shard_bytes)
    shutil.copy(readers["base"].folder.path / "config.json", folder)
    return folder


def test_cases_cover_every_method():
    assert {source.method for source in CASES.values()} == set(METHODS)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("case", CASES)
def test_live_is_export_bit_for_bit(engine, live_in, tmp_path, case, dtype):
    _, _, readers = engine
    plan = plan_for(engine, CASES[case], dtype)
    live = live_in(dtype)
    live.materialize(plan, readers)
    folder = export(plan, readers, tmp_path / "out")
    assert len(list(folder.glob("*.safetensors"))) > 1
    reloaded = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    found = live.model.state_dict()
    for name, expected in reloaded.state_dict().items():
        assert torch.equal(found[name], expected), name
    assert torch.equal(live.model(TOKENS).logits, reloaded(TOKENS).logits)


@pytest.mark.parametrize("case", ["task_arithmetic", "ties"])
def test_storage_dtype_is_kept_in_a_wider_evaluation(engine, tmp_path, case):
    family, _, readers = engine
    plan = plan_for(engine, CASES[case], "bfloat16")
    live = LiveModel.load(family["base"], "float32")
    live.materialize(plan, readers)
    folder = export(plan, readers, tmp_path / "out")
    reloaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    assert torch.equal(live.model(TOKENS).logits, reloaded(TOKENS).logits)


@pytest.fixture(scope="module")
def precise(tmp_path_factory):
    """The engine over float32 files, whose task vectors neither tie nor cancel."""
    family = write_family(tmp_path_factory.mktemp("precise"), dtype=torch.float32)
    return family, WeightStatistics(family), open_readers(family)


@pytest.fixture(scope="module")
def values(precise):
    """Its tensors in float64, by model and name."""
    family, _, readers = precise
    return {n: {t: readers[n].read(t).double().numpy() for t in f.tensors} for n, f in family.items()}


@pytest.fixture(scope="module")
def everything(precise, values):
    """The task vector of each expert as one array."""
    return {
        n: np.concatenate(
            [(values[n][t] - values["base"][t]).reshape(-1) for t in precise[0]["base"].tensors]
        )
        for n in EXPERTS
    }


@pytest.fixture(scope="module")
def precise_live(precise):
    """A live model over them."""
    return LiveModel.load(precise[0]["base"], "float32")


@pytest.mark.parametrize("case", [n for n, s in CASES.items() if s.calibration is None])
def test_against_the_references(precise, precise_live, values, everything, case):
    family, _, readers = precise
    source = CASES[case]
    precise_live.materialize(plan_for(precise, source, "float32"), readers)
    found = precise_live.model.state_dict()
    method = METHODS[source.method]
    options = method.resolve(source.options)
    thresholds = None
    if options.trim == "model":
        density = source.coefficients["density"]["*"][""]
        # The passes form deltas in float32; one rounding decides nothing else.
        thresholds = {
            n: np.sort(np.abs(x))[::-1][int(density * x.size) - 1] * (1 - 1e-7)
            for n, x in everything.items()
        }
    for tensor in family["base"].tensors:

        def get(name, expert, tensor=tensor):
            declared = method.coefficient(name)
            table = source.coefficients.get(name, {"*": {"": declared.default if declared else 1.0}})
            table = table.get(expert, table.get("*"))
            layer = ".".join(tensor.split(".")[1:3])
            return table.get(layer, table[""])

        expected = reference.merge(
            source.method, options.to_json(), values["base"][tensor],
            [values[n][tensor] for n in source.inputs], source.inputs, get, source.seed, tensor, thresholds,
        )  # fmt: skip
        close = np.isclose(found[tensor].double().numpy(), expected, rtol=1e-5, atol=1e-6)
        # Where float32 rounds a magnitude onto a threshold, one element more survives.
        assert (~close).sum() <= close.size // 500, tensor


def test_base_and_experts_come_out_as_they_are(engine):
    family, statistics, readers = engine
    live = LiveModel.load(family["base"], "bfloat16")
    for name, folder in family.items():
        recipe = single_source_recipe(checkpoints(family), name, 2, "bfloat16")
        live.materialize(make_plan(recipe, family, statistics), readers)
        expected = AutoModelForCausalLM.from_pretrained(folder.path, dtype=torch.bfloat16).eval()
        assert torch.equal(live.model(TOKENS).logits, expected(TOKENS).logits)


def test_only_what_changed_is_written(engine):
    family, _, readers = engine
    live = LiveModel.load(family["base"], "bfloat16")
    source = merged(weight={"*": {"": 0.3}})
    changed = merged(weight={"*": {"": 0.3, "layers.1.mlp": 0.4}})
    assert live.materialize(plan_for(engine, source), readers).tensors_written == 21
    assert live.materialize(plan_for(engine, source), readers).tensors_written == 0
    statistics = live.materialize(plan_for(engine, changed), readers)
    assert statistics.tensors_written == 3
    assert statistics.bytes == 3 * 32 * 48 * 2
    fresh = LiveModel.load(family["base"], "bfloat16")
    fresh.materialize(plan_for(engine, changed), readers)
    assert torch.equal(live.model(TOKENS).logits, fresh.model(TOKENS).logits)
    # What is written between two candidates stays, where the second has the coefficients of the first.
    state = live.model.state_dict()
    for value in state.values():
        value.fill_(7.0)
    live.materialize(plan_for(engine, source), readers)
    rewritten = {name for name, value in state.items() if not (value == 7.0).all()}
    assert rewritten == {name for name in state if name.startswith("model.layers.1.mlp.")}
    # Other reader objects may stand for other files.
    assert live.materialize(plan_for(engine, changed), open_readers(family)).tensors_written == 21


def test_what_was_tampered_with_is_not_the_engines_concern_but_a_failure_is(tmp_path, engine):
    family, _, _ = engine
    shutil.copytree(family["a"].path, tmp_path / "bad")
    path = tmp_path / "bad" / "model.safetensors"
    tensors = {n: t.clone() for n, t in load_file(str(path)).items()}
    tensors["model.layers.1.mlp.down_proj.weight"][3, 3] = float("nan")
    save_file(tensors, str(path))
    sources = {**family, "a": open_folder(tmp_path / "bad", "a")}
    mine = (sources, WeightStatistics(sources), open_readers(sources))
    live = LiveModel.load(family["base"], "bfloat16")
    good = merged(weight={"a": 0.0, "b": 0.4, "c": 0.1})
    live.materialize(plan_for(mine, good), mine[2])
    with pytest.raises(CandidateError, match=r"model\.layers\.1\.mlp\.down_proj\.weight") as caught:
        live.materialize(plan_for(mine, merged(weight=0.5)), mine[2])
    assert caught.value.kind == "nonfinite_weights"
    assert live.materialize(plan_for(mine, good), mine[2]).tensors_written == 21
    with pytest.raises(CandidateError, match="NaN or infinite"):
        export(plan_for(mine, merged(weight=0.5)), mine[2], tmp_path / "out")


def test_overflow_of_the_storage_dtype_is_not_finite(tmp_path, engine):
    live = LiveModel.load(engine[0]["base"], "float32")
    with pytest.raises(CandidateError, match="NaN or infinite"):
        live.materialize(plan_for(engine, merged(weight=1e9), "float16"), engine[2])


def test_distance_to_the_base(engine):
    family, _, readers = engine
    live = LiveModel.load(family["base"], "bfloat16")
    found = live.materialize(plan_for(engine, CASES["ties"]), readers, distance=True)
    pairs = [
        (live.model.state_dict()[t].double(), readers["base"].read(t).double())
        for t in family["base"].tensors
    ]
    assert found.l1 == pytest.approx(sum(float((x - y).abs().sum()) for x, y in pairs), rel=1e-5)
    squares = sum(float((x - y).square().sum()) for x, y in pairs)
    assert found.l2 == pytest.approx(squares**0.5, rel=1e-5)
    again = live.materialize(plan_for(engine, CASES["ties"]), readers, distance=True)
    assert (again.l1, again.l2, again.tensors_written) == (found.l1, found.l2, 0)
    base = single_source_recipe(checkpoints(family), "base", 2, "bfloat16")
    at_base = make_plan(base, family, engine[1])
    assert live.materialize(at_base, readers, distance=True).l1 == 0.0


def test_parameters_are_views_of_flat_buffers(engine):
    family, _, _ = engine
    live = LiveModel.load(family["base"], "bfloat16")
    assert set(live.buffers) == {"", "model.layers.0", "model.layers.1"}
    owners = {b.untyped_storage().data_ptr() for b in live.buffers.values()}
    for name, parameter in live.model.named_parameters():
        assert parameter.untyped_storage().data_ptr() in owners, name
        assert parameter.data_ptr() % 64 == live.buffers[""].data_ptr() % 64
        assert not parameter.requires_grad
    assert not live.model.training


def test_experts_are_not_written_to(engine):
    family, _, readers = engine
    before = {n: (f.path / "model.safetensors").read_bytes() for n, f in family.items()}
    live = LiveModel.load(family["base"], "bfloat16")
    live.materialize(plan_for(engine, CASES["dare_ties"]), readers)
    assert before == {n: (f.path / "model.safetensors").read_bytes() for n, f in family.items()}
    assert isinstance(readers["a"], TensorReader)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_adapters_merge_as_peft_merges_them(tmp_path):
    save(llama(), tmp_path / "base", torch.float32)
    base = open_folder(tmp_path / "base", "base")
    torch.manual_seed(4)
    tuned = get_peft_model(llama(), LoraConfig(r=3, lora_alpha=5, target_modules=["up_proj", "o_proj"]))
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn_like(parameter) * 0.1)
    tuned.save_pretrained(tmp_path / "x")
    expected = tuned.merge_and_unload().state_dict()
    sources = {"base": base, "x": open_adapter(tmp_path / "x", "x", base)}
    statistics, readers = WeightStatistics(sources), open_readers(sources)
    live = LiveModel.load(base, "float32")
    recipe = single_source_recipe(checkpoints(sources), "x", 2, "float32")
    live.materialize(make_plan(recipe, sources, statistics), readers)
    for name, found in live.model.state_dict().items():
        torch.testing.assert_close(found, expected[name], rtol=1e-6, atol=1e-7)
    # A trim of an adapter keeps the planned share of its task vector.
    plan = plan_for(
        (sources, statistics, readers), merged("ties", ("x",), weight=1.0, density=0.25), "float32"
    )
    live.materialize(plan, readers)
    name = "model.layers.0.mlp.up_proj.weight"
    changed = (live.model.state_dict()[name] != readers["base"].read(name)).float().mean()
    assert 0.24 < changed < 0.26
    folder = export(plan, readers, tmp_path / "out")
    reloaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert all(torch.equal(reloaded.state_dict()[n], t) for n, t in live.model.state_dict().items())


def path_plan(engine, steps):
    family, statistics, _ = engine
    sources = {**checkpoints(family), "merged": CASES["task_arithmetic"]}
    outer = {"embed": "a", "final_norm": "merged", "head": "base"}
    recipe = Recipe(sources, tuple(LayerStep(*step) for step in steps), outer)
    return make_plan(recipe, family, statistics)


PATHS = [
    [("a", 1), ("merged", 0)],
    [("merged", 0)],
    [("a", 0), ("merged", 1, 0.5), ("merged", 1, 0.5), ("b", 0), ("c", 1)],
    [("base", 0), ("base", 1)],
]


def test_paths_live_and_exported_are_the_same_model(engine, tmp_path):
    family, _, readers = engine
    live = LiveModel.load(family["base"], "bfloat16", max_layers=5)
    model = live.model
    for index, steps in enumerate([*PATHS, PATHS[0]]):
        plan = path_plan(engine, steps)
        live.materialize(plan, readers, distance=True)
        assert live.model is model
        folder = export(plan, readers, tmp_path / f"out{index}")
        config = json.loads((folder / "config.json").read_text()) | dict(plan.config)
        (folder / "config.json").write_text(json.dumps(config))
        reloaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
        assert torch.equal(model(TOKENS).logits, reloaded(TOKENS).logits)
        # The cache numbers layers too.
        settings = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
        assert torch.equal(model.generate(TOKENS, **settings), reloaded.generate(TOKENS, **settings))


def test_paths_the_live_model_cannot_take(engine):
    family, _, readers = engine
    live = LiveModel.load(family["base"], "bfloat16")
    live.materialize(path_plan(engine, [("a", 0)] * 3), readers)
    with pytest.raises(CheckpointError, match=r"E234.*3 different layers.*room for 2"):
        live.materialize(path_plan(engine, [("a", 0), ("a", 1), ("b", 0)]), readers)


def test_layers_of_several_kinds_take_residents_of_their_kind(tmp_path):
    fields = {**SIZES, "head_dim": 8, "layer_types": ["sliding_attention", "full_attention"]}
    family = {}
    for seed, name in enumerate(("base", "other")):
        torch.manual_seed(seed)
        AutoModelForCausalLM.from_config(Gemma2Config(**fields)).save_pretrained(tmp_path / name)
        family[name] = open_folder(tmp_path / name, name)
    readers = open_readers(family)
    outer = dict.fromkeys(("embed", "final_norm"), "base")

    def plan(*steps):
        recipe = Recipe(
            checkpoints(family), tuple(LayerStep(*step) for step in steps), outer, "float32"
        )
        return make_plan(recipe, family, WeightStatistics(family))

    live = LiveModel.load(family["base"], "float32")
    for number, steps in enumerate(
        ([("base", 1), ("other", 0), ("base", 1)], [("base", 1), ("base", 0)])
    ):
        found = plan(*steps)
        live.materialize(found, readers)
        folder = export(found, readers, tmp_path / f"out{number}")
        config = json.loads((folder / "config.json").read_text()) | dict(found.config)
        (folder / "config.json").write_text(json.dumps(config))
        reloaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        long = torch.arange(40)[None]
        assert torch.equal(live.model(long).logits, reloaded(long).logits)
    with pytest.raises(CheckpointError, match=r"E234.*2 different layers of kinds by layer_types"):
        live.materialize(plan(("base", 1), ("other", 1)), readers)
