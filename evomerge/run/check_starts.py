"""What can be said of `start_from` before any model is read: what is there, and over which models.

Whether the weights of two folders are the same is known from their digests, which a deep check has, or from
where they lie; else a few blocks of them tell that they are not. What stays open is decided by the driver
when it has read the weights, before any baseline.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from evomerge.campaign.campaign import Campaign, campaign_from_json
from evomerge.campaign.check import CheckReport
from evomerge.campaign.recorded import recorded_space
from evomerge.checkpoint.digest import surely_differ
from evomerge.checkpoint.folder import CheckpointFolder, open_folder
from evomerge.errors import EvomergeError, Problem
from evomerge.ledger.history import LEDGER_FILE
from evomerge.ledger.ledger import read_history_until
from evomerge.mergekit.stated import read_recipe
from evomerge.recipe.recipe import CheckpointSource
from evomerge.run.nearest import has_near_points
from evomerge.run.starts import (
    NO_CANDIDATE,
    Models,
    at_field,
    base_of,
    earlier_models,
    is_campaign,
    no_start,
    point_of,
    points_of,
    refuse_base,
    refuse_unbegun,
    share_of_each,
)


def check_starts(campaign: Campaign, report: CheckReport, directory: Path | None = None) -> CheckReport:
    """The report with what is wrong with `start_from`, and with how many points are taken of each.

    Args:
        campaign: as loaded.
        report: of `check_campaign`, or of `check_weights`, which knows digests.
        directory: the campaign folder of a run. One that has its starts on record needs their files no more.
    """
    if not campaign.start_from or (directory is not None and are_recorded(directory)):
        return report
    look = _Look(campaign, report)
    problems: list[Problem] = []
    taken: dict[str, int] = {}
    for index, file in enumerate(campaign.start_from):
        try:
            if is_campaign(file):
                look.at_campaign(file)
                taken[str(file)] = share_of_each(campaign)
            else:
                look.at_recipe(file)
                taken[str(file)] = 1
        except EvomergeError as error:
            problems += at_field(campaign, index, error)
    return replace(report, problems=[*report.problems, *problems], starts=taken)


def are_recorded(directory: Path) -> bool:
    """Whether the campaign in a folder has its starts on record."""
    ledger = directory / LEDGER_FILE
    if not ledger.is_file():
        return False
    history = read_history_until(ledger, lambda h: h.starts is not None or bool(h.generations))
    return history.starts is not None


class _Look:
    """Looks at one file after another; where a report has no space only whether it can be read."""

    def __init__(self, campaign: Campaign, report: CheckReport) -> None:
        self._declared = campaign.space
        self._models = Models(report.paths, report.weights or {})
        self._space = report.space
        if report.space is not None:
            self._space = replace(report.space, dtype=report.storage, form=campaign.form)
        self._opened: dict[str, CheckpointFolder | None] = {}

    def at_campaign(self, folder: Path) -> None:
        """Read a ledger until a candidate has been evaluated, and no further.

        Raises:
            ConfigError: E153.
            LedgerDamaged: the ledger cannot be read.
        """
        history = read_history_until(folder / LEDGER_FILE, lambda h: h.settled > 0)
        refuse_unbegun(history)
        if not history.settled:
            raise no_start(NO_CANDIDATE)
        theirs = earlier_models(history)
        self._refuse_base(theirs["base"])
        names = self._names(theirs)
        if self._space is None or names is None:
            return
        known = all(name == other for name, other in names.items()) and len(names) == len(theirs)
        if known and campaign_from_json(history.config).space == self._declared:
            return
        if has_near_points(self._space):
            # One is as near as the other.
            genomes = (candidate.genome for candidate in history.candidates.values())
            first = next(genome for genome in genomes if genome is not None)
            points_of([first], recorded_space(history), self._space, names)

    def at_recipe(self, file: Path) -> None:
        """Read a stated merge.

        Raises:
            ConfigError, CheckpointError: as `starts.from_recipe`.
        """
        recipe = read_recipe(file).recipe
        theirs = recipe.checkpoints
        base = base_of(recipe)
        if base is not None:
            self._refuse_base(base)
        names = self._names(theirs)
        # Which places an expert touches shows in its weights, and whether a merge is a point may hang on it.
        if self._space is not None and names is not None and has_near_points(self._space):
            point_of(recipe, self._space, names)

    def _refuse_base(self, theirs: CheckpointSource) -> None:
        if "base" in self._models.paths:
            refuse_base(self._models.is_same("base", theirs) or self._may_be("base", theirs))

    def _names(self, theirs: Mapping[str, CheckpointSource]) -> dict[str, str] | None:
        """Our names to theirs; None where it is not known of every model whether it is one of them."""
        names = self._models.names(theirs)
        left = [name for name in self._models.paths if name not in names]
        open_ = any(self._may_be(name, each) for name in left for each in theirs.values())
        return None if open_ else names

    def _may_be(self, name: str, source: CheckpointSource) -> bool:
        """Whether a checkpoint that is not known to be ours may be it: it has a digest, and ours none yet."""
        if not source.digest or self._models.digests.get(name):
            return False
        ours, other = self._folder(self._models.paths[name]), self._folder(source.path)
        return ours is None or other is None or not surely_differ(ours, other)

    def _folder(self, path: str) -> CheckpointFolder | None:
        """A full model; None if there is none, as of an adapter."""
        if path not in self._opened:
            try:
                self._opened[path] = open_folder(path, Path(path).name) if path else None
            except EvomergeError:
                self._opened[path] = None
        return self._opened[path]
