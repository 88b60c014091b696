"""The report as a file: what stands in it, and that nothing gets out of its place, whatever there is."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from evomerge.campaign.recorded import recorded_recipe
from evomerge.cli.app import main
from evomerge.errors import EnvironmentFault, UsageError
from evomerge.front.decision import decide
from evomerge.front.descent import descent_text
from evomerge.front.folder import open_campaign_folder
from evomerge.front.statistics import Interval, Optimism
from evomerge.objectives.objective import Objective
from evomerge.recipe.places import lookup
from evomerge.recipe.recipe import MergedSource
from evomerge.report.sentences import lead_words, sentences
from evomerge.report.tables import card_row, heads
from evomerge.report.write import report_html, write_report
from tests.front.fronts import made
from tests.report.made import (
    HOSTILE,
    Record,
    finished_page,
    page_of,
    rewritten,
    taken_apart,
    until,
    with_name,
    with_objectives,
)
from tests.tiny_runs import finished


def hash_of(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def test_only_what_the_policy_names_may_run() -> None:
    page = finished_page()
    policy = page.policy
    scripts = [s for s in page.all("script") if s.attributes.get("type") != "text/plain"]
    assert policy["default-src"] == policy["connect-src"] == ["'none'"]
    assert policy["base-uri"] == policy["form-action"] == ["'none'"]
    assert policy["script-src"] == [hash_of(scripts[0].text), hash_of(page.unpacked("plotly"))]
    assert [hash_of(s.text) for s in page.all("style")] == policy["style-src"][:1]
    assert policy["style-src"][1:] == policy["style-src-attr"][1:] == [hash_of("")]
    assert policy["img-src"] == ["data:", "blob:"]
    assert len(scripts) == len(page.all("style")) == 1


def test_nothing_is_asked_for_and_nothing_hangs_on_attributes() -> None:
    page = finished_page()
    for element in page.elements:
        for name, value in element.attributes.items():
            assert not name.startswith("on"), element
            assert name != "style", element
            assert name not in ("src", "srcset", "action", "data"), element
            assert name != "href" or str(value).startswith("#"), element
    assert page.all("link") == page.all("img") == page.all("iframe") == page.all("form") == []
    assert "http://" not in page.by_id("data").text + page.words


def test_it_says_what_there_is_to_decide() -> None:
    page, front = finished_page(), finished().front
    commands = [e.text for e in page.all("code") if str(e.attributes.get("id")).startswith("card-")]
    where = finished().directory
    assert commands == [
        f"evomerge export {where} {text} tiny-merged" for text in ("knee", "best:mean", "best:worst")
    ]
    for member in (*front.members, *front.references):
        assert member.id in page.words
    for title in ("The decision", "The front", "A member", "The search", "The experts", "Belief and"):
        assert any(title in e.text for e in page.all("h2"))
    assert len(page.all("h1")) == 1


def test_it_says_what_gradients_cost() -> None:
    opened = open_campaign_folder(finished().directory)
    front = finished().front
    decision, believed = opened.decision(front), opened.front_uncertainty(front)
    learned = replace(front, slopes=50, slope_cost=23.125)
    count = opened.history.budget_used
    for each, begin in (
        (front, f"{count} evaluations reached a hypervolume"),
        (
            learned,
            f"{count} evaluations and 50 gradients and losses, which cost as much as 23.1, reached",
        ),
    ):
        assert sentences(each, decision, believed, opened.history)["search"].startswith(begin)


def test_sections_can_be_reached_and_named() -> None:
    """What a keyboard and a screen reader need: targets, labels, heads of columns, a language."""
    page = finished_page()
    ids = [e.attributes["id"] for e in page.elements if "id" in e.attributes]
    assert len(ids) == len(set(ids))
    for link in page.all("a"):
        assert str(link.attributes["href"])[1:] in ids
    for element in page.all("label"):
        assert element.attributes.get("for", "wish-0") in ids
    for name in ("aria-labelledby",):
        assert all(e.attributes[name] in ids for e in page.elements if name in e.attributes)
    assert page.all("html")[0].attributes["lang"] == "en"
    assert all(head.attributes.get("scope") == "col" for head in page.all("th"))
    assert all(b.attributes.get("type") == "button" for b in page.all("button"))


def test_the_data_are_those_of_the_ledger() -> None:
    data, made = finished_page().data, finished()
    models = data["models"]
    assert set(models["id"]) == set(made.history.candidates)
    front = [m.id for m in made.front.members]
    assert models["id"][: len(front)] == front
    np.testing.assert_array_equal(models["scaled"], [m.scaled for m in made.front.members])
    for k, objective in enumerate(made.front.objectives):
        for split, columns in models["scores"].items():
            for name, found in zip(models["id"], columns[k], strict=True):
                evaluation = made.history.candidates[name].evaluations.get(split)
                wanted = evaluation and evaluation.metrics[objective.metric]
                assert (found is None) == (wanted is None)
                if wanted:
                    np.testing.assert_allclose(found, [wanted.value, wanted.stderr], rtol=1e-9)
    genomes = {n: c.genome for n, c in made.history.candidates.items() if c.genome is not None}
    assert data["genes"]["values"].keys() == genomes.keys()
    assert data["search"]["hypervolume"][-1] == pytest.approx(
        made.front.hypervolume["search"], abs=1e-5
    )
    assert sum(s["candidates"] for s in data["search"]["stages"]) == len(made.history.searched())
    assert max(data["search"]["evaluations"]) == made.history.budget_used


def test_coefficients_by_place_are_those_of_the_recipe() -> None:
    data, made = finished_page().data, finished()
    genes = data["genes"]
    checked = 0
    for name, genome in genes["values"].items():
        recipe = recorded_recipe(made.history, made.history.candidates[name])
        merged = [s for s in recipe.sources.values() if isinstance(s, MergedSource)]
        if not merged:
            continue
        found: dict[tuple[str, str, int], float] = {}
        for k, value in enumerate(genome):
            for place, part in genes["parts"][k]:
                key = (genes["coefficient"][k], genes["input"][k], place)
                found[key] = found.get(key, 0.0) + value * part
        for (coefficient, of, place), value in found.items():
            table = merged[0].coefficients[coefficient].get(of)
            if table is not None:
                wanted = lookup(table, genes["places"][place])
                assert value == pytest.approx(wanted, rel=1e-3, abs=1e-9)
                checked += 1
    assert checked > 50


def test_items_won_and_lost_are_counted_from_the_records() -> None:
    data, made = finished_page().data, finished()
    front = made.front
    for member in front.members:
        for k, objective in enumerate(front.objectives):
            expert = data["items"]["expert"][objective.metric]
            won, lost, same = data["items"]["counts"][member.id][k]
            own, other = (
                made.history.candidates[n].evaluations[front.split].metrics[objective.metric]
                for n in (member.id, expert)
            )
            assert won + lost + same == own.items
            assert (won - lost) / own.items == pytest.approx(own.value - other.value)


def test_every_candidate_says_how_it_came_about() -> None:
    origins, history = finished_page().data["origins"], finished().history
    assert set(origins["of"]) == {c.id for c in history.candidates.values() if not c.is_baseline}
    ways = set()
    for name, (phrase, *parents) in origins["of"].items():
        own = history.candidates[name]
        assert own.origin is not None
        ways.add(own.origin.how)
        assert list(own.origin.parents or ()) == parents
        assert all(history.candidates[each].generation < own.generation for each in parents)
        said = origins["words"][phrase]
        assert (
            said.lower().replace("{parents}", " and ".join(parents))
            == descent_text(history, own).lower()
        )
        if own.origin.how == "given" and own.origin.source in history.reference_ids():
            assert said.endswith(f"baseline {own.origin.source}")
    assert {"given", "crossed"} <= ways


def test_a_ledger_without_origins_says_nothing_of_them(tmp_path: Path) -> None:
    def without(records: list[Record]) -> list[Record]:
        for record in records:
            for candidate in record.get("candidates", []):
                del candidate["origin"]
        return records

    data = page_of(rewritten(tmp_path / "run", without)).data
    assert data["origins"] == {"words": [], "of": {}}
    assert data["near"] == finished_page().data["near"]


def test_what_was_expected_of_the_last_candidates_stands_beside_what_each_stage_brought(
    tmp_path: Path,
) -> None:
    def foreseen(records: list[Record]) -> list[Record]:
        for record in records:
            if record["event"] == "asked":
                record["forecast"] = {"by": "genes", "gain": 0.012, "low": 0.003, "high": 0.026}
        return records

    words = (
        "were judged; model: a model's choice among all genomes. The last 6 candidates asked were expected "
        "to add 1.2 % of the hypervolume, 0.3 to 2.6 %."
    )
    assert words in page_of(rewritten(tmp_path / "run", foreseen)).words
    assert "expected to add" not in finished_page().words


def test_parents_are_read_off_the_coefficients() -> None:
    data, made = finished_page().data, finished()
    known = made.history.candidates
    for name, (count, parents) in data["inherited"].items():
        own = known[name]
        assert own.genome is not None
        assert count == len(own.genome)
        left = set(range(count))
        for parent, shared in parents:
            other = known[parent]
            assert other.genome is not None
            assert other.generation < own.generation
            same = {k for k in left if other.genome[k] == own.genome[k]}
            assert len(same) == shared
            left -= same
        assert 2 * len(left) <= count


def test_conflicts_of_signs_stand_beside_cosines() -> None:
    data = finished_page().data
    assert data["signs"]["layers"] == data["taskVectors"]["layers"]
    assert (
        len(data["signs"]["large"]) == len(data["signs"]["pairs"]) == len(data["taskVectors"]["pairs"])
    )
    assert "go to different sides" in finished_page().html


def test_recipes_are_those_of_an_export() -> None:
    recipes = finished_page().data["recipes"]
    pick = finished().front.picks["knee"]
    assert recipes[pick]["text"].startswith("# The merge as a mergekit file")
    assert str(finished().file.parent) not in json.dumps(recipes)


def test_equal_campaigns_give_equal_bytes() -> None:
    assert report_html(finished().directory) == finished_page().html


def test_experts_that_went_away_cost_the_recipes_only(tmp_path: Path) -> None:
    def away(records: list[Record]) -> list[Record]:
        for stated in (records[0]["config"]["base"], *records[0]["config"]["experts"].values()):
            stated["path"] = "/nowhere/model"
        return records

    data = page_of(rewritten(tmp_path / "run", away)).data
    assert list(data["recipes"]) == [""]
    assert "the checkpoints cannot be read here" in data["recipes"][""]["differences"][0]
    assert data["signs"] is None
    assert data["genes"]["values"]


def test_no_name_gets_out_of_its_place(tmp_path: Path) -> None:
    page = page_of(rewritten(tmp_path / "run", with_name(HOSTILE)))
    plain = finished_page()
    assert [e.name for e in page.all("script")] == [e.name for e in plain.all("script")]
    assert page.all("img") == page.all("b") == []
    assert not any(n.startswith("on") for e in page.elements for n in e.attributes)
    assert page.policy.keys() == plain.policy.keys()
    assert page.policy["script-src"] == plain.policy["script-src"]
    assert "<b>bad</b>" in page.words
    assert f"{HOSTILE} & more" in page.words
    assert page.data["objectives"][0]["metric"] == f"{HOSTILE}.acc"


@pytest.mark.parametrize("count", [1, 2, 3, 4, 6])
def test_one_to_six_objectives(count: int, tmp_path: Path) -> None:
    page = page_of(rewritten(tmp_path / "run", with_objectives(count)))
    assert len(page.data["objectives"]) == count
    assert len([e for e in page.all("input") if e.attributes.get("type") == "range"]) == count
    views = [e.attributes["data-view"] for e in page.all("button") if "data-view" in e.attributes]
    wanted = {1: [], 2: ["pair", "lines"]}.get(count, ["pair", "solid", "matrix", "lines"])
    assert views == wanted


@pytest.mark.parametrize(
    ("kind", "count", "said"),
    [
        ("campaign", 1, "This campaign is at its beginning (prepare)"),
        ("prepared", 1, "This campaign is at its beginning (baselines)"),
        ("baselines", 1, "No model is on the front yet"),
        ("asked", 1, "No model is on the front yet"),
        ("told", 1, "Not final (search)"),
        ("selection", 1, "Not final (selection)"),
    ],
)
def test_a_campaign_that_still_runs_shows_what_is_there(
    kind: str, count: int, said: str, tmp_path: Path
) -> None:
    page = page_of(rewritten(tmp_path / "run", until(kind, count)))
    assert said in page.words
    assert page.all("h1")[0].text == "tiny"


def test_raced_and_failed_candidates_stand_by_class(tmp_path: Path) -> None:
    def change(records: list[Record]) -> list[Record]:
        changed, number = [], 0
        for record in records:
            own = record["event"] == "evaluated" and record["id"].startswith("c0")
            if own and record["split"] == "search" and number < 5:
                number += 1
                kept = {k: record[k] for k in ("id", "recipe", "key", "split")}
                if number <= 3:
                    message = "layer 3" if number < 3 else "layer 5"
                    record = {
                        "event": "failed",
                        **kept,
                        "failure": "nonfinite_weights",
                        "message": message,
                    }
                else:
                    scores = {k: record[k] for k in ("metrics", "items", "statistics", "seconds")}
                    seen = dict.fromkeys(record["items"], 8)
                    record = {"event": "raced", **kept, **scores, "beaten_by": "uniform", "seen": seen}
            changed.append(record)
        return changed

    page = page_of(rewritten(tmp_path / "run", change))
    assert "nonfinite_weights 3 layer 3 (2 times) layer 5" in page.words
    assert re.search(
        r"raced 2 uniform was better on every task after about \d+ % of the items", page.words
    )
    states = dict(zip(page.data["models"]["id"], page.data["models"]["state"], strict=True))
    assert sorted(states.values()).count("failed") == 3
    assert sorted(states.values()).count("raced") == 2


def test_cards_of_an_old_ledger_without_task_vectors(tmp_path: Path) -> None:
    def change(records: list[Record]) -> list[Record]:
        for record in records:
            record.pop("task_vectors", None)
        return records

    page = page_of(rewritten(tmp_path / "run", change))
    assert page.data["taskVectors"] is None
    assert page.data["models"]["id"] == finished_page().data["models"]["id"]


def test_amounts_of_unlike_units_are_not_averaged() -> None:
    found = Optimism((Interval(0.02, 0.01, 0.03), Interval(4.0, 3.0, 5.0)), Interval(2.01, 1.5, 2.5))
    alike = (Objective("a.acc", "maximize"), Objective("b.acc", "maximize"))
    assert lead_words(alike, found) == "+201.0 points [+150.0, +250.0]"
    unlike = (Objective("a.acc", "maximize"), Objective("b.perplexity", "minimize"))
    words = "+2.0 points [+1.0, +3.0] (a.acc), +4 [+3, +5] (b.perplexity)"
    assert lead_words(unlike, found) == words


def test_cards_say_by_what_they_were_chosen() -> None:
    """Where objectives have no common unit, mean and worst score are of the scaled ones."""
    points = {"c00000": (0.9, 0.5), "c00001": (0.5, 0.1), "base": (0.4, 0.6)}
    unlike = (Objective("a.acc", "maximize"), Objective("b.loss", "minimize"))
    for objectives, best, worst in (
        ((), "The highest mean over the objectives.", "The highest of lowest scores."),
        (unlike, "The best mean of the scaled objectives, which", "The member whose weakest scaled"),
    ):
        front = made(points, objectives=objectives)
        cards = [card_row(front, card, "run", "out") for card in decide(front, None).cards]
        assert cards[1]["words"].startswith(best)
        assert cards[2]["words"].startswith(worst)
        assert [title for title, _ in heads(front)][-1] == "dominates"
    assert heads(front)[2] == ("b.loss (less is better)", False)
    assert [row["measure"] for row in cards[0]["rows"]] == ["a.acc %", "b.loss (less is better)"]


def test_optimism_says_what_its_brackets_are() -> None:
    page = finished_page()
    heads = [e.text for e in page.all("th")]
    assert "search − selection [95 %]" in heads
    assert "beyond the baselines' [95 %]" in heads
    assert "(in brackets the 95 % interval)" in page.words


def test_a_rival_is_drawn_beside_and_must_seek_the_same(tmp_path: Path) -> None:
    where = finished().directory
    data = taken_apart(report_html(where, [where])).data
    assert data["rivals"][0]["hypervolume"] == data["search"]["hypervolume"]
    other = rewritten(tmp_path / "run", with_objectives(3))
    with pytest.raises(UsageError, match=r"E500.*only a search for the same objectives"):
        report_html(where, [other])


def test_the_verb_writes_one_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "page.html"
    assert main(["report", str(finished().directory), "-o", str(out)]) == 0
    assert capsys.readouterr().err == f"wrote {out}\n"
    assert out.read_text(encoding="utf-8") == finished_page().html
    assert len(out.read_bytes()) < 3_000_000
    assert list(tmp_path.iterdir()) == [out]
    new = tmp_path / "new" / "page.html"
    assert main(["report", str(finished().directory), "-o", str(new)]) == 0
    assert new.is_file()
    assert main(["report", str(finished().directory), "--port", "0"]) == 2
    assert "E500]: --port is that of --watch" in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EnvironmentFault, match=r"E408.*file/page\.html: cannot write"):
        write_report(finished().directory, tmp_path / "file" / "page.html")
    with pytest.raises(UsageError, match=r"E509.*no campaign here"):
        write_report(tmp_path)
