"""What only a CUDA device can show: the bits of compiled passes there, distances, slopes, an idle device."""

import pytest
import torch

from evomerge.checkpoint.reader import open_readers
from evomerge.merge.materialize import LiveModel
from evomerge.merge.passes.compiled import Kernels
from evomerge.merge.plan import make_plan
from evomerge.merge.slopes import Slopes, differentiable
from evomerge.merge.statistics.weights import WeightStatistics
from evomerge.recipe.recipe import single_source_recipe
from tests.checkpoint.folders import write_family
from tests.merge.passes.cases import CASES
from tests.merge.plan.test_plan import checkpoints

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

COMPILED = ("task_arithmetic", "linear", "ties", "dare_ties", "sce", "ties_weight")


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    # Wide enough for whole rows of a compiled pass, and for a rest.
    return write_family(tmp_path_factory.mktemp("family"), hidden_size=64, intermediate_size=520)


@pytest.fixture(scope="module")
def statistics(family):
    return WeightStatistics(family)


def plan_of(family, statistics, case):
    sources = {**checkpoints(family), "merged": CASES[case]}
    recipe = single_source_recipe(sources, "merged", 2, "bfloat16")
    return recipe, make_plan(recipe, family, statistics)


def weights_of(live):
    return {name: value.cpu() for name, value in live.model.state_dict().items()}


def test_compiled_passes_have_the_bits_of_the_cpu(family, statistics):
    readers = open_readers(family)
    kernels = Kernels(mode="compiled", device="cuda")
    found = LiveModel.load(family["base"], "bfloat16", "cuda", kernels=kernels)
    expected = LiveModel.load(family["base"], "bfloat16", "cpu")
    for case in COMPILED:
        _, plan = plan_of(family, statistics, case)
        for live in (found, expected):
            live.materialize(plan, readers)
        ours, theirs = weights_of(found), weights_of(expected)
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs), case
    assert kernels.works, "the plain path has taken over"
    assert kernels.seconds > 0.0


def test_the_device_is_idle_once_a_merge_is_reported_and_the_distance_is_the_cpus(family, statistics):
    readers = open_readers(family)
    reports = []
    for device in ("cuda", "cpu"):
        live = LiveModel.load(family["base"], "bfloat16", device, placement="pinned")
        reports.append(live.materialize(plan_of(family, statistics, "ties")[1], readers, distance=True))
        assert torch.cuda.current_stream().query()
    assert reports[0].l1 == pytest.approx(reports[1].l1, rel=1e-6)
    assert reports[0].l2 == pytest.approx(reports[1].l2, rel=1e-6)


def test_slopes_are_those_of_the_cpu(family, statistics):
    readers, found = open_readers(family), []
    recipe, plan = plan_of(family, statistics, "dare_linear")
    tokens = torch.arange(24).view(2, 12)
    for device in ("cuda", "cpu"):
        live = LiveModel.load(family["base"], "float32", device)
        live.materialize(plan, readers)
        layout = family["base"].tensor_layout
        slopes = Slopes(live, recipe, family, statistics, readers, layout)
        with differentiable(live, slopes):
            moved = tokens.to(device)
            live.model(input_ids=moved, labels=moved, use_cache=False).loss.backward()
        found.append(slopes.take())
    assert abs(found[1]).max() > 0.0
    assert found[0] == pytest.approx(found[1], rel=1e-3, abs=1e-5 * abs(found[1]).max())
