"""`import evomerge as em`: light until used, short to print, and what the command line gives."""

from __future__ import annotations

import io
import json
import multiprocessing
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import evomerge as em
from evomerge.front.front import pick
from evomerge.front.tables import front_csv, front_html, front_latex, html_table, scores_html
from evomerge.objectives.objective import Objective
from tests.tiny_models import write_campaign, write_model
from tests.tiny_runs import finished

HEAVY = (
    "torch", "transformers", "lm_eval", "ray", "pymoo", "optuna", "datasets", "numpy", "pydantic", "ruamel",
    "rich", "typer", "pandas", "matplotlib",
)  # fmt: skip


def test_import_loads_nothing_and_names_what_there_is() -> None:
    code = f"""
import sys
import evomerge as em
assert not {{*{HEAVY}}} & set(sys.modules), {{*{HEAVY}}} & set(sys.modules)
assert [m for m in sys.modules if m.startswith("evomerge.")] == []
assert {{"Campaign", "open", "merge", "score", "__version__"}} <= set(dir(em))
em.Campaign, em.open, em.score
assert not {{"torch", "transformers", "lm_eval", "ray", "pymoo", "pandas", "matplotlib"}} & set(sys.modules)
assert callable(em.merge)
import evomerge.merge.plan as plan
assert callable(em.merge) and em.merge.plan is plan
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    with pytest.raises(AttributeError, match="no attribute 'campagne'"):
        em.campagne  # noqa: B018


def test_every_public_name_is_there_also_for_type_checkers() -> None:
    source = Path(em.__file__).read_text(encoding="utf-8")
    for name, (module, attribute) in em._PUBLIC.items():
        shown = f"from evomerge.{module} import {attribute} as {name}\n"
        assert shown in source
        assert getattr(em, name) is not None


def test_a_front_is_that_of_the_folder_and_prints_short() -> None:
    run, done = em.open(finished().directory), finished()
    front = run.front()
    assert json.dumps(front.found.to_json(), sort_keys=True) == done.text
    assert [member.id for member in front] == [member.id for member in done.front.members]
    assert len(front) == len(front.members)
    assert [member.id for member in front.baselines] == [m.id for m in done.front.references]
    for choice in ("knee", "best:pets.acc"):
        assert front.pick(choice).id == pick(done.front, choice).id
    things = (run, front, front.members[0], run.history, done.front, *run.history.candidates.values())
    assert max(len(repr(thing)) for thing in things) < 2_000
    assert max(len(repr(thing).splitlines()) for thing in things) <= 12
    assert "tiny" in repr(run)
    assert front.pick("knee").id in repr(front)


def test_pandas_holds_the_table_of_the_csv() -> None:
    import pandas

    frame = em.open(finished().directory).front().to_pandas()
    read = pandas.read_csv(io.StringIO(front_csv(finished().front)))
    assert list(frame.columns) == list(read.columns)
    assert frame["id"].tolist() == read["id"].tolist()
    assert frame["pets.acc"].tolist() == read["pets.acc"].tolist()


def test_plot_shows_every_member_and_baseline() -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    front = em.open(finished().directory).front()
    axes = front.plot()
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("pets.acc", "birds.acc")
    drawn = [len(container.lines[0].get_xdata()) for container in axes.containers]
    assert drawn == [len(front.members), len(front.baselines)]
    assert em.open(finished().directory).front().plot("birds.acc", "pets.acc", axes) is axes
    assert front.plot("birds").get_xlabel() == "birds.acc"
    with pytest.raises(em.EvomergeError, match=r"E506.*`bird.acc` is no objective; .*did you mean"):
        front.plot("bird.acc")


def test_plot_leaves_out_a_baseline_that_these_items_do_not_judge() -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    front = em.open(finished().directory).front()
    first, *rest = front.found.references
    assert front.found.split == "selection"
    first = replace(first, metrics={"search": first.metrics["search"]})
    front = replace(front, found=replace(front.found, references=(first, *rest)))
    axes = front.plot()
    drawn = [len(container.lines[0].get_xdata()) for container in axes.containers]
    assert drawn == [len(front.members), len(rest)]


def test_html_is_a_table_with_names_escaped(tmp_path: Path) -> None:
    front = em.open(finished().directory).front()
    assert front._repr_html_().count("<tr>") == 1 + len(front.members) + len(front.baselines)
    assert "<th>selection</th>" in front.members[0]._repr_html_()
    # A share of 0.9 is 90.0 in these tables, and says so.
    assert "<th>pets.acc %</th>" in front._repr_html_()
    assert "<td>pets.acc %</td>" in front.members[0]._repr_html_()
    assert "pets.acc % " in repr(front)
    costly = replace(front.found, objectives=(Objective("pets.acc", "minimize"),))
    assert "<th>pets.acc % (less is better)</th>" in front_html(costly)
    assert r"pets.acc \% (less is better)" in front_latex(costly, costly.members)
    assert "tiny" in em.open(finished().directory)._repr_html_()
    shown = html_table(["<i>"], [["<script>", "a&b"]], "<b>")
    assert "<script>" not in shown
    assert "&lt;script&gt;" in shown
    assert "a&amp;b" in shown
    assert "<x>" not in scores_html("<x>", {})


def test_a_campaign_by_keywords_is_that_of_its_file(tmp_path: Path) -> None:
    file = write_campaign(tmp_path)
    config = json.loads(file.read_text())
    loaded = em.Campaign.load(file)
    built = em.Campaign(
        folder=tmp_path,
        name="tiny",
        seed=7,
        base="models/base",
        experts={name: f"models/{name}" for name in config["experts"]},
        search_space=json.loads((tmp_path / "space.yaml").read_text()),
        evaluators=config["evaluators"],
        objectives={o["metric"]: o["direction"] for o in config["objectives"]},
        budget=18,
        **{key: config[key] for key in ("optimizer", "evaluation", "workers", "baselines")},
    )
    ours, theirs = built.loaded.to_json(), loaded.loaded.to_json()
    assert {k: v for k, v in ours.items() if k != "file"} == {
        k: v for k, v in theirs.items() if k != "file"
    }
    assert repr(built) == "<Campaign tiny: 2 experts, task_arithmetic, objectives pets.acc, birds.acc>"
    assert "population 6" in built._repr_html_()
    report = built.check()
    assert report.problems == ()
    assert report.plan["budget"].startswith("18 evaluations after")
    assert len(repr(report).splitlines()) < 20
    report.raise_problems()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (
            {"optimiser": {"kind": "auto"}},
            r"E104.* optimiser: unknown field; did you mean `optimizer`\?",
        ),
        ({"budget": {"evals": 8}}, r"E104.* budget.evals: unknown field; did you mean `evaluations`\?"),
        ({"experts": ["models/math"]}, r"E108.* experts: .*; found a list; write `NAME: ...` for each"),
        (
            {"experts": "models/math"},
            r"E108.* experts: .*; found 'models/math'; write `NAME: ...` for each",
        ),
        ({"evaluators": "pets.yaml"}, r"E108.* evaluators: .*; write a list, `\[pets.yaml\]`"),
        ({"objectives": ["pets.acc"]}, r"E108.* objectives\[0\]: .* its fields: metric, direction"),
        ({"objectives": "pets.acc"}, r"E108.* objectives: .*; found 'pets.acc'; write a list"),
        ({"objectives": {"pets.acc": "max"}}, r"E108.* objectives\[0\].direction: .*; found 'max'"),
        ({"workers": {"deadline": "none"}}, r"E108.* workers.deadline: .*; found 'none'"),
    ],
)
def test_a_keyword_of_another_form_is_named(
    tmp_path: Path, changed: dict[str, Any], words: str
) -> None:
    write_campaign(tmp_path)
    given: dict[str, Any] = {
        "base": "models/base",
        "experts": {"math": "models/math"},
        "search_space": "space.yaml",
        "evaluators": ["evaluators/pets.yaml"],
        "objectives": {"pets.acc": "maximize"},
        "budget": 20,
        "folder": tmp_path,
    }
    em.Campaign(**given)
    with pytest.raises(em.EvomergeError, match=words):
        em.Campaign(**{**given, **changed})


def test_slips_in_calls_are_faults_of_their_own(tmp_path: Path) -> None:
    front = em.open(finished().directory).front()
    with pytest.raises(em.EvomergeError, match=r"E506.*`7` is no member of the front"):
        front.pick(7)  # type: ignore[arg-type]
    with pytest.raises(em.EvomergeError, match=r"E506.*`pet.acc` is no objective.*mean `pets.acc`"):
        front.plot("pet.acc")
    write_campaign(tmp_path)
    model, evaluator = tmp_path / "models/base", tmp_path / "evaluators/pets.yaml"
    with pytest.raises(
        em.EvomergeError, match=r"E500.*no such split; found 'tests'; give one of search,"
    ):
        em.score(model, evaluator, split="tests")  # type: ignore[arg-type]
    with pytest.raises(
        em.EvomergeError, match=r"E500.*no such dtype; found 'bf16'; give one of bfloat16,"
    ):
        em.score(model, evaluator, dtype="bf16")  # type: ignore[arg-type]
    for decorator in ("evaluator", "merge_method", "optimizer"):
        with pytest.raises(
            em.EvomergeError, match=rf"E512.*`@evomerge.{decorator}` needs a name; write"
        ):
            getattr(em, decorator)(print)


def test_faults_are_collected_and_raised_on_demand(tmp_path: Path) -> None:
    file = write_campaign(tmp_path, objectives=[{"metric": "pets.ac", "direction": "maximize"}])
    report = em.Campaign.load(file).check()
    assert [problem.code for problem in report.problems] == ["E124"]
    assert report.plan == {}
    assert "did you mean `pets.acc`?" in repr(report)
    assert "pets.ac" in report._repr_html_()
    with pytest.raises(em.EvomergeError, match="E124"):
        report.raise_problems()
    with pytest.raises(em.EvomergeError, match=r"E108.*optimizer.kind: must be one of nsga2"):
        em.Campaign(
            folder=tmp_path, base="models/base", experts={"math": "models/math"}, budget=9,
            search_space="space.yaml", evaluators=["evaluators/pets.yaml"],
            objectives={"pets.acc": "maximize"}, optimizer={"kind": "cma", "population": 4},
        )  # fmt: skip


def test_a_run_goes_on_and_a_member_is_exported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    campaign = em.Campaign.load(write_campaign(tmp_path, budget={"evaluations": 6}))
    run = campaign.run(tmp_path / "run")
    assert "selection: scoring" in capsys.readouterr().err
    before = run.front().found
    again = campaign.run(tmp_path / "run", progress=False)
    assert capsys.readouterr().err == ""
    assert again.front().found == before
    assert run.history.budget_used == 6
    member = again.front().pick("knee")
    assert member.recipe.digest == member.found.recipe
    done = member.export(tmp_path / "out")
    assert (tmp_path / "out" / "config.json").is_file()
    assert set(done.scores) == {"search", "selection", "test"}
    assert "pets.acc" in repr(done)
    scores = em.score(tmp_path / "out", tmp_path / "evaluators" / "pets.yaml")
    found, kept = scores.metrics["pets.acc"], done.scores["test"]["pets.acc"]
    # Other batches: log-likelihoods differ in their last bits.
    assert found.smooth == pytest.approx(kept.smooth, rel=1e-5)
    assert replace(found, smooth=kept.smooth) == kept
    assert repr(scores).startswith("<Scores pets.acc ")
    merged = em.merge(tmp_path / "out" / "recipe.json", tmp_path / "again")
    em.merge(member.recipe, tmp_path / "third")
    weights = [
        (tmp_path / name / "model.safetensors").read_bytes() for name in ("out", "again", "third")
    ]
    assert weights[0] == weights[1] == weights[2]
    assert merged.path == tmp_path / "again"


def test_a_folder_without_a_campaign_is_refused(tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    with pytest.raises(em.EvomergeError, match="E509"):
        em.open(tmp_path / "model")


def test_a_process_that_runs_its_script_again_is_told_what_to_add(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    campaign = em.Campaign.load(write_campaign(tmp_path))
    monkeypatch.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)
    with pytest.raises(em.EvomergeError, match=r'E511.*put `if __name__ == "__main__":` before'):
        campaign.run(tmp_path / "run")
    assert not (tmp_path / "run").exists()
