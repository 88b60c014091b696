"""The campaign file: every fault with its code and line, what identifies a campaign, the ledger's copy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from evomerge.campaign.campaign import campaign_from_json, identity, identity_digest, load_campaign
from evomerge.errors import ConfigError
from evomerge.ledger.events import CampaignEvent
from evomerge.objectives.constraint import Bound
from evomerge.recipe.recipe import canonical_json
from evomerge.run.study.plan import plan, read_arms
from evomerge.search_space import load_search_space

REPOSITORY = Path(__file__).parents[2]

SPACE = "schema: 1\nmethod: task_arithmetic\ncoefficients: {weight: {field: layer}}\n"

CAMPAIGN = """\
schema: 1
name: tiny
seed: 7
base: {path: models/base}
experts:
  math: {path: models/math}
  code: {path: models/code}
search_space: space.yaml
evaluators: [a.yaml, b.yaml]
objectives:
  - {metric: a.acc, direction: maximize}
  - {metric: b.acc, direction: minimize}
optimizer: {kind: nsga2, population: 6}
budget: {evaluations: 18}
evaluation: {dtype: float32, batch_size: 8, threads: 1, device: cpu}
workers: {pool: local, count: 2}
baselines: {single: [0.5, 1]}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text("schema: 1\n")
    (tmp_path / "space.yaml").write_text(SPACE)
    path = tmp_path / "campaign.yaml"
    path.write_text(CAMPAIGN)
    return path


def faults(file: Path, *changes: tuple[str, str], space: str = SPACE) -> ConfigError:
    text = CAMPAIGN
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    file.write_text(text)
    (file.parent / "space.yaml").write_text(space)
    with pytest.raises(ConfigError, match=r"error\[E\d\d\d\]") as caught:
        load_campaign(file)
    return caught.value


def test_a_sound_file_is_read(file: Path) -> None:
    campaign = load_campaign(file)
    assert campaign.experts == ("math", "code")
    assert [(o.metric, o.sign) for o in campaign.objectives] == [("a.acc", -1.0), ("b.acc", 1.0)]
    assert campaign.references()["math"].path == str(file.parent / "models" / "math")
    assert campaign.evaluator_files == (file.parent / "a.yaml", file.parent / "b.yaml")
    assert campaign.config.baselines.single == [0.5, 1.0]
    assert campaign.config.workers.deadline == "auto"


def test_a_space_that_lies_elsewhere_is_shown_by_its_plain_path(file: Path) -> None:
    """And it is another file where a link leads to another folder, whose `..` is not ours."""
    away = file.parent / "far" / "away"
    away.mkdir(parents=True)
    (file.parent / "link").symlink_to(away)
    (away.parent / "space.yaml").write_text(SPACE.replace("schema: 1", "schema: 2"))
    error = faults(file, ("space.yaml", "far/../space.yaml"), space=SPACE.replace("layer", "lair"))
    assert {problem.file for problem in error.problems} == {str(file.parent / "space.yaml")}
    error = faults(file, ("space.yaml", "link/../space.yaml"))
    assert {problem.file for problem in error.problems} == {f"{file.parent}/link/../space.yaml"}


@pytest.mark.parametrize(
    ("change", "code", "line", "field", "words"),
    [
        (("schema: 1", "schema: 2"), "E108", 1, "schema", "should be 1; found 2"),
        (("name: tiny", "name: my campaign"), "E136", 2, "name", "letters, digits"),
        (("name: tiny\n", ""), "E103", 1, "name", "missing field; add `name`"),
        (("seed: 7", "seed: true"), "E108", 3, "seed", "found True"),
        (("seed: 7", "heads: all"), "E108", 3, "heads", "must be `untie`, `each`, `keep:EXPERT` or"),
        (("seed: 7", "seed: -1"), "E108", 3, "seed", "greater than or equal to 0"),
        (("seed: 7", "sede: 7"), "E104", 3, "sede", "did you mean `seed`?"),
        (("schema: 1\n", ""), "E103", 1, "schema", "missing field; add `schema: 1`"),
        (
            ("{path: models/base}", "models/base"),
            "E103",
            4,
            "base",
            "write `{path: models/base}`, or `{hub:",
        ),
        (
            ("{path: models/base}", "{hub: a/b, revision: v1}"),
            "E237",
            4,
            "base",
            "`hf models info a/b`",
        ),
        (("{path: models/base}", "{}"), "E103", 4, "base", "either `path` or `hub`"),
        (("{path: models/base}", "{hub: a/b, revision: main}"), "E237", 4, "base", "40 hex digits"),
        (
            ("{path: models/base}", "{hub: a/b/c, revision: " + "a" * 40 + "}"),
            "E201",
            4,
            "base",
            "no hub id",
        ),
        (("models/code", "models/math"), "E117", 7, "experts.code", "`math` and `code` are the same"),
        (("models/code", "./models/x/../math"), "E117", 7, "experts.code", "leave one out"),
        (("models/code", "models/base"), "E117", 7, "experts.code", "`base` and `code` are the same"),
        (("  code:", "  base:"), "E136", 7, "experts.base", "reserved name"),
        (("  code:", "  single-1:"), "E136", 7, "experts.single-1", "reserved name"),
        (("  code:", "  c12:"), "E136", 7, "experts.c12", "candidate's id"),
        (("  code:", "  a.b:"), "E136", 7, "experts.a.b", "letters, digits"),
        (
            ("  math: {path: models/math}\n  code: {path: models/code}", "  {}"),
            "E116",
            5,
            "experts",
            "at least one expert",
        ),
        (
            ("space.yaml", "none.yaml"),
            "E101",
            8,
            "search_space",
            "no such search-space file; found 'none.yaml'",
        ),
        (("[a.yaml, b.yaml]", "[]"), "E122", 9, "evaluators", "at least one evaluator"),
        (("[a.yaml, b.yaml]", "[a.yaml, a.yaml]"), "E122", 9, "evaluators", "listed twice"),
        (("b.yaml]", "c.yaml]"), "E101", 9, "evaluators[1]", "found 'c.yaml'; did you mean `"),
        (
            ("b.acc, direction: minimize", "a.acc, direction: minimize"),
            "E130",
            10,
            "objectives",
            "twice",
        ),
        (
            ("optimizer:", "constraints: [a.acc > 1]\noptimizer:"),
            "E108",
            13,
            "constraints[0]",
            "METRIC >=",
        ),
        (
            ("optimizer:", "constraints: [a >= 1e999]\noptimizer:"),
            "E109",
            13,
            "constraints[0]",
            "finite",
        ),
        (
            ("optimizer:", "constraints: [a.acc >= base, b.acc <= 2 x maths]\noptimizer:"),
            "E133",
            13,
            "constraints[1]",
            "`maths` is neither the base nor an expert (math, code)",
        ),
        (
            ("optimizer:", "constraints: [a.acc >= 0.9, a.acc <= 0.8]\noptimizer:"),
            "E110",
            13,
            "constraints[1]",
            "no value keeps both",
        ),
        (("direction: minimize", "direction: down"), "E108", 12, "objectives[1].direction", "'down'"),
        (
            ("kind: nsga2", "kind: cma"),
            "E108",
            13,
            "optimizer.kind",
            "random-global; found 'cma'",
        ),
        (
            ("population: 6", "population: 6, options: {start: cold}"),
            "E108",
            13,
            "optimizer.options.start",
            "one of structured, random; found 'cold'",
        ),
        (
            ("nsga2, population", "nsga2, focus: knee, population"),
            "E151",
            13,
            "optimizer.focus",
            "`nsga2` cannot focus; take surrogate",
        ),
        (
            ("nsga2, population", "auto, focus: {c: 1}, population"),
            "E108",
            13,
            "optimizer.focus",
            "`c` is no objective",
        ),
        (
            ("nsga2, population", "auto, focus: [0.7, 0.3], population"),
            "E108",
            13,
            "optimizer.focus",
            "a focus is weights of objectives (`{math: 0.7, code: 0.3}`), bounds on them (`math.acc>=0.6`) "
            "or `knee`",
        ),
        (
            ("nsga2, population", "auto, focus: {a: high}, population"),
            "E108",
            13,
            "optimizer.focus",
            "a focus is weights of objectives",
        ),
        (
            ("nsga2, population", "auto, focus: {a: 1, a.acc: 2}, population"),
            "E108",
            13,
            "optimizer.focus",
            "`a` and `a.acc` are one objective, a.acc, stated twice; give each objective one weight",
        ),
        (
            ("nsga2, population", "auto, focus: 'a>=0.6,b=0.3', population"),
            "E108",
            13,
            "optimizer.focus",
            "`b=0.3` must be METRIC>=VALUE or METRIC<=VALUE",
        ),
        (
            ("nsga2, population", "learned-front, focus: a.acc>=0.6, population"),
            "E151",
            13,
            "optimizer.focus",
            "`learned-front` goes by no bounds, and so by no region; take nsga2, surrogate, auto,",
        ),
        (
            ("nsga2, population", "nsga2, options: {\n eta: 3}, population"),
            "E104",
            14,
            "optimizer.options.eta",
            "options of nsga2: start, operators",
        ),
        (
            ("population: 6", "population: 3"),
            "E108",
            13,
            "optimizer.population",
            "than or equal to 4",
        ),
        (("population: 6", "population: 64"), "E112", 14, "budget.evaluations", "found 18"),
        (
            ("population: 6", "pop_size: 6"),
            "E104",
            13,
            "optimizer.pop_size",
            "known fields: focus, kind",
        ),
        (("evaluations: 18", "evaluations: 0"), "E113", 14, "budget.evaluations", "nothing to do"),
        (("evaluations: 18", "hours: -1"), "E113", 14, "budget.hours", "nothing to do"),
        (("evaluations: 18", "hours: .inf"), "E109", 14, "budget.hours", "finite"),
        (("{evaluations: 18}", "{}"), "E113", 14, "budget", "`evaluations`, `items` or `hours`"),
        (("evaluations: 18", "evaluations: 18.5"), "E108", 14, "budget.evaluations", "found 18.5"),
        (("evaluations: 18", 'evaluations: "18"'), "E108", 14, "budget.evaluations", "found '18'"),
        (("batch_size: 8", "batch_size: auto"), "E129", 15, "evaluation.batch_size", "give a number"),
        (("device: cpu", "device: gpu"), "E108", 15, "evaluation.device", "a device is `cpu`"),
        (("dtype: float32", "dtype: int8"), "E108", 15, "evaluation.dtype", "'bfloat16'"),
        (("pool: local", "pool: slurm"), "E108", 16, "workers.pool", "'inline', 'local' or 'ray'"),
        (
            ("count: 2", "count: 2, deadline: -1"),
            "E108",
            16,
            "workers.deadline",
            "or input should be 'auto'",
        ),
        (("count: 2", "count: 2, gpus: .inf"), "E109", 16, "workers.gpus", "finite"),
        (("count: 2", "count: 2, gpus: -1"), "E108", 16, "workers.gpus", "than or equal to 0"),
        (("count: 2", "count: 2, gpus: true"), "E108", 16, "workers.gpus", "valid number"),
        (("[0.5, 1]", "[0.5, 0.50000001]"), "E130", 17, "baselines.single", "listed twice"),
        (("[0.5, 1]", "[0]"), "E108", 17, "baselines.single[0]", "greater than 0"),
        (("name: tiny", "name: 'sk-abcdefghijklmnopqrstuvwx'"), "E140", 2, "name", "access token"),
    ],
)
def test_every_fault_names_its_code_line_and_field(
    file: Path, change: tuple[str, str], code: str, line: int, field: str, words: str
) -> None:
    error = faults(file, change)
    assert [(p.code, p.line, p.field) for p in error.problems] == [(code, line, field)]
    assert words in str(error)


@pytest.mark.parametrize(
    ("workers", "device", "expected"),
    [
        ("pool: ray, gpus: 0.5", "cuda", []),
        ("pool: ray, gpus: 1", "cuda:0", []),
        ("pool: ray, gpus: 2", "cuda", []),
        ("pool: ray, gpus: 0", "cpu", []),
        ("pool: ray, gpus: 1.5", "cuda", [("workers.gpus", "whole number of them; found 1.5")]),
        (
            "pool: local, gpus: 2",
            "cuda",
            [("workers.gpus", "found 2 with pool 'local'; write `pool: ray`")],
        ),
        ("gpus: 0.5", "cuda", [("workers.gpus", "found 0.5 with pool 'local'")]),
        (
            "pool: ray, gpus: 1",
            "cpu",
            [("evaluation.device", "on the processor; found 1 GPUs for each")],
        ),
        (
            "pool: ray, gpus: 2",
            "cuda:1",
            [("evaluation.device", "found 'cuda:1'; write `device: cuda`")],
        ),
        (
            "pool: inline, gpus: 2.5",
            "cpu",
            [("workers.gpus", "whole"), ("workers.gpus", "'inline'"), ("evaluation.device", "2.5")],
        ),
        ("pole: ray, gpus: 2", "cuda", [("workers.pole", "did you mean `pool`")]),
    ],
)
def test_what_workers_are_given_fits_what_they_run_on(
    file: Path, workers: str, device: str, expected: list[tuple[str, str]]
) -> None:
    changes = (
        ("pool: local, count: 2", workers),
        ("device: cpu", f"device: '{device}'"),
    )
    if not expected:
        assert changed(file, *changes)
        return
    error = faults(file, *changes)
    assert [problem.field for problem in error.problems] == [field for field, _ in expected]
    assert {problem.code for problem in error.problems} <= {"E142", "E104"}
    for problem, (_, words) in zip(error.problems, expected, strict=True):
        assert words in str(problem)


def test_all_faults_of_both_files_come_together(file: Path) -> None:
    error = faults(
        file,
        ("name: tiny", "name: my campaign"),
        ("  math:", "  uniform:"),
        ("  code:", "  c1:"),
        ("seed: 7", "sede: 7"),
        ("a.yaml, b.yaml", "a.yaml, c.yaml"),
        ("population: 6", "population: 64"),
        ("batch_size: 8", "batch_size: auto"),
        space=SPACE.replace("layer}", "lair}").replace("task_arithmetic", "tasks"),
    )
    codes = [(problem.code, problem.line) for problem in error.problems]
    assert codes == [
        ("E136", 2),
        ("E104", 3),
        ("E136", 6),
        ("E136", 7),
        ("E129", 15),
        ("E112", 14),
        ("E108", 3),
        ("E101", 9),
    ]


@pytest.mark.parametrize(
    "text", ["merge_method: ties\nmodels: []\n", '{"sources": {}, "path": [], "outer": {}}']
)
def test_a_merge_is_no_campaign(tmp_path: Path, text: str) -> None:
    path = tmp_path / "merge.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match="states one merge and no search; evomerge merge") as caught:
        load_campaign(path)
    assert len(caught.value.problems) == 1


def test_a_missing_campaign_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"error\[E101\] .*nothing.yaml: no such file"):
        load_campaign(tmp_path / "nothing.yaml")


@pytest.mark.parametrize("value", ["[1]", "{a: 1}", "3", "null", "'a\\0b'", '"a\\0b"'])
@pytest.mark.parametrize(
    "field", ["search_space", "evaluators", "experts", "budget", "base", "optimizer"]
)
def test_odd_values_are_faults_and_never_tracebacks(file: Path, field: str, value: str) -> None:
    lines = [line for line in CAMPAIGN.splitlines() if line[0] != " "]
    text = "\n".join(f"{field}: {value}" if line.startswith(field) else line for line in lines)
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"error\[E1"):
        load_campaign(file)


def test_the_ledgers_copy_is_the_same_campaign(file: Path) -> None:
    campaign = load_campaign(file)
    # As the ledger keeps it: canonical JSON, which sorts keys.
    again = campaign_from_json(json.loads(canonical_json(campaign.to_json())))
    assert again.experts == campaign.experts == ("math", "code")
    assert again.objectives == campaign.objectives
    assert again.space == campaign.space
    assert again.references() == campaign.references()
    assert again.evaluator_files == campaign.evaluator_files
    assert identity_digest(again.to_json()) == identity_digest(campaign.to_json())


def changed(file: Path, *changes: tuple[str, str], space: str = SPACE) -> str:
    text = CAMPAIGN
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    file.write_text(text)
    (file.parent / "space.yaml").write_text(space)
    return identity_digest(load_campaign(file).to_json())


def test_what_may_change_between_runs_and_what_may_not(file: Path) -> None:
    before = changed(file)
    for same in [
        ("evaluations: 18", "evaluations: 99, hours: 3"),
        ("pool: local, count: 2", "pool: ray, count: 4, address: auto, deadline: 30"),
        ("models/math", "elsewhere/math"),
        ("[a.yaml, b.yaml]", "[b.yaml, a.yaml]"),
        ("seed: 7", "seed: 7 # a comment"),
    ]:
        assert changed(file, same) == before, same
    for other in [
        ("seed: 7", "seed: 8"),
        ("direction: minimize", "direction: maximize"),
        ("optimizer:", "constraints: [a.acc >= 0.5]\noptimizer:"),
        ("batch_size: 8", "batch_size: 9"),
        ("population: 6", "population: 7"),
        ("[0.5, 1]", "[0.5]"),
        ("  code:", "  coding:"),
        ("  math: {path: models/math}\n  code:", "  code: {path: models/math}\n  math:"),
    ]:
        assert changed(file, other) != before, other
    assert changed(file, space=SPACE.replace("field: layer", "field: model")) != before


def test_constraints_are_read_and_leave_no_trace_where_there_are_none(file: Path) -> None:
    assert "constraints" not in load_campaign(file).to_json()
    changed(file, ("optimizer:", "constraints: [b.acc <= 1.1 x base]\noptimizer:"))
    campaign = load_campaign(file)
    assert [str(constraint) for constraint in campaign.constraints] == ["b.acc <= 1.1 x base"]
    again = campaign_from_json(json.loads(canonical_json(campaign.to_json())))
    assert again.constraints == campaign.constraints


def test_identity_holds_no_paths(file: Path) -> None:
    data = canonical_json(identity(load_campaign(file).to_json()))
    assert str(file.parent) not in data


def shipped(folder: str, pattern: str) -> list[Any]:
    found = sorted((REPOSITORY / folder).rglob(pattern))
    return [pytest.param(path, id=str(path.relative_to(REPOSITORY))) for path in found]


@pytest.mark.parametrize("path", shipped("search_spaces", "*.yaml"))
def test_every_shipped_search_space_loads(path: Path) -> None:
    assert load_search_space(path).method


@pytest.mark.parametrize("path", shipped("experiments", "campaign*.yaml"))
def test_every_shipped_campaign_loads(path: Path) -> None:
    campaign = load_campaign(path)
    assert campaign.config.name
    assert all(file.is_file() for file in campaign.evaluator_files)


@pytest.mark.parametrize("path", shipped("experiments", "arms*.yaml"))
def test_every_shipped_study_loads(path: Path, tmp_path: Path) -> None:
    planned = plan(path.with_name("campaign.yaml"), tmp_path, read_arms(path), [1], [])
    assert {each.arm for each in planned} == {arm.name for arm in read_arms(path)}


def test_no_shipped_yaml_is_left_untested() -> None:
    """Whatever lies in `experiments/` is a campaign, arms of one, or a part that these name."""
    parts = ("evaluators", "search_spaces", "tasks")
    every = (REPOSITORY / "experiments").rglob("*.yaml")
    found = {path.name for path in every if path.parent.name not in parts}
    assert all(name.startswith(("campaign", "arms")) for name in found), found


def test_a_focus_is_part_of_a_campaign_and_its_absence_is_not(file: Path) -> None:
    without = load_campaign(file).to_json()
    assert "focus" not in without["optimizer"]
    found = []
    for stated in ("{a: 3, b: 1}", "'a=0.75,b=0.25'"):
        file.write_text(CAMPAIGN.replace("kind: nsga2", f"kind: auto, focus: {stated}"))
        campaign = load_campaign(file)
        assert campaign.focus == (0.75, 0.25)
        assert campaign_from_json(campaign.to_json()).focus == (0.75, 0.25)
        found.append(identity_digest(campaign.to_json()))
    assert identity_digest(without) not in found


def test_a_focus_may_be_a_region_for_every_kind_that_goes_by_bounds(file: Path) -> None:
    file.write_text(CAMPAIGN.replace("kind: nsga2", "kind: nsga2, focus: 'a>=0.6,b.acc<=0.5'"))
    campaign = load_campaign(file)
    assert campaign.focus is None
    began = CampaignEvent(config=campaign.to_json(), identity="", versions={})
    assert began.region == (Bound("a.acc", ">=", 0.6), Bound("b.acc", "<=", 0.5))
    file.write_text(CAMPAIGN)
    assert CampaignEvent(config=load_campaign(file).to_json(), identity="", versions={}).region == ()


def test_a_ledger_with_a_focus_that_names_an_objective_twice_is_still_read(file: Path) -> None:
    data = load_campaign(file).to_json()
    data["optimizer"] |= {"kind": "auto", "focus": "a=0.5,b=0.3,a.acc=0.7"}
    assert campaign_from_json(data).focus == pytest.approx((0.7, 0.3))
