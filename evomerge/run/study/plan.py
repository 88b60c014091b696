"""The plan of a study: arms, seeds, and the folder that keeps a campaign for each pair.

`study.json` says what arms there are and which seeds were asked for. Both may be added to later; an arm that
is there already must have the same changes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from evomerge.campaign.campaign import Campaign, load_campaign
from evomerge.campaign.changes import Change
from evomerge.errors import ConfigError, Problem, UsageError
from evomerge.files.storage import cannot_write, make_folder, replace_file
from evomerge.files.yaml_file import load_yaml, validate
from evomerge.ledger.history import CACHE_FOLDER

STUDY_FILE = "study.json"
RUNS_FOLDER = "runs"
RESULTS_FOLDER = "results"

ONLY_ARM = "campaign"
"""What the arm of a study without arms is called."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class ArmsFile(BaseModel):
    """The content of an arms file: arm to field to value, fields as in `--set`."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    version: Literal[1] = Field(alias="schema")
    arms: dict[str, dict[str, Any]] = Field(min_length=1)


@dataclass(frozen=True)
class Arm:
    """One way to run the campaign file; the first arm is what the others are compared with."""

    name: str
    changes: tuple[Change, ...] = ()

    @property
    def words(self) -> list[str]:
        """Its changes as for `--set`."""
        return [change.words for change in self.changes]


@dataclass(frozen=True)
class Planned:
    """One campaign of a study, and its folder within that of the study."""

    arm: str
    seed: int
    campaign: Campaign
    directory: Path

    @property
    def name(self) -> str:
        """What it is called in lines about it."""
        return self.directory.name


@dataclass(frozen=True)
class Recorded:
    """What a study's folder says of itself: arm to its changes, and the seeds, each in order."""

    file: str
    arms: Mapping[str, Sequence[str]]
    seeds: tuple[int, ...]


def read_arms(file: Path) -> tuple[Arm, ...]:
    """The arms of a file, in its order.

    Raises:
        ConfigError: with every fault of the file.
    """
    data, positions = load_yaml(file)
    stated = validate(ArmsFile, data, positions, str(file))
    wrong = [name for name in stated.arms if not _NAME.fullmatch(name)]
    if wrong:
        todo = "use letters, digits, `_`, `-` and `.`: it becomes a folder"
        found = f"found {', '.join(map(repr, wrong))}"
        raise ConfigError(
            Problem("E104", "this is no name of an arm", found, todo, str(file), field="arms")
        )
    return tuple(
        Arm(name, tuple(_change(field, value) for field, value in fields.items()))
        for name, fields in stated.arms.items()
    )


def _change(field: str, value: Any) -> Change:
    return Change(tuple(field.split(".")), value, f"{field}={json.dumps(value)}")


def parse_seeds(text: str, first: int) -> tuple[int, ...]:
    """The seeds that `--seeds` names: a number of them, from `first` up, or themselves (`20,21,30`).

    Raises:
        UsageError: E500.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() for part in parts) or not parts or len({*parts}) < len(parts):
        todo = "write --seeds 5 for five, or --seeds 20,21,30 for these"
        raise UsageError(
            Problem("E500", "these are no seeds", f"found `{text}`", todo, field="--seeds")
        )
    numbers = tuple(map(int, parts))
    if "," in text:
        return numbers
    if numbers[0] < 1:
        raise UsageError(Problem("E500", "a study has a seed at least", "found 0", field="--seeds"))
    return tuple(range(first, first + numbers[0]))


def plan(
    file: Path, directory: Path, arms: Sequence[Arm], seeds: Sequence[int], changes: Sequence[Change]
) -> list[Planned]:
    """The campaigns of a study, seed by seed, so that a table of a part has something of every arm.

    Args:
        file: the campaign file.
        directory: the study's folder.
        arms: as read.
        seeds: at least one.
        changes: of all arms, made before those of each.

    Raises:
        ConfigError: with every fault of every arm.
        UsageError: E500, arms that do not have the same objectives, or state a seed.
    """
    if seeded := [arm.name for arm in arms if any(each.path == ("seed",) for each in arm.changes)]:
        wrong, found = "a study states the seeds itself", f"an arm does: {', '.join(seeded)}"
        raise UsageError(Problem("E500", wrong, found, "give --seeds"))
    problems: list[Problem] = []
    loaded: dict[str, Campaign] = {}
    for arm in arms:
        try:
            loaded[arm.name] = load_campaign(file, [*changes, *arm.changes])
        except ConfigError as error:
            problems += [each for each in error.problems if each not in problems]
    if problems:
        raise ConfigError(problems)
    first = arms[0].name
    for name, campaign in loaded.items():
        if campaign.objectives != loaded[first].objectives:
            wrong = f"arm `{name}` has other objectives than `{first}`"
            found = ", ".join(objective.metric for objective in campaign.objectives)
            todo = "a study compares campaigns by the same objectives"
            raise UsageError(Problem("E500", wrong, found, todo))
    return [_planned(arm.name, seed, loaded[arm.name], directory) for seed in seeds for arm in arms]


def _planned(arm: str, seed: int, campaign: Campaign, directory: Path) -> Planned:
    config = campaign.config
    stated = {
        "seed": seed,
        "name": f"{config.name}-{arm}-{seed}",
        "results": config.results or str((directory / RESULTS_FOLDER).resolve()),
    }
    changed = replace(campaign, config=config.model_copy(update=stated))
    return Planned(arm, seed, changed, directory / RUNS_FOLDER / f"{arm}-{seed}")


def record(
    directory: Path, file: Path, arms: Sequence[Arm], seeds: Sequence[int], changes: Sequence[Change]
) -> None:
    """Write down a study in its folder, made if it is new, beside what was asked for before.

    Raises:
        ConfigError: E504, an arm of another meaning than before; E135, a folder of something else.
        EnvironmentFault: E403 or E408.
    """
    words = {arm.name: [*(change.words for change in changes), *arm.words] for arm in arms}
    known = None
    if directory.exists():
        if (directory / STUDY_FILE).exists():
            known = read_study(directory)
        else:
            _refuse_foreign(directory)
    before = dict(known.arms) if known else {}
    problems = [
        Problem(
            "E504",
            f"arm `{name}` changed since the study began",
            f"was {_stated(before[name])}, is {_stated(stated)}",
            "give it another name, or start a new folder",
            str(directory),
        )
        for name, stated in words.items()
        if name in before and _comparable(before[name]) != _comparable(stated)
    ]
    if problems:
        raise ConfigError(problems)
    data = {
        "schema": 1,
        "file": str(file.resolve()),
        "arms": before | words,
        "seeds": sorted({*(known.seeds if known else ()), *seeds}),
    }
    try:
        make_folder(directory / RUNS_FOLDER)
        replace_file(directory / STUDY_FILE, json.dumps(data, indent=1).encode() + b"\n")
    except OSError as error:
        raise cannot_write(directory, error) from error


def _comparable(words: Sequence[str]) -> list[str]:
    """Changes without those of the budget, which may be raised."""
    return [text for text in words if not text.startswith(("budget.", "workers."))]


def _stated(words: Sequence[str]) -> str:
    return " ".join(words) or "the file as it is"


def _refuse_foreign(directory: Path) -> None:
    ours = (RUNS_FOLDER, RESULTS_FOLDER, CACHE_FOLDER)
    foreign = sorted(path.name for path in directory.iterdir() if path.name not in ours)
    if foreign:
        found = f"{len(foreign)} files, {foreign[0]} for one"
        todo = "choose an empty or new folder"
        raise ConfigError(Problem("E135", "this is no folder of a study", found, todo, str(directory)))


def read_study(directory: Path) -> Recorded:
    """What `study.json` of a folder says.

    Raises:
        UsageError: E509, there is none, or it says something else.
    """
    file = directory / STUDY_FILE
    todo = "give the folder that `evomerge study run` was given as --dir"
    try:
        data = json.loads(file.read_bytes())
        arms = {str(name): [str(text) for text in words] for name, words in data["arms"].items()}
        return Recorded(str(data["file"]), arms, tuple(map(int, data["seeds"])))
    except OSError:
        found = f"it has no {STUDY_FILE}" if directory.is_dir() else "there is no such folder"
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        found = f"{STUDY_FILE} cannot be read: {error!r}"
    raise UsageError(Problem("E509", "no study here", found, todo, str(directory)))
