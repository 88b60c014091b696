"""Search spaces: genes and their names, grids, decoding to canonical recipes and back."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.errors import ConfigError
from evomerge.optimizers.baselines import baseline_recipes
from evomerge.recipe.catalogue import METHODS
from evomerge.recipe.places import leaf_places, lookup
from evomerge.recipe.recipe import (
    MERGED,
    CheckpointSource,
    MergedSource,
    Recipe,
    checkpoint_recipe,
    single_coefficient_recipe,
)
from evomerge.search_space import (
    CoefficientField,
    Gene,
    ModelLayout,
    SearchSpace,
    SearchSpaceDeclaration,
    build_search_space,
    load_search_space,
)

EXPERTS = ("math", "code")
SOURCES = {name: CheckpointSource(f"models/{name}", name * 8) for name in ("base", *EXPERTS)}
OUTER = ("embed", "final_norm", "head")
MODULES = ("attn", "mlp", "norm")


def layout(
    layers: int = 4, outer: tuple[str, ...] = OUTER, active: dict[str, tuple[str, ...]] | None = None
) -> ModelLayout:
    return ModelLayout(layers, leaf_places(layers, MODULES, outer), 1000, active)


MATRICES = ("attn.self_attn.k_proj", "attn.self_attn.q_proj", "mlp.mlp.up_proj", "norm")


def tensor_layout(
    layers: int = 4, outer: tuple[str, ...] = OUTER, active: dict[str, tuple[str, ...]] | None = None
) -> ModelLayout:
    return ModelLayout(layers, leaf_places(layers, MATRICES, outer), 1000, active)


def row_layout() -> ModelLayout:
    """Two layers whose matrices have rows of their own, one of them not touched by `math`."""
    over = tensor_layout(2, outer=("embed", "final_norm"))
    rows = {place: 3 for place in over.places if not place.endswith("norm")}
    active = {"math": over.places[:3] + over.places[4:], "code": over.places}
    return replace(over, active=active, rows=rows)


def vocabulary(rows: int) -> ModelLayout:
    """A layer of some rows below an embedding of many."""
    over = tensor_layout(1, outer=("embed", "final_norm"))
    few = {place: 2 for place in over.places if place.startswith("layers.0.attn")}
    return replace(over, rows={"embed": rows, **few})


def space(
    method: str = "task_arithmetic",
    over: ModelLayout | None = None,
    experts: tuple[str, ...] = EXPERTS,
    options: dict[str, str] | None = None,
    **coefficients: dict[str, Any],
) -> SearchSpace:
    declaration = SearchSpaceDeclaration.model_validate(
        {"schema": 1, "method": method, "coefficients": coefficients, "options": options or {}}
    )
    sources = {name: CheckpointSource(f"models/{name}", name * 8) for name in ("base", *experts)}
    return build_search_space(declaration, over or layout(), sources, experts, "bfloat16", 5, "s.yaml")


def names(found: SearchSpace) -> list[str]:
    return [gene.name for gene in found.genes]


def values_of(recipe: Recipe, found: SearchSpace) -> dict[tuple[str, str, str], float]:
    """Every leaf's value, read from the recipe alone."""
    source = recipe.sources[MERGED]
    assert isinstance(source, MergedSource)
    return {
        (coefficient, name, place): lookup(table, place)
        for coefficient, by_input in source.coefficients.items()
        for name, table in by_input.items()
        for place in found.layout.leaves
    }


def test_gene_names_are_those_of_the_design() -> None:
    fine = space(over=layout(12), weight={"field": "layer_module"})
    assert "weight.math.layers.03.mlp" in names(fine)
    assert names(fine)[0] == "weight.math.embed"
    assert names(space(weight={"field": "model", "outside_layers": "shared"})) == [
        "weight.math",
        "weight.code",
    ]
    assert names(space(weight={"field": "model"}))[:4] == [
        "weight.math.embed",
        "weight.math.layers",
        "weight.math.final_norm",
        "weight.math.head",
    ]
    assert names(space(over=layout(10), weight={"field": "band", "bands": 3}))[1:4] == [
        "weight.math.layers.0-2",
        "weight.math.layers.3-5",
        "weight.math.layers.6-9",
    ]
    assert names(space("slerp", t={"field": "layer"}))[:2] == ["t.embed", "t.layers.0"]
    assert len(set(names(fine))) == len(fine.genes)
    finest = space(over=tensor_layout(12), weight={"field": "tensor"})
    assert names(finest)[:5] == [
        "weight.math.embed",
        "weight.math.layers.00.self_attn.k_proj",
        "weight.math.layers.00.self_attn.q_proj",
        "weight.math.layers.00.mlp.up_proj",
        "weight.math.layers.00.norm",
    ]
    assert len(set(names(finest))) == 2 * (12 * 4 + 3)


@pytest.mark.parametrize("over", [layout(), tensor_layout()], ids=["modules", "matrices"])
@pytest.mark.parametrize("field", ["model", "band", "layer", "layer_module"])
@pytest.mark.parametrize("outside", ["own", "shared"])
def test_the_groups_of_a_field_tile_the_model(field: str, outside: str, over: ModelLayout) -> None:
    weight = {"field": field, "outside_layers": outside} | ({"bands": 3} if field == "band" else {})
    found = space(over=over, weight=weight)
    assert names(found) == names(space(weight=weight))
    for expert in EXPERTS:
        covered = [place for gene in found.genes if gene.input == expert for place in gene.places]
        assert sorted(covered) == sorted(found.layout.places)


def test_a_tied_head_has_no_gene() -> None:
    tied = space(over=layout(outer=("embed", "final_norm")), weight={"field": "layer"})
    assert not [name for name in names(tied) if "head" in name]


def test_genes_without_effect_are_dropped() -> None:
    places = layout().places
    active = {"math": places[1:4], "code": ()}
    found = space(over=layout(active=active), weight={"field": "layer_module"})
    assert names(found) == [
        "weight.math.layers.0.attn",
        "weight.math.layers.0.mlp",
        "weight.math.layers.0.norm",
    ]
    assert names(space("linear", over=layout(active=active)))  # shares of experts, not of task vectors


def test_both_bounds_lie_on_the_grid() -> None:
    gene = space(weight={"low": 0.0, "high": 1.0, "step": 0.3}).genes[0]
    assert (gene.low, gene.high) == (0.0, 0.9)
    assert gene.snap(gene.low) == gene.low
    assert gene.snap(gene.high) == gene.high


@settings(max_examples=200, deadline=None)
@given(
    low=st.integers(-2000, 2000),
    steps=st.integers(1, 3000),
    step=st.sampled_from([1e-3, 5e-3, 0.1, 0.25, 1 / 3]),
    value=st.floats(-1e3, 1e3),
)
def test_snapping_is_the_nearest_grid_value_and_settles(
    low: int, steps: int, step: float, value: float
) -> None:
    start = low / 1000
    gene = Gene("g", start, start + steps * step, step, "weight", "math", ())
    snapped = gene.snap(value)
    assert gene.snap(snapped) == snapped
    assert gene.low - 1e-9 <= snapped <= gene.high + 1e-9
    nearest = min(max(value, gene.low), gene.high)
    assert abs(snapped - nearest) <= step / 2 + 1e-9
    assert str(snapped) != "-0.0"


METHOD_SPACES = {
    "model": space(weight={"field": "model", "outside_layers": "shared"}),
    "layer": space(weight={"field": "layer"}),
    "layer_module": space(weight={"field": "layer_module", "low": -0.5, "high": 1.5}),
    "tensor": space(over=tensor_layout(), weight={"field": "tensor", "low": -0.5}),
    "tensor_part": space(
        "ties",
        over=tensor_layout(
            active={"math": tensor_layout().places[2:9], "code": tensor_layout().places}
        ),
        weight={"field": "tensor"},
        density={"field": "tensor", "low": 0.1},
    ),
    "ties": space("ties", weight={"field": "band", "bands": 2}, density={"low": 0.1}),
    "dare": space("dare_ties", weight={"field": "layer"}, density={"field": "layer", "low": 0.1}),
    "fixed": space("ties", weight={"value": 1.0}, density={"low": 0.1}),
    "linear": space("linear", weight={"field": "layer"}),
    "slerp": space("slerp", t={"field": "layer_module"}),
    "curve": space(weight={"field": "depth_curve", "knots": 3}),
    "curve_shared": space(
        "ties", weight={"field": "depth_curve", "knots": 2, "outside_layers": "shared", "low": -0.5}
    ),
    "lines": space(weight={"field": "lines", "slope_low": -0.5, "outside_layers": "shared"}),
    "signed": space(weight={"field": "layer", "low": -1.0}, **{"lambda": {}}),
    "nuslerp": space("nuslerp", t={"field": "layer"}),
    "karcher": space("karcher", weight={"field": "layer"}),
    "multislerp": space("multislerp", weight={"field": "layer"}),
    "stock": space("model_stock", **{"lambda": {"field": "layer"}}),
    "sce": space("sce", density={"field": "layer"}),
    "tsv_m": space("tsv_m", weight={"field": "layer", "low": -0.5}, **{"lambda": {}}),
    "wudi": space("wudi", weight={"field": "layer"}),
    "star": space("star", weight={}, eta={"field": "layer"}),
    "mergekit": space("ties", options={"compat": "mergekit"}, weight={}, density={"low": 0.1}),
    "part": space(
        "ties",
        over=layout(active={"math": layout().places[2:5], "code": layout().places}),
        weight={"field": "layer_module"},
        density={"field": "layer_module", "low": 0.1},
    ),
}


@pytest.mark.parametrize("found", METHOD_SPACES.values(), ids=METHOD_SPACES)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_decode_and_encode_are_inverse(found: SearchSpace, data: st.DataObject) -> None:
    genome = found.snap(
        [data.draw(st.floats(gene.low, gene.high) | st.just(gene.low)) for gene in found.genes]
    )
    recipe = found.decode(genome)
    again = found.encode(recipe)
    if again is None:
        # Only a recipe of one plain source may be out of reach, where bounds keep off 0 or 1.
        assert MERGED not in recipe.sources
        return
    assert found.decode(again).digest == recipe.digest
    if MERGED in recipe.sources:
        assert again == genome


CONSTANT = {n: s for n, s in METHOD_SPACES.items() if not any(gene.basis for gene in s.genes)}


@pytest.mark.parametrize("found", CONSTANT.values(), ids=CONSTANT)
def test_decoding_is_one_to_one_and_sets_just_the_genes_places(found: SearchSpace) -> None:
    middle = found.snap([(gene.low + gene.high) / 2 for gene in found.genes])
    before = values_of(found.decode(middle), found)
    digests = {found.decode(middle).digest}
    for index, gene in enumerate(found.genes):
        value = gene.snap(gene.high)
        changed = (*middle[:index], value, *middle[index + 1 :])
        recipe = found.decode(changed)
        after = values_of(recipe, found)
        moved = {key for key in after if after[key] != before[key]}
        inputs = EXPERTS if gene.input == "*" and ("weight", "*", "embed") in after else (gene.input,)
        assert moved == {(gene.coefficient, name, place) for name in inputs for place in gene.places}
        assert {after[key] for key in moved} == {value}
        digests.add(recipe.digest)
    assert len(digests) == len(found.genes) + 1


def test_equal_values_everywhere_are_the_single_coefficient_merge() -> None:
    wanted = single_coefficient_recipe(SOURCES, EXPERTS, 0.7, 4, "bfloat16").digest
    for name in ("model", "layer", "layer_module", "tensor"):
        found = METHOD_SPACES[name]
        genome = found.uniform(dict.fromkeys(EXPERTS, 0.7))
        assert found.decode(genome).digest == wanted
        assert found.encode(single_coefficient_recipe(SOURCES, EXPERTS, 0.7, 4, "bfloat16")) == genome


def test_matrices_that_share_a_value_have_the_recipe_of_their_module() -> None:
    coarse, fine = METHOD_SPACES["layer_module"], METHOD_SPACES["tensor"]
    rng = np.random.default_rng(5)
    for _ in range(20):
        genome = coarse.snap(rng.choice([0.2, 0.7, 1.1], size=len(coarse.genes)).tolist())
        recipe = coarse.decode(genome)
        found = fine.encode(recipe)
        assert found is not None
        assert fine.decode(found).digest == recipe.digest
        assert coarse.encode(fine.decode(found)) == genome
    moved = (*found[:1], fine.genes[1].snap(0.05), *found[2:])
    assert coarse.encode(fine.decode(moved)) is None


ROWS = space(over=row_layout(), weight={"field": "row", "low": -0.5})


def rows_of(recipe: Recipe) -> dict[tuple[str, str], tuple[float, ...]]:
    source = recipe.sources[MERGED]
    assert isinstance(source, MergedSource)
    assert source.rows is not None
    return {(e, place): source.rows.weights(e, place) for e in EXPERTS for place in ROWS.layout.places}


def test_a_row_field_has_a_gene_for_each_row_and_one_for_norms() -> None:
    assert names(ROWS)[:5] == [
        "weight.math.embed.0",
        "weight.math.embed.1",
        "weight.math.embed.2",
        "weight.math.layers.0.self_attn.k_proj.0",
        "weight.math.layers.0.self_attn.k_proj.1",
    ]
    assert "weight.code.layers.1.norm" in names(ROWS)
    # Of `math` one matrix less.
    assert len(ROWS.genes) == 2 * (3 + 2 * (3 * 3 + 1) + 1) - 3


def test_nobody_needs_a_gene_for_each_row_of_a_vocabulary() -> None:
    found = space(over=vocabulary(600_000), weight={"field": "row", "outside_layers": "shared"})
    assert len(found.genes) == 2 * (2 + 2 + 1 + 1)


SHARED_ROWS = space(over=row_layout(), weight={"field": "row", "outside_layers": "shared", "low": -0.5})


def test_rows_outside_the_layers_share_the_values_of_norms() -> None:
    assert not [name for name in names(SHARED_ROWS) if "embed" in name or "final_norm" in name]
    # Of `math` one matrix less, and of neither expert the three rows of the embedding and the last norm.
    assert len(SHARED_ROWS.genes) == len(ROWS.genes) - 2 * (3 + 1)
    by_name = {gene.name: gene for gene in SHARED_ROWS.genes}
    first, last = by_name["weight.code.layers.0.norm"], by_name["weight.code.layers.1.norm"]
    assert first.places == ("layers.0.norm", "embed.0", "embed.1", "embed.2")
    assert last.places == ("layers.1.norm", "final_norm")
    assert first.matrix == last.matrix == ""
    assert by_name["weight.math.layers.1.mlp.up_proj.2"].matrix == "layers.1.mlp.mlp.up_proj"
    covered = [place for gene in SHARED_ROWS.genes if gene.input == "code" for place in gene.places]
    assert sorted(covered) == sorted(SHARED_ROWS.layout.leaves)
    rng = np.random.default_rng(6)
    genome = SHARED_ROWS.snap(rng.uniform(-0.5, 1.5, len(SHARED_ROWS.genes)).tolist())
    recipe = SHARED_ROWS.decode(genome)
    assert SHARED_ROWS.encode(recipe) == genome
    assert ROWS.decode(ROWS.encode(recipe) or ()).digest == recipe.digest
    found = values_of(recipe, SHARED_ROWS)
    value = genome[names(SHARED_ROWS).index(first.name)]
    assert {found["weight", "code", place] for place in first.places} == {value}
    assert rows_of(recipe)["code", "embed"] == ()


def test_where_norms_are_not_touched_rows_outside_share_a_value_all_the_same() -> None:
    over = row_layout()
    touched = tuple(place for place in over.places if not place.endswith("norm"))
    over = replace(over, active={"math": touched, "code": over.places})
    shared = {"field": "row", "outside_layers": "shared"}
    (gene,) = [g for g in space(over=over, weight=shared).genes if "embed.0" in g.places][:1]
    assert gene.name == "weight.math.layers.0.norm"
    assert gene.places == ("embed.0", "embed.1", "embed.2")
    assert gene.matrix == ""


def test_where_layers_have_rows_alone_what_is_outside_has_a_value_a_place() -> None:
    places = ("embed", "layers.0.mlp.mlp.up_proj", "final_norm", "head")
    over = ModelLayout(1, places, 1000, rows={"embed": 4, places[1]: 2, "head": 4})
    found = space(over=over, weight={"field": "row", "outside_layers": "shared"})
    assert names(found)[:5] == [
        "weight.math.embed",
        "weight.math.final_norm",
        "weight.math.head",
        "weight.math.layers.0.mlp.up_proj.0",
        "weight.math.layers.0.mlp.up_proj.1",
    ]
    assert len(found.genes) == 10


def test_rows_that_differ_go_to_a_table_and_come_back() -> None:
    rng = np.random.default_rng(3)
    for _ in range(10):
        genome = list(ROWS.snap(rng.uniform(-0.5, 1.5, len(ROWS.genes)).tolist()))
        at = names(ROWS).index("weight.code.layers.1.mlp.up_proj.0")
        genome[at : at + 3] = [genome[at]] * 3
        recipe = ROWS.decode(genome)
        found = rows_of(recipe)
        assert found["code", "layers.1.mlp.mlp.up_proj"] == ()
        assert found["code", "final_norm"] == found["math", ROWS.layout.places[3]] == ()
        for gene, value in zip(ROWS.genes, genome, strict=True):
            place, _, row = gene.places[0].rpartition(".")
            own = found.get((gene.input, place), ())
            assert not own or own[int(row)] == value
        assert ROWS.encode(recipe) == tuple(genome)
        source = recipe.sources[MERGED]
        assert isinstance(source, MergedSource)
        shown = lookup(source.coefficients["weight"]["code"], "embed")
        assert shown == pytest.approx(np.mean(found["code", "embed"]), abs=1e-12)


def test_rows_that_share_a_value_have_the_recipe_of_their_matrix() -> None:
    fine = space(over=replace(row_layout(), rows={}), weight={"field": "tensor", "low": -0.5})
    rng = np.random.default_rng(4)
    genome = fine.snap(rng.uniform(-0.5, 1.5, len(fine.genes)).tolist())
    recipe = fine.decode(genome)
    found = ROWS.encode(recipe)
    assert found is not None
    assert ROWS.decode(found) == recipe
    assert fine.encode(ROWS.decode((*found[:1], ROWS.genes[1].snap(0.123), *found[2:]))) is None
    for baseline in baseline_recipes(SOURCES, EXPERTS, [0.4], 2, "bfloat16").values():
        genome = ROWS.encode(baseline)
        assert genome is not None
        assert ROWS.decode(genome) == baseline


@pytest.mark.parametrize(
    ("method", "coefficients", "options", "words"),
    [
        ("ties", {"weight": {"field": "row"}}, {}, "goes with the weight of task_arithmetic"),
        ("linear", {"weight": {"field": "row"}}, {"normalise": "no"}, "goes with the weight of task"),
        (
            "task_arithmetic",
            {"weight": {"field": "row"}, "lambda": {"low": 0.5}},
            {},
            "nothing else searched",
        ),
        (
            "task_arithmetic",
            {"weight": {"field": "row"}},
            {"divisor": "weight"},
            "goes with the weight",
        ),
        ("task_arithmetic", {"weight": {"field": "row", "step": 1e-5}}, {}, "at most 32767 steps"),
    ],
)
def test_a_row_field_where_it_cannot_be_is_refused(
    method: str, coefficients: dict[str, Any], options: dict[str, str], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        space(method, options=options, **coefficients)


@pytest.mark.parametrize("name", ["model", "layer", "layer_module", "tensor"])
def test_every_baseline_has_a_genome_where_the_grid_allows(name: str) -> None:
    found = METHOD_SPACES[name]
    for baseline, recipe in baseline_recipes(SOURCES, EXPERTS, [0.4, 1.0], 4, "bfloat16").items():
        genome = found.encode(recipe)
        assert genome is not None, baseline
        assert found.decode(genome) == recipe


def plain(found: SearchSpace, name: str) -> str:
    return checkpoint_recipe(found.sources, name, 4, "bfloat16").digest


@pytest.mark.parametrize("name", ["layer", "ties", "dare", "tsv_m", "wudi", "star"])
def test_weights_of_zero_are_the_base_itself(name: str) -> None:
    found = METHOD_SPACES[name]
    genome = found.uniform(dict.fromkeys(EXPERTS, 0.0))
    assert found.decode(genome).digest == plain(found, "base")
    other = found.snap(
        [v if g.coefficient == "weight" else g.low for g, v in zip(found.genes, genome, strict=True)]
    )
    assert found.decode(other).digest == plain(found, "base")
    assert found.encode(checkpoint_recipe(SOURCES, "base", 4, "bfloat16")) == genome


@pytest.mark.parametrize("name", ["model", "layer", "layer_module", "tensor", "linear"])
def test_one_expert_alone_at_weight_one_is_that_expert(name: str) -> None:
    found = METHOD_SPACES[name]
    genome = found.uniform({"math": 1.0, "code": 0.0})
    assert found.decode(genome).digest == plain(found, "math")
    assert found.encode(checkpoint_recipe(SOURCES, "math", 4, "bfloat16")) == genome
    nearly = (*genome[:-1], genome[-1] + found.genes[-1].step)
    assert MERGED in found.decode(nearly).sources


def test_an_expert_equal_to_the_base_does_not_hide_the_plain_ones() -> None:
    active = {"math": layout().places, "code": ()}
    found = space(over=layout(active=active), weight={"field": "layer"})
    zero = found.snap([0.0] * len(found.genes))
    one = found.snap([1.0] * len(found.genes))
    assert found.decode(zero).digest == plain(found, "base")
    assert found.decode(one).digest == plain(found, "math")


def test_elected_signs_leave_no_expert_as_it_is() -> None:
    found = METHOD_SPACES["ties"]
    genome = found.uniform({"math": 1.0, "code": 0.0})
    assert MERGED in found.decode(genome).sources  # the other one votes, and trimming cuts this one


def test_the_ends_of_slerp_are_the_experts() -> None:
    found = METHOD_SPACES["slerp"]
    for t, expert in ((0.0, "math"), (1.0, "code")):
        genome = found.snap([t] * len(found.genes))
        assert found.decode(genome).digest == plain(found, expert)
        assert found.encode(checkpoint_recipe(SOURCES, expert, 4, "bfloat16")) == genome
    assert found.encode(checkpoint_recipe(SOURCES, "base", 4, "bfloat16")) is None


def test_places_an_expert_does_not_touch_weigh_nothing_and_keep_every_density() -> None:
    found = METHOD_SPACES["part"]
    middle = found.snap([(gene.low + gene.high) / 2 for gene in found.genes])
    values = values_of(found.decode(middle), found)
    untouched = set(found.layout.places) - set(found.layout.active["math"])  # type: ignore[index]
    assert {values["weight", "math", place] for place in untouched} == {0.0}
    # A density of 0 would divide by 0 in a rescaling method.
    assert {values["density", "math", place] for place in untouched} == {1.0}


def test_only_random_masks_carry_the_seed() -> None:
    def seed(name: str) -> int:
        found = METHOD_SPACES[name]
        source = found.decode(found.snap([0.4] * len(found.genes))).sources[MERGED]
        assert isinstance(source, MergedSource)
        return source.seed

    assert {name: seed(name) for name in ("layer", "ties", "dare")} == {
        "layer": 0,
        "ties": 0,
        "dare": 5,
    }


@pytest.mark.parametrize("weights", [(0.0, 0.0), (1.0, 0.0), (0.5, 0.5), (0.7, 0.0)])
def test_spelled_out_recipes_leave_nothing_out(weights: tuple[float, float]) -> None:
    """Where `decode` gives a baseline, or no density to an expert that weighs nothing."""
    found = space("dare_linear", weight={"field": "layer"}, density={"field": "model", "low": 0.2})
    genome = found.uniform(dict(zip(EXPERTS, weights, strict=True)))
    densities = [0.3 if gene.coefficient == "density" else value
                 for gene, value in zip(found.genes, genome, strict=True)]  # fmt: skip
    for chosen, density in ((genome, 1.0), (found.snap(densities), 0.3)):
        recipe = found.spelled_out(chosen)
        source = recipe.sources[MERGED]
        assert isinstance(source, MergedSource)
        assert (source.method, source.inputs, source.base) == ("dare_linear", EXPERTS, "base")
        assert recipe.is_identity_path(found.layout.layers)
        stated = values_of(recipe, found)
        for place in found.layout.places:
            for expert, weight in zip(EXPERTS, weights, strict=True):
                assert stated["weight", expert, place] == weight
                assert stated.get(("density", expert, place), 1.0) == density
    mixed = found.snap([0.6] * len(found.genes))
    assert found.spelled_out(mixed) == found.decode(mixed)


def test_a_genome_that_does_not_fit_is_refused() -> None:
    found = METHOD_SPACES["model"]
    with pytest.raises(ValueError, match="a genome has 2 genes here, found 1"):
        found.decode((0.5,))
    with pytest.raises(ValueError, match=r"weight\.math = 0\.50005 is not on its grid"):
        found.decode((0.50005, 0.5))
    with pytest.raises(ValueError, match="is not on its grid"):
        found.decode((1.6, 0.5))


def test_a_recipe_of_another_space_has_no_genome() -> None:
    found = METHOD_SPACES["model"]
    per_layer = METHOD_SPACES["layer"]
    assert found.encode(per_layer.decode(per_layer.snap([0.1 * (i % 5) for i in range(14)]))) is None
    ties = METHOD_SPACES["ties"]
    assert found.encode(ties.decode(ties.snap([0.3] * len(ties.genes)))) is None
    odd = single_coefficient_recipe(SOURCES, EXPERTS, 0.7, 4, "bfloat16")
    source = odd.sources[MERGED]
    assert isinstance(source, MergedSource)
    holes = MergedSource("task_arithmetic", EXPERTS, "base", {"weight": {"math": {"layers.1": 1.0}}})
    assert found.encode(Recipe({**odd.sources, MERGED: holes}, odd.path, odd.outer)) is None
    assert found.encode(single_coefficient_recipe(SOURCES, EXPERTS, 1.9, 4, "bfloat16")) is None


def test_uniform_leaves_other_genes_at_their_default() -> None:
    found = METHOD_SPACES["dare"]
    genome = found.uniform({"math": 0.25, "code": 0.5})
    by_name = dict(zip(names(found), genome, strict=True))
    assert by_name["weight.math.embed"] == 0.25
    assert by_name["density.code.layers.3"] == 1.0


@pytest.mark.parametrize(
    ("text", "code", "line", "words"),
    [
        (
            "method: dare-ties",
            "E114",
            1,
            "unknown merge method; found 'dare-ties'; did you mean dare_ties",
        ),
        ("coefficients: {density: {}}", "E111", 1, "no coefficient `density`; it has weight"),
        ("coefficients: {weight: {field: layers}}", "E108", 3, "'depth_curve' or 'lines'"),
        ("coefficients: {weight: {field: band}}", "E119", 3, "needs `bands`"),
        ("coefficients: {weight: {bands: 3}}", "E119", 3, "only goes with `field: band`"),
        ("coefficients: {weight: {field: band, bands: 0}}", "E108", 3, "greater than or equal to 1"),
        ("coefficients: {weight: {low: 1, high: 0.5}}", "E110", 3, "low must be below high"),
        ("coefficients: {weight: {low: 1.6}}", "E110", 1, r"\[1.6, 1.5\] with step 0.001"),
        ("coefficients: {weight: {low: 0, high: 1, step: 2}}", "E110", 1, "hold one value only"),
        ("coefficients: {weight: {value: 1, low: 0}}", "E110", 3, "not both"),
        ("coefficients: {weight: {low: .nan}}", "E109", 3, "finite"),
        ("coefficients: {weight: {step: 0}}", "E108", 3, "greater than 0"),
        ("method: ties\ncoefficients: {density: {low: 0}}", "E111", 1, "a density lies above 0"),
        (
            "method: linear\ncoefficients: {weight: {low: -1}}",
            "E111",
            1,
            "a share of linear is at least 0",
        ),
        ("method: ties\noptions: {trims: model}", "E111", 1, "ties has no option `trims`"),
        (
            "method: ties\noptions: {trim: layer}",
            "E111",
            1,
            "must be one of tensor, model, found 'layer'",
        ),
        ("coeficients: {}", "E104", 3, "did you mean `coefficients`"),
    ],
)
def test_faults_of_a_declaration(tmp_path: Path, text: str, code: str, line: int, words: str) -> None:
    file = tmp_path / "space.yaml"
    file.write_text(
        f"schema: 1\n{'' if 'method' in text else 'method: task_arithmetic' + chr(10)}{text}\n"
    )
    with pytest.raises(ConfigError, match=words) as caught:
        load_search_space(file)
    assert [(p.code, p.line) for p in caught.value.problems] == [(code, line)]


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: space("slerp", experts=("a", "b", "c")), r"E118.*slerp takes 2 experts; found 3"),
        (lambda: space("slerp", experts=("a",)), r"E118.*slerp takes 2 experts; found 1"),
        (
            lambda: space(weight={"field": "band", "bands": 9}),
            r"E119.*s.yaml coefficients.weight.bands: more bands than layers; 9 bands, 4 layers",
        ),
        (lambda: space(weight={"value": 1.0}), r"E121.*nothing to search"),
        (
            lambda: space(over=layout(2000), weight={"field": "layer_module"}),
            r"E121.*too many genes; found 12006, the limit is 10000; use a coarser field",
        ),
        (
            lambda: space(over=vocabulary(600_000), weight={"field": "row"}),
            r"E121.*too many genes; found 1200014, the limit is 1000000, 1200002 of them outside the layers; "
            r"`outside_layers: shared` leaves these out; `field: tensor` has one for each matrix",
        ),
    ],
)
def test_faults_against_the_model(build: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build()


def test_a_field_knows_its_bounds() -> None:
    coefficient = METHOD_SPACES["layer"].method.coefficients[0]
    assert CoefficientField().bounds(coefficient) == (0.0, 1.5)
    assert CoefficientField(low=-1.0).bounds(coefficient) == (-1.0, 1.5)


def test_a_depth_curve_runs_through_its_knots() -> None:
    found = space(over=layout(7), weight={"field": "depth_curve", "knots": 3})
    assert names(found)[:6] == [
        "weight.math.embed", "weight.math.knot.0", "weight.math.knot.1", "weight.math.knot.2",
        "weight.math.final_norm", "weight.math.head",
    ]  # fmt: skip
    genome = found.snap([0.9, 0.1, 0.7, 0.4, 0.2, 0.3] * 2)
    values = values_of(found.decode(genome), found)
    curve = [values["weight", "math", f"layers.{layer}.mlp"] for layer in range(7)]
    assert curve == pytest.approx([0.1, 0.3, 0.5, 0.7, 0.6, 0.5, 0.4], abs=1e-12)
    assert curve == [values["weight", "math", f"layers.{layer}.attn"] for layer in range(7)]
    assert values["weight", "math", "embed"] == 0.9


def test_lines_grow_with_depth_from_alpha() -> None:
    found = space(over=layout(5), weight={"field": "lines", "outside_layers": "shared"})
    assert names(found)[:2] == ["weight.math.alpha", "weight.math.beta"]
    genome = found.snap([0.2, 0.8, 0.5, 0.0])
    values = values_of(found.decode(genome), found)
    lines = [values["weight", "math", f"layers.{layer}.norm"] for layer in range(5)]
    assert lines == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0], abs=1e-12)
    assert {values["weight", "math", place] for place in OUTER} == {0.2}
    # A level line is the constant it stands for.
    assert {values["weight", "code", place] for place in found.layout.places} == {0.5}


@pytest.mark.parametrize("name", ["curve", "curve_shared", "lines"])
def test_curves_are_one_to_one(name: str) -> None:
    found = METHOD_SPACES[name]
    middle = found.snap([(gene.low + gene.high) / 2 for gene in found.genes])
    digests = {found.decode(middle).digest}
    for index, gene in enumerate(found.genes):
        for value in (gene.low, gene.high, middle[index] + gene.step):
            changed = (*middle[:index], gene.snap(value), *middle[index + 1 :])
            digests.add(found.decode(changed).digest)
            assert found.encode(found.decode(changed)) == changed
    assert len(digests) == 3 * len(found.genes) + 1


def test_level_curves_are_the_single_coefficient_merge() -> None:
    wanted = single_coefficient_recipe(SOURCES, EXPERTS, 0.7, 4, "bfloat16")
    for name in ("curve", "lines", "signed"):
        genome = METHOD_SPACES[name].encode(wanted)
        assert genome is not None
        assert METHOD_SPACES[name].decode(genome).digest == wanted.digest


THREE = ("math", "code", "law")


@pytest.mark.parametrize(
    ("method", "weight", "options"),
    [
        ("task_arithmetic", 0.333, {}),
        ("task_arithmetic", 0.8, {"divisor": "weight"}),
        ("linear", 0.333, {}),
        ("linear", 0.7, {}),
        ("dare_linear", 0.333, {}),
    ],
)
@pytest.mark.parametrize(
    "field", [{"field": "model"}, {"field": "layer"}, {"field": "depth_curve", "knots": 3}], ids=str
)
def test_what_rounds_to_the_average_is_the_average(
    method: str, weight: float, options: dict[str, str], field: dict[str, Any]
) -> None:
    """The oracle is the formula: shares of the experts, as the method's own recipe states them."""
    found = space(method, experts=THREE, options=options, weight=field)
    genome = found.uniform(dict.fromkeys(THREE, weight))
    baselines = baseline_recipes(found.sources, THREE, [0.3], 4, "bfloat16")
    assert found.decode(genome).digest == baselines["uniform"].digest
    own = replace(found, one_with_baselines=False).decode(genome)
    tables = own.sources[MERGED].coefficients["weight"].values()
    stated = [lookup(table, place) for table in tables for place in found.layout.places]
    shares = np.array(stated).reshape(3, -1)
    if method == "linear" or options:
        shares = shares / shares.sum(axis=0)
    assert shares == pytest.approx(1 / 3, abs=5e-4)
    # One step of one gene, and it is the average no longer.
    moved = (genome[0] + found.genes[0].step, *genome[1:])
    assert found.decode(found.snap(moved)).digest != baselines["uniform"].digest
    assert found.encode(found.decode(moved)) in (moved, None)


def test_a_coarse_grid_has_no_average() -> None:
    found = space(experts=THREE, weight={"field": "model", "step": 0.1})
    recipe = found.decode(found.uniform(dict.fromkeys(THREE, 0.3)))
    baselines = baseline_recipes(found.sources, THREE, [0.3], 4, "bfloat16")
    assert recipe.digest == baselines["single-0.3"].digest


def test_where_an_expert_has_nothing_its_weight_does_not_count() -> None:
    active = {"math": layout().places[:4], "code": layout().places[2:5]}
    found = space(over=layout(active=active), weight={"field": "layer_module"})
    recipe = found.decode(found.snap([0.7] * len(found.genes)))
    assert recipe.digest == single_coefficient_recipe(SOURCES, EXPERTS, 0.7, 4, "bfloat16").digest


@pytest.mark.parametrize(
    ("method", "coefficients"),
    [
        ("ties", {"density": {"value": 1.0}}),
        ("dare_linear", {"density": {"value": 0.5}}),
        ("task_arithmetic", {"lambda": {"value": 0.5}}),
        ("breadcrumbs", {}),
        ("multislerp", {}),
    ],
)
def test_other_formulas_are_never_the_average(method: str, coefficients: dict[str, Any]) -> None:
    found = space(method, experts=THREE, **coefficients)
    merged = found.decode(found.uniform(dict.fromkeys(THREE, 0.333))).sources[MERGED]
    assert isinstance(merged, MergedSource)
    assert merged.method == method
    assert merged.coefficients["weight"] == {name: {"": 0.333} for name in THREE}


def test_old_ledgers_decode_as_they_did() -> None:
    found = replace(space(experts=THREE), one_with_baselines=False)
    merged = found.decode(found.uniform(dict.fromkeys(THREE, 1 / 3))).sources[MERGED]
    assert isinstance(merged, MergedSource)
    assert merged.coefficients["weight"]["law"] == {"": 0.333}


def test_recipes_hold_only_what_is_not_the_default() -> None:
    def source(name: str) -> MergedSource:
        found = METHOD_SPACES[name]
        middle = found.snap([(gene.low + gene.high) / 2 for gene in found.genes])
        merged = found.decode(middle).sources[MERGED]
        assert isinstance(merged, MergedSource)
        return merged

    assert source("ties").options == {}
    assert source("mergekit").options == {
        "election": "after", "divisor": "weight", "rounding": "binary",
    }  # fmt: skip
    assert set(source("ties").coefficients) == {"weight", "density"}
    assert source("nuslerp").base == "base"
    assert source("karcher").base is None


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("coefficients: {weight: {field: depth_curve}}", "E119", "needs `knots`"),
        ("coefficients: {weight: {knots: 3}}", "E119", "only goes with `field: depth_curve`"),
        ("coefficients: {weight: {slope_high: 3}}", "E119", "only go with `field: lines`"),
        (
            "coefficients: {weight: {field: lines, slope_low: 2}}",
            "E110",
            "slope_low must be below slope_high",
        ),
        ("method: della\ncoefficients: {density: {high: 0.95}}", "E111", "at most at 1; density in"),
        ("method: della\ncoefficients: {epsilon: {high: 0.6}}", "E111", "an epsilon is at least 0"),
        ("method: breadcrumbs\ncoefficients: {gamma: {high: 1}}", "E111", "a gamma is at least 0"),
        (
            "method: ties\noptions: {compat: mergekit}\ncoefficients: {weight: {low: -1}}",
            "E111",
            "with `divisor: weight` a weight is at least 0",
        ),
        ("method: karcher\ncoefficients: {weight: {low: -1}}", "E111", "a share of karcher"),
        ("method: ties\ncoefficients: {density: {field: lines}}", "E111", "a density lies above 0"),
    ],
)
def test_faults_of_newer_declarations(tmp_path: Path, text: str, code: str, words: str) -> None:
    file = tmp_path / "space.yaml"
    head = "" if "method" in text else "method: task_arithmetic\n"
    file.write_text(f"schema: 1\n{head}{text}\n")
    with pytest.raises(ConfigError, match=words) as caught:
        load_search_space(file)
    assert [p.code for p in caught.value.problems] == [code]


def test_curves_against_the_model() -> None:
    with pytest.raises(ConfigError, match=r"E119.*weight\.knots: more knots than layers"):
        space(weight={"field": "depth_curve", "knots": 5})
    with pytest.raises(ConfigError, match=r"E119.*more numbers than layers"):
        space(over=layout(1), weight={"field": "lines"})
    active = {"math": ("layers.1.mlp",), "code": layout().places}
    with pytest.raises(ConfigError, match=r"E119.*use fewer knots"):
        space(over=layout(active=active), weight={"field": "depth_curve", "knots": 3})


@pytest.mark.parametrize(
    "file", sorted((Path(__file__).parents[2] / "search_spaces").glob("*.yaml")), ids=lambda p: p.stem
)
def test_every_shipped_space_opens_and_seeds(file: Path) -> None:
    declaration = load_search_space(file)
    experts = EXPERTS[: METHODS[declaration.method].inputs[1]]
    sources = {name: SOURCES[name] for name in ("base", *experts)}
    found = build_search_space(declaration, layout(8), sources, experts, "bfloat16", 3)
    genome = found.uniform(dict.fromkeys(experts, 0.5))
    assert found.encode(found.decode(genome)) == genome
    assert file.read_text().startswith("# ")


FIELDS = (
    {"field": "model"}, {"field": "layer"}, {"field": "layer_module"}, {"field": "band", "bands": 5},
    {"field": "depth_curve", "knots": 4}, {"field": "lines"},
)  # fmt: skip


def test_a_decoder_has_the_genes_and_digests_it_always_had() -> None:
    """The digest is of the code before there were models of several towers; ledgers hold such recipes."""
    places = leaf_places(12, ("attn", "mlp", "norm", "other"), OUTER)
    sources = {name: CheckpointSource(name, name) for name in ("base", "a", "b")}
    found = hashlib.sha256()
    for field in FIELDS:
        for outside in ("own", "shared"):
            declaration = SearchSpaceDeclaration.model_validate(
                {
                    "schema": 1, "method": "task_arithmetic",
                    "coefficients": {"weight": {**field, "outside_layers": outside}},
                }
            )  # fmt: skip
            space = build_search_space(
                declaration, ModelLayout(12, places, 1000), sources, ["a", "b"], "float32", 0
            )
            genome = space.snap([0.1 * (1 + index % 9) for index in range(len(space.genes))])
            found.update(repr([(g.name, g.places, g.basis) for g in space.genes]).encode())
            found.update(space.decode(genome).digest.encode())
    assert found.hexdigest() == "4a540e375ceebce85d4f8207fbb98881a8ad9bad19502bbc29b3865d897af686"
