"""A person's own merge method: a function of one tensor, in live models, exports, campaigns and workers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import evomerge as em
from evomerge.checkpoint.folder import open_folder
from evomerge.errors import CandidateError, ConfigError, UsageError
from evomerge.merge.passes.blocks import Dense, Scratch
from evomerge.merge.passes.by_function import merge_by_function
from evomerge.merge.passes.call import Call
from evomerge.merge.plan import make_plan
from evomerge.merge.statistics.weights import WeightStatistics
from evomerge.recipe import registered as room
from evomerge.recipe.json_form import recipe_from_json
from evomerge.recipe.recipe import MERGED, CheckpointSource, MergedSource, single_source_recipe
from evomerge.recipe.registered import find_method, install_methods, shipped_methods
from evomerge.search_space import ModelLayout, build_search_space
from evomerge.search_space.declaration import SearchSpaceDeclaration
from evomerge.testing.merge_methods import CHECKS
from tests.cli.terminal import call
from tests.local_workers import script_in_a_fork
from tests.tiny_models import write_campaign, write_model

REPOSITORY = Path(__file__).parents[2]
WEIGHT = em.Coefficient("weight", 0.0, 1.5, 1.0, per_input=True)


@pytest.fixture(autouse=True)
def _registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_REGISTERED", {})


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    write_model(root / "base")
    for number, name in enumerate(("math", "code")):
        write_model(root / name, expert=number)
    return root


def register_largest() -> None:
    @em.merge_method("largest", WEIGHT, em.Coefficient("temper", 0.5, 2.0, 1.0))
    def largest(base, experts, weight, temper):
        """Of each entry the task vector that is largest."""
        import torch

        deltas = torch.stack([w * (e - base) for w, e in zip(weight, experts, strict=True)])
        chosen = deltas.abs().max(dim=0, keepdim=True).indices
        return base + temper * deltas.gather(0, chosen)[0]


def largest_recipe(models: Path, **changes):
    source = MergedSource(
        "largest",
        ("math", "code"),
        "base",
        {
            "weight": {"math": {"": 0.5}, "code": {"": 1.25, "layers.1": 0.75}},
            "temper": {"*": {"": 1.5}},
        },
    )
    sources = {name: CheckpointSource(str(models / name)) for name in ("base", "math", "code")}
    merged = {**sources, MERGED: replace(source, **changes)}
    layers = open_folder(models / "base", "base").layers
    return single_source_recipe(merged, MERGED, layers, "bfloat16")


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_it_conforms(check) -> None:
    register_largest()
    check("largest")


def test_an_export_is_what_the_formula_says(models: Path, tmp_path: Path) -> None:
    register_largest()
    recipe = largest_recipe(models)
    em.merge(recipe, tmp_path / "out")
    written = json.loads((tmp_path / "out" / "recipe.json").read_text())
    assert written["sources"][MERGED]["function"] == find_method("largest").function
    assert (
        "mergekit has no word for this merge: its method"
        in (tmp_path / "out" / "README.md").read_text()
    )
    assert not (tmp_path / "out" / "mergekit_config.yml").exists()
    base, math, code = (
        load_file(models / name / "model.safetensors") for name in ("base", "math", "code")
    )
    for name, found in load_file(tmp_path / "out" / "model.safetensors").items():
        origin = base[name].float().numpy()
        share = 0.75 if ".layers.1." in name else 1.25
        one = np.float32(0.5) * (math[name].float().numpy() - origin)
        two = np.float32(share) * (code[name].float().numpy() - origin)
        # Experts come in the order of their names: code before math where they tie.
        chosen = np.where(np.abs(two) >= np.abs(one), two, one)
        expected = torch.from_numpy(origin + np.float32(1.5) * chosen).bfloat16()
        assert torch.equal(found, expected), name


def test_a_recipe_means_one_function(models: Path) -> None:
    register_largest()
    folders = {name: open_folder(models / name, name) for name in ("base", "math", "code")}
    digest = find_method("largest").function
    recipe = largest_recipe(models, function=digest)
    statistics = WeightStatistics(folders)
    plan = make_plan(recipe, folders, statistics)
    assert recipe_from_json(recipe.to_json()) == recipe
    assert recipe.digest != largest_recipe(models, function="0" * 64).digest

    @em.merge_method("largest", WEIGHT, em.Coefficient("temper", 0.5, 2.0, 1.0))
    def other(base, experts, weight, temper):
        return base + temper * weight[0] * (experts[0] - base)

    with pytest.raises(ConfigError, match=r"E514.*sources.merged.function: the function of.*recorded"):
        make_plan(recipe, folders, statistics)
    changed = make_plan(largest_recipe(models), folders, statistics)
    assert all(one != two for one, two in zip(plan.tensors, changed.tensors, strict=True))
    room._REGISTERED.clear()
    with pytest.raises(
        ConfigError,
        match=r'E114.*merged.method.*`@evomerge.merge_method\("largest"\)`.*evomerge.methods',
    ):
        make_plan(recipe, folders, statistics)


def merge_with(function, shape=(4,)) -> bool:
    out = torch.empty(4)
    operands = [Dense(torch.ones(4)), Dense(torch.full((4,), 2.0))]
    call, base = Call("mine", "0"), torch.zeros(4)
    return merge_by_function(
        function, call, base, operands, "w", shape, 1.0, out, torch.float32, Scratch()
    )


def test_what_a_function_does_wrong_costs_its_candidate() -> None:
    threads = torch.get_num_threads()
    assert merge_with(lambda base, experts: experts[0] + torch.get_num_threads())
    assert not merge_with(lambda base, experts: experts[0] / base.sub_(base).mul_(0.0) - torch.inf)
    with pytest.raises(CandidateError, match=r"`mine` raised ZeroDivisionError: division"):
        merge_with(lambda base, experts: 1 / 0)
    with pytest.raises(CandidateError, match=r"must give a float32 tensor \[2, 2\].*float32 \[4\]"):
        merge_with(lambda base, experts: experts[0].reshape(4), (2, 2))
    with pytest.raises(CandidateError, match=r"it gave torch.float64 \[4\]"):
        merge_with(lambda base, experts: experts[0].double())
    with pytest.raises(CandidateError, match=r"it gave 3"):
        merge_with(lambda base, experts: 3)
    assert torch.get_num_threads() == threads


def test_what_cannot_be_registered_is_refused() -> None:
    with pytest.raises(UsageError, match=r"E512.*`ties` is a built-in merge method"):
        em.merge_method("ties")
    with pytest.raises(UsageError, match=r"E512.*must have low < high and its default between"):
        em.merge_method("own", em.Coefficient("weight", 0.0, 1.0, 2.0))
    with pytest.raises(UsageError, match=r"E512.*must take \(base, experts, weight\)"):

        @em.merge_method("own", WEIGHT)
        def own(base, experts):
            return base


BROKEN = {
    "check_result": lambda base, experts, weight: base.double(),
    "check_equal_experts": lambda base, experts, weight: base / (experts[0] - base).abs().sum(),
    "check_inputs": lambda base, experts, weight: base.add_(experts[0]),
    "check_repeats": lambda base, experts, weight: base + torch.rand_like(base),
}


@pytest.mark.parametrize("check", BROKEN)
def test_the_suite_notices(check: str) -> None:
    em.merge_method("broken", WEIGHT)(BROKEN[check])
    failed = []
    for each in CHECKS[:4]:
        try:
            each("broken")
        except AssertionError:
            failed.append(each.__name__)
    assert check in failed


def test_a_function_of_a_notebook_is_installed_from_its_text() -> None:
    register_largest()
    digest = find_method("largest").function
    sent = shipped_methods(["largest", "ties"])
    room._REGISTERED.clear()
    install_methods(sent)
    assert find_method("largest").function == digest
    assert find_method("largest").coefficient("temper").high == 2.0


def test_a_recorded_space_is_read_without_its_method() -> None:
    register_largest()
    data = {"schema": 1, "method": "largest", "coefficients": {"weight": {"low": -2.0, "high": -1.0}}}
    space = SearchSpaceDeclaration.model_validate(data)
    assert space.function == find_method("largest").function
    room._REGISTERED.clear()
    assert SearchSpaceDeclaration.model_validate(space.model_dump(by_alias=True)) == space
    with pytest.raises(ValueError, match=r"E114.*unknown merge method; found .*largest.*merge_method"):
        SearchSpaceDeclaration.model_validate(data)


def test_nobody_guesses_what_its_numbers_mean() -> None:
    """Weights of 0, of 1 for one expert, or alike for all are base, expert or average only elsewhere."""
    register_largest()
    declaration = SearchSpaceDeclaration.model_validate({"schema": 1, "method": "largest"})
    places = ("embed", "layers.0.attn", "head")
    layout = ModelLayout(1, places, 1, {"math": places, "code": places[:1]})
    sources = {name: CheckpointSource(name, name) for name in ("base", "math", "code")}
    space = build_search_space(declaration, layout, sources, ("math", "code"), "bfloat16", 7)
    digests = set()
    for weights in ((0.0, 0.0), (1.0, 0.0), (0.5, 0.5)):
        genome = space.uniform(dict(zip(("math", "code"), weights, strict=True)))
        recipe = space.decode(genome)
        source = recipe.sources[MERGED]
        assert isinstance(source, MergedSource)
        assert source.function == find_method("largest").function
        assert source.coefficients["weight"]["math"] == {"": weights[0]}
        assert space.encode(recipe) == genome
        digests.add(recipe.digest)
    assert len(digests) == 3


SCRIPT = """
from pathlib import Path
import evomerge as em
from evomerge.cli.verify import verify

@em.merge_method("halfway", em.Coefficient("weight", 0.0, 1.5, 1.0, per_input=True))
def halfway(base, experts, weight):
    deltas = [w * (expert - base) for w, expert in zip(weight, experts)]
    return base + {scale} * sum(deltas)

run = em.Campaign.load("campaign.yaml").run("run", progress=False)
searched = [c for c in run.history.candidates.values() if c.genome is not None]
print(run.history.stopped, len(searched), sum(c.failure is not None for c in searched))
print(verify(Path("run")))
"""


def test_a_function_of_a_script_merges_in_another_process_and_resumes(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_campaign(
        tmp_path,
        space={"schema": 1, "method": "halfway", "coefficients": {"weight": {"field": "model"}}},
        evaluators=("pets",),
        budget={"evaluations": 4},
        optimizer={"population": 4},
        baselines={"single": [0.5]},
        workers={"pool": "local", "count": 1},
    )
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(scale="0.5"))
    capfd.readouterr()
    code = script_in_a_fork(script)
    said = capfd.readouterr()
    assert code == 0, said.err
    assert said.out.splitlines() == ["budget 4 0", "[]"]
    # To look at the folder the function, which nobody here has registered, is not needed; to decode its
    # genomes it is.
    shown = call("front", tmp_path / "run")
    assert shown.code == 0, shown.err
    checked = call("verify", tmp_path / "run")
    assert 'merge_method("halfway")' in " ".join((checked.out + checked.err).split())
    script.write_text(SCRIPT.format(scale="0.75"))
    assert script_in_a_fork(script) == 1
    refused = capfd.readouterr().err
    assert "E504" in refused
    assert "search_space.function" in refused
