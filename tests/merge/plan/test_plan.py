"""Plans: what each tensor is made of, canonical forms, other paths, and errors by name."""

import dataclasses
import json

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model

from evomerge.checkpoint.adapter import open_adapter
from evomerge.checkpoint.folder import open_folder
from evomerge.checkpoint.layout import tensor_places_of
from evomerge.errors import CandidateError, CheckpointError, ConfigError
from evomerge.merge.passes.keys import mask_key
from evomerge.merge.plan import make_plan
from evomerge.merge.statistics.weights import WeightStatistics
from evomerge.recipe.recipe import CheckpointSource, LayerStep, Recipe, single_source_recipe
from tests.checkpoint.folders import llama, save, write_family
from tests.merge.passes.cases import EXPERTS, is_copy, merged
from tests.merge.test_binding import FAMILIES

UP = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    return write_family(tmp_path_factory.mktemp("family"))


@pytest.fixture(scope="module")
def statistics(family):
    return WeightStatistics(family)


def checkpoints(family):
    return {name: CheckpointSource(str(f.path)) for name, f in family.items()}


def plan_of(family, statistics, source, dtype="bfloat16"):
    sources = {**checkpoints(family), "merged": source}
    return make_plan(single_source_recipe(sources, "merged", 2, dtype), family, statistics)


def test_every_tensor_once_with_its_place(family, statistics):
    plan = plan_of(family, statistics, merged(weight=0.3))
    assert {e.name: e.place for e in plan.tensors} == tensor_places_of(family["base"].tensors)
    assert len(plan.tensors) == len(plan.by_name) == 21
    entry = plan.by_name[UP]
    assert entry.base == ("base", UP)
    assert [(i.source, i.tensor, i.weight) for i in entry.inputs] == [(n, UP, 0.3) for n in EXPERTS]
    assert (plan.layers, plan.config, plan.dtype) == (2, {}, "bfloat16")


def test_longest_prefix_of_a_place_wins(family, statistics):
    table = {"": 0.1, "layers": 0.2, "layers.1": 0.3, "layers.1.mlp": 0.4, "embed": 0.5}
    source = merged(weight={"a": table, "*": 0.7})
    found = {e.place: [i.weight for i in e.inputs] for e in plan_of(family, statistics, source).tensors}
    assert found["embed"] == [0.5, 0.7, 0.7]
    assert found["layers.0.mlp.mlp.up_proj"] == [0.2, 0.7, 0.7]
    assert found["layers.1.attn.self_attn.q_proj"] == [0.3, 0.7, 0.7]
    assert found["layers.1.mlp.mlp.up_proj"] == [0.4, 0.7, 0.7]
    assert found["head"] == [0.1, 0.7, 0.7]


def test_every_finest_place_has_its_own_weight(family, statistics):
    places = family["base"].tensor_layout.places
    table = {place: (index + 1) / 64 for index, place in enumerate(places)}
    plan = plan_of(family, statistics, merged(weight={"a": table, "*": 0.7}))
    for entry in plan.tensors:
        assert [i.weight for i in entry.inputs] == [table[entry.place], 0.7, 0.7]
    assert {entry.place for entry in plan.tensors} == set(places)


@pytest.mark.parametrize(
    "source",
    [
        merged(weight=0.0),
        merged("ties", ("a",), weight=0.0, density=0.3),
    ],
)
def test_nothing_added_is_a_copy_of_the_base(family, statistics, source):
    for entry in plan_of(family, statistics, source).tensors:
        assert is_copy(entry)
        assert entry.inputs[0].source == "base"


@pytest.mark.parametrize(
    "source",
    [
        merged(weight={"a": 0.0, "b": 1.0, "c": 0.0}),
        merged("ties", ("b",), weight=1.0, density=1.0),
        merged("dare_ties", ("b",), weight=1.0, density=1.0),
        merged("linear", base=None, weight={"a": 0.0, "b": 0.4, "c": 0.0}),
        merged("slerp", ("a", "b"), None, t=1.0),
    ],
)
def test_one_expert_at_full_weight_is_a_copy_of_it(family, statistics, source):
    for entry in plan_of(family, statistics, source).tensors:
        assert is_copy(entry)
        assert entry.inputs[0].source == "b"


def test_ties_and_dare_entries(family, statistics):
    entry = plan_of(family, statistics, merged("ties", weight=0.0, density=0.3)).by_name[UP]
    assert (entry.election, entry.divisor) == ("before", "count")
    # An expert of weight 0 still votes.
    expected = [statistics.threshold("base", n, UP, 0.3) for n in EXPERTS]
    assert [i.threshold for i in entry.inputs] == expected
    whole = merged("ties", weight=0.5, density=0.3, options={"trim": "model"})
    entry = plan_of(family, statistics, whole).by_name[UP]
    assert [i.threshold for i in entry.inputs] == [
        statistics.model_threshold("base", n, 0.3) for n in EXPERTS
    ]
    entry = plan_of(family, statistics, merged("dare_ties", weight=0.5, density=0.25, seed=9)).by_name[
        UP
    ]
    assert (entry.election, entry.divisor) == ("before", "none")
    assert [(i.keep, i.rescale) for i in entry.inputs] == [(0.25, 4.0)] * 3
    assert [i.key for i in entry.inputs] == [mask_key(9, n, UP) for n in EXPERTS]


def test_order_of_inputs_does_not_matter(family, statistics):
    tables = {"a": 0.1, "b": 0.2, "c": 0.3}
    for method, extra in (("linear", {}), ("task_arithmetic", {}), ("dare_ties", {"density": 0.5})):
        one = plan_of(family, statistics, merged(method, weight=tables, **extra))
        other = plan_of(family, statistics, merged(method, ("c", "a", "b"), weight=tables, **extra))
        assert one == other


@pytest.mark.parametrize(
    "source",
    [
        merged("linear", ("a", "b", "a"), None, weight=1.0),
        merged("linear", ("a", "b", "a"), None, {"normalise": "no"}, weight={"a": 0.25, "b": 0.5}),
        merged("karcher", ("a", "a"), None, weight=1.0),
        merged("slerp", ("a", "a"), None, t=0.25),
        merged("nuslerp", ("a", "a"), t=0.25),
        merged("multislerp", ("a", "a"), weight=1.0),
        merged(inputs=("a", "a"), weight=0.5),
    ],
)
def test_a_model_that_stands_twice_counts_twice(family, statistics, source):
    entry = plan_of(family, statistics, source).by_name[UP]
    assert sum(i.weight for i in entry.inputs) == pytest.approx(1.0)
    assert sum(i.weight for i in entry.inputs if i.source == "b") < 0.6


def test_slerp_takes_its_second_input_at_one(family, statistics):
    forward = plan_of(family, statistics, merged("slerp", ("b", "a"), None, t=0.25)).by_name[UP]
    back = plan_of(family, statistics, merged("slerp", ("a", "b"), None, t=0.75)).by_name[UP]
    assert forward == back
    weights = {i.source: i.weight for i in forward.inputs}
    assert weights["b"] > weights["a"]


def test_a_checkpoint_as_it_stands(family, statistics):
    recipe = single_source_recipe(checkpoints(family), "c", 2, "float32")
    plan = make_plan(recipe, family, statistics)
    assert all(is_copy(e) and e.inputs[0].source == "c" and e.dtype == "float32" for e in plan.tensors)


def path_recipe(family, steps, **fields):
    sources = {**checkpoints(family), "merged": merged(weight={"*": {"": 0.1, "layers.1": 0.9}})}
    outer = {"embed": "a", "final_norm": "merged", "head": "base"}
    return Recipe(sources, tuple(LayerStep(*step) for step in steps), outer, **fields)


def test_paths_are_renumbered(family, statistics):
    steps = [("a", 0), ("merged", 1), ("merged", 1), ("b", 0)]
    plan = make_plan(path_recipe(family, steps), family, statistics)
    assert plan.layers == 4
    assert plan.config["num_hidden_layers"] == 4
    assert len(plan.tensors) == len(plan.by_name) == 3 + 4 * 9
    for index, (source, layer) in enumerate(steps):
        entry = plan.by_name[f"model.layers.{index}.mlp.up_proj.weight"]
        assert entry.place == f"layers.{index}.mlp.mlp.up_proj"
        assert {i.tensor for i in entry.inputs} == {f"model.layers.{layer}.mlp.up_proj.weight"}
        # Coefficients belong to the source's layers, not to the result's.
        assert [i.weight for i in entry.inputs] == ([0.9] * 3 if source == "merged" else [1.0])
    assert plan.by_name["model.embed_tokens.weight"].inputs[0].source == "a"
    assert plan.by_name["lm_head.weight"].inputs[0].source == "base"


def test_lists_with_an_entry_a_layer_follow_the_path(tmp_path):
    save(llama(), tmp_path / "base", torch.float32)
    path = tmp_path / "base" / "config.json"
    config = json.loads(path.read_text()) | {
        "layer_types": ["full", "sliding"],
        "eos_token_id": [1, 2],
    }
    path.write_text(json.dumps(config))
    family = {"base": open_folder(tmp_path / "base", "base")}
    outer = dict.fromkeys(("embed", "final_norm", "head"), "base")
    steps = tuple(LayerStep("base", layer) for layer in (1, 0, 1))
    recipe = Recipe(checkpoints(family), steps, outer, config={"rope_theta": 5.0})
    plan = make_plan(recipe, family, WeightStatistics(family))
    assert plan.config == {
        "num_hidden_layers": 3,
        "layer_types": ["sliding", "full", "sliding"],
        "rope_theta": 5.0,
    }


def test_layer_scale_goes_to_what_writes_into_the_residual(family, statistics):
    plan = make_plan(path_recipe(family, [("a", 0, 0.5), ("b", 1)]), family, statistics)
    scaled = {e.name for e in plan.tensors if e.scale != 1.0}
    assert scaled == {f"model.layers.0.{m}.weight" for m in ("self_attn.o_proj", "mlp.down_proj")}


def test_layer_scale_is_refused_where_outputs_are_normalised(tmp_path, family, statistics):
    for kind in ("gemma2", "olmo2"):
        name, fields = FAMILIES[kind]
        folder = tmp_path / kind
        config = getattr(transformers, name)(**fields)
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        opened = {"base": open_folder(folder, "base")}
        outer = dict.fromkeys(("embed", "final_norm", "head"), "base")
        steps = (LayerStep("base", 0, 0.5), LayerStep("base", 1))
        recipe = Recipe(checkpoints(opened), steps, outer)
        with pytest.raises(CheckpointError, match=r"E234.*cannot be scaled"):
            make_plan(recipe, opened, WeightStatistics(opened))


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_adapters_take_part_only_where_they_touch(tmp_path):
    save(llama(), tmp_path / "base", torch.float32)
    base = open_folder(tmp_path / "base", "base")
    tuned = get_peft_model(llama(), LoraConfig(r=2, target_modules=["up_proj"]))
    tuned.save_pretrained(tmp_path / "adapter")
    sources = {"base": base, "x": open_adapter(tmp_path / "adapter", "x", base)}
    source = merged("ties", ("x",), weight=0.5, density=1.0)
    plan = plan_of(sources, WeightStatistics(sources), source)
    for entry in plan.tensors:
        touched = "up_proj" in entry.name
        assert entry.inputs[0].source == ("x" if touched else "base")
        assert is_copy(entry) != touched


@pytest.mark.parametrize(
    ("source", "match"),
    [
        (merged("dare-ties", weight=1.0), r"E114.*did you mean dare_ties\?"),
        (merged("slerp", t=0.5), r"E118.*exactly 2 inputs; found 3"),
        (merged("task_arithmetic", (), weight=1.0), r"E118.*at least 1 inputs; found 0"),
        (merged("ties", base=None, weight=1.0, density=1.0), r"E115.*ties needs a base"),
        (merged("ties", weight=1.0), r"E111.*coefficients\.density\.a.*needs a value of density"),
        (merged(weight={"a": 1.0, "b": 1.0}), r"E111.*weight\.c.*none at"),
        (merged(weight={"*": {"layers": 1.0}}), r"E111.*none at (embed|head|final_norm)"),
        (merged("ties", weight=1.0, density=0.0), r"E111.*found 0\.0"),
        (merged("ties", weight=1.0, density=1.5), r"E111.*found 1\.5"),
        (
            merged("ties", weight=1.0, density=0.5, options={"trim": "row"}),
            r"E111.*`trim` must be one of tensor, model, found 'row'",
        ),
        (merged(weight=1.0, options={"x": "y"}), r"E111.*no option `x`"),
    ],
)
def test_faulty_sources(family, statistics, source, match):
    with pytest.raises(ConfigError, match=match):
        plan_of(family, statistics, source)


def test_weights_that_sum_to_zero_fail_the_candidate(family, statistics):
    with pytest.raises(CandidateError, match="sum to zero"):
        plan_of(family, statistics, merged("linear", weight=0.0))


def test_faulty_paths(family, statistics):
    with pytest.raises(ConfigError, match=r"E119.*path\[1\].*no layer 7"):
        make_plan(path_recipe(family, [("a", 0), ("a", 7)]), family, statistics)
    recipe = path_recipe(family, [("a", 0)])
    recipe = dataclasses.replace(recipe, outer={"embed": "a", "final_norm": "a"})
    with pytest.raises(ConfigError, match=r"E138.*outer\.head"):
        make_plan(recipe, family, statistics)


def test_a_source_without_a_tensor(family, statistics):
    short = {n: h for n, h in family["b"].tensors.items() if n != UP}
    sources = {**family, "b": dataclasses.replace(family["b"], tensors=short)}
    with pytest.raises(CheckpointError, match=r"E220.*b has no such tensor"):
        plan_of(sources, statistics, merged(weight=0.5))
