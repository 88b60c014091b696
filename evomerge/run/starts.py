"""Starts: points that a search begins with besides the baselines, from earlier campaigns and stated merges.

`optimizer.start_from` names campaign folders, recipes and mergekit files. What they hold is put on the grid
of the campaign's own space and recorded once, before the first ask, so that a resume needs none of them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from evomerge.campaign.campaign import Campaign
from evomerge.campaign.recorded import recorded_space
from evomerge.errors import ConfigError, Problem
from evomerge.front.folder import OpenedFolder, open_campaign_folder
from evomerge.front.spanning import groups, spanning
from evomerge.ledger.events import StartsEvent
from evomerge.ledger.history import LEDGER_FILE, History
from evomerge.mergekit.stated import read_recipe
from evomerge.recipe.places import lookup
from evomerge.recipe.recipe import CheckpointSource, MergedSource, Recipe
from evomerge.search_space import Genome, SearchSpace

logger = logging.getLogger(__name__)


def read_starts(
    campaign: Campaign, space: SearchSpace, history: History, paths: Mapping[str, str]
) -> StartsEvent:
    """The genomes to begin with: the stated merges, and of each earlier campaign what spans its front.

    Of all of them at most a population's worth; each campaign has its share.

    Args:
        campaign: whose `start_from` is read.
        space: its prepared search space.
        history: its own; it must be prepared.
        paths: name to folder of its base and experts.

    Raises:
        ConfigError: E153, a file or folder that nothing can be taken from; what `read_recipe` raises.
    """
    assert history.prepared is not None
    digests = history.prepared.checkpoints
    files = campaign.start_from
    share = max(1, campaign.config.optimizer.population // max(1, len(files)))
    found: dict[Genome, str] = {}
    for index, file in enumerate(files):
        field = f"optimizer.start_from[{index}]"
        if (file / LEDGER_FILE).is_file():
            genomes = _from_campaign(open_campaign_folder(file), space, digests, share, field)
        else:
            genomes = _from_recipe(file, space, digests, paths)
        known = list(genomes)
        if not known:
            todo = "take one over the same base with experts of this campaign"
            wrong = "nothing here is a point of the search space"
            raise ConfigError(Problem("E153", wrong, str(file), todo, str(campaign.file), field=field))
        for genome in known:
            found.setdefault(genome, str(file))
    logger.info("the search starts from %d points of %d files", len(found), len(files))
    return StartsEvent(genomes=tuple(found), origins=tuple(found.values()))


def nearest(space: SearchSpace, recipe: Recipe, names: Mapping[str, str]) -> Genome | None:
    """The point of a space that is nearest to a recipe; None if the recipe is no merge of its experts.

    A gene takes the mean of what the recipe states at its places. Weights mean the same in every method, so
    that the method may be another; what the recipe does not state is at its default, and the weight of an
    expert that it does not know is 0.

    Args:
        space: without a path of layers, windows or a mixture, or the recipe must be one of its points.
        recipe: the one to come near to.
        names: this space's experts to what the recipe calls them.
    """
    exact = space.encode(recipe)
    exactly = (space.paths, space.trajectory, space.mixtures)
    if exact is not None or any(each is not None for each in exactly):
        return exact
    merged = [source for source in recipe.sources.values() if isinstance(source, MergedSource)]
    if len(merged) != 1 or not recipe.is_identity_path(space.layout.layers):
        plain = {step.source for step in recipe.path}
        if merged or len(plain) != 1:
            return None
        (only,) = plain
        return space.uniform({name: float(names.get(name) == only) for name in space.experts})
    (source,) = merged
    if not set(source.inputs) & set(names.values()):
        return None

    def stated(coefficient: str, name: str, place: str) -> float:
        declared = space.method.coefficient(coefficient)
        assert declared is not None
        by_input = source.coefficients.get(coefficient, {})
        own = names.get(name, name)
        absent = 0.0 if coefficient == "weight" and by_input else declared.default
        table = by_input.get(own) or by_input.get("*")
        if coefficient == "weight" and source.rows is not None:
            rows = source.rows.weights(own, place)
            if rows:
                return float(np.mean(rows))
        return absent if table is None else _mean_at(table, place, absent)

    def over(coefficient: str, name: str, places: Sequence[str]) -> float:
        return float(np.mean([stated(coefficient, name, place) for place in places]))

    if any(gene.basis for gene in space.genes):
        return space.fit(stated)
    return space.snap([over(gene.coefficient, gene.input, gene.places) for gene in space.genes])


def _mean_at(table: Mapping[str, float], place: str, otherwise: float) -> float:
    """The value at a place, or the mean of those of its parts."""
    parts = [value for name, value in table.items() if name.startswith(f"{place}.")]
    if parts and place not in table:
        return float(np.mean(parts))
    try:
        return lookup(table, place)
    except KeyError:
        return otherwise


def _from_campaign(
    folder: OpenedFolder, space: SearchSpace, digests: Mapping[str, str], most: int, field: str
) -> Iterator[Genome]:
    history = folder.history
    if history.prepared is None or history.baselines is None:
        wrong, todo = "this campaign has no front yet", "run it on, or leave it out"
        raise ConfigError(Problem("E153", wrong, "", todo, str(folder.path), field=field))
    theirs = history.prepared.checkpoints
    names = _names(digests, theirs)
    if theirs.get("base") != digests["base"]:
        return
    front = folder.front()
    other = recorded_space(history)
    for member in spanning(front, groups(front), most):
        genome = history.candidates[member.id].genome
        point = None if genome is None else nearest(space, other.decode(genome), names)
        if point is not None:
            yield point


def _from_recipe(
    file: Path, space: SearchSpace, digests: Mapping[str, str], paths: Mapping[str, str]
) -> Iterator[Genome]:
    recipe = read_recipe(file).recipe
    sources = recipe.checkpoints
    theirs = {name: source.digest for name, source in sources.items() if source.digest}
    names = _names(digests, theirs)
    for name, path in paths.items():
        same = [other for other, source in sources.items() if _is_at(source, path)]
        if same:
            names.setdefault(name, same[0])
    if "base" in names:
        point = nearest(space, recipe, names)
        if point is not None:
            yield point


def _is_at(source: CheckpointSource, path: str) -> bool:
    return Path(source.path).resolve() == Path(path).resolve()


def _names(ours: Mapping[str, str], theirs: Mapping[str, str]) -> dict[str, str]:
    """Our names of checkpoints to theirs, by the digests of the weights."""
    by_digest = {digest: name for name, digest in theirs.items()}
    return {name: by_digest[digest] for name, digest in ours.items() if digest in by_digest}
