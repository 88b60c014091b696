"""The two passes against float64 references, PEFT, and the properties merging must have."""

import numpy as np
import pytest
import torch
from peft.utils import merge_utils

from evomerge.merge.passes import blocks
from evomerge.merge.passes.blocks import Dense, LowRankDelta, Scratch, block_ranges
from evomerge.merge.passes.keys import mask_key
from evomerge.merge.passes.sparsified_sum import sparsified_sum
from evomerge.merge.passes.sparsity import Sparsity
from evomerge.merge.passes.weighted_sum import weighted_sum
from tests.merge.passes import reference

SIZE = 5003
NAMES = ("a", "b", "c")


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK", 512)


@pytest.fixture
def tensors():
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(SIZE, generator=generator)
    return base, [base + 0.1 * torch.randn(SIZE, generator=generator) for _ in NAMES]


def add(base, experts, weights, storage=torch.float32, scale=1.0):
    out = torch.empty(SIZE, dtype=storage)
    operands = [Dense(x) for x in experts]
    assert weighted_sum(base, operands, weights, scale, SIZE, out, storage, Scratch())
    return out


def sparse(
    base,
    experts,
    weights,
    sparsities,
    election="before",
    divisor="count",
    factor=1.0,
    least=0.0,
    columns=1,
    storage=torch.float32,
):
    size = base.numel()
    out = torch.empty(size, dtype=storage)
    operands = [Dense(x) for x in experts]
    assert sparsified_sum(
        base, operands, weights, sparsities, election, divisor, factor, least, columns, 1.0, size, out,
        storage, Scratch(),
    )  # fmt: skip
    return out


def thresholds(base, experts, densities):
    found = []
    for x, density in zip(experts, densities, strict=True):
        magnitudes = (x.float() - base.float()).abs().sort(descending=True).values
        found.append(Sparsity(threshold=float(magnitudes[max(1, int(density * SIZE)) - 1])))
    return found


def dare(densities, tensor="t", seed=5):
    return [
        Sparsity(keep=d, rescale=1.0 / d, key=mask_key(seed, n, tensor))
        for n, d in zip(NAMES, densities, strict=True)
    ]


def as64(base, experts):
    return base.double().numpy(), [x.double().numpy() for x in experts]


@pytest.mark.parametrize("storage", [torch.float32, torch.bfloat16, torch.float16])
def test_task_arithmetic_is_rounded_once(tensors, storage):
    base, experts = tensors[0].to(storage), [x.to(storage) for x in tensors[1]]
    weights = [0.3, 1.2, -0.4]
    expected = torch.from_numpy(reference.task_arithmetic(*as64(base, experts), weights))
    found = add(base, experts, weights, storage)
    if storage == torch.float32:
        torch.testing.assert_close(found.double(), expected, rtol=3e-7, atol=3e-7)
    else:
        # One rounding: never further off than half a unit in the last place, but for float32's own.
        half = 0.5 * torch.finfo(storage).eps * expected.abs()
        assert ((found.double() - expected).abs() <= half + 1e-6).all()


def test_linear(tensors):
    _, experts = tensors
    weights = [0.2, 0.5, 0.3]
    expected = torch.from_numpy(reference.linear(as64(*tensors)[1], weights))
    torch.testing.assert_close(add(None, experts, weights).double(), expected, rtol=3e-7, atol=3e-7)


@pytest.mark.parametrize("densities", [(0.2, 0.2, 0.2), (0.05, 0.5, 1.0), (1.0, 1.0, 1.0)])
def test_ties(tensors, densities):
    base, experts = tensors
    weights = [0.5, 1.0, 1.4]
    origin, values = as64(base, experts)
    kept = [reference.trim(x - origin, d) for x, d in zip(values, densities, strict=True)]
    expected = origin + reference.vote(kept, weights, "before", "count")
    found = sparse(base, experts, weights, thresholds(base, experts, densities))
    # The reference trims float64 deltas: where float32 rounds two of them together, one more survives.
    assert (np.abs(found.double().numpy() - expected) > 1e-6).mean() < 1e-3


def test_ties_is_that_of_peft(tensors):
    base, experts = tensors
    weights = torch.tensor([0.5, 1.0, 1.4])
    deltas = [x - base for x in experts]
    # PEFT returns the task vectors' merge, for one density.
    expected = base + merge_utils.ties(deltas, weights, 0.3)
    found = sparse(base, experts, weights.tolist(), thresholds(base, experts, [0.3] * 3))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("densities", [(0.3, 0.3, 0.3), (0.1, 0.6, 0.9)])
def test_dare_ties(tensors, densities):
    base, experts = tensors
    weights = [0.5, 1.0, 1.4]
    origin, values = as64(base, experts)
    kept = [
        np.where(reference.mask(5, n, "t", d, SIZE), (x - origin) / d, 0.0)
        for n, x, d in zip(NAMES, values, densities, strict=True)
    ]
    expected = origin + reference.vote(kept, weights, "before", "none")
    found = sparse(base, experts, weights, dare(densities), divisor="none")
    np.testing.assert_allclose(found.double().numpy(), expected, rtol=1e-5, atol=1e-5)


def test_dare_without_election_is_unbiased(tensors):
    base, experts = tensors
    total = torch.zeros(SIZE, dtype=torch.float64)
    draws = 200
    for seed in range(draws):
        masks = dare((0.5, 0.5, 0.5), seed=seed)
        total += sparse(base, experts, [1.0, 1.0, 1.0], masks, election="none", divisor="none").double()
    expected = torch.from_numpy(reference.task_arithmetic(*as64(base, experts), [1, 1, 1]))
    spread = torch.stack([x - base for x in experts]).square().sum(0).sqrt().double()
    assert ((total / draws - expected).abs() < 5.5 * spread / draws**0.5).all()


def test_ties_in_zero_sums_and_equal_magnitudes():
    base = torch.zeros(4)
    experts = [torch.tensor([1.0, -1.0, 2.0, 0.0]), torch.tensor([-1.0, 1.0, 2.0, -3.0])]
    out = sparse(base, experts, [1.0, 1.0], [Sparsity(), Sparsity()])
    # A zero sum counts as positive, and the mean is over those that agree.
    assert out.tolist() == [1.0, 1.0, 2.0, -3.0]


# Properties that hold whatever the method.


def families(base, experts):
    return {
        "sum": lambda w: add(base, experts, w),
        "ties": lambda w: sparse(base, experts, w, thresholds(base, experts, [0.3, 0.4, 0.5])),
        "dare_ties": lambda w: sparse(base, experts, w, dare((0.3, 0.4, 0.5)), divisor="none"),
    }


@pytest.mark.parametrize("family", ["sum", "ties", "dare_ties"])
def test_superposition(tensors, family):
    base, experts = tensors
    merge = families(base, experts)[family]
    first, second = [0.3, 0.0, 0.7], [0.4, 0.9, -0.2]
    both = [x + 2 * y for x, y in zip(first, second, strict=True)]
    delta = (merge(first) - base) + 2 * (merge(second) - base)
    torch.testing.assert_close(merge(both) - base, delta, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("family", ["sum", "ties", "dare_ties"])
def test_zero_weights_and_zero_deltas_give_the_base(tensors, family):
    base, experts = tensors
    assert torch.equal(families(base, experts)[family]([0.0, 0.0, 0.0]), base)
    assert torch.equal(families(base, [base, base, base])["sum"]([0.5, 1.0, 1.5]), base)
    plain = [Sparsity()] * 3
    assert torch.equal(sparse(base, [base] * 3, [0.5, 1.0, 1.5], plain), base)


def test_density_one_is_no_sparsification(tensors):
    base, experts = tensors
    weights = [0.5, 1.0, 1.4]
    plain = [Sparsity()] * 3
    lowest = thresholds(base, experts, [1.0, 1.0, 1.0])
    assert torch.equal(sparse(base, experts, weights, lowest), sparse(base, experts, weights, plain))
    assert torch.equal(
        sparse(base, experts, weights, plain, election="none", divisor="none"),
        add(base, experts, weights),
    )


def test_equal_experts_elect_themselves(tensors):
    base, (expert, *_) = tensors
    found = sparse(base, [expert] * 3, [1.0, 1.0, 1.0], [Sparsity()] * 3)
    torch.testing.assert_close(found, expert, rtol=1e-6, atol=1e-6)


def test_order_of_experts(tensors):
    base, experts = tensors
    weights, marks = [0.5, 1.0, 1.4], thresholds(base, experts, [0.2, 0.3, 0.4])
    order = [2, 0, 1]
    found = sparse(
        base, [experts[i] for i in order], [weights[i] for i in order], [marks[i] for i in order]
    )
    torch.testing.assert_close(found, sparse(base, experts, weights, marks), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("block", [64, 1000, 1 << 16])
@pytest.mark.parametrize("family", ["sum", "ties", "dare_ties"])
def test_blocks_do_not_change_a_bit(tensors, family, block, monkeypatch):
    base, experts = tensors
    weights = [0.37, 0.51, 1.3]
    expected = families(base, experts)[family](weights)
    monkeypatch.setattr(blocks, "BLOCK", block)
    assert torch.equal(families(base, experts)[family](weights), expected)


def test_storage_is_rounded_before_it_is_held_wider(tensors):
    base, experts = (x.bfloat16() if isinstance(x, torch.Tensor) else x for x in tensors)
    experts = [x.bfloat16() for x in experts]
    narrow = add(base, experts, [0.3, 0.4, 0.5], torch.bfloat16)
    wide = torch.empty(SIZE)
    operands = [Dense(x) for x in experts]
    assert weighted_sum(base, operands, [0.3, 0.4, 0.5], 1.0, SIZE, wide, torch.bfloat16, Scratch())
    assert torch.equal(wide, narrow.float())


@pytest.mark.parametrize(
    ("storage", "value", "finite"),
    [
        (torch.float16, 65504.0, True),
        (torch.float16, 65519.9, True),
        (torch.float16, 65520.0, False),
        (torch.bfloat16, 3.39e38, True),
        (torch.bfloat16, 3.4e38, False),
        (torch.float32, 3.4e38, True),
        (torch.float32, float("inf"), False),
        (torch.float32, float("nan"), False),
        (torch.bfloat16, float("-inf"), False),
    ],
)
def test_finiteness_is_that_of_the_stored_value(storage, value, finite):
    source = torch.ones(2000)
    source[1777] = value
    out = torch.empty(2000, dtype=storage)
    found = weighted_sum(None, [Dense(source)], [1.0], 1.0, 2000, out, storage, Scratch())
    assert found is finite
    assert bool(out.isfinite().all()) is finite


def test_low_rank_operands():
    rows, columns, rank = 37, 60, 3
    base = torch.randn(rows * columns)
    left, right = torch.randn(rows, rank), torch.randn(rank, columns)
    expert = LowRankDelta(base, left, right)
    assert all(start % columns == 0 for start, _ in block_ranges(base.numel(), [expert]))
    expected = base.double() + 0.3 * (left.double() @ right.double()).view(-1)
    out = torch.empty_like(base)
    size = base.numel()
    assert weighted_sum(base, [expert], [0.3], 1.0, size, out, out.dtype, Scratch())
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)
    assert weighted_sum(None, [expert], [0.5], 2.0, size, out, out.dtype, Scratch())
    whole = base.double() + (left.double() @ right.double()).view(-1)
    torch.testing.assert_close(out.double(), whole, rtol=1e-5, atol=1e-5)


def test_a_scale_multiplies_the_whole_sum(tensors):
    base, experts = tensors
    weights = [0.5, 0.25, 0.25]
    origin, values = as64(base, experts)
    for start, expected in (
        (base, reference.task_arithmetic(origin, values, weights)),
        (None, reference.linear(values, weights)),
    ):
        found = add(start, experts, weights, scale=-0.5).double().numpy()
        np.testing.assert_allclose(found, -0.5 * expected, rtol=0, atol=1e-6)
