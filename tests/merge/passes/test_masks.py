"""Masks: the documented bits, whatever the blocks; nested; fair; unlike each other."""

import itertools

import numpy as np
import pytest
import torch

from evomerge.merge.passes.keys import mask_key
from evomerge.merge.passes.masks import apply_mask, keep_limit
from tests.merge.passes import reference


def draw(key, probability, size, blocks=(0,)):
    values = torch.ones(size)
    edges = [*blocks, size]
    for start, stop in itertools.pairwise(edges):
        n = stop - start
        counter = torch.arange(n, dtype=torch.int32)
        scratch = [torch.empty(n, dtype=torch.int32) for _ in range(2)]
        apply_mask(values[start:stop], key, probability, start, counter, *scratch)
    return values.numpy() == 1.0


@pytest.mark.parametrize("probability", [0.001, 0.3, 0.5, 0.999])
def test_bits_are_those_documented(probability):
    key = mask_key(7, "math", "model.norm.weight")
    expected = reference.mask(7, "math", "model.norm.weight", probability, 5000)
    assert np.array_equal(draw(key, probability, 5000), expected)


def test_blocks_do_not_matter():
    key = mask_key(1, "a", "t")
    whole = draw(key, 0.4, 4097)
    assert np.array_equal(draw(key, 0.4, 4097, blocks=(0, 1, 64, 1000, 4096)), whole)


def test_beyond_32_bits_of_counter_the_stream_changes():
    key = mask_key(1, "a", "t")
    counter = torch.arange(1000, dtype=torch.int32)
    scratch = [torch.empty(1000, dtype=torch.int32) for _ in range(2)]
    first, second = torch.ones(1000), torch.ones(1000)
    apply_mask(first, key, 0.5, 0, counter, *scratch)
    apply_mask(second, key, 0.5, 1 << 32, counter, *scratch)
    assert 0.4 < (first == second).float().mean() < 0.6


def test_nested_in_density():
    key = mask_key(3, "b", "t")
    masks = [draw(key, p, 3000) for p in (0.05, 0.2, 0.21, 0.7, 0.99)]
    for small, large in itertools.pairwise(masks):
        assert not (small & ~large).any()


@pytest.mark.parametrize("probability", [0.05, 0.5, 0.9])
def test_fair_and_without_visible_structure(probability):
    size = 1 << 16
    mask = draw(mask_key(0, "a", "t"), probability, size)
    sigma = np.sqrt(probability * (1 - probability) / size)
    assert abs(mask.mean() - probability) < 5 * sigma
    centred = mask - mask.mean()
    for lag in (1, 2, 3, 64, 576, 4096):
        correlation = (centred[:-lag] * centred[lag:]).mean() / centred.var()
        assert abs(correlation) < 5 / np.sqrt(size)


@pytest.mark.parametrize("other", [(1, "a", "t"), (0, "b", "t"), (0, "a", "u")])
def test_seed_expert_and_tensor_each_change_the_mask(other):
    first, second = draw(mask_key(0, "a", "t"), 0.5, 1 << 16), draw(mask_key(*other), 0.5, 1 << 16)
    assert abs((first == second).mean() - 0.5) < 0.01


def test_values_that_survive_are_untouched():
    values = torch.tensor([1.5, -0.0, float("inf"), -3e-40] * 50)
    before = values.clone()
    counter = torch.arange(200, dtype=torch.int32)
    scratch = [torch.empty(200, dtype=torch.int32) for _ in range(2)]
    apply_mask(values, 12345, 0.5, 0, counter, *scratch)
    kept = values.view(torch.int32) == before.view(torch.int32)
    assert bool((kept | (values.view(torch.int32) == 0)).all())
    assert keep_limit(1.0) == 2**31 - 1
