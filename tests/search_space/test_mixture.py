"""Mixtures as genes: what a row says, there and back, what is canonical, and what is refused."""

from __future__ import annotations

import itertools

import pytest

from evomerge.errors import ConfigError
from evomerge.recipe.json_form import recipe_from_json
from evomerge.recipe.recipe import CheckpointSource, checkpoint_recipe
from evomerge.search_space import SearchSpace, SearchSpaceDeclaration, build_search_space
from tests.search_space.test_search_space import layout

EXPERTS = ("math", "code", "chat")
SOURCES = {name: CheckpointSource(name, name * 8) for name in ("base", *EXPERTS)}
HEAT = {"low": 0.5, "high": 2.0, "step": 0.5}
BASE = {"weight": {"value": 0.0}}


def space(section: dict[str, object], coefficients: object = None, layers: int = 4) -> SearchSpace:
    data = {
        "schema": 1,
        "method": "task_arithmetic",
        "coefficients": BASE if coefficients is None else coefficients,
        "mixture": section,
    }
    declaration = SearchSpaceDeclaration.model_validate(data)
    return build_search_space(declaration, layout(layers), SOURCES, EXPERTS, "bfloat16", 5, "s.yaml")


def test_genes_say_layers_experts_and_gates() -> None:
    found = space({"bands": 2, "max_per_token": 3, "temperature": HEAT, "rank": 4})
    names = [gene.name.removeprefix("mixture.") for gene in found.genes]
    experts = [f"experts.{name}" for name in EXPERTS]
    assert names == ["layers.0-1", "layers.2-3", *experts, "per_token", "temperature"]
    recipe = found.decode((0.0, 1.0, 1.0, 0.0, 1.0, 2.0, 0.5))
    mixture = recipe.mixture
    assert mixture is not None
    assert (mixture.layers, mixture.experts) == ((2, 3), ("math", "chat"))
    assert (mixture.per_token, mixture.temperature, mixture.rank) == (2, 0.5, 4)
    assert set(recipe.sources) == {"base", "math", "chat"}
    assert {step.source for step in recipe.path} == {"base"}
    # `code` is no part of it: its digest is another model's, and the merge the same.
    assert recipe_from_json(recipe.to_json()) == recipe


def test_equal_mixtures_are_equal_recipes_and_come_back() -> None:
    found = space({"bands": 2, "max_per_token": 2, "temperature": HEAT})
    base = checkpoint_recipe(SOURCES, "base", 4, "bfloat16")
    digests: dict[str, set[tuple[float, ...]]] = {}
    for genome in itertools.product((0.0, 1.0), (0.0, 1.0), *[(0.0, 1.0)] * 3, (1.0, 2.0), (0.5, 1.0)):
        recipe = found.decode(genome)
        digests.setdefault(recipe.digest, set()).add(genome)
        back = found.encode(recipe)
        assert back is not None
        assert found.decode(back).digest == recipe.digest
        layers, experts, (most, heat) = genome[:2], genome[2:5], genome[5:]
        if not any(layers):
            assert recipe.digest == base.digest
            continue
        assert recipe.mixture is not None
        assert len(recipe.mixture.experts) == max(2, int(sum(experts)))
        assert recipe.mixture.temperature == (heat if most > 1 else 1.0)
    # 3 choices of layers, 4 of two experts or more, one a token or two at two temperatures; and the base.
    assert len(digests) == 3 * 4 * 3 + 1


def test_a_mixture_stands_on_the_merge_of_the_other_genes() -> None:
    weight = {"weight": {"field": "model", "outside_layers": "shared", "low": 0.0, "high": 1.0}}
    found = space({"experts": ["base", "math"], "max_per_token": 1}, weight)
    assert len(found.genes) == 3 + 4 + 2
    assert found.uniform(dict.fromkeys(EXPERTS, 0.5)) == (0.5,) * 3 + (0.0,) * 4 + (1.0,) * 2
    genome = (0.25, 0.5, 0.75, 1.0, 0.0, 0.0, 1.0, 1.0, 1.0)
    recipe = found.decode(genome)
    assert recipe.mixture is not None
    assert recipe.mixture.layers == (0, 3)
    dense = found.merging.decode(genome[:3])
    assert (recipe.path, recipe.sources["merged"]) == (dense.path, dense.sources["merged"])
    assert found.encode(recipe) == genome
    assert found.encode(dense) == (*genome[:3], *(0.0,) * 4, 1.0, 1.0)
    other = space({"experts": ["math", "chat"], "max_per_token": 1}, weight)
    assert other.encode(recipe) is None


def test_prompts_are_those_of_the_experts_that_are_there() -> None:
    prompts = {name: {"positive": [f"for {name}"], "negative": ["other"]} for name in EXPERTS}
    found = space({"bands": 1, "gate_mode": "hidden", "prompts": prompts, "max_per_token": 1})
    recipe = found.decode((1.0, 0.0, 1.0, 1.0))
    assert recipe.mixture is not None
    assert {n: p.positive for n, p in recipe.mixture.prompts.items()} == {
        name: (f"for {name}",) for name in ("code", "chat")
    }
    assert recipe_from_json(recipe.to_json()) == recipe
    assert found.encode(recipe) == (1.0, 0.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("section", "match"),
    [
        ({"experts": ["math"]}, r"E119.*mixture.experts: a mixture takes two experts or more; found 1"),
        ({"experts": ["math", "law"]}, r"E119.*names no source; found 'law'"),
        ({"bands": 9}, r"E119.*mixture.bands: more bands than layers; 9 bands, 4 layers"),
        ({"gate_mode": "hidden"}, r"E119.*mixture.prompts: gate_mode hidden needs prompts of every"),
        (
            {"gate_mode": "hidden", "prompts": {"math": {"positive": ["1+1"]}}},
            r"E119.*needs prompts of every expert, and of no other; found math",
        ),
    ],
)
def test_sections_that_fit_no_campaign(section: dict[str, object], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        space(section)


@pytest.mark.parametrize(
    ("more", "match"),
    [
        ({"layer_path": {}}, "does not go with `layer_path`"),
        ({"mixture": {"sides": "prompts", "gate_mode": "random"}}, "`sides` goes with gate_mode arrow"),
        ({"mixture": {"prompts": {"a": {"positive": ["b"]}}}}, "gate_mode arrow takes no prompts"),
        ({"mixture": {"temperature": {"low": 0.3}}}, "1 must lie on the grid of 0.25 from 0.3"),
        ({"mixture": {"temperature": {"low": 1.25}}}, "bounds must hold 1"),
    ],
)
def test_sections_at_odds_with_themselves(more: dict[str, object], match: str) -> None:
    data = {"schema": 1, "method": "task_arithmetic", "mixture": {}} | more
    with pytest.raises(ValueError, match=match):
        SearchSpaceDeclaration.model_validate(data)
