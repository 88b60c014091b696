"""Paths of layers as genes: one row for a path, limits, and recipes there and back."""

import itertools
import random
from typing import Any

import pytest

from evomerge.errors import ConfigError
from evomerge.recipe.recipe import CheckpointSource, LayerStep, ModelForm, checkpoint_recipe
from evomerge.search_space import (
    SearchSpace,
    SearchSpaceDeclaration,
    build_search_space,
    load_search_space,
)
from tests.search_space.test_search_space import EXPERTS, SOURCES, layout

SCALE = {"low": 0.5, "high": 2.0, "step": 0.25}


def space(
    layers: int = 3, method: str = "task_arithmetic", weight: Any = None, **section: Any
) -> SearchSpace:
    coefficients = {"weight": weight or {"value": 0.5}}
    declaration = SearchSpaceDeclaration.model_validate(
        {"schema": 1, "method": method, "coefficients": coefficients, "layer_path": section}
    )
    return build_search_space(declaration, layout(layers), SOURCES, EXPERTS, "bfloat16", 5, "s.yaml")


FORMS: list[dict[str, Any]] = [
    {},
    {"scale": SCALE},
    {"form": "indicator", "rounds": 2},
    {"form": "indicator", "rounds": 3, "scale": SCALE, "sources": ["merged", "math"]},
    {"sources": ["experts"], "outer": "base", "max_repeats": 1, "min_layers": 2, "max_layers": 4},
]


@pytest.mark.parametrize("section", FORMS)
def test_a_path_has_one_row_and_keeps_the_limits(section: dict[str, Any]) -> None:
    found = space(**section)
    assert found.paths is not None
    draw = random.Random(1)
    for _ in range(200):
        raw = [draw.uniform(gene.low, gene.high) for gene in found.genes]
        if draw.random() < 0.5:
            raw = [
                value if draw.random() < 0.2 else gene.low
                for value, gene in zip(raw, found.genes, strict=True)
            ]
        genome = found.snap(raw)
        assert found.snap(genome) == genome
        steps = found.paths.steps(genome)
        assert found.paths.least <= len(steps) <= found.paths.most
        numbers = [number for number, _ in steps]
        assert max(numbers.count(number) for number in numbers) <= found.paths.repeats
        assert found.encode(found.decode(genome)) == genome


@pytest.mark.parametrize("rounds", [1, 2, 3])
@pytest.mark.parametrize("repeats", [1, 2, 3])
def test_a_search_may_begin_with_any_source_whatever_the_least_length(
    rounds: int, repeats: int
) -> None:
    """Layers of a source alone are too few for most lengths; others join them where a slot is free."""
    sources = ["merged", "base", "math"]
    limits = {"form": "indicator", "rounds": rounds, "max_repeats": repeats, "sources": sources}
    for least in range(1, 9 * min(rounds, repeats) + 1):
        paths = space(min_layers=least, max_layers=max(least, 4), **limits).paths
        assert paths is not None
        for source in sources:
            steps = paths.identity(source)
            assert paths.is_spelled(steps)
            assert len(steps) == max(least, 3)
            taken = [paths.choices[choice] for choice, _ in steps]
            assert {(source, layer) for layer in range(3)} <= {*taken}


def test_different_genomes_are_different_recipes() -> None:
    found = space(2, sources=["merged", "math"], max_layers=3)
    every = {
        found.snap(row) for row in itertools.product(*(range(int(g.high) + 1) for g in found.genes))
    }
    assert len({found.decode(genome).digest for genome in every}) == len(every)
    # 4 layers, each at most twice, in 1 to 3 steps.
    assert len(every) == 4 + 4**2 + (4**3 - 4)


def test_a_row_that_is_spelled_otherwise_is_refused() -> None:
    found = space()
    with pytest.raises(ValueError, match="snap genomes first"):
        found.decode((0.0, 1.0, 2.0, 3.0))
    with pytest.raises(ValueError, match="has 4 genes here, found 2"):
        found.decode((0.0, 1.0))


def test_the_path_of_a_recipe() -> None:
    found = space(sources=["merged", "math"], scale=SCALE)
    recipe = found.decode(found.snap([2.0, 4.0, 4.0, 0.0, 2.0, 0.5, 1.5, 1.0]))
    # The scales on the way in run up to 2, 1 and 1.5.
    steps = (
        LayerStep("merged", 1, 0.5),
        LayerStep("math", 0, 1.0),
        LayerStep("math", 0, round(1 / 1.5, 12)),
    )
    assert recipe.path == steps
    assert set(recipe.sources) == {"base", "math", "code", "merged"}
    assert set(recipe.outer.values()) == {"merged"}


def test_all_layers_in_order_are_the_merge_itself() -> None:
    plain = space(weight={"low": 0.0, "high": 1.0}, sources=["merged", "code"])
    whole = plain.uniform({"math": 0.3, "code": 0.6})
    assert plain.decode(whole) == plain.merging.decode(
        plain.merging.uniform({"math": 0.3, "code": 0.6})
    )
    for name in ("base", *EXPERTS):
        recipe = checkpoint_recipe(SOURCES, name, 3, "bfloat16")
        genome = plain.encode(recipe)
        assert genome is not None
        assert plain.decode(genome).digest == recipe.digest


def test_what_a_path_does_not_take_is_no_part_of_its_recipe() -> None:
    found = space(weight={"low": 0.0, "high": 1.0}, sources=["merged", "code"], outer="base")
    recipe = found.decode(found.snap([0.25] * 4 + [0.75] * 4 + [4.0, 5.0, 6.0, 0.0]))
    assert set(recipe.sources) == {"base", "code"}
    assert recipe.path == tuple(LayerStep("code", layer) for layer in range(3))
    assert found.encode(recipe) is not None


@pytest.mark.parametrize("field", ["model", "layer"])
def test_a_head_that_all_share_is_the_copy_that_the_merge_has(field: str) -> None:
    """Its place is none of the search's, so that no table says anything of it."""
    declaration = SearchSpaceDeclaration.model_validate(
        {
            "schema": 1,
            "method": "task_arithmetic",
            "coefficients": {"weight": {"field": field}},
            "layer_path": {"sources": ["merged", "base"]},
        }
    )
    places = layout(3, outer=("embed", "final_norm"))
    form = ModelForm(heads="keep:math")
    found = build_search_space(declaration, places, SOURCES, EXPERTS, "bfloat16", 5, form=form)
    assert found.paths is not None
    own = [0.1 * (index % 7) for index in range(len(found.genes) - len(found.paths))]
    steps = found.paths.spell(found.paths.home)
    genome = found.snap([*own, *steps])
    recipe = found.decode(genome)
    assert recipe.outer == {"embed": "merged", "final_norm": "merged", "head": "base"}
    assert recipe == found.merging.decode(found.merging.snap(own))
    assert found.encode(recipe) == genome


@pytest.mark.parametrize(
    ("section", "match"),
    [
        ({"sources": ["physics"]}, r"E119.*layer_path\.sources: names no source; found 'physics'"),
        ({"outer": "physics"}, r"E119.*layer_path\.outer: names no source"),
        ({"min_layers": 5, "max_layers": 4}, r"E119.*min_layers: limits leave no path.*at least 5"),
        ({"min_layers": 4, "max_repeats": 1, "sources": ["math"]}, r"E119.*at most 3"),
    ],
)
def test_sections_that_fit_no_model(section: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        space(**section)


@pytest.mark.parametrize(
    ("section", "match"),
    [
        ({"rounds": 2}, "`rounds` only goes with `form: indicator`"),
        ({"sources": ["math", "math"]}, "listed twice"),
        ({"scale": {"low": 0.5, "high": 0.9}}, "bounds must hold 1"),
        ({"scale": {"low": 0.45, "high": 2.0, "step": 0.1}}, "1 must lie on the grid"),
    ],
)
def test_sections_that_say_nothing_sensible(section: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        space(**section)


def test_an_expert_of_any_name(tmp_path: Any) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(
        "schema: 1\nmethod: linear\ncoefficients: {weight: {value: 1.0}}\n"
        "layer_path: {sources: [experts, base]}\n"
    )
    sources = {name: CheckpointSource(name, name) for name in ("base", "experts", "other")}
    found = build_search_space(
        load_search_space(file), layout(2), sources, ("experts", "other"), "bfloat16", 1
    )
    assert found.paths is not None
    assert found.paths.sources == ("experts", "base")
