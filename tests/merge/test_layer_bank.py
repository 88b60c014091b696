"""Paths of layers in the live model: nothing is copied that is resident, and a cache knows places."""

from __future__ import annotations

import pytest
import torch

from evomerge.merge.materialize import LiveModel
from evomerge.merge.plan import make_plan
from evomerge.recipe.recipe import LayerStep, Recipe
from tests.merge.test_materialize import CASES, TOKENS, checkpoints, engine, family  # noqa: F401

SETTINGS = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, "min_new_tokens": 12}
PATH = [("a", 0), ("merged", 1), ("a", 0), ("b", 1), ("merged", 1), ("a", 0)]


def plan(found, steps):
    sources, statistics, _ = found
    recipe = Recipe(
        {**checkpoints(sources), "merged": CASES["task_arithmetic"]},
        tuple(LayerStep(*step) for step in steps),
        dict.fromkeys(("embed", "final_norm", "head"), "merged"),
    )
    return make_plan(recipe, sources, statistics)


@pytest.fixture
def live(engine):  # noqa: F811
    return LiveModel.load(engine[0]["base"], "float32", max_layers=6)


def test_a_layer_that_is_resident_is_not_written_again(engine, live):  # noqa: F811
    readers = engine[2]
    layer = 9  # tensors of one
    first = live.materialize(plan(engine, PATH), readers)
    assert first.tensors_written == 3 * layer + 3
    elements = sum(p.numel() for p in live.model.parameters())
    assert len(live.layers) == 6
    # Another order of the same layers, and a part of them, cost nothing.
    for steps in (PATH[::-1], PATH[:2], [("b", 1)] * 5):
        assert live.materialize(plan(engine, steps), readers).tensors_written == 0
        assert len(live.layers) == live.model.config.num_hidden_layers == len(steps)
    assert live.materialize(plan(engine, [("b", 1), ("b", 0)]), readers).tensors_written == layer
    live.materialize(plan(engine, PATH), readers)
    assert sum(p.numel() for p in live.model.parameters()) == elements


def test_generation_with_a_cache_is_that_without(engine, live):  # noqa: F811
    readers = engine[2]
    for steps in (PATH, PATH[::-1], [("a", 1)] * 6):
        live.materialize(plan(engine, steps), readers)
        cached = live.model.generate(TOKENS, **SETTINGS)
        assert torch.equal(cached, live.model.generate(TOKENS, use_cache=False, **SETTINGS))
        places = [
            m.layer_idx for layer in live.layers for m in layer.modules() if hasattr(m, "layer_idx")
        ]
        assert places == list(range(6))
        # Token by token the cache holds one entry for each place.
        output = live.model(TOKENS, use_cache=True)
        assert len(output.past_key_values) == 6


def test_the_least_used_gives_way(engine):  # noqa: F811
    readers = engine[2]
    live = LiveModel.load(engine[0]["base"], "float32", max_layers=3)
    for name in ("a", "b", "c"):
        live.materialize(plan(engine, [(name, 0)]), readers)
    assert live.materialize(plan(engine, [("b", 0), ("c", 0), ("a", 0)]), readers).tensors_written == 0
    live.materialize(plan(engine, [("b", 0), ("a", 0)]), readers)
    live.materialize(plan(engine, [("b", 1)]), readers)
    assert live.materialize(plan(engine, [("a", 0), ("b", 0)]), readers).tensors_written == 0
    assert live.materialize(plan(engine, [("c", 0)]), readers).tensors_written == 9
