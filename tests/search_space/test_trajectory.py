"""Windows of checkpoints: what they average, there and back, and a campaign over them."""

from __future__ import annotations

from pathlib import Path

import pytest

from evomerge.errors import ConfigError
from evomerge.recipe.recipe import CheckpointSource, checkpoint_recipe
from evomerge.search_space import SearchSpace, SearchSpaceDeclaration, build_search_space
from tests.cli.terminal import call
from tests.search_space.test_search_space import layout
from tests.tiny_models import write_campaign
from tests.tiny_runs import events_of, run_file

RUN = tuple(f"step{n}" for n in range(1, 7))
SOURCES = {name: CheckpointSource(name, name * 8) for name in ("base", *RUN)}


def space(strides: int = 2, experts: tuple[str, ...] = RUN) -> SearchSpace:
    data = {"schema": 1, "method": "linear", "trajectory": {"strides": strides}}
    declaration = SearchSpaceDeclaration.model_validate(data)
    return build_search_space(declaration, layout(2), SOURCES, experts, "bfloat16", 5, "s.yaml")


def averaged(found: SearchSpace, genome: tuple[float, ...]) -> set[str]:
    """Experts with a weight in the recipe of a genome; all weights are alike."""
    recipe = found.decode(genome)
    if "merged" not in recipe.sources:
        return {recipe.path[0].source}
    tables = recipe.sources["merged"].coefficients["weight"]  # type: ignore[union-attr]
    weights = {name: set(table.values()) for name, table in tables.items()}
    assert len({value for each in weights.values() for value in each if value}) == 1
    return {name for name, values in weights.items() if values != {0.0}}


def test_a_window_averages_the_checkpoints_in_it() -> None:
    found = space()
    assert [gene.name for gene in found.genes] == ["window.last", "window.length", "window.stride"]
    assert [gene.name for gene in space(1).genes] == ["window.last", "window.length"]
    for last in range(1, 7):
        for length in range(1, 7):
            for stride in (1, 2):
                genome = (float(last), float(length), float(stride))
                numbers = [last - step * stride for step in range(length) if last - step * stride > 0]
                assert averaged(found, genome) == {f"step{number}" for number in numbers}
                # Of the ways to spell a window the shortest comes back, and is the same merge.
                spelled = found.encode(found.decode(genome))
                assert spelled is not None
                assert found.decode(spelled).digest == found.decode(genome).digest
                assert spelled[1] == len(numbers)


def test_one_checkpoint_and_all_of_them_are_the_baselines() -> None:
    found = space()
    alone = checkpoint_recipe(SOURCES, "step3", 2, "bfloat16")
    assert found.decode((3.0, 1.0, 1.0)).digest == alone.digest
    assert found.encode(alone) == (3.0, 1.0, 1.0)
    everything = (6.0, 6.0, 1.0)
    assert found.uniform(dict.fromkeys(RUN, 1 / 6)) == everything
    latest = dict.fromkeys(RUN, 0.0) | {"step5": 0.4, "step6": 0.6}
    assert found.uniform(latest) == (6.0, 2.0, 1.0)
    with pytest.raises(ValueError, match="not on its grid"):
        found.decode((2.5, 1.0, 1.0))


@pytest.mark.parametrize(
    "more",
    [
        {"method": "task_arithmetic"},
        {"coefficients": {"weight": {"field": "model"}}},
        {"layer_path": {}},
    ],
)
def test_windows_go_with_linear_alone(more: dict[str, object]) -> None:
    data = {"schema": 1, "method": "linear", "trajectory": {}} | more
    with pytest.raises(ValueError, match="goes with `method: linear` alone"):
        SearchSpaceDeclaration.model_validate(data)


@pytest.mark.parametrize("strides", [1, 2])
def test_one_checkpoint_alone_has_no_windows(strides: int) -> None:
    with pytest.raises(ConfigError, match=r"E121.*nothing to search"):
        space(strides, RUN[:1])


def test_a_campaign_over_a_run(tmp_path: Path) -> None:
    names = ("late", "early", "middle")
    declared = {"schema": 1, "method": "linear", "trajectory": {}}
    file = write_campaign(
        tmp_path,
        experts=names,
        space=declared,
        counts=(12, 6, 6),
        optimizer={"kind": "auto", "population": 4},
        budget={"evaluations": 6},
    )
    run_file(file, tmp_path / "run")
    asked = [e for e in events_of(tmp_path / "run") if e["event"] == "asked"]
    genomes = {tuple(c["genome"]) for event in asked for c in event["candidates"]}
    assert genomes <= {(float(a), float(b)) for a in (1, 2, 3) for b in (1, 2, 3)}
    assert len(genomes) >= 6
    assert not [e for e in events_of(tmp_path / "run") if e["event"] == "slope"]
    verified = call("verify", tmp_path / "run")
    assert verified.code == 0, verified.out
