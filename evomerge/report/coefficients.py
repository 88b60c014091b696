"""Coefficients of models by layer, module and expert, and recipes in mergekit's words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evomerge.campaign.recorded import recorded_recipe
from evomerge.checkpoint.adapter import AdapterFolder
from evomerge.checkpoint.folder import CheckpointFolder
from evomerge.checkpoint.open import open_source
from evomerge.errors import EvomergeError
from evomerge.ledger.candidate import Candidate
from evomerge.ledger.history import History
from evomerge.mergekit import mergekit_yaml
from evomerge.recipe.places import layer_place, lookup
from evomerge.recipe.recipe import MergedSource, Recipe
from evomerge.search_space import SearchSpace

Folder = CheckpointFolder | AdapterFolder

MOST_VALUES = 400_000
"""Most coefficients of all candidates together that the page holds; beyond it, those of members only."""

MOST_GENES = 5_000
"""Most genes of one model that are shown one by one; beyond it, a mean for each place."""

MOST_RECIPES = 24
"""Most recipes that are written into the page."""


def genes_json(space: SearchSpace, history: History, members: Sequence[str]) -> dict[str, Any]:
    """Genes, where each has a part, and the genomes of the candidates.

    Returns:
        `names`, `coefficient`, `input`, `low`, `high` one a gene; `places` and `parts`, for each gene
        `[[place, part], ...]`, so that the value at a place is the sum over genes of value times part;
        `values`: id
        to genome.
    """
    leaves = space.layout.rows
    asked = {c.id: c.genome for c in history.candidates.values() if c.genome is not None}
    if leaves or len(space.genes) > MOST_GENES:
        return _by_place(space, {name: asked[name] for name in members if name in asked})
    if len(asked) * len(space.genes) > MOST_VALUES:
        asked = {name: asked[name] for name in members if name in asked}
    places = list(space.layout.places)
    index = {place: number for number, place in enumerate(places)}
    return {
        "names": [gene.name for gene in space.genes],
        "coefficient": [gene.coefficient for gene in space.genes],
        "input": [gene.input for gene in space.genes],
        "low": [gene.low for gene in space.genes],
        "high": [gene.high for gene in space.genes],
        "places": places,
        "parts": [
            [
                [index[place], _short(part)]
                for place, part in zip(
                    gene.places, gene.basis or (1.0,) * len(gene.places), strict=True
                )
            ]
            for gene in space.genes
        ],
        "values": {name: [_short(value) for value in genome] for name, genome in asked.items()},
    }


def _by_place(space: SearchSpace, genomes: dict[str, Any]) -> dict[str, Any]:
    """Where genes are rows: one column for each place of each input, the mean over its rows."""
    places = list(space.layout.places)
    columns: list[tuple[str, str, int]] = []
    members: list[list[int]] = []
    found: dict[tuple[str, str, int], int] = {}
    index = {place: number for number, place in enumerate(places)}
    for number, gene in enumerate(space.genes):
        # A gene that says something of the whole model has none, one of rows and what shares it several.
        own = {index[each if each in index else each.rpartition(".")[0]] for each in gene.places}
        for place in sorted(own):
            key = (gene.coefficient, gene.input, place)
            if key not in found:
                found[key] = len(columns)
                columns.append(key)
                members.append([])
            members[found[key]].append(number)
    low = min((gene.low for gene in space.genes), default=0.0)
    high = max((gene.high for gene in space.genes), default=1.0)
    return {
        "names": [".".join([coefficient, of, places[k]]) for coefficient, of, k in columns],
        "coefficient": [coefficient for coefficient, _, _ in columns],
        "input": [of for _, of, _ in columns],
        "low": [low] * len(columns),
        "high": [high] * len(columns),
        "places": places,
        "parts": [[[k, 1.0]] for _, _, k in columns],
        "values": {
            name: [_short(sum(genome[n] for n in own) / len(own)) for own in members]
            for name, genome in genomes.items()
        },
        "means": True,
    }


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def baseline_tables(history: History, names: Sequence[str]) -> dict[str, Any]:
    """Id to coefficient to input to one value a place; baselines that are a model as it is have none."""
    assert history.prepared is not None
    places = history.prepared.layout.places
    found: dict[str, Any] = {}
    for name in names:
        merged = _merged(recorded_recipe(history, history.candidates[name]))
        if merged is None:
            continue
        found[name] = {
            coefficient: {
                of: [_short(lookup(table, place)) for place in places] for of, table in by_input.items()
            }
            for coefficient, by_input in merged.coefficients.items()
        }
    return found


def _merged(recipe: Recipe) -> MergedSource | None:
    found = [source for source in recipe.sources.values() if isinstance(source, MergedSource)]
    return found[0] if found else None


def modules_of(places: Sequence[str]) -> dict[str, list[str]]:
    """Layer (or the place itself, outside the layers) to its modules, in the model's order."""
    found: dict[str, list[str]] = {}
    for place in places:
        at = layer_place(place)
        inside = at.inside if at is not None else ""
        layer = place.removesuffix(inside).removesuffix(".") if inside else place
        found.setdefault(layer, []).append(inside)
    return found


def recipes_yaml(
    history: History, space: SearchSpace, candidates: Sequence[Candidate]
) -> dict[str, dict[str, Any]]:
    """Id to its recipe as a mergekit file, `text`, and where mergekit would do something else, `differences`.

    The heads of the checkpoints must be at hand; where one is not, the first entry says so.
    """
    folders: dict[str, Folder] = {}
    found: dict[str, dict[str, Any]] = {}
    for candidate in candidates[:MOST_RECIPES]:
        recipe = (
            recorded_recipe(history, candidate)
            if candidate.genome is None
            else space.decode(candidate.genome)
        )
        try:
            folders |= open_checkpoints(recipe, folders)
        except EvomergeError as error:
            why = error.problems[0].words if error.problems else str(error)
            return {"": {"text": "", "differences": [f"the checkpoints cannot be read here: {why}"]}}
        said = mergekit_yaml(
            recipe,
            {name: folders[name] for name in recipe.checkpoints},
            {name: _reference(history, name) for name in recipe.checkpoints},
        )
        found[candidate.id] = {"text": said.text, "differences": list(said.differences)}
    return found


def open_checkpoints(recipe: Recipe, known: Mapping[str, Folder] | None = None) -> dict[str, Folder]:
    """The checkpoints of a recipe by name, headers only; those in `known` are not opened again.

    Raises:
        EvomergeError: one is not there, or cannot be read.
    """
    folders = dict(known or {})
    for name, source in recipe.checkpoints.items():
        if name not in folders:
            base = folders.get("base")
            model = base if isinstance(base, CheckpointFolder) else None
            folders[name] = open_source(source.path, name, model)
    return folders


def _reference(history: History, name: str) -> str:
    """What a checkpoint is called outside: `ORG/NAME@COMMIT`, or the last part of its path."""
    stated = history.config["base"] if name == "base" else history.config["experts"][name]
    if stated.get("path"):
        return Path(str(stated["path"])).name
    return f"{stated.get('hub')}@{stated.get('revision')}"
