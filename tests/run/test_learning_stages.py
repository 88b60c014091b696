"""Campaigns whose first stage learns from gradients, and whose second searches paths through that."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evomerge.campaign.campaign import campaign_from_json, load_campaign
from evomerge.campaign.prepared import prepared_space
from evomerge.campaign.recorded import recorded_space
from evomerge.errors import ConfigError
from evomerge.front.folder import open_campaign_folder
from evomerge.ledger.history import History
from evomerge.optimizers.slopes import SlopeOptimizer
from evomerge.recipe.recipe import Recipe
from evomerge.run.engine import Engine
from evomerge.run.job import Job, MeasuredSlope, SlopeWork
from evomerge.run.replay import campaign_optimizer
from evomerge.run.slopes import PASSES
from evomerge.run.worker_setup import worker_setup
from evomerge.search_space import gene_gradient
from tests.cli.terminal import call
from tests.hand_made import fold_records
from tests.tiny_models import write_campaign
from tests.tiny_runs import events_of, forked, front_text, run_file

SPACE = {
    "schema": 1,
    "method": "task_arithmetic",
    "coefficients": {"weight": {"field": "model", "low": 0.0, "high": 1.5, "outside_layers": "shared"}},
    "layer_path": {"sources": ["merged", "math"], "max_layers": 3},
}
MERGE = 2  # genes of the merge, which stand before those of the path
LESSON = {"steps": 4, "items": 4}
HM3 = {"episodes": 4, "epochs": 1, "hidden": 4}
STAGES: dict[str, list[dict[str, Any]]] = {
    "learned-front, hm3": [
        {
            "searches": "merge",
            "kind": "learned-front",
            "evaluations": 12,
            "options": {**LESSON, "preferences": 2, "look_from": 2, "look_every": 2},
        },
        {"searches": "path", "kind": "hm3", "options": HM3},
    ],
    "auto, nsga2": [
        {"searches": "merge", "kind": "auto", "evaluations": 10, "options": LESSON},
        {"searches": "path"},
    ],
}
POPULATION = 4
BUDGET = 20

WITHOUT_TORCH = """
import sys
from evomerge.cli import main
code = main(["verify", sys.argv[1]])
sys.exit(code or "torch" in sys.modules)
"""


def campaign_file(root: Path, stages: list[dict[str, Any]], space: dict[str, Any] = SPACE) -> Path:
    """Written into an empty folder."""
    return write_campaign(
        root,
        space=space,
        optimizer={"population": POPULATION},
        stages=stages,
        budget={"evaluations": BUDGET},
    )


@pytest.fixture(scope="module", params=STAGES)
def root(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A campaign folder that was run undisturbed."""
    root = tmp_path_factory.mktemp("stages")
    run_file(campaign_file(root, STAGES[request.param]), root / "run")
    return root


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A campaign file beside models and tasks, not run."""
    return campaign_file(tmp_path_factory.mktemp("plain"), [])


def asked(directory: Path) -> list[dict[str, Any]]:
    return [event for event in events_of(directory) if event["event"] == "asked"]


def states(directory: Path) -> list[str]:
    return [event["state"] for event in events_of(directory) if event["event"] == "told"]


def slopes(directory: Path) -> list[dict[str, Any]]:
    """Without what the clock says and where a record lies."""
    found = [event for event in events_of(directory) if event["event"] == "slope"]
    left_out = ("n", "time", "elapsed", "seconds", "gradient")
    return [{k: v for k, v in event.items() if k not in left_out} for event in found]


def test_the_merge_is_learned_then_paths_are_searched_through_it(root: Path) -> None:
    events = events_of(root / "run")
    kinds = [event["event"] for event in events]
    assert kinds.index("asked") > max(i for i, kind in enumerate(kinds) if kind == "slope")
    batches = asked(root / "run")
    assert [batch["stage"] for batch in batches] == sorted(batch["stage"] for batch in batches)
    learned = [c for batch in batches if batch["stage"] == 0 for c in batch["candidates"]]
    walked = [c for batch in batches if batch["stage"] == 1 for c in batch["candidates"]]
    space = recorded_space(open_campaign_folder(root / "run").history)
    assert space.paths is not None
    home = list(space.paths.spell(space.paths.home))
    assert all(candidate["genome"][MERGE:] == home for candidate in learned)
    assert {candidate["origin"]["how"] for candidate in learned} >= {"given", "map"}
    assert any(candidate["genome"][MERGE:] != home for candidate in walked)
    new = {tuple(c["genome"][:MERGE]) for c in walked} - {tuple(c["genome"][:MERGE]) for c in learned}
    # Of the map a policy has a merge for each preference; other searches take those of the front.
    assert bool(new) == any(candidate["origin"]["how"] == "policy" for candidate in walked)


def test_gradients_are_paid_for_by_their_stage(root: Path) -> None:
    """At most half of it; its evaluations are candidates and gradients; the rest is the next one's."""
    history = open_campaign_folder(root / "run").history
    allowed = history.config["stages"][0]["evaluations"]
    items = history.search_items
    for event in slopes(root / "run"):
        passes = PASSES if any(event["weights"]) else 1.0
        assert event["cost"] * items / passes == pytest.approx(round(event["cost"] * items / passes))
    dearest = max(sum(e.cost for e in batch.values()) for batch in history.slopes)
    assert 0.0 < history.slope_cost < 0.5 * allowed + dearest
    batches = asked(root / "run")
    first = [len(batch["candidates"]) for batch in batches if batch["stage"] == 0]
    assert sum(first[:-1]) + history.slope_cost < allowed <= sum(first) + history.slope_cost
    assert history.cost == pytest.approx(history.budget_used + history.slope_cost)
    assert BUDGET <= history.cost < BUDGET + 1
    status = call("status", root / "run", "--json").json
    assert status["cost"] == pytest.approx(history.cost)


@pytest.mark.parametrize("moment", ["slopes", "last tell of the stage", "first ask of the next"])
def test_killed_in_a_stage_or_between_two_it_comes_to_the_same(
    root: Path, tmp_path: Path, moment: str
) -> None:
    count = sum(batch["stage"] == 0 for batch in asked(root / "run"))
    point = {
        "slopes": "slopes.before_record=kill@3",
        "last tell of the stage": f"driver.after_tell=kill@{count}",
        "first ask of the next": f"driver.before_asked=kill@{count + 1}",
    }[moment]
    file = root / "campaign.yaml"
    killed = forked(lambda: run_file(file, tmp_path / "run"), point)
    assert killed == -signal.SIGKILL
    before = asked(tmp_path / "run")
    assert len(before) == (0 if moment == "slopes" else count)
    run_file(file, tmp_path / "run")
    assert slopes(tmp_path / "run") == slopes(root / "run")
    assert [b["candidates"] for b in asked(tmp_path / "run")] == [
        b["candidates"] for b in asked(root / "run")
    ]
    assert states(tmp_path / "run") == states(root / "run")
    assert front_text(tmp_path / "run") == front_text(root / "run")


def test_the_gradient_in_a_space_of_paths_is_that_of_the_merge_alone(plain: Path) -> None:
    """On a worker that has shown other paths meanwhile, whose layers lie elsewhere."""
    config = json.loads(plain.read_text()) | {"stages": STAGES["auto, nsga2"]}
    file = plain.with_name("stages.yaml")
    file.write_text(json.dumps(config))
    campaign = load_campaign(file)
    paths = {name: str(each.path) for name, each in campaign.references().items()}
    engine = Engine(worker_setup(campaign, paths, "float32", plain.parent / "cache", False))
    prepared = engine.prepare(Job("prepare", "prepare")).prepared
    assert prepared is not None
    space = prepared_space(campaign, prepared, paths)
    assert space.paths is not None
    work = SlopeWork({"pets.acc": 1.0, "birds.acc": 0.5}, {"pets.acc": (0, 1, 2), "birds.acc": (4, 5)})

    def slope(recipe: Recipe) -> MeasuredSlope:
        found = engine.slope(Job("slope", "slope", recipe.to_json(), slope=work)).slope
        assert found is not None
        return found

    home = space.paths.spell(space.paths.home)
    merge = (0.7, 0.3)
    alone = slope(space.merging.spelled_out(merge))
    for steps in ([(1, 1.0), (2, 1.0), (1, 1.0)], [(3, 1.0)]):
        genome = (1.0, 0.0, *space.paths.spell(steps))
        engine.evaluate(Job("c", "evaluate", space.decode(genome).to_json()))
        found = slope(space.spelled_out((*merge, *home)))
        assert np.array_equal(found.gradient, alone.gradient)
        assert found.losses == alone.losses
    assert np.abs(alone.gradient).max() > 0.0
    genes = gene_gradient(space, alone.gradient)
    assert genes[:MERGE].tolist() == gene_gradient(space.merging, alone.gradient).tolist()
    assert not genes[MERGE:].any()


def test_a_replay_asks_for_the_same_without_a_model(root: Path) -> None:
    verified = call("verify", root / "run")
    assert verified.code == 0, verified.out + verified.err
    batches = len({event["batch"] for event in slopes(root / "run")})
    assert f"{batches}  batches of slopes asked again" in verified.out
    assert f"{len(asked(root / 'run'))}  generations asked again" in verified.out
    if open_campaign_folder(root / "run").history.config["stages"][1]["kind"] == "hm3":
        return  # whose networks are torch's
    command = [sys.executable, "-c", WITHOUT_TORCH, str(root / "run")]
    alone = subprocess.run(command, capture_output=True, text=True, check=False)
    assert alone.returncode == 0, alone.stdout + alone.stderr


def test_a_policy_of_the_last_stage_goes_on_near_a_preference(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "run", tmp_path / "run")
    by_policy = open_campaign_folder(root / "run").history.config["stages"][1]["kind"] == "hm3"
    before = len(events_of(root / "run"))
    words = ("--prefer", "pets=0.8,birds=0.2", "--evaluations", "3")
    done = call("refine", tmp_path / "run", *words)
    assert done.code == 0, done.err
    online = events_of(tmp_path / "run")[before:]
    (begun,) = [event for event in online if event["event"] == "refine"]
    assert begun.get("by") == ("policy" if by_policy else None)
    origins = [c["origin"] for e in online if e["event"] == "asked" for c in e["candidates"]]
    assert {"policy", "edited"} >= {origin["how"] for origin in origins} or not by_policy
    assert call("verify", tmp_path / "run").code == 0


def test_before_stages_learned_auto_was_a_surrogate(root: Path) -> None:
    """Such a ledger does not say that they do, and its stages are what they were."""

    def first(history: History) -> SlopeOptimizer:
        optimizer = campaign_optimizer(
            campaign_from_json(history.config), recorded_space(history), [], history
        )
        assert isinstance(optimizer, SlopeOptimizer)
        return optimizer

    events = events_of(root / "run")
    then = [{k: v for k, v in event.items() if k != "settings"} for event in events]
    assert then != events
    assert first(fold_records(events)).slopes()
    auto = events[0]["config"]["stages"][0]["kind"] == "auto"
    assert bool(first(fold_records(then)).slopes()) != auto


@pytest.mark.parametrize(
    ("stages", "match"),
    [
        (
            [{"searches": "both", "kind": "learned-front"}],
            r"E119.*stages\[0\]: `learned-front` cannot search a stage of both; gradients are those of "
            r"a merge with all layers in order, no path's; begin with `{searches: merge",
        ),
        (
            [{"searches": "path", "kind": "learned-front"}],
            r"E119.*stages\[0\]: `learned-front` cannot search a stage of path; gradients are those of",
        ),
        (
            [{"searches": "path", "evaluations": 5}, {"searches": "merge", "kind": "learned-front"}],
            r"E119.*stages\[1\]: `learned-front` can only be the first stage; its map begins at the experts",
        ),
        (
            [{"searches": "merge", "kind": "hm3"}],
            r"E119.*`hm3` cannot search a stage of merge; it walks paths of layers; let it search `path`",
        ),
        (
            [{"searches": "merge", "kind": "learned-front", "options": {"episodes": 3}}],
            r"E104.*stages\[0\]: unknown option; options of learned-front: loss, steps",
        ),
    ],
)
def test_what_cannot_learn_is_refused_when_the_file_is_read(
    plain: Path, stages: list[dict[str, Any]], match: str
) -> None:
    config = json.loads(plain.read_text()) | {"stages": stages}
    file = plain.with_name("other.yaml")
    file.write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=match):
        load_campaign(file)


@pytest.mark.parametrize(
    ("space", "match"),
    [
        (
            {"layer_path": {"sources": ["base", "math"], "outer": "base"}},
            "paths do not begin with all layers of `merged`, in order and within its outer parts",
        ),
        (
            {"layer_path": {"max_layers": 1, "min_layers": 1}},
            "paths do not begin with all layers of `merged`, in order and within its outer parts",
        ),
        ({"method": "karcher"}, "the method karcher is not linear in its weights"),
    ],
)
def test_check_refuses_to_learn_what_has_no_gradient(
    plain: Path, space: dict[str, Any], match: str
) -> None:
    config = json.loads(plain.read_text())
    config |= {"stages": STAGES["learned-front, hm3"], "search_space": {**SPACE, **space}}
    file = plain.with_name("other.yaml")
    file.write_text(json.dumps(config))
    checked = call("check", file)
    assert checked.code == 3, checked.out
    assert "E149" in checked.err
    assert match in checked.err
    assert "take kind surrogate for this stage" in checked.err


def test_a_learned_front_on_paths_is_told_of_stages(plain: Path) -> None:
    config = json.loads(plain.read_text()) | {"stages": []}
    config["optimizer"] |= {"kind": "learned-front"}
    file = plain.with_name("other.yaml")
    file.write_text(json.dumps(config))
    checked = call("check", file)
    assert checked.code == 3, checked.out
    assert "paths of layers have no gradient" in checked.err
    assert "learn the merge in a stage before that of paths (`stages`)" in checked.err


def test_hm3_starts_from_the_front_of_a_campaign_that_learned(tmp_path: Path) -> None:
    """Over the same coefficients without a path; their merges are what preferences mix."""
    optimizer = {"kind": "learned-front", "population": POPULATION, "options": LESSON}
    merges = {k: v for k, v in SPACE.items() if k != "layer_path"}
    first = write_campaign(
        tmp_path / "first", space=merges, optimizer=optimizer, budget={"evaluations": 10}
    )
    run_file(first, tmp_path / "first" / "run")
    optimizer = {"kind": "hm3", "population": POPULATION, "options": HM3}
    optimizer["start_from"] = ["../first/run"]
    file = write_campaign(
        tmp_path / "then", space=SPACE, optimizer=optimizer, budget={"evaluations": 10}
    )
    history = run_file(file, tmp_path / "then" / "run")
    assert history.starts is not None
    space = recorded_space(history)
    assert space.paths is not None
    home = space.paths.spell(space.paths.home)
    learned = {
        tuple(candidate["genome"])
        for batch in asked(tmp_path / "first" / "run")
        for candidate in batch["candidates"]
    }
    assert {genome[:MERGE] for genome in history.starts.genomes} <= learned
    assert {genome[MERGE:] for genome in history.starts.genomes} == {home}
    first_batch = [history.candidates[name].genome for name in history.generations[0]]
    given = history.starts.genomes[: len(history.starts.genomes) - history.starts.besides]
    assert first_batch[: len(given)] == list(given)
    assert set(history.starts.genomes) <= {c.genome for c in history.candidates.values()}
    walked = [
        c for c in history.candidates.values() if c.origin is not None and c.origin.how == "policy"
    ]
    best = [
        max(
            (c for c in history.candidates.values() if c.genome in set(first_batch)),
            key=lambda c: c.evaluations["search"].metrics[f"{task}.acc"].value,
        ).genome
        for task in ("pets", "birds")
    ]
    for candidate in walked:
        assert candidate.genome is not None
        assert candidate.origin is not None
        assert candidate.origin.preference is not None
        pairs = zip(candidate.origin.preference, best, strict=True)
        mixed = sum(w * genome[0] for w, genome in pairs if genome is not None)
        lowest = min(genome[0] for genome in best if genome is not None)
        highest = max(genome[0] for genome in best if genome is not None)
        assert lowest - 1e-3 <= candidate.genome[0] <= highest + 1e-3
        if lowest < highest:
            assert candidate.genome[0] == pytest.approx(mixed, abs=2e-3)
    assert walked
    assert call("verify", tmp_path / "then" / "run").code == 0
