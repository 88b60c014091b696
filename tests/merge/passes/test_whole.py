"""Methods that make whole tensors: what holds by their papers, and for task vectors of low rank or of none.

That they are their formulas, live as exported, is tested with all methods by `cases.py`.
"""

import numpy as np
import pytest
import torch

from evomerge.merge.passes import by_function, contested, low_rank
from evomerge.merge.passes.blocks import Dense, LowRankDelta, Scratch
from evomerge.merge.passes.by_function import merge_task_vectors
from evomerge.merge.passes.call import Call
from evomerge.merge.passes.whole import FUNCTIONS, LINEAR, weighted
from evomerge.recipe.catalogue import METHODS
from evomerge.recipe.whole_tensor import WHOLE_TENSOR
from tests.merge.passes import whole_reference

DELTAS = 0.1 * torch.randn(3, 12, 10, generator=torch.Generator().manual_seed(1))
ONES = [1.0, 1.0, 1.0]


def numbers(name, experts=3, weight=1.0):
    found = {
        c.name: [weight] * experts if c.per_input else c.default
        for c in METHODS[name].coefficients
        if c.name != "lambda"
    }
    return found | {"given": [None] * experts} if METHODS[name].on_inputs else found


def made(name, stack, **given):
    """The merged task vector, as `merge_task_vectors` makes it."""
    if name not in LINEAR:
        return FUNCTIONS[name](stack, **given)
    return weighted(
        LINEAR[name](stack, **{k: v for k, v in given.items() if k != "weight"}), given["weight"]
    )


def test_every_declared_method_has_its_function():
    assert not set(FUNCTIONS) & set(LINEAR)
    assert set(FUNCTIONS) | set(LINEAR) == {method.name for method in WHOLE_TENSOR}
    assert set(LINEAR) == {method.name for method in WHOLE_TENSOR if method.is_linear()}
    calibrated = {method.name for method in WHOLE_TENSOR if method.on_inputs}
    assert set(whole_reference.FUNCTIONS) == (set(FUNCTIONS) | set(LINEAR)) - calibrated


@pytest.mark.parametrize("name", [*LINEAR, *FUNCTIONS])
@pytest.mark.parametrize("shape", [(1,), (7,), (1, 5), (6, 4), (3, 6, 4), (4, 1, 3)])
def test_any_shape_and_equal_experts_give_finite_numbers(name, shape):
    delta = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    for stack in (
        torch.stack([delta] * 3),
        torch.zeros(3, *shape),
        torch.stack([delta, -delta, 0 * delta]),
    ):
        before = stack.clone()
        found = made(name, stack, **numbers(name))
        assert found.shape == shape
        assert found.dtype == torch.float32
        assert bool(found.isfinite().all())
        assert torch.equal(stack, before)


@pytest.mark.parametrize("name", ["wudi", "magmax", "pcb", "ram"])
def test_equal_experts_are_that_expert(name):
    if name == "pcb":
        # What wins no competition is dropped; what wins is the clamped entry of the expert.
        found = contested.pcb(torch.stack([DELTAS[0]] * 3), 0.2).sum(0)
        won = found != 0
        assert 0.15 < won.float().mean() < 0.21
        torch.testing.assert_close(found[won].abs().min(), DELTAS[0][won].abs().min())
        return
    found = made(name, torch.stack([DELTAS[0]] * 3), **numbers(name))
    torch.testing.assert_close(found, DELTAS[0], rtol=1e-5, atol=1e-7)


def test_pcb_passes_over_who_does_not_touch_the_tensor():
    both, zero = DELTAS[:2], torch.zeros_like(DELTAS[:1])
    three = contested.pcb(torch.cat([both, zero]), 0.2)
    assert torch.equal(three[2], zero[0])
    alone = contested.pcb(torch.cat([DELTAS[:1], zero, zero]), 1.0).sum(0)
    won = alone != 0
    assert won.float().mean() > 0.9
    close = (alone - DELTAS[0])[won].abs()
    assert int((close < 1e-6).sum()) >= int(won.sum()) - 2  # the ends are clamped


def test_tsv_of_orthogonal_tasks_is_their_truncated_sum():
    left, right = (np.linalg.qr(np.random.default_rng(s).normal(size=(12, 12)))[0] for s in (1, 2))
    tasks = [
        left[:, [2 * t, 2 * t + 1]] @ np.diag([2.0, 1.0]) @ right[[2 * t, 2 * t + 1]] for t in range(3)
    ]
    stack = torch.tensor(np.stack(tasks), dtype=torch.float32)
    torch.testing.assert_close(low_rank.tsv_m(stack).sum(0), stack.sum(0), rtol=1e-5, atol=1e-6)
    # Two of the same task are one direction, which no arbitrary one is put beside.
    twice = low_rank.tsv_m(torch.stack([stack[0], stack[0]])).sum(0)
    torch.testing.assert_close(twice, stack[0], rtol=1e-5, atol=1e-6)


def test_iso_c_flattens_the_spectrum_and_keeps_the_nuclear_norm():
    found = torch.linalg.svdvals(low_rank.iso_c(DELTAS, ONES).double())
    wanted = torch.linalg.svdvals(DELTAS.double().sum(0))
    torch.testing.assert_close(found, wanted.mean().expand(10), rtol=1e-5, atol=1e-7)
    # Of rank two it is flat on two directions: no noise is raised.
    low = DELTAS[:, :, :2] @ DELTAS[0, :2]
    assert int((torch.linalg.svdvals(low_rank.iso_c(low, ONES)) > 1e-3).sum()) == 2


def test_knots_untrimmed_of_agreeing_tasks_is_their_mean():
    parallel = torch.stack([DELTAS[0], 2 * DELTAS[0], 3 * DELTAS[0]])
    found = low_rank.knots(parallel, 1.0).sum(0)
    torch.testing.assert_close(found, 2 * DELTAS[0], rtol=1e-5, atol=1e-6)


def test_star_at_the_whole_norm_is_the_average():
    torch.testing.assert_close(low_rank.star(DELTAS, 1.0).sum(0), DELTAS.mean(0), rtol=1e-5, atol=1e-6)


def test_wudi_has_no_slope_in_its_loss():
    stack = DELTAS[:, :4].double()
    merged = low_rank.wudi(stack.float(), [0.5, 1.0, 1.0]).double().requires_grad_()
    parts = zip([0.5, 1.0, 1.0], stack, strict=True)
    loss = sum(w * ((merged - d) @ d.T).square().sum() / d.square().sum() for w, d in parts)
    (slope,) = torch.autograd.grad(loss, merged)
    assert float(slope.abs().max()) < 1e-6


def test_an_adapters_task_vector_is_exactly_the_product_of_its_factors():
    base = torch.randn(120, generator=torch.Generator().manual_seed(3))
    factors = [(torch.randn(12, 2), 0.01 * torch.randn(2, 10)) for _ in range(2)]
    operands = [LowRankDelta(base, left, right) for left, right in factors]
    numbers = (("weight", (1.0, 0.5)), ("lambda", 0.5))
    out = torch.empty(120)
    assert merge_task_vectors(
        Call("tsv_m", "", numbers), base, operands, "x", (12, 10), 2.0, out,
        torch.float32, Scratch(),
    )  # fmt: skip
    stack = torch.stack([left @ right for left, right in factors])
    merged = weighted(low_rank.tsv_m(stack), [1.0, 0.5])
    assert int((torch.linalg.svdvals(merged) > 1e-5).sum()) == 4
    torch.testing.assert_close(out, 2 * (base + 0.5 * merged.view(-1)), rtol=1e-6, atol=1e-7)


def test_infinite_weights_are_no_merge():
    base = torch.zeros(4)
    operands = [Dense(torch.ones(4)), Dense(torch.tensor([1.0, float("inf"), 1.0, 1.0]))]
    call = Call("iso_c", "", (("weight", (1.0, 1.0)),))
    out = torch.empty(4)
    found = merge_task_vectors(call, base, operands, "x", (2, 2), 1.0, out, torch.float32, Scratch())
    assert not found


def test_what_one_task_alone_wants_is_dropped_by_consensus():
    deltas = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.9, 0.0], [0.0, 0.8, 0.0]])
    assert contested.consensus(deltas, 0.3).sum(0).tolist() == [0.0, pytest.approx(2.7), 0.0]


def test_the_trust_region_leaves_out_where_tasks_meet():
    deltas = torch.tensor([[1.0, 0.0, 2.0, 0.1], [0.0, 1.0, 2.0, 0.1]])
    found = contested.tatr(deltas, 0.75).sum(0)
    torch.testing.assert_close(found, torch.tensor([1.0, 1.0, 0.0, 0.2]))


def test_parts_are_made_once_for_many_weights_and_anew_for_other_numbers(monkeypatch):
    calls = []
    plain = LINEAR["star"]

    def counted(stack, **given):
        calls.append(given)
        return plain(stack, **given)

    monkeypatch.setitem(by_function.LINEAR, "star", counted)
    scratch = Scratch()
    base = torch.randn(120, generator=torch.Generator().manual_seed(3))
    operands = [Dense(base + delta.reshape(-1)) for delta in DELTAS]

    def merged(weight, eta, using):
        out = torch.empty(120)
        call = Call("star", "", (("weight", weight), ("eta", eta)))
        assert merge_task_vectors(
            call, base, operands, "x", (12, 10), 1.0, out, torch.float32, using, key="x"
        )
        return out

    for weight, eta in (((1.0, 0.5, 0.2), 0.4), ((0.3, 0.3, 0.9), 0.4), ((1.0, 0.5, 0.2), 0.7)):
        found = merged(weight, eta, scratch)
        assert torch.equal(found, merged(weight, eta, Scratch()))
    assert len(calls) == 2 + 3
    assert scratch._prepared_bytes == 3 * 120 * 4
