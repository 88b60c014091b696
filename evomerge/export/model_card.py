"""The model card of an export: YAML front matter and Markdown, written from data.

Nothing a person could choose (names of models, experts, metrics, picks) reaches the card as it stands:
front matter goes through a YAML writer, and in the Markdown every such text is reduced to plain
characters, so that no name can open a tag, a link, a table cell or a second YAML document. The exact
names are in `recipe.json` and `evomerge.json`.

The front matter follows the hub's conventions for merges: `base_model`, `base_model_relation: merge`,
and `model-index` with one result for each metric and split.
"""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ruamel.yaml import YAML

from evomerge.front.front import Front, Member
from evomerge.objectives.scores import SPLITS, Metric
from evomerge.recipe.recipe import MergedSource, Recipe, Table
from evomerge.recipe.rows import rows_file

LIBRARY = "transformers"
TAGS = ("merge", "evomerge")
MAX_ROWS = 40
"""Longest table; what is left out is counted."""
MAX_NAME = 100

_SPLIT_MEANING = {
    "search": "what the search was told; optimistic for every model it produced",
    "selection": "not seen by the search",
    "test": "measured on this export; seen by neither search nor choice",
}


@dataclass(frozen=True)
class CardSource:
    """A checkpoint that went in: its name in the recipe, what it is called outside, its digest."""

    name: str
    label: str
    digest: str


@dataclass(frozen=True)
class CardSearch:
    """Where in a campaign the model comes from.

    Attributes:
        campaign, candidate: their names.
        choice: how it was asked for (`knee`, an id, ...).
        front: the front it was picked from.
        scores: split to metric name to value.
        test_uses: how often test items of this campaign were scored, this time included, and
            `tested_models` on how many different models.
        seed: of the campaign.
    """

    campaign: str
    candidate: str
    choice: str
    front: Front
    scores: Mapping[str, Mapping[str, Metric]]
    test_uses: int
    tested_models: int
    seed: int


@dataclass(frozen=True)
class Card:
    """All that a card says.

    `layers` is the number of layers of the base; `search` is None for a merge that was stated by hand.
    """

    name: str
    recipe: Recipe
    layers: int
    sources: tuple[CardSource, ...]
    versions: Mapping[str, str]
    search: CardSearch | None = None
    notes: tuple[str, ...] = field(default=())


def model_card(card: Card) -> str:
    """The text of `README.md`."""
    body = [_headline(card)]
    if card.search is not None:
        body += [_scores(card.search)]
    body += [_recipe(card)]
    if card.search is not None:
        body += [_front(card.search)]
    body += [_reproduce(card), _versions(card)]
    stream = io.StringIO()
    writer = YAML(typ="safe", pure=True)
    writer.default_flow_style = False
    writer.allow_unicode = False  # so that no line separator of another alphabet stands in the head
    writer.width = 4096
    writer.dump(front_matter(card), stream)
    return f"---\n{stream.getvalue()}---\n\n" + "\n\n".join(body) + "\n"


def front_matter(card: Card) -> dict[str, Any]:
    """The card's metadata as plain data."""
    used = [source for source in card.sources if source.name in _used(card.recipe)]
    data: dict[str, Any] = {
        "library_name": LIBRARY,
        "pipeline_tag": "text-generation",
        "tags": list(TAGS),
        "base_model": list(dict.fromkeys(_hub_name(source.label.partition("@")[0]) for source in used)),
        "base_model_relation": "merge",
    }
    results = _results(card.search) if card.search is not None else []
    if results:
        data["model-index"] = [{"name": _hub_name(card.name), "results": results}]
    return data


def _results(search: CardSearch) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = []
    for split in SPLITS:
        for name, metric in sorted(search.scores.get(split, {}).items()):
            evaluator, _, kind = name.partition(".")
            results.append(
                {
                    "task": {"type": "text-generation"},
                    "dataset": {
                        "name": f"{plain(evaluator)} ({split})",
                        "type": _hub_name(evaluator),
                        "split": split,
                    },
                    "metrics": [
                        {
                            "type": plain(kind) or "score",
                            "name": plain(name),
                            "value": metric.value,
                            "args": {"n": metric.items, "stderr": metric.stderr},
                        }
                    ],
                }
            )
    return results


def plain(text: str) -> str:
    """Text that means nothing in Markdown, HTML or YAML beyond itself; the rest becomes `?`."""
    kept = re.sub(r"[^\w .,:/@+=%>-]", "?", " ".join(str(text).split()))
    return kept if len(kept) <= MAX_NAME else kept[: MAX_NAME - 3] + "..."


def _hub_name(text: str) -> str:
    """`text` as a name the hub takes: letters, digits, `-`, `_`, `.` and at most one slash."""
    parts = [re.sub(r"[^A-Za-z0-9._-]+", "-", part).strip("-.") for part in text.split("/")]
    return "/".join([part for part in parts if part][-2:])[:96] or "unnamed"


def _text(text: str) -> str:
    """`plain` text outside a code span: no emphasis, no address that becomes a link."""
    return re.sub(r"([_:]|(?<=www)\.)", r"\\\1", plain(text)) or "?"


def _code(text: object) -> str:
    return f"`{plain(str(text)) or '?'}`"


def _used(recipe: Recipe) -> set[str]:
    """Checkpoint sources that have a part in the weights; the base of a merge counts."""
    names = {step.source for step in recipe.path} | set(recipe.outer.values())
    used: set[str] = set()
    for name in names:
        source = recipe.sources[name]
        if isinstance(source, MergedSource):
            used |= {*source.inputs, *([source.base] if source.base else [])}
        else:
            used.add(name)
    return used


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    rows = list(rows)
    lines = [head, ["---"] * len(head), *rows[:MAX_ROWS]]
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    left = len(rows) - MAX_ROWS
    return text + (f"\n\n{left} more rows are left out here." if left > 0 else "")


def _number(value: float) -> str:
    return f"{value:.4f}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _score(metric: Metric | None) -> str:
    return "" if metric is None else f"{_number(metric.value)} ± {_number(metric.stderr)}"


def _headline(card: Card) -> str:
    title = _text(card.name)
    names = ", ".join(_code(s.label) for s in card.sources if s.name in _used(card.recipe))
    version = _text(card.versions.get("evomerge", ""))
    text = f"# {title}\n\nA merge of {names}, made with evomerge {version}. No training was done."
    if card.search is not None:
        search = card.search
        found = search.front
        failed = sum(found.failures.values())
        text += (
            f" It is {_code(search.candidate)} of the campaign {_code(search.campaign)}, "
            f"asked for as {_code(search.choice)}. "
            f"The search tried {_count(found.evaluations, 'candidate')} (seed {search.seed}"
            + (f", {failed} failed" if failed else "")
            + f") for {len(found.objectives)} objectives: "
            + ", ".join(f"{_code(o.metric)} ({o.direction})" for o in found.objectives)
            + "."
        )
    for note in card.notes:
        text += f"\n\nNote: {_code(note)}"
    return text


def _scores(search: CardSearch) -> str:
    known = [split for split in SPLITS if search.scores.get(split)]
    if not known:
        return "## Scores\n\nThis export was not scored."
    names = sorted({name for split in known for name in search.scores[split]})
    rows = [[_code(n), *(_score(search.scores[s].get(n)) for s in known)] for n in names]
    counts = []
    for split in known:
        items = {name.split(".")[0]: m.items for name, m in search.scores[split].items()}
        shown = ", ".join(f"{_code(name)} {count}" for name, count in sorted(items.items()))
        decided = "; the front, and so the choice, is by these" if split == search.front.split else ""
        counts.append(f"- **{split}** ({shown} items): {_SPLIT_MEANING[split]}{decided}.")
    text = "## Scores\n\nValue ± standard error.\n\n"
    text += _table(["metric", *known], rows) + "\n\n" + "\n".join(counts)
    if "test" in known:
        times = "once" if search.test_uses == 1 else f"{search.test_uses} times"
        models = _count(search.tested_models, "model")
        text += (
            f"\n\nThe test items of this campaign have been scored {times} by exports, on {models}, "
            "this one included. The more often they are used, the less they are held out."
        )
    else:
        text += "\n\nThis export was not scored on test items."
    return text


def _recipe(card: Card) -> str:
    recipe = card.recipe
    rows = [["storage dtype", _code(recipe.dtype)], ["recipe digest", _code(recipe.digest)]]
    tables = []
    for name, source in recipe.sources.items():
        if not isinstance(source, MergedSource):
            continue
        rows.append([f"method of {_code(name)}", _code(source.method)])
        if source.base:
            rows.append([f"base of {_code(name)}", _code(source.base)])
        rows += [[f"option {_code(key)}", _code(value)] for key, value in source.options.items()]
        rows += [
            [f"layers of {_code(key)} in {_code(name)}", f"{shift:+d}"]
            for key, shift in source.shifts.items()
        ]
        rows.append([f"seed of {_code(name)}", str(source.seed)])
        if source.rows is not None:
            file = _code(rows_file(source.rows.digest))
            rows.append(
                [f"weights of {_code(name)} by row", f"{file}; the tables here have their means"]
            )
        tables.append(f"Coefficients of {_code(name)}:\n\n" + _coefficients(source))
    rows.append(["layers", _path(recipe, card.layers)])
    text = "## Recipe\n\n" + _table(["", ""], rows)
    for table in tables:
        text += "\n\n" + table
    listed = [[_code(s.name), _code(s.label), _code(s.digest)] for s in card.sources]
    return text + "\n\nSources:\n\n" + _table(["name", "model", "SHA-256 of the weights"], listed)


def _coefficients(source: MergedSource) -> str:
    """A row for each place, a column for each coefficient of each input."""
    columns: list[tuple[str, Table]] = []
    for name, by_input in source.coefficients.items():
        for key, table in by_input.items():
            columns.append((name if key == "*" else f"{name} {key}", table))
    places = list(dict.fromkeys(place for _, table in columns for place in table))
    rows = [
        [
            _code(place) if place else "elsewhere" if len(places) > 1 else "everywhere",
            *(f"{table[place]:g}" if place in table else "" for _, table in columns),
        ]
        for place in sorted(places, key=_model_order)
    ]
    return _table(["place", *(_code(label) for label, _ in columns)], rows)


def _model_order(place: str) -> tuple[int, int, str]:
    first, _, rest = place.partition(".")
    number, _, module = rest.partition(".")
    order = {"": 0, "embed": 1, "layers": 2, "final_norm": 3, "head": 4}
    return order.get(first, 5), int(number) if number.isdigit() else -1, module


def _path(recipe: Recipe, layers: int) -> str:
    if recipe.is_identity_path(layers):
        return f"{layers}, in order, of {_code(recipe.path[0].source)}"
    runs = []
    numbered = list(enumerate(recipe.path))

    def run_of(entry: tuple[int, Any]) -> tuple[str, int, float]:
        index, step = entry
        return step.source, step.layer - index, step.scale

    for (source, _, scale), group in itertools.groupby(numbered, run_of):
        steps = [step for _, step in group]
        span = f"{steps[0].layer}" + (f" to {steps[-1].layer}" if len(steps) > 1 else "")
        runs.append(f"{_code(source)} {span}" + (f" x {scale:g}" if scale != 1.0 else ""))
    shown = ", ".join(runs[:MAX_ROWS]) + (", and more" if len(runs) > MAX_ROWS else "")
    return f"{len(recipe.path)}: {shown}"


def _front(search: CardSearch) -> str:
    front = search.front
    objectives = [objective.metric for objective in front.objectives]

    def row(member: Member, kind: str) -> list[str]:
        split = front.split if front.split in member.metrics else "search"
        label = _code(member.id)
        chance = "" if member.probability is None else f"{member.probability:.2f}"
        mine = member.recipe == chosen.recipe if chosen else member.id == search.candidate
        return [
            f"**{label}** (this model)" if mine else label,
            kind,
            *(_score(member.metrics[split].get(name)) for name in objectives),
            chance,
        ]

    everyone = [*front.members, *front.references]
    chosen = next((member for member in everyone if member.id == search.candidate), None)
    # The chosen member is never among the rows that a long table leaves out.
    members = sorted(front.members, key=lambda member: member.id != search.candidate)[: MAX_ROWS // 2]
    members = [member for member in front.members if member in members]
    rows = [row(member, "front") for member in members]
    rows += [row(member, "baseline") for member in front.references]
    text = (
        f"## Position on the front\n\nThe front has {_count(len(front.members), 'member')}, "
        f"by their scores on {front.split} items (value ± standard error). "
    )
    if len(members) < len(front.members):
        text += f"{len(members)} of them are shown. "
    if chosen is None or chosen not in front.members:
        text += "This model is not one of them. "
    text += "The last column is the probability of being non-dominated, by resampling items."
    head = ["model", "", *(_code(name) for name in objectives), "P(non-dominated)"]
    return text + "\n\n" + _table(head, rows)


def _reproduce(card: Card) -> str:
    text = (
        "## How to reproduce\n\n```\nevomerge merge recipe.json OUT\n```\n\n"
        "`recipe.json` states the merge wholly. Its `path` entries say where the sources lie, relative "
        "to the file; change them if yours lie elsewhere. Their weights are checked against the digests "
        "above, so that the result has the same bits."
    )
    if card.search is not None:
        text += " `evomerge.json` lists the SHA-256 of every file and the scores."
    return text


def _versions(card: Card) -> str:
    rows = [[_code(name), _code(version)] for name, version in sorted(card.versions.items())]
    return "## Versions\n\n" + _table(["package", "version"], rows)
