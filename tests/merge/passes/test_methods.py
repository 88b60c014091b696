"""Properties that need no oracle, for every method of the table, over real files."""

import dataclasses

import numpy as np
import pytest
import torch

from evomerge.checkpoint.reader import open_readers
from evomerge.errors import CandidateError, ConfigError
from evomerge.merge.materialize import write_checkpoint
from evomerge.merge.passes import blocks
from evomerge.merge.passes.blocks import Scratch
from evomerge.merge.passes.execute import execute
from evomerge.merge.passes.scalars import karcher, model_stock, multislerp, slerp
from evomerge.merge.plan import make_plan
from evomerge.merge.statistics.order import rank, share
from evomerge.merge.statistics.weights import WeightStatistics
from evomerge.recipe.catalogue import METHODS
from evomerge.recipe.recipe import CheckpointSource, single_source_recipe
from tests.checkpoint.folders import write_family
from tests.merge.passes.cases import CASES, EXPERTS, TEXT, is_copy, merged

UP = "model.layers.1.mlp.up_proj.weight"
MERGES = {name: source for name, source in CASES.items() if name != "copy"}


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    family = write_family(tmp_path_factory.mktemp("family"), dtype=torch.float32)
    return family, WeightStatistics(family), open_readers(family)


def planned(engine, source, dtype="float32"):
    family, statistics, _ = engine
    checkpoints = {name: CheckpointSource(str(f.path)) for name, f in family.items()}
    recipe = single_source_recipe({**checkpoints, "merged": source}, "merged", 2, dtype)
    return make_plan(recipe, family, statistics)


def result(engine, source, tensor=UP):
    entry = planned(engine, source).by_name[tensor]
    out = torch.empty(entry.shape)
    assert execute(entry, engine[2], out, Scratch())
    return out


def stored(engine, name, tensor=UP):
    return engine[2][name].read(tensor)


def with_weights(source, weights):
    tables = {name: {"": weight} for name, weight in weights.items()}
    return dataclasses.replace(source, coefficients={**source.coefficients, "weight": tables})


def neutral(method, **changes):
    """A merge with every coefficient at the value at which it does nothing."""
    plain = {
        "weight": 1.0,
        "t": 0.0,
        "iqr": 1.5,
        "density": 1.0,
        "gamma": 0.01,
        "epsilon": 0.1,
        "lambda": 1.0,
    }
    declared = METHODS[method]
    tables = {c.name: plain.get(c.name, c.default) for c in declared.coefficients} | changes
    found = merged(method, base="base", **tables)
    return dataclasses.replace(found, calibration=TEXT) if declared.on_inputs else found


def test_every_method_has_a_case():
    assert {source.method for source in CASES.values()} == set(METHODS)


@pytest.mark.parametrize(
    "method", [m.name for m in METHODS.values() if m.inputs[0] == 1 and not m.makes_whole]
)
def test_one_expert_in_full_is_that_expert(engine, method):
    source = dataclasses.replace(neutral(method), inputs=("b",))
    for entry in planned(engine, source).tensors:
        assert is_copy(entry)
        assert entry.inputs[0].source == "b"


def test_one_expert_in_full_is_that_expert_for_mergekit_too(engine):
    for method in METHODS.values():
        if method.inputs[0] == 1 and method.coefficient("weight"):
            source = dataclasses.replace(
                neutral(method.name), inputs=("b",), options={"compat": "mergekit"}
            )
            assert torch.equal(result(engine, source), stored(engine, "b"))


@pytest.mark.parametrize(
    "method", [m.name for m in METHODS.values() if m.coefficient("weight") and m.uses_base()]
)
def test_weights_of_zero_are_the_base(engine, method):
    source = neutral(method, weight=0.0)
    if METHODS[method].scalars_with() != "weights" and not METHODS[method].makes_whole:
        with pytest.raises(CandidateError, match="sum to zero"):
            result(engine, source)
        return
    assert torch.equal(result(engine, source), stored(engine, "base"))


@pytest.mark.parametrize("case", MERGES)
def test_task_vectors_of_zero_are_the_base(tmp_path, engine, case):
    family = {name: dataclasses.replace(engine[0]["base"], name=name) for name in ("base", *EXPERTS)}
    mine = (family, WeightStatistics(family), open_readers(family))
    source = MERGES[case]
    expected = stored(engine, "base").double()
    if case == "linear_raw":
        expected = expected * (0.3 - 0.7 + 1.1)
    if case == "multislerp_zero":
        torch.testing.assert_close(result(mine, source).double(), expected, rtol=1e-6, atol=1e-7)
        return
    torch.testing.assert_close(result(mine, source).double(), expected, rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("case", [n for n, s in MERGES.items() if len(s.inputs) == 3])
def test_order_of_experts(engine, case):
    source = MERGES[case]
    other = dataclasses.replace(source, inputs=("c", "a", "b"))
    assert planned(engine, source) == planned(engine, other)


@pytest.mark.parametrize("method", [m.name for m in METHODS.values() if m.sparsify != "none"])
def test_density_one_is_the_unsparsified_reducer(engine, method):
    declared = METHODS[method]
    if method == "sce":
        assert planned(engine, merged("sce", density=1.0)).by_name[UP].least_variance == 0.0
        return
    weights = {"a": 0.3, "b": 0.9, "c": 1.1}
    found = neutral(method, weight=weights)
    divisor = declared.resolve({}).divisor
    same = (
        neutral("ties", weight=weights) if declared.elect else merged("task_arithmetic", weight=weights)
    )
    if declared.elect:
        same = dataclasses.replace(same, options={"divisor": divisor})
    assert torch.equal(result(engine, found), result(engine, same))


def test_masks_are_nested_in_density(engine):
    for method, fixed in (("dare_linear", {}), ("della_linear", {"epsilon": 0.1})):
        before = torch.zeros(48, 32, dtype=torch.bool)
        for density in (0.2, 0.35, 0.5, 0.8):
            source = merged(method, ("a",), weight=1.0, density=density, **fixed)
            kept = result(engine, source) != stored(engine, "base")
            assert not (before & ~kept).any()
            before = kept


@pytest.mark.parametrize(
    "case", [merged("dare_linear", weight=0.7, density=0.4),
             merged("della_linear", weight=0.7, density=0.5, epsilon=0.3)],
    ids=["dare", "della"],
)  # fmt: skip
def test_random_drops_are_unbiased(engine, case):
    base = stored(engine, "base").double()
    deltas = [stored(engine, n).double() - base for n in EXPERTS]
    draws = 300
    total = torch.zeros_like(base)
    for seed in range(draws):
        total += result(engine, dataclasses.replace(case, seed=seed)).double()
    spread = 0.7 * torch.stack(deltas).square().sum(0).sqrt() * 2  # a keep probability of 0.2 at least
    assert ((total / draws - base - 0.7 * sum(deltas)).abs() < 5.5 * spread / draws**0.5).all()


def test_della_keeps_what_is_large(engine):
    source = merged("della_linear", ("a",), weight=1.0, density=0.5, epsilon=0.4)
    delta = (stored(engine, "a") - stored(engine, "base")).abs()
    large = delta.argsort(dim=1).argsort(dim=1) >= 16
    kept = [
        result(engine, dataclasses.replace(source, seed=seed)) != stored(engine, "base")
        for seed in range(40)
    ]
    rate = torch.stack(kept).double().mean(0)
    assert abs(float(rate.mean()) - 0.5) < 0.01
    assert float(rate[large].mean()) == pytest.approx(0.5 + 0.8 * 0.25, abs=0.03)


def test_l1_rescaling_keeps_the_norm(engine):
    for method, fixed in (("dare_linear", {}), ("della_linear", {"epsilon": 0.1})):
        source = merged(
            method, ("a",), weight=1.0, density=0.4, options={"rescale": "l1"}, seed=2, **fixed
        )
        base = stored(engine, "base").double()
        found = (result(engine, source).double() - base).abs().sum()
        assert float(found) == pytest.approx(float((stored(engine, "a") - base).abs().sum()), rel=1e-5)


@pytest.mark.parametrize("method", ["slerp", "nuslerp"])
def test_ends_of_the_arc_are_the_experts(engine, method):
    for t, name in ((0.0, "a"), (1.0, "b")):
        for entry in planned(engine, merged(method, ("a", "b"), t=t)).tensors:
            assert is_copy(entry)
            assert entry.inputs[0].source == name


def test_nearswap_lies_between_the_base_and_its_expert(engine):
    base, expert = stored(engine, "base"), stored(engine, "a")
    assert torch.equal(result(engine, merged("nearswap", ("a",), t=0.0)), base)
    torch.testing.assert_close(
        result(engine, merged("nearswap", ("a",), t=9.0)), expert, rtol=0, atol=1e-7
    )
    near = (expert - base).abs() <= 0.02
    found = result(engine, merged("nearswap", ("a",), t=0.02))
    torch.testing.assert_close(found[near], expert[near], rtol=0, atol=1e-7)
    torch.testing.assert_close((found - base)[~near].abs(), torch.full_like(found[~near], 0.02))


def test_a_negative_distance_is_refused(engine):
    with pytest.raises(
        ConfigError, match=r"E111.*t of nearswap is a distance and at least 0; found -0\.1"
    ):
        planned(engine, merged("nearswap", ("a",), t=-0.1))


def test_arcee_fusion_keeps_fewer_entries_from_a_higher_threshold(engine):
    base, expert = stored(engine, "base"), stored(engine, "a")
    kept = []
    for iqr in (0.0, 1.5, 3.0):
        found = result(engine, merged("arcee_fusion", ("a",), iqr=iqr))
        kept.append(found == expert)
        assert torch.equal(found, torch.where(kept[-1], expert, base))
    assert float(kept[0].double().mean()) == pytest.approx(0.5, abs=0.01)
    assert not (kept[2] & ~kept[1]).any()
    assert not (kept[1] & ~kept[0]).any()
    assert 0 < kept[2].sum() < kept[1].sum() < kept[0].sum()


def test_karcher_mean_of_two_equal_norms_is_the_middle_of_the_arc():
    for cosine in (-0.8, 0.0, 0.4, 0.99):
        gram = np.array([[4.0, 4.0 * cosine], [4.0 * cosine, 4.0]])
        middle = slerp(0.5, 4.0, 4.0 * cosine, 4.0)
        np.testing.assert_allclose(karcher([0.5, 0.5], gram), middle, rtol=1e-7)
        np.testing.assert_allclose(multislerp([0.5, 0.5], gram), middle, rtol=1e-7)
        third = slerp(0.3, 4.0, 4.0 * cosine, 4.0)
        np.testing.assert_allclose(karcher([0.7, 0.3], gram), third, rtol=1e-6)


def test_model_stock_of_parallel_and_orthogonal_task_vectors():
    assert model_stock(np.ones((3, 3))) == pytest.approx(1.0)
    assert model_stock(np.eye(3)) == 0.0
    assert model_stock(np.array([[4.0]])) == 1.0
    opposite = np.array([[1.0, -1.0], [-1.0, 1.0]])
    assert model_stock(opposite) == 0.0


def test_directions_that_cancel_fail_the_candidate():
    opposite = np.array([[1.0, -1.0], [-1.0, 1.0]])
    with pytest.raises(CandidateError, match="cancel"):
        karcher([0.5, 0.5], opposite)
    assert multislerp([0.5, 0.5], opposite) == [0.5, 0.5]
    triangle = np.full((3, 3), -0.5) + 1.5 * np.eye(3)
    with pytest.raises(CandidateError, match="cancel"):
        multislerp([1.0, 1.0, 1.0], triangle)


@pytest.mark.parametrize("case", MERGES)
def test_blocks_and_shards_do_not_change_a_bit(engine, case, monkeypatch, tmp_path):
    source = MERGES[case]
    plan = planned(engine, source, "bfloat16")
    expected, chunked = {}, {}
    for found, block, shard in ((expected, 1 << 16, 1 << 40), (chunked, 96, 9_000)):
        monkeypatch.setattr(blocks, "BLOCK", block)
        folder = tmp_path / str(block)
        folder.mkdir()
        write_checkpoint(plan, engine[2], folder, shard, lambda n, t, f=found: f.update({n: t.clone()}))
    assert all(torch.equal(tensor, expected[name]) for name, tensor in chunked.items())


def test_mergekits_rounding_counts_in_doubles(engine):
    _, statistics, _ = engine
    # 0.29 of 100 is 29, and in doubles 28.999999999999996.

    assert (rank(0.29, 100), rank(0.29, 100, binary=True)) == (29, 28)
    assert (share(0.01, 50), rank(0.01, 50)) == (0, 1)
    values = np.sort(np.abs((stored(engine, "a") - stored(engine, "base")).numpy()), axis=None)[::-1]
    for place in (1, 2, 700, 1535, 1536):
        assert statistics.magnitude("base", "a", UP, place) == values[place - 1]


@pytest.mark.parametrize(
    ("source", "match"),
    [
        (merged("della", weight=1.0, density=0.5, epsilon=0.5), r"an epsilon is at least 0.*0\.5"),
        (merged("della", weight=1.0, density=0.95, epsilon=0.1), r"density \+ epsilon at most at 1"),
        (merged("breadcrumbs", weight=1.0, density=0.5, gamma=1.0), r"a gamma is at least 0"),
        (merged("ties", weight=1.0, density=0.5, options={"compat": "x"}), r"`compat` must be one of"),
        (merged("model_stock", ("a",)), r"E118.*at least 2"),
        (merged("nuslerp", ("a", "b"), None, t=0.5), r"E115.*needs a base"),
    ],
)
def test_faults(engine, source, match):
    with pytest.raises(ConfigError, match=match):
        planned(engine, source)


def test_compat_is_the_options_it_stands_for(engine):
    for method in METHODS.values():
        if not method.mergekit:
            continue
        tables = {"weight": {"a": 0.4, "b": -0.3, "c": 0.9}, "density": 0.6}
        tables |= {c.name: 0.02 for c in method.coefficients if c.name in ("gamma", "epsilon")}
        short = merged(method.name, options={"compat": "mergekit"}, seed=1, **tables)
        spelled = merged(method.name, options=dict(method.mergekit), seed=1, **tables)
        assert planned(engine, short) == planned(engine, spelled)
        if method.name != "breadcrumbs":  # which differs in rounding alone
            assert planned(engine, short) != planned(engine, merged(method.name, seed=1, **tables))
