import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from huggingface_hub import ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from ruamel.yaml import YAML

from evomerge.export.card_text import MAX_ROWS, plain
from evomerge.export.model_card import Card, CardSearch, CardSource, marked, model_card
from evomerge.front.front import Front, Member
from evomerge.objectives.objective import Objective, Scaling
from evomerge.objectives.scores import Metric
from evomerge.recipe.places import OUTER_PLACES
from evomerge.recipe.recipe import (
    CheckpointSource,
    LayerStep,
    MergedSource,
    Recipe,
    identity_path,
)

NASTY = (
    "x\n---\nlicense: mit\n---",
    "a: [b, {c: !!python/object:os.system d}]",
    "<script>alert(1)</script>",
    "a | b | c",
    "`` ` ``` code",
    "[click](javascript:alert(1))",
    "![](http://evil/x.png)",
    "**bold** __strong__ ~~gone~~ # head",
    "\u2028line\u2029par\x00\x1b[31m\u202edlrow",
    "&lt;b&gt; \\` \\|",
    "${{ secrets }} {{ template }}",
    "n" * 5000,
    "",
    "---",
    "\ttab\r\nreturn",
)


def metric(value: float = 0.5, items: int = 100) -> Metric:
    return Metric(value, 0.05, items)


def member(name: str, values: tuple[float, float], recipe: str = "", metrics: Any = None) -> Member:
    names = metrics or ("math.acc", "code.acc")
    scores = dict(zip(names, map(metric, values), strict=True))
    splits = {"search": scores, "selection": scores}
    return Member(name, recipe or f"r-{name}", splits, (0.1, 0.2), 0.9)


def make_front(count: int = 3, metrics: tuple[str, str] = ("math.acc", "code.acc")) -> Front:
    members = [
        member(f"c{i:05d}", (0.5 + i / 1000, 0.7 - i / 1000), metrics=metrics) for i in range(count)
    ]
    return Front(
        campaign="tiny",
        split="selection",
        objectives=tuple(Objective(name, "maximize") for name in metrics),
        members=tuple(members),
        references=(member("base", (0.1, 0.2), metrics=metrics),),
        scaling=Scaling((-1.0, -1.0), (0.0, 0.0)),
        hypervolume={"search": 1.0},
        evaluations=40,
        failures={"nonfinite_weights": 2},
    )


def make_recipe(**changes: Any) -> Recipe:
    merged = MergedSource(
        method="ties",
        inputs=("math", "code"),
        base="base",
        coefficients={
            "weight": {"math": {"": 0.25, "layers.10": 0.5}, "code": {"": 1.0}},
            "density": {"math": {"": 0.3}, "code": {"": 0.3}},
        },
        options={"trim": "tensor"},
        seed=3,
    )
    sources = {
        "base": CheckpointSource("models/base", "a" * 64),
        "math": CheckpointSource("models/math", "b" * 64),
        "code": CheckpointSource("models/code", "c" * 64),
        "merged": merged,
    }
    fields: dict[str, Any] = {
        "sources": sources,
        "path": identity_path(12),
        "outer": dict.fromkeys(OUTER_PLACES, "merged"),
    }
    return Recipe(**{**fields, **changes})


def make_card(search: CardSearch | None, **changes: Any) -> Card:
    labels = {"base": "org/base-1b@" + "d" * 40, "math": "math", "code": "my code"}
    fields: dict[str, Any] = {
        "name": "knee-model",
        "recipe": make_recipe(),
        "layers": 12,
        "sources": tuple(CardSource(n, label, "e" * 64) for n, label in labels.items()),
        "versions": {"evomerge": "0.1.0", "torch": "2.13.0+cpu"},
        "search": search,
    }
    return Card(**{**fields, **changes})


def make_search(**changes: Any) -> CardSearch:
    scores: Mapping[str, Mapping[str, Metric]] = {
        "search": {"math.acc": metric(0.625), "code.acc": metric(0.75)},
        "selection": {"math.acc": metric(0.6), "code.acc": metric(0.7)},
        "test": {"math.acc": metric(0.5875, 600), "code.acc": metric(0.6875, 600)},
    }
    fields: dict[str, Any] = {
        "campaign": "tiny",
        "candidate": "c00001",
        "recipe": f"r-{changes.get('candidate', 'c00001')}",
        "choice": "knee",
        "front": make_front(),
        "scores": scores,
        "test_uses": 3,
        "tested_models": 2,
        "seed": 7,
    }
    return CardSearch(**{**fields, **changes})


def front_matter(text: str) -> dict[str, Any]:
    head = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    assert head is not None
    data = YAML(typ="safe", pure=True).load(head[1])
    assert isinstance(data, dict)
    return data


def section(text: str, title: str) -> str:
    return text.split(f"## {title}\n")[1].split("\n## ")[0]


def test_the_hub_reads_the_front_matter() -> None:
    card = ModelCard(model_card(make_card(make_search())))
    data = card.data
    assert data.library_name == "transformers"
    assert data.tags == ["merge", "evomerge"]
    assert data.base_model == ["org/base-1b", "math", "my-code"]
    assert data.to_dict()["base_model_relation"] == "merge"
    assert data.model_name == "knee-model"
    assert {(r.dataset_type, r.dataset_split, r.metric_type) for r in data.eval_results} == {
        (task, split, "acc") for task in ("math", "code") for split in ("search", "selection", "test")
    }
    (test,) = (r for r in data.eval_results if (r.dataset_type, r.dataset_split) == ("math", "test"))
    assert test.metric_value == 0.5875
    assert test.metric_args == {"n": 600, "stderr": 0.05}


def test_scores_of_all_splits_stand_side_by_side() -> None:
    scores = section(model_card(make_card(make_search())), "Scores")
    assert "| metric | search | selection | test |" in scores
    assert "| `math.acc` | 0.6250 ± 0.0500 | 0.6000 ± 0.0500 | 0.5875 ± 0.0500 |" in scores
    assert "scored 3 times by exports, on 2 models, this one included" in scores
    assert "(`code` 600, `math` 600 items)" in scores
    assert "not seen by the search; the front, and so the choice, is by these." in scores


def test_a_card_without_test_scores_says_so() -> None:
    scores = {"search": {"math.acc": metric(), "code.acc": metric()}}
    text = section(model_card(make_card(make_search(scores=scores))), "Scores")
    assert "not scored on test items" in text
    assert "| metric | search |" in text


def test_what_was_tried_and_how_the_recipe_looks() -> None:
    text = model_card(make_card(make_search()))
    assert "tried 40 candidates (seed 7, 2 failed) for 2 objectives" in text
    front = replace(make_front(), failed_baselines={"uniform": "nonfinite_weights: layer 3"})
    text = model_card(make_card(make_search(front=front)))
    assert "tried 40 candidates (seed 7, 1 failed) for 2 objectives" in text
    recipe = section(text, "Recipe")
    assert "| method of `merged` | `ties` |" in recipe
    assert "| place | `weight math` | `weight code` | `density math` | `density code` |" in recipe
    assert "| elsewhere | 0.25 | 1 | 0.3 | 0.3 |\n| `layers.10` | 0.5 |  |  |  |" in recipe
    assert "12, in order, of `merged`" in recipe
    assert "evomerge merge recipe.json OUT" in section(text, "How to reproduce")
    assert "| `torch` | `2.13.0+cpu` |" in section(text, "Versions")


def test_the_chosen_member_is_marked_on_the_front() -> None:
    front = section(model_card(make_card(make_search())), "Position on the front")
    assert "has 3 members, by their scores on selection items" in front
    marked = [line for line in front.splitlines() if "(this model)" in line]
    assert marked == [
        "| **`c00001`** (this model) | front | 0.5010 ± 0.0500 | 0.6990 ± 0.0500 | 0.90 |"
    ]
    assert "| `base` | baseline | 0.1000 ± 0.0500 | 0.2000 ± 0.0500 | 0.90 |" in front


def test_a_long_front_keeps_the_chosen_member_and_the_baselines() -> None:
    search = make_search(front=make_front(200), candidate="c00199")
    front = section(model_card(make_card(search)), "Position on the front")
    assert "has 200 members" in front
    assert f"{MAX_ROWS // 2} of them are shown" in front
    assert "**`c00199`** (this model)" in front
    assert "| `base` | baseline |" in front


def test_a_model_that_is_not_on_the_front() -> None:
    text = model_card(make_card(make_search(candidate="c00030", choice="c00030")))
    assert "This model is not one of them." in section(text, "Position on the front")


@pytest.mark.parametrize("candidate", ["math", "c00030"])
def test_a_model_that_is_a_member_under_another_name(candidate: str) -> None:
    """A baseline that the search found again, and a candidate that repeats an earlier one."""
    front = make_front()
    expert = replace(front.references[0], id="math", recipe="r-c00001")
    search = make_search(
        candidate=candidate, recipe="r-c00001", front=replace(front, references=(expert,))
    )
    text = section(model_card(make_card(search, picture=True)), "Position on the front")
    assert "**`c00001`** (this model) | front" in text
    assert "**`math`** (this model) | baseline" in text
    assert "not one of them" not in text
    assert "this model has a ring" in text
    assert marked(search) == ("math" if candidate == "math" else "c00001")


def test_scores_on_other_items_are_marked() -> None:
    front = make_front()
    base = front.references[0]
    base = replace(base, metrics={"search": base.metrics["search"]})
    search = make_search(front=replace(front, references=(base,)))
    text = section(model_card(make_card(search)), "Position on the front")
    assert "| `base` | baseline | 0.1000 ± 0.0500 (search) | 0.2000 ± 0.0500 (search) |" in text


def test_a_merge_without_a_campaign() -> None:
    text = model_card(make_card(None))
    assert "model-index" not in front_matter(text)
    assert "## Scores" not in text
    assert "## Position" not in text
    assert "## Recipe" in text


def test_a_stacked_path_is_told_in_runs() -> None:
    steps = [("math", 0, 1.0), ("math", 1, 1.0), ("code", 1, 1.0), ("code", 2, 0.5), ("code", 3, 0.5)]
    path = tuple(LayerStep(*step) for step in steps)
    text = model_card(make_card(None, recipe=make_recipe(path=path)))
    assert "| layers | 5: `math` 0 to 1, `code` 1, `code` 2 to 3 x 0.5 |" in text


def hostile(name: str) -> Card:
    """A card in which every text that a person chooses is `name`."""
    merged = MergedSource(
        method=name,
        inputs=(name,),
        base=name or "base",
        coefficients={name: {name: {name: 0.5, f"layers.{name}": 1.0}}},
        options={name: name},
    )
    recipe = make_recipe(
        sources={name: CheckpointSource(name, name), f"{name}m": merged},
        path=(LayerStep(f"{name}m", 0),),
        outer={"embed": f"{name}m"},
        dtype=name,
    )
    search = make_search(
        campaign=name,
        candidate=name,
        choice=name,
        front=make_front(2, (f"{name}.acc", f"b{name}.{name}")),
        scores={"test": {f"{name}.acc": metric(), f"b{name}.{name}": metric()}},
    )
    return make_card(
        search,
        name=name,
        recipe=recipe,
        sources=(CardSource(name, name, name),),
        versions={"evomerge": name, name: name},
        notes=(name,),
    )


def shape(text: str) -> list[str]:
    """Types of all tokens of the body as a Markdown reader sees them, and the cells of its tables."""
    body = text.split("\n---\n", 1)[1]
    tokens = MarkdownIt("gfm-like", {"html": True, "linkify": False}).parse(body)
    flat: list[str] = []
    for token in tokens:
        flat.append(token.type)
        flat += [child.type for child in token.children or ()]
    return flat


def structure(text: str) -> list[str]:
    """The block structure alone: what no name may change."""
    return [kind for kind in shape(text) if kind.endswith(("_open", "_close", "fence", "html_block"))]


def check_harmless(name: str) -> None:
    text = model_card(hostile(name))
    data = front_matter(text)
    expected = {"library_name", "pipeline_tag", "tags", "base_model", "base_model_relation"}
    assert set(data) == expected | {"model-index"}
    assert data["base_model_relation"] == "merge"
    assert text.count("\n---\n") == 1
    assert ModelCard(text).data.library_name == "transformers"
    kinds = set(shape(text))
    assert not kinds & {"html_inline", "html_block", "link_open", "image", "s_open", "code_block"}
    assert structure(text) == structure(model_card(hostile("harmless")))


@pytest.mark.parametrize("name", NASTY)
def test_no_name_means_anything_to_a_reader(name: str) -> None:
    check_harmless(name)


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet=st.sampled_from("a `|<>[]()*_~#-!\\\n\t&;:'\"{}$@=+.0é漢\u202e"), max_size=30))
def test_no_generated_name_means_anything_to_a_reader(name: str) -> None:
    check_harmless(name)


@pytest.mark.parametrize("text", ["c00012", "prefer:math=0.7,code=0.3", "math.acc>=0.6", "Größe 漢字"])
def test_ordinary_text_is_kept(text: str) -> None:
    assert plain(text) == text
