"""The report as people meet it: drawn, clicked and moved in headless Chromium."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from evomerge.front.front import pick
from evomerge.objectives.pareto import preferred
from evomerge.report.write import report_html, write_report
from tests.report.browser import CHROMIUM, Browser, browser
from tests.report.made import HOSTILE, rewritten, until, with_name, with_objectives
from tests.tiny_runs import finished

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")

READY = "document.body.dataset.ready === 'true' || !document.getElementById('trouble').hidden"


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(finished().directory, tmp_path_factory.mktemp("page") / "report.html")


def opened(chromium: Browser, page: Path, **options: object) -> Browser:
    chromium.open(page.as_uri(), **options)  # type: ignore[arg-type]
    chromium.wait(READY)
    return chromium


def text(chromium: Browser, name: str) -> str:
    return str(chromium.run(f"document.getElementById({json.dumps(name)}).textContent"))


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_it_is_drawn_without_a_complaint_or_a_request(
    theme: str, width: int, chromium: Browser, page: Path
) -> None:
    opened(chromium, page, theme=theme, width=width)
    assert chromium.complaints() == []
    assert chromium.requests() == [page.as_uri()]
    assert chromium.run("document.getElementById('trouble').hidden")
    assert chromium.run("document.querySelectorAll('#front-plot .points path').length") > 4
    assert chromium.run("document.querySelectorAll('svg.heat rect').length") > 10
    # Nothing is wider than the window.
    assert chromium.run("document.documentElement.scrollWidth") <= width  # `innerWidth` grows with it
    back = chromium.run("getComputedStyle(document.body).backgroundColor")
    red = int(back.removeprefix("rgb(").split(",")[0])
    assert red < 60 if theme == "dark" else red > 200


def test_the_theme_can_be_changed(chromium: Browser, page: Path) -> None:
    opened(chromium, page, theme="light")
    ink = "document.querySelector('#front-plot .xtick text').style.fill"
    before = chromium.run(ink)
    chromium.click("#theme")
    assert text(chromium, "theme") == "Light"
    chromium.wait(f"{ink} !== {json.dumps(before)}")
    assert chromium.complaints() == []


def test_paper_is_light_and_the_screen_dark_again(chromium: Browser, page: Path) -> None:
    opened(chromium, page, theme="dark")
    theme = "document.documentElement.dataset.theme"
    chromium.run("dispatchEvent(new Event('beforeprint'))")
    assert chromium.run(theme) == "light"
    chromium.run("dispatchEvent(new Event('afterprint'))")
    assert chromium.run(f"{theme} === undefined")
    assert chromium.complaints() == []


def test_a_click_on_a_point_shows_the_member(chromium: Browser, page: Path) -> None:
    opened(chromium, page)
    front = finished().front
    everyone = (*front.members, *front.references)
    start = text(chromium, "member-name")
    begun = next(member.scaled for member in front.members if member.id == start)
    target, place = next((m.id, m.scaled) for m in front.members if m.scaled != begun)
    # Whoever lies there: models may have equal scores, and a member may be a baseline too.
    there = [member.id for member in everyone if member.scaled == place]
    where = chromium.run(
        "(() => { const p = document.getElementById('front-plot'); p.scrollIntoView({behavior: 'instant'});"
        "const t = p.data.findIndex((t) => t.name === 'front');"
        f"const k = p.data[t].customdata.indexOf({json.dumps(target)});"
        "const b = p.getBoundingClientRect(), l = p._fullLayout;"
        "return [b.x + l.xaxis._offset + l.xaxis.d2p(p.data[t].x[k]),"
        " b.y + l.yaxis._offset + l.yaxis.d2p(p.data[t].y[k])]; })()"
    )
    chromium.click_at(*where)
    name = "document.getElementById('member-name').textContent"
    chromium.wait(f"{name} !== {json.dumps(start)}")
    chosen = text(chromium, "member-name")
    assert chosen in there
    assert text(chromium, "member-command").split()[3] == chosen
    chromium.run(f"choose({json.dumps(start)})")
    assert chromium.run("document.querySelectorAll('#member-heat rect').length") > 0
    assert chromium.run("document.querySelectorAll('#member-items rect').length") > 0
    assert "merge_method" in text(chromium, "member-recipe")
    assert "Asked in batch" in text(chromium, "member-origin")
    history = finished().history
    child = next(c for c in history.candidates.values() if c.origin and c.origin.how == "crossed")
    assert child.origin is not None
    one, two = child.origin.parents or ()
    chromium.run(f"choose({json.dumps(child.id)})")
    assert f"A child of {one} and {two}." in text(chromium, "member-origin")
    chromium.run("document.querySelector('#member-origin button').click()")
    assert text(chromium, "member-name") == one
    assert child.id in text(chromium, "member-origin").split("from it: ")[1]
    assert chromium.complaints() == []


def test_a_row_of_the_table_shows_the_member_and_a_head_sorts(chromium: Browser, page: Path) -> None:
    opened(chromium, page)
    chromium.run("document.querySelector('#front details.card').open = true")
    chromium.click("#members tbody tr:nth-child(2) button")
    second = chromium.run("document.querySelector('#members tbody tr:nth-child(2)').dataset.id")
    assert text(chromium, "member-name") == second
    assert chromium.run("document.querySelectorAll('#members tr.chosen').length") == 1
    chromium.click("#members th:nth-child(2) button")
    rows = "[...document.querySelectorAll('#members tbody tr')]"
    values = chromium.run(f"{rows}.map((row) => Number(row.cells[1].dataset.value))")
    assert values == sorted(values, reverse=True)


def test_the_slider_moves_pick_and_command_as_the_command_line(chromium: Browser, page: Path) -> None:
    front = finished().front
    opened(chromium, page)
    assert text(chromium, "wished") == front.picks["knee"]
    for weights in ([100, 0], [0, 100], [80, 20], [35, 65], [50, 50]):
        for k, weight in enumerate(weights):
            chromium.run(
                f"(() => {{ const e = document.getElementById('wish-{k}'); e.value = {weight};"
                "e.dispatchEvent(new Event('input')); })()"
            )
        said = text(chromium, "wished-command").split()
        assert said[:3] == ["evomerge", "export", str(finished().directory)]
        member = pick(front, said[3].strip("'"))
        assert text(chromium, "wished") == text(chromium, "member-name") == member.id
    assert said[3] == "knee"
    assert chromium.complaints() == []


def test_bounds_are_kept_as_on_the_command_line(chromium: Browser, page: Path) -> None:
    front = finished().front
    opened(chromium, page)
    best = pick(front, f"best:{front.objectives[0].metric}").metrics[front.split][
        front.objectives[0].metric
    ]
    bound = round(100 * (best.value - 1.8 * best.stderr), 2)
    for value in (bound, 1000):
        chromium.run(
            f"(() => {{ const e = document.getElementById('bound-0'); e.value = {value};"
            "e.dispatchEvent(new Event('input')); })()"
        )
        if value == bound:
            choice = text(chromium, "wished-command").split()[3].strip("'")
            assert pick(front, choice).id == text(chromium, "wished")
            assert choice.startswith(f"{front.objectives[0].metric}>=")
    assert text(chromium, "wished") == "No member keeps these bounds: loosen them."
    assert text(chromium, "wished-command") == ""


def test_the_preference_rule_is_the_one_of_picks(chromium: Browser, page: Path) -> None:
    """The same rows on random fronts, ties included, for two to six objectives."""
    opened(chromium, page)
    rng = np.random.default_rng(5)
    for objectives in range(2, 7):
        scaled = np.round(rng.uniform(-0.3, 1.2, (60, objectives)), 2)
        weights = rng.integers(0, 101, (40, objectives))
        weights[:3] = [np.eye(objectives)[0] * 100, np.full(objectives, 50), np.eye(objectives)[-1]]
        found = chromium.run(
            f"(() => {{ const s = {json.dumps(scaled.tolist())}; const all = s.map((_, k) => k);"
            f"return {json.dumps(weights.tolist())}.map((w) => preferredRow(s, w, all)); }})()"
        )
        assert found == [preferred(scaled, w / w.sum()) for w in weights]


def test_every_picture_of_four_objectives_is_drawn(chromium: Browser, tmp_path: Path) -> None:
    folder = rewritten(tmp_path / "run", with_objectives(4))
    opened(chromium, write_report(folder, tmp_path / "four.html"))
    for kind, drawn in (
        ("matrix", "document.querySelectorAll('#front-plot .xy, #front-plot .subplot').length >= 6"),
        ("lines", "document.querySelectorAll('#front-plot .lines path').length >= 3"),
        ("pair", "document.querySelectorAll('#front-plot .subplot').length === 1"),
    ):
        chromium.click(f"[data-view={kind}]")
        chromium.wait(drawn)
        chromium.wait(f"document.querySelector('[data-view={kind}]').ariaPressed === 'true'")
    for box in ("errors", "others"):
        chromium.click(f"#{box}")
    chromium.run(
        "(() => { const e = document.getElementById('color'); e.value = 'g0';"
        "e.dispatchEvent(new Event('change')); })()"
    )
    assert chromium.complaints() == []


def test_hostile_names_stay_text(chromium: Browser, tmp_path: Path) -> None:
    folder = rewritten(tmp_path / "run", with_name(HOSTILE))
    target = tmp_path / "hostile.html"
    target.write_text(report_html(folder), encoding="utf-8")
    opened(chromium, target)
    assert chromium.complaints() == []
    assert chromium.run("document.querySelectorAll('img, h1 b').length") == 0
    assert text(chromium, "member-command").startswith("evomerge export ")
    assert HOSTILE in chromium.run("document.getElementById('member-scores').textContent")


def test_a_campaign_at_its_beginning_is_drawn(chromium: Browser, tmp_path: Path) -> None:
    for kind in ("campaign", "prepared", "baselines", "told"):
        folder = rewritten(tmp_path / kind, until(kind))
        opened(chromium, write_report(folder, tmp_path / f"{kind}.html"))
        assert chromium.complaints() == [], kind
        assert chromium.run("document.getElementById('trouble').hidden"), kind
