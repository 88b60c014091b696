"""Recipes: JSON there and back, a digest of the merge alone, canonical tables, every fault at once."""

from __future__ import annotations

import contextlib
import json
import math
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.errors import ConfigError
from evomerge.recipe.json_form import recipe_from_json
from evomerge.recipe.places import compact, leaf_places, lookup
from evomerge.recipe.recipe import (
    MERGED,
    CheckpointSource,
    LayerStep,
    MergedSource,
    Recipe,
    canonical_json,
    checkpoint_recipe,
    identity_path,
    single_source_recipe,
)

SOURCES = {name: CheckpointSource(f"models/{name}", name * 8) for name in ("base", "math", "code")}
PLACES = leaf_places(3, ("attn", "mlp"), ("embed", "final_norm", "head"))
MATRICES = leaf_places(2, ("attn.q", "attn.v", "mlp.up", "mlp.up.own", "mlp.down", "norm"), ("embed",))


def merged(**changes: Any) -> MergedSource:
    fields: dict[str, Any] = {
        "method": "ties",
        "inputs": ("math", "code"),
        "base": "base",
        "coefficients": {
            "weight": {"math": {"": 0.5, "layers.1": 0.75}, "code": {"": 1.0}},
            "density": {"*": {"": 0.2}},
        },
        "options": {"trim": "tensor"},
        "seed": 3,
    }
    return MergedSource(**{**fields, **changes})


def recipe(source: MergedSource | None = None, **changes: Any) -> Recipe:
    sources = {**SOURCES, MERGED: source or merged()}
    fields: dict[str, Any] = {
        "sources": sources,
        "path": (*identity_path(2), LayerStep("math", 1, 0.5)),
        "outer": {"embed": "base", "final_norm": MERGED, "head": MERGED},
        "dtype": "float16",
        "config": {"max_position_embeddings": 64},
        "tokenizer": "math",
    }
    return Recipe(**{**fields, **changes})


def shuffled(data: Any, rng: random.Random) -> Any:
    if isinstance(data, dict):
        keys = list(data)
        rng.shuffle(keys)
        return {key: shuffled(data[key], rng) for key in keys}
    return [shuffled(each, rng) for each in data] if isinstance(data, list) else data


def test_json_there_and_back_is_the_same_recipe() -> None:
    first = recipe()
    text = json.dumps(first.to_json())
    again = recipe_from_json(json.loads(text))
    assert again == first
    assert again.digest == first.digest
    plain = checkpoint_recipe(SOURCES, "math", 3, "bfloat16")
    assert recipe_from_json(plain.to_json()) == plain
    assert set(plain.sources) == {"base", "math"}
    assert plain.is_identity_path(3)
    assert not plain.is_identity_path(2)
    assert not first.is_identity_path(3)


def test_the_digest_is_of_the_merge_and_not_of_paths_or_order() -> None:
    first = recipe()
    for seed in range(5):
        other = recipe_from_json(shuffled(first.to_json(), random.Random(seed)))
        assert other.digest == first.digest
    data = first.to_json()
    data["sources"]["math"]["path"] = "/somewhere/else"
    assert recipe_from_json(data).digest == first.digest
    # Known for ever: a digest that moved would make every ledger's evaluation keys worthless.
    pinned = "2623174d478282b50fd58e54fdbe828c16150c7fe67da5e5370139d4cd018d92"
    assert first.digest == pinned


@pytest.mark.parametrize(
    "other",
    [
        recipe(merged(seed=4)),
        recipe(merged(options={"trim": "model"})),
        recipe(merged(inputs=("code", "math"))),
        recipe(merged(coefficients={"weight": {"math": {"": 0.5}, "code": {"": 1.0}}})),
        recipe(path=identity_path(3)),
        recipe(path=(*identity_path(2), LayerStep("math", 1, 0.25))),
        recipe(dtype="bfloat16"),
        recipe(tokenizer="base"),
        recipe(config={}),
        recipe(outer={"embed": "math", "final_norm": MERGED, "head": MERGED}),
        recipe(sources={**SOURCES, MERGED: merged(), "code": CheckpointSource("models/code", "x")}),
    ],
)
def test_whatever_changes_the_merge_changes_the_digest(other: Recipe) -> None:
    assert other.digest != recipe().digest


def test_whole_numbers_stand_for_floats() -> None:
    data = json.loads(json.dumps(recipe().to_json()).replace("1.0", "1"))
    assert recipe_from_json(data).digest == recipe().digest
    data["sources"][MERGED]["coefficients"]["weight"]["code"] = 1
    assert recipe_from_json(data).digest == recipe().digest


def test_canonical_json_refuses_what_json_has_no_word_for() -> None:
    assert canonical_json({"b": 0.1, "a": [1, None]}) == '{"a":[1,null],"b":0.1}'
    for value in (math.nan, math.inf):
        with pytest.raises(ValueError, match="not JSON compliant"):
            canonical_json({"a": value})


def test_the_longest_prefix_wins() -> None:
    table = {"": 1.0, "layers": 2.0, "layers.1": 3.0, "layers.1.mlp": 4.0}
    wanted = {"embed": 1.0, "layers.0.attn": 2.0, "layers.1.attn": 3.0, "layers.1.mlp": 4.0, "": 1.0}
    assert {place: lookup(table, place) for place in wanted} == wanted
    assert lookup({"": 1.0, "layers.1": 3.0}, "layers.10.mlp") == 1.0  # a prefix of parts, not of text
    with pytest.raises(KeyError, match="no value for place 'embed'"):
        lookup({"layers": 1.0}, "embed")


def test_the_number_of_an_expert_of_a_mixture_may_be_left_out() -> None:
    table = {"": 1.0, "layers.1.mlp": 2.0, "layers.1.mlp.mlp.experts.up_proj": 3.0}
    own = "layers.1.mlp.mlp.experts.{}.{}.weight"
    assert lookup(table, own.format(0, "up_proj")) == lookup(table, own.format(12, "up_proj")) == 3.0
    assert lookup(table, own.format(0, "down_proj")) == 2.0
    table |= {"layers.1.mlp.mlp.experts": 4.0, "layers.1.mlp.mlp.experts.3.up_proj": 5.0}
    assert [lookup(table, own.format(n, "up_proj")) for n in (2, 3)] == [3.0, 5.0]
    assert lookup(table, own.format(3, "down_proj")) == 4.0
    with pytest.raises(KeyError, match="no value for place"):
        lookup({"embed": 1.0}, own.format(0, "up_proj"))


def test_leaf_places_are_in_model_order() -> None:
    assert leaf_places(2, ("attn", "mlp"), ("head", "embed")) == (
        "embed",
        "layers.0.attn",
        "layers.0.mlp",
        "layers.1.attn",
        "layers.1.mlp",
        "head",
    )


@pytest.mark.parametrize("places", [PLACES, MATRICES], ids=["modules", "matrices"])
@given(data=st.data())
def test_compact_tables_say_the_same_and_are_canonical(
    places: tuple[str, ...], data: st.DataObject
) -> None:
    # Values drawn by module too, so that shared ones are no accident.
    kinds = st.sampled_from([0.0, 0.5])
    shared = {p: data.draw(kinds) for p in {".".join(p.split(".")[:3]) for p in places}}
    values = [data.draw(kinds | st.just(shared[".".join(p.split(".")[:3])])) for p in places]
    leaves = dict(zip(places, values, strict=True))
    table = compact(places, values)
    assert {place: lookup(table, place) for place in places} == leaves
    assert len(table) <= len(leaves)
    assert compact(places[::-1], values[::-1]) == table
    # Nothing is said twice: without an entry some place would have another value, or none.
    for entry in table:
        rest = {key: value for key, value in table.items() if key != entry}
        assert any(lookup({"": math.nan, **rest}, place) != leaves[place] for place in places)


def test_matrices_that_share_a_value_have_the_table_of_their_module() -> None:
    values = {"layers.0.attn": 0.3, "layers.0.mlp": 0.4, "layers.0.norm": 0.4, "layers.1": 0.5, "": 1.0}
    fine = compact(MATRICES, [lookup(values, place) for place in MATRICES])
    modules = leaf_places(2, ("attn", "mlp", "norm"), ("embed",))
    assert fine == compact(modules, [lookup(values, place) for place in modules])
    own = {**values, "layers.0.mlp.up": 0.6, "layers.0.mlp.up.own": 0.7}
    found = compact(MATRICES, [lookup(own, place) for place in MATRICES])
    assert {k: v for k, v in found.items() if k.startswith("layers.0.mlp")} == {
        "layers.0.mlp.up": 0.6,
        "layers.0.mlp.up.own": 0.7,
        "layers.0.mlp.down": 0.4,
    }


def test_a_per_layer_table_of_equal_values_is_the_per_model_one() -> None:
    def compacted(**but: float) -> dict[str, float]:
        return compact(PLACES, [but.get(place.replace(".", "_"), 0.5) for place in PLACES])

    assert compacted() == {"": 0.5}
    assert compacted(embed=1.0) == {"embed": 1.0, "layers": 0.5, "final_norm": 0.5, "head": 0.5}
    one_module = compacted(layers_1_mlp=1.0)
    assert one_module["layers.0"] == 0.5
    assert one_module["layers.1.mlp"] == 1.0


def faults(data: Any) -> list[tuple[str, str]]:
    with pytest.raises(ConfigError, match=r"error\[E1") as caught:
        recipe_from_json(data, "r.json")
    assert {problem.file for problem in caught.value.problems} == {"r.json"}
    return [(problem.code, problem.field) for problem in caught.value.problems]


def test_every_fault_of_a_recipe_is_listed() -> None:
    assert faults([1]) == [("E103", "")]
    assert faults({"paths": [], "schema": 2, "dtype": "int8"}) == [
        ("E104", "paths"),
        ("E103", "sources"),
        ("E103", "path"),
        ("E103", "outer"),
        ("E108", "schema"),
        ("E132", "dtype"),
    ]
    assert faults({"sources": [], "path": {}, "outer": 3}) == [
        ("E108", "sources"),
        ("E108", "path"),
        ("E108", "outer"),
    ]
    data = recipe().to_json()
    data["path"] += [["nobody", 0], ["math", True], ["math", -1], ["math", 0, math.nan], "x"]
    data["outer"]["tail"] = "math"
    data["outer"]["head"] = "nobody"
    data["sources"]["odd"] = 3
    weight = data["sources"][MERGED]["coefficients"]["weight"]
    weight["math"] = {"": math.inf, "layers": "much"}
    weight["translation"] = {"": 1.0}
    assert sorted(faults(data)) == [
        ("E108", "outer.head"),
        ("E108", "outer.tail"),
        ("E108", "path[3]"),
        ("E108", "path[4]"),
        ("E108", "path[5]"),
        ("E108", "path[7]"),
        ("E108", "sources.merged.coefficients.weight.math.layers"),
        ("E108", "sources.merged.coefficients.weight.translation"),
        ("E108", "sources.odd"),
        ("E109", "path[6]"),
        ("E109", "sources.merged.coefficients.weight.math"),
    ]


@pytest.mark.parametrize(
    ("key", "value", "field"),
    [
        ("method", 3, "sources.merged.method"),
        ("inputs", "math", "sources.merged.inputs"),
        ("inputs", [], "sources.merged.inputs"),
        ("inputs", ["nobody"], "sources.merged"),
        ("inputs", [MERGED], "sources.merged"),
        ("base", "nobody", "sources.merged"),
        ("seed", "x", "sources.merged.seed"),
        ("seed", True, "sources.merged.seed"),
        ("coefficients", [], "sources.merged.coefficients"),
        ("coefficients", {"weight": 1}, "sources.merged.coefficients.weight"),
        ("options", {"trim": []}, "sources.merged.options.trim"),
    ],
)
def test_odd_merged_sources_are_named(key: str, value: Any, field: str) -> None:
    data = recipe().to_json()
    data["sources"][MERGED][key] = value
    if key == "inputs":
        data["sources"][MERGED]["coefficients"] = {}
    assert faults(data) == [("E108", field)]


@pytest.mark.parametrize(
    ("key", "value", "field"),
    [
        ("heads", "all", "heads"),
        ("heads", "keep:nobody", "heads"),
        ("heads", f"keep:{MERGED}", "heads"),
        ("towers", "vision", "towers"),
    ],
)
def test_another_form_is_one_that_is_known_and_of_a_source(key: str, value: str, field: str) -> None:
    assert faults({**recipe().to_json(), key: value}) == [("E108", field)]


@pytest.mark.parametrize("name", ["../../out", "/out", "a/b", "..", "a\\b"])
def test_heads_are_written_beside_a_merge_and_nowhere_else(name: str) -> None:
    data = {**recipe().to_json(), "heads": "each"}
    recipe_from_json(data)
    data["sources"][name] = {"path": "models/other"}
    assert faults(data) == [("E136", f"sources.{name}")]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


def test_config_numbers_must_be_finite() -> None:
    data = json.loads(json.dumps(recipe().to_json()))
    data["config"] = {"max_position_embeddings": float("inf")}
    assert faults(data) == [("E109", "config")]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_nothing_but_config_errors_comes_out_of_damaged_json(data: st.DataObject) -> None:
    whole = json.loads(json.dumps(recipe().to_json()))
    node: Any = whole
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = data.draw(st.sampled_from(keys))
        deeper = isinstance(node[key], dict | list) and node[key]
        if not deeper or data.draw(st.booleans()):
            break
        node = node[key]
    node[key] = data.draw(JSON)
    with contextlib.suppress(ConfigError):
        read = recipe_from_json(whole)
        assert recipe_from_json(json.loads(json.dumps(read.to_json()))).digest == read.digest


def test_a_single_source_recipe_takes_everything_from_it() -> None:
    found = single_source_recipe({**SOURCES, MERGED: merged()}, MERGED, 3, "bfloat16")
    assert {step.source for step in found.path} | set(found.outer.values()) == {MERGED}
    assert set(found.checkpoints) == set(SOURCES)
