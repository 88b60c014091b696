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
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ruamel.yaml import YAML

from evomerge.checkpoint.habits import Difference
from evomerge.checkpoint.licence import Licence
from evomerge.export.card_recipe import recipe_section
from evomerge.export.card_text import MAX_ROWS, code, counted, escaped, hub_name, plain, scored, tabled
from evomerge.export.picture import PICTURE_FILE
from evomerge.front.front import Front, Member
from evomerge.objectives.scores import SPLITS, Metric
from evomerge.recipe.recipe import MergedSource, Recipe

LIBRARY = "transformers"
TAGS = ("merge", "evomerge")

_SPLIT_MEANING = {
    "search": "what the search was told; optimistic for every model it produced",
    "selection": "not seen by the search",
    "test": "measured on this export; seen by neither search nor choice",
}


@dataclass(frozen=True)
class CardSource:
    """A checkpoint that went in: its name in the recipe, its name outside, its digest and licence."""

    name: str
    label: str
    digest: str
    licence: Licence = field(default=Licence())


@dataclass(frozen=True)
class CardSearch:
    """Where in a campaign the model comes from.

    Attributes:
        campaign, candidate: their names.
        recipe: digest of the candidate's, which models of the front may share.
        choice: how it was asked for (`knee`, an id, ...).
        front: the front it was picked from.
        scores: split to metric name to value.
        test_uses: how often test items of this campaign were scored, this time included, and
            `tested_models` on how many different models.
        seed: of the campaign.
    """

    campaign: str
    candidate: str
    recipe: str
    choice: str
    front: Front
    scores: Mapping[str, Mapping[str, Metric]]
    test_uses: int
    tested_models: int
    seed: int


@dataclass(frozen=True)
class Card:
    """All that a card says.

    Attributes:
        name: of the model.
        recipe: the merge.
        layers: of the base.
        sources: what went in.
        versions: libraries by name.
        search: None for a merge that was stated by hand.
        licence: of the merge.
        differences: in what the models differ beside their weights, and what the export has.
        picture: whether the front's picture lies beside the card.
        notes: a line each.
    """

    name: str
    recipe: Recipe
    layers: int
    sources: tuple[CardSource, ...]
    versions: Mapping[str, str]
    search: CardSearch | None = None
    licence: Licence = field(default=Licence())
    differences: tuple[Difference, ...] = ()
    picture: bool = False
    notes: tuple[str, ...] = field(default=())


def model_card(card: Card) -> str:
    """The text of `README.md`."""
    body = [_headline(card)]
    if card.search is not None:
        body += [_scores(card.search)]
    body += [recipe_section(card.recipe, card.layers), _sources(card)]
    if card.differences:
        body += [_differences(card)]
    if card.search is not None:
        body += [_front(card.search, picture=card.picture)]
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
        "base_model": list(dict.fromkeys(hub_name(source.label.partition("@")[0]) for source in used)),
        "base_model_relation": "merge",
    }
    if card.licence.id:
        data["license"] = card.licence.id
        if card.licence.name:
            data["license_name"] = hub_name(card.licence.name.lower())
        if card.licence.link.startswith("https://"):
            data["license_link"] = plain(card.licence.link)
    results = _results(card.search) if card.search is not None else []
    if results:
        data["model-index"] = [{"name": hub_name(card.name), "results": results}]
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
                        "type": hub_name(evaluator),
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
    return used | set(recipe.mixture.experts if recipe.mixture is not None else ())


def _headline(card: Card) -> str:
    title = escaped(card.name)
    names = ", ".join(code(s.label) for s in card.sources if s.name in _used(card.recipe))
    version = escaped(card.versions.get("evomerge", ""))
    text = f"# {title}\n\nA merge of {names}, made with evomerge {version}. No training was done."
    if card.search is not None:
        search = card.search
        found = search.front
        # Baselines are no candidates that were tried.
        failed = sum(found.failures.values()) - len(found.failed_baselines)
        text += (
            f" It is {code(search.candidate)} of the campaign {code(search.campaign)}, "
            f"asked for as {code(search.choice)}. "
            f"The search tried {counted(found.evaluations, 'candidate')} (seed {search.seed}"
            + (f", {found.free} more were known from earlier campaigns" if found.free else "")
            + (f", {failed} failed" if failed else "")
            + f") for {len(found.objectives)} objectives: "
            + ", ".join(f"{code(o.metric)} ({o.direction})" for o in found.objectives)
            + "."
        )
    for note in card.notes:
        text += f"\n\nNote: {code(note)}"
    return text


def _scores(search: CardSearch) -> str:
    known = [split for split in SPLITS if search.scores.get(split)]
    if not known:
        return "## Scores\n\nThis export was not scored."
    names = sorted({name for split in known for name in search.scores[split]})
    rows = [[code(n), *(scored(search.scores[s].get(n)) for s in known)] for n in names]
    counts = []
    for split in known:
        items = {name.split(".")[0]: m.items for name, m in search.scores[split].items()}
        shown = ", ".join(f"{code(name)} {count}" for name, count in sorted(items.items()))
        decided = "; the front, and so the choice, is by these" if split == search.front.split else ""
        counts.append(f"- **{split}** ({shown} items): {_SPLIT_MEANING[split]}{decided}.")
    text = "## Scores\n\nValue ± standard error.\n\n"
    text += tabled(["metric", *known], rows) + "\n\n" + "\n".join(counts)
    if "test" in known:
        times = "once" if search.test_uses == 1 else f"{search.test_uses} times"
        models = counted(search.tested_models, "model")
        text += (
            f"\n\nThe test items of this campaign have been scored {times} by exports, on {models}, "
            "this one included. The more often they are used, the less they are held out."
        )
    else:
        text += "\n\nThis export was not scored on test items."
    return text


def _sources(card: Card) -> str:
    rows = [[code(s.name), code(s.label), code(s.digest), code(s.licence)] for s in card.sources]
    text = "## Sources\n\n" + tabled(["name", "model", "SHA-256 of the weights", "licence"], rows)
    stated = {source.licence for source in card.sources if source.licence.id}
    if any(licence.forbids_derivatives for licence in stated):
        text += "\n\nThe licence of a source allows no derivatives."
    if len(stated) > 1:
        text += (
            "\n\nThe sources state different licences. What holds for this merge is for those to decide who "
            "pass it on."
        )
    elif not stated:
        text += "\n\nNo source states a licence in its card."
    elif any(not source.licence.id for source in card.sources):
        text += "\n\nNot every source states a licence in its card."
    return text


def _differences(card: Card) -> str:
    """What models state differently beside their weights; one column for each of them."""
    names = list(card.differences[0].stated)
    rows = [
        [code(d.what), *(code(d.shown(d.stated.get(name))) for name in names), code(d.shown(d.taken))]
        for d in card.differences
    ]
    return (
        "## Where the models differ beside their weights\n\n"
        "Special tokens, generation settings and chat templates cannot be merged; the last column is "
        "what this model has.\n\n" + tabled(["", *map(code, names), "taken"], rows)
    )


def marked(search: CardSearch) -> str:
    """Id of the model that a picture of the front marks: the candidate, or one that is the same merge."""
    everyone = (*search.front.members, *search.front.references)
    same = [member.id for member in everyone if member.recipe == search.recipe]
    return search.candidate if search.candidate in same or not same else same[0]


def _front(search: CardSearch, *, picture: bool) -> str:
    front = search.front
    objectives = [objective.metric for objective in front.objectives]

    def row(member: Member, kind: str) -> list[str]:
        split = front.split if front.split in member.metrics else "search"
        label = code(member.id)
        chance = "" if member.probability is None else f"{member.probability:.2f}"
        other = "" if split == front.split else f" ({split})"
        return [
            f"**{label}** (this model)" if member.recipe == search.recipe else label,
            kind,
            *(scored(member.metrics[split].get(name)) + other for name in objectives),
            chance,
        ]

    shown = [m for m in (*front.members, *front.references) if m.id == marked(search)]
    # The chosen member is never among the rows that a long table leaves out.
    members = sorted(front.members, key=lambda m: m.recipe != search.recipe)[: MAX_ROWS // 2]
    members = [member for member in front.members if member in members]
    rows = [row(member, "front") for member in members]
    rows += [row(member, "baseline") for member in front.references]
    text = (
        f"## Position on the front\n\nThe front has {counted(len(front.members), 'member')}, "
        f"by their scores on {front.split} items (value ± standard error). "
    )
    if len(members) < len(front.members):
        text += f"{len(members)} of them are shown. "
    if all(member.recipe != search.recipe for member in front.members):
        text += "This model is not one of them. "
    text += "The last column is the probability of being non-dominated, by resampling items."
    head = ["model", "", *(code(name) for name in objectives), "P(non-dominated)"]
    if picture:
        ring = any(front.split in member.metrics for member in shown)
        text += f"\n\n![The front{'; this model has a ring' if ring else ''}]({PICTURE_FILE})"
    return text + "\n\n" + tabled(head, rows)


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
    rows = [[code(name), code(version)] for name, version in sorted(card.versions.items())]
    return "## Versions\n\n" + tabled(["package", "version"], rows)
