"""Starts: points that a search begins with besides the baselines, from earlier campaigns and stated merges.

`optimizer.start_from` names campaign folders, recipes and mergekit files. What they hold is put on the grid
of the campaign's own space and recorded once, before the baselines, so that a resume needs none of them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from evomerge.campaign.campaign import Campaign
from evomerge.campaign.recorded import recorded_paths, recorded_space
from evomerge.errors import ConfigError, EvomergeError, Problem
from evomerge.front.folder import OpenedFolder, open_campaign_folder
from evomerge.front.spanning import groups, spanning
from evomerge.ledger.events import StartsEvent
from evomerge.ledger.history import LEDGER_FILE, History
from evomerge.mergekit.stated import read_recipe
from evomerge.recipe.recipe import CheckpointSource, MergedSource, Recipe
from evomerge.recipe.registered import find_method
from evomerge.run.nearest import NoPoint, nearest
from evomerge.search_space import Genome, SearchSpace

logger = logging.getLogger(__name__)

TAKE_ANOTHER = "take one over the same base with experts of this campaign"
NO_CANDIDATE = "it has evaluated no candidate yet"


IsMeasured = Callable[[Recipe], bool]


@dataclass(frozen=True)
class Models:
    """Base and experts of the campaign that starts.

    Attributes:
        paths: name to folder.
        digests: name to the content digest of the weights, as far as they are known.
    """

    paths: Mapping[str, str]
    digests: Mapping[str, str]

    def names(self, theirs: Mapping[str, CheckpointSource]) -> dict[str, str]:
        """Our names of checkpoints to theirs: by the digests, or where one is not known by where they lie."""
        found = {}
        for name in self.paths:
            # Of two names of the same weights, the one that we use as well.
            ordered = sorted(theirs, key=lambda other: other != name)
            same = [other for other in ordered if self.is_same(name, theirs[other])]
            if same:
                found[name] = same[0]
        return found

    def is_same(self, name: str, source: CheckpointSource) -> bool:
        """Whether a checkpoint is known to be the one that we call `name`."""
        own = self.digests.get(name)
        if own and source.digest:
            return own == source.digest
        here = Path(self.paths[name]).resolve()
        return bool(source.path) and Path(source.path).resolve() == here


def read_starts(
    campaign: Campaign,
    space: SearchSpace,
    history: History,
    paths: Mapping[str, str],
    is_measured: IsMeasured = lambda merge: False,
) -> StartsEvent:
    """The genomes to begin with: the stated merges, and of each earlier campaign what spans its front.

    Of all of them at most a population's worth; campaigns share alike what stated merges leave. Besides, all
    points of the space that an earlier campaign measured as this one would are known.

    Args:
        campaign: whose `start_from` is read.
        space: its prepared search space.
        history: its own; it must be prepared.
        paths: name to folder of its base and experts.
        is_measured: whether an earlier campaign measured a merge on search items as this one would.

    Raises:
        ConfigError: E153, a file or folder that nothing can be taken from; what `read_recipe` raises. All
            faults of all files, at the fields that name them.
    """
    assert history.prepared is not None
    models = Models(paths, history.prepared.checkpoints)
    share = share_of_each(campaign)
    found: dict[Genome, str] = {}
    known: dict[Genome, str] = {}
    problems: list[Problem] = []
    for index, file in enumerate(campaign.start_from):
        try:
            if is_campaign(file):
                folder = open_campaign_folder(file)
                genomes = _from_campaign(folder, space, models, share)
                known |= dict.fromkeys(_known(campaign, folder, space, models, is_measured), str(file))
            else:
                genomes = [from_recipe(file, space, models)]
        except EvomergeError as error:
            problems += at_field(campaign, index, error)
            continue
        for genome in genomes:
            found.setdefault(genome, str(file))
    if problems:
        raise ConfigError(problems)
    measured = [genome in known or is_measured(space.decode(genome)) for genome in found]
    besides = {genome: origin for genome, origin in known.items() if genome not in found}
    words = "the search starts from %d points of %d files, and knows %d more"
    logger.info(words, len(found), len(campaign.start_from), len(besides))
    return StartsEvent(
        genomes=(*found, *besides),
        origins=(*found.values(), *besides.values()),
        measured=(*measured, *(True for _ in besides)),
        besides=len(besides),
    )


def is_campaign(file: Path) -> bool:
    """Whether it is the folder of a campaign.

    Raises:
        ConfigError: E153, there is no such file, or a folder without a ledger.
    """
    if (file / LEDGER_FILE).is_file():
        return True
    if file.is_file():
        return False
    todo = "name a campaign folder, a recipe or a mergekit file"
    if not file.is_dir():
        raise ConfigError(Problem("E153", "nothing to start from", f"there is no {file}", todo))
    inside = [*sorted(file.glob(f"*/{LEDGER_FILE}")), *sorted(file.glob("recipe.json"))]
    if len(inside) == 1:
        meant = inside[0].parent if inside[0].name == LEDGER_FILE else inside[0]
        todo = f"did you mean {meant}?"
    wrong = f"this folder is no campaign folder: it has no {LEDGER_FILE}"
    raise ConfigError(Problem("E153", wrong, "", todo, str(file)))


def share_of_each(campaign: Campaign) -> int:
    """How many points are taken of each earlier campaign at most."""
    files = campaign.start_from
    earlier = [file for file in files if (file / LEDGER_FILE).is_file()]
    left = campaign.config.optimizer.population - (len(files) - len(earlier))
    return max(1, left // max(1, len(earlier)))


def at_field(campaign: Campaign, index: int, error: EvomergeError) -> Iterator[Problem]:
    """The problems of a file of `start_from`, at the field of the campaign that names it."""
    file = str(campaign.start_from[index])
    for problem in error.problems:
        place = problem.file or file
        if problem.line:
            place += f":{problem.line}:{problem.column}"
        place = " ".join(filter(None, (place, problem.field)))
        found = ": ".join(filter(None, (place, problem.found)))
        if file in problem.found:
            found = problem.found
        where = ("optimizer", "start_from", index)
        yield campaign.fault(where, problem.code, problem.wrong, found, problem.todo)


def earlier_models(history: History) -> dict[str, CheckpointSource]:
    """Base and experts of a campaign that is prepared, with their digests."""
    assert history.prepared is not None
    paths = recorded_paths(history)
    return {n: CheckpointSource(paths[n], d) for n, d in history.prepared.checkpoints.items()}


def refuse_unbegun(history: History) -> None:
    """Raise E153 for a campaign that has no front yet."""
    if history.prepared is None or history.baselines is None:
        wrong, todo = "this campaign has no front yet", "run it on, or leave it out"
        raise ConfigError(Problem("E153", wrong, "", todo))


def no_start(why: str) -> ConfigError:
    """E153 for a file of which nothing can be taken."""
    return ConfigError(
        Problem("E153", "nothing here is a point of the search space", why, TAKE_ANOTHER)
    )


def points_of(
    genomes: Iterable[Genome], other: SearchSpace, space: SearchSpace, names: Mapping[str, str]
) -> list[Genome]:
    """The points of a space that are nearest to those of another one, as far as there are any.

    Raises:
        ConfigError: E153, there is none.
    """
    found, why = [], NO_CANDIDATE
    alike = is_same_space(other, space, names)
    for genome in genomes:
        try:
            found.append(genome if alike else nearest(space, other.decode(genome), names))
        except NoPoint as error:
            why = str(error)
    if not found:
        raise no_start(why)
    return found


def is_same_space(other: SearchSpace, space: SearchSpace, names: Mapping[str, str]) -> bool:
    """Whether two spaces have the same points by the same genomes; those of rows take seconds to decode."""
    alike = (other.genes, other.method, other.options, other.experts, other.fixed) == (
        space.genes, space.method, space.options, space.experts, space.fixed,
    )  # fmt: skip
    return alike and all(names.get(name) == name for name in ("base", *space.experts))


def _from_campaign(folder: OpenedFolder, space: SearchSpace, models: Models, most: int) -> list[Genome]:
    history = folder.history
    refuse_unbegun(history)
    theirs = earlier_models(history)
    refuse_base(models.is_same("base", theirs["base"]))
    front = folder.front()
    members = spanning(front, groups(front), most)
    genomes = [history.candidates[member.id].genome for member in members]
    known = [genome for genome in genomes if genome is not None]
    return points_of(known, recorded_space(history), space, models.names(theirs))


def _known(
    campaign: Campaign,
    folder: OpenedFolder,
    space: SearchSpace,
    models: Models,
    is_measured: IsMeasured,
) -> list[Genome]:
    """All points of the space that a campaign has scored, as far as this one would have scored them alike.

    Of another space those that are points of this one too, as where bounds were widened or a coefficient of
    each layer is now one of each matrix. Nothing where genomes are of rows, which are long and of which no
    model learns; nor for stages, of which each begins with a front.
    """
    history, theirs = folder.history, recorded_space(folder.history)
    names = models.names(earlier_models(history))
    if campaign.stages or space.layout.rows or theirs.layout.rows:
        return []
    scored = (
        candidate.genome
        for candidate in history.candidates.values()
        if not candidate.is_baseline and "search" in candidate.evaluations
    )
    genomes: Iterable[Genome] = dict.fromkeys(genome for genome in scored if genome is not None)
    if not is_same_space(theirs, space, names):
        genomes = dict.fromkeys(near_points(genomes, theirs, space, names))
    return [genome for genome in genomes if is_measured(space.decode(genome))]


def near_points(
    genomes: Iterable[Genome], other: SearchSpace, space: SearchSpace, names: Mapping[str, str]
) -> Iterator[Genome]:
    """Of each point of another space the nearest of this one, if there is any."""
    for genome in genomes:
        with suppress(NoPoint):
            yield nearest(space, other.decode(genome), names)


def from_recipe(file: Path, space: SearchSpace, models: Models) -> Genome:
    """The point of the space that is nearest to a stated merge.

    Raises:
        ConfigError: E153, there is none; what `read_recipe` raises.
        CheckpointError: as `read_recipe`.
    """
    recipe = read_recipe(file).recipe
    base = base_of(recipe)
    refuse_base(base is None or models.is_same("base", base))
    return point_of(recipe, space, models.names(recipe.checkpoints))


def point_of(recipe: Recipe, space: SearchSpace, names: Mapping[str, str]) -> Genome:
    """The point of the space that is nearest to a merge; `names` are ours to those in the recipe.

    Raises:
        ConfigError: E153, there is none.
    """
    try:
        return nearest(space, recipe, names)
    except NoPoint as error:
        raise no_start(str(error)) from None


def base_of(recipe: Recipe) -> CheckpointSource | None:
    """What a merge is measured from; None for one that is the same over any base, as an average of models."""
    for source in recipe.sources.values():
        if isinstance(source, MergedSource) and source.base is not None:
            method = find_method(source.method)
            if method.uses_base(method.resolve(source.options)):
                return recipe.checkpoints[source.base]
    return None


def refuse_base(is_ours: bool) -> None:
    """Raise E153 for a merge over another base."""
    if not is_ours:
        raise no_start("it is over another base")
