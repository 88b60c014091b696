"""Campaign: all that must be stated before a search may start.

The file is read here and validated as far as it goes by itself; what needs the checkpoints or the
evaluators is found by `evomerge.campaign.check`.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evomerge.campaign.across_fields import faults_across_fields, focus_faults, stage_faults
from evomerge.campaign.changes import Change, changed
from evomerge.campaign.checkpoint_reference import CheckpointReference
from evomerge.campaign.file import CampaignFile
from evomerge.errors import ConfigError, Problem
from evomerge.files.paths import without_detours
from evomerge.files.yaml_file import Positions, load_yaml, place, validate
from evomerge.objectives.constraint import Constraint, parse_constraint
from evomerge.objectives.objective import Objective
from evomerge.objectives.preference import preference
from evomerge.objectives.region import is_region
from evomerge.optimizers.kinds import optimizer_settings
from evomerge.optimizers.stage import Stage, stage_kind
from evomerge.recipe.recipe import UNION, ModelForm, TokenRow, canonical_json
from evomerge.search_space import SearchSpaceDeclaration, load_search_space

CHANGEABLE = ("budget", "workers", "results")
"""Fields that may differ between two runs of one campaign folder."""


@dataclass(frozen=True)
class Campaign:
    """A validated campaign file with its search space, paths made absolute.

    `file` is where it was read from; `config` is the file's content with absolute paths and every
    default filled in, as it goes into the ledger. `positions` are those of its fields.
    """

    file: Path
    config: CampaignFile
    space: SearchSpaceDeclaration
    evaluator_files: tuple[Path, ...]
    space_file: Path
    positions: Positions = field(default_factory=dict, compare=False, repr=False)

    def fault(
        self, path: tuple[str | int, ...], code: str, wrong: str, found: str = "", todo: str = ""
    ) -> Problem:
        """A problem at a field of the file, for example `("objectives", 0, "metric")`."""
        return Problem(code, wrong, found, todo, *place(self.positions, self.file, *path))

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """The objectives in file order."""
        return tuple(Objective(o.metric, o.direction) for o in self.config.objectives)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages of the search; none where there is one optimizer for all."""
        found = []
        for number, section in enumerate(self.config.stages):
            kind = stage_kind(section.searches, section.kind, first=number == 0)
            settings = optimizer_settings(kind, section.options)
            found.append(Stage(section.searches, kind, settings, section.evaluations))
        return tuple(found)

    @property
    def settings(self) -> tuple[Any, ...]:
        """The settings of the optimizer, or those of each stage; defaults stand for what is left open."""
        if self.stages:
            return tuple(stage.settings for stage in self.stages)
        section = self.config.optimizer
        return (optimizer_settings(section.kind, section.options),)

    @property
    def focus(self) -> tuple[float, ...] | None:
        """Weights of the objectives near which the budget is spent; None for everywhere, or a region."""
        stated = self.config.optimizer.focus
        return (
            None
            if stated is None or is_region(stated)
            else preference(self.objectives, stated, last_counts=True)
        )

    @property
    def constraints(self) -> tuple[Constraint, ...]:
        """The constraints in file order."""
        return tuple(parse_constraint(text) for text in self.config.constraints)

    @property
    def experts(self) -> tuple[str, ...]:
        """The experts' names in file order."""
        return tuple(self.config.experts)

    @property
    def results(self) -> Path | None:
        """The folder of results that it shares with other campaigns."""
        stated = self.config.results
        return None if stated is None else (self.file.parent / stated).resolve()

    @property
    def start_from(self) -> tuple[Path, ...]:
        """The campaign folders, recipes and mergekit files that the search starts from."""
        return tuple((self.file.parent / name).resolve() for name in self.config.optimizer.start_from)

    @property
    def tokenizer(self) -> str | None:
        """The source whose vocabulary merges have, or `UNION`; None where all share one."""
        return None if self.config.tokenizer is None else self.config.tokenizer.source

    @property
    def form(self) -> ModelForm:
        """What all merges have in common beside their weights."""
        rope = self.config.rope or ""
        if rope == "base" and self.tokenizer in (None, "base", UNION):
            rope = ""  # as without a word
        tokenizer = self.config.tokenizer
        rows = {} if tokenizer is None else tokenizer.tokens
        return ModelForm(
            self.tokenizer,
            rope,
            self.config.heads or "",
            self.config.towers or "",
            # In the order in which a ledger has them: it is that of the tokens which are added.
            {text: TokenRow(row.source, row.token, row.force) for text, row in sorted(rows.items())},
            (tokenizer and tokenizer.pad_to_multiple_of) or 0,
        )

    def references(self) -> dict[str, CheckpointReference]:
        """`base` and every expert; relative paths resolved against the campaign file."""
        folder = self.file.parent
        return {
            name: reference
            if reference.path is None
            else reference.model_copy(update={"path": str((folder / reference.path).resolve())})
            for name, reference in {"base": self.config.base, **self.config.experts}.items()
        }

    def to_json(self) -> dict[str, Any]:
        """The whole configuration as plain data, for the ledger's first line."""
        data = self.config.model_dump(mode="json", by_alias=True)
        # A campaign that does without is the same whether it says so or not.
        if not self.config.constraints:
            del data["constraints"]
        if self.config.tokenizer is None:
            del data["tokenizer"]
        else:
            data["tokenizer"] = self.config.tokenizer.model_dump(mode="json", exclude_defaults=True)
        for name in ("rope", "heads", "towers"):
            if data[name] is None:
                del data[name]
        if self.config.racing is None:
            del data["racing"]
        if self.config.results is None:
            del data["results"]
        if not self.config.stages:
            del data["stages"]
        if self.config.evaluation.generation == "padded":
            del data["evaluation"]["generation"]
        for limit in ("items", "plateau"):
            if data["budget"][limit] is None:
                del data["budget"][limit]
        if not self.config.baselines.ensemble:
            del data["baselines"]["ensemble"]
        if self.config.optimizer.focus is None:
            del data["optimizer"]["focus"]
        if not self.config.optimizer.start_from:
            del data["optimizer"]["start_from"]
        data["search_space"] = self.space.model_dump(mode="json", by_alias=True)
        if not self.space.function:
            del data["search_space"]["function"]
        if self.space.layer_path is None:
            del data["search_space"]["layer_path"]
        if self.space.trajectory is None:
            del data["search_space"]["trajectory"]
        if self.space.mixture is None:
            del data["search_space"]["mixture"]
        if not self.space.calibration:
            del data["search_space"]["calibration"], data["search_space"]["calibration_sha256"]
        data["evaluators"] = [str(path) for path in self.evaluator_files]
        references = {n: r.model_dump(exclude_none=True) for n, r in self.references().items()}
        data["base"], data["experts"] = references.pop("base"), references
        # The order of experts is that of the genes, and the ledger's JSON sorts keys.
        data["expert_order"] = list(self.experts)
        data["file"] = str(self.file)
        return data


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of `Campaign.to_json` that must not change between runs of one campaign folder.

    Left out: the changeable fields, and paths, for which content digests stand in the `prepared`
    event.
    """
    data = {k: v for k, v in config.items() if k not in (*CHANGEABLE, "file", "evaluators", "base")}
    data["experts"] = sorted(config["experts"])
    return data


def identity_digest(config: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of `identity`."""
    return hashlib.sha256(canonical_json(identity(config)).encode()).hexdigest()


def load_campaign(path: Path, changes: Sequence[Change] = ()) -> Campaign:
    """Read a campaign file and the search space it names.

    Args:
        path: the file.
        changes: fields that are stated otherwise.

    Raises:
        ConfigError: with every fault of both files.
    """
    path = Path(path).resolve()
    data, positions = load_yaml(path)
    if "merge_method" in data or {"sources", "path", "outer"} <= set(data):
        wrong, todo = "this states one merge and no search", f"evomerge merge {path} OUT"
        raise ConfigError(Problem("E102", wrong, "", todo, str(path)))
    stated, places = changed(data, positions, changes, str(path))
    return read_campaign(stated, path, places)


def read_campaign(data: Mapping[str, Any], path: Path, positions: Positions) -> Campaign:
    """A campaign from the content of its file; the search space may stand in it as fields.

    Args:
        data: plain data as YAML gives it.
        path: the file, relative to which paths are.
        positions: of the fields in the file, for messages.

    Raises:
        ConfigError: with every fault of this and of the search space's file.
    """
    problems: list[Problem] = []
    config: CampaignFile | None = None
    space: SearchSpaceDeclaration | None = None
    stated = data.get("search_space")
    inline = isinstance(stated, dict)
    try:
        plain = {**data, "search_space": "search_space"} if inline else data
        config = validate(CampaignFile, plain, positions, str(path))
    except ConfigError as error:
        problems += error.problems
    problems += faults_across_fields(data, positions, path)
    space_file = path if inline else path.parent / str(stated or "")
    if isinstance(stated, str) and not space_file.is_file():
        todo = _nearest_file(space_file)
        where = place(positions, path, "search_space")
        problems.append(Problem("E101", "no such search-space file", f"found {stated!r}", todo, *where))
    elif inline or isinstance(stated, str):
        try:
            shown = without_detours(space_file)
            space = _inline_space(data, path, positions) if inline else load_search_space(shown)
            space = space.located(space_file.parent)
        except ConfigError as error:
            problems += error.problems
    files = data.get("evaluators")
    evaluator_files = []
    for index, name in enumerate(files if isinstance(files, list) else []):
        evaluator_files.append(path.parent / str(name))
        if not evaluator_files[-1].is_file():
            where = place(positions, path, "evaluators", index)
            todo = _nearest_file(evaluator_files[-1])
            problems.append(Problem("E101", "no such evaluator file", f"found {name!r}", todo, *where))
    if config is not None:
        problems += focus_faults(config, positions, path)
        if space is not None:
            problems += stage_faults(config, space, positions, path)
    if problems or config is None or space is None:
        raise ConfigError(problems)
    evaluators = tuple(file.resolve() for file in evaluator_files)
    return Campaign(path, config, space, evaluators, space_file.resolve(), positions)


def _inline_space(data: Mapping[str, Any], path: Path, positions: Positions) -> SearchSpaceDeclaration:
    inside = {key[1:]: where for key, where in positions.items() if key[:1] == ("search_space",)}
    return validate(SearchSpaceDeclaration, data["search_space"], inside, str(path))


def _nearest_file(path: Path) -> str:
    """What to do about a missing YAML file: take the one beside it that is spelt almost alike."""
    beside = [file.name for file in path.parent.glob("*.y*ml")]
    near = difflib.get_close_matches(path.name, beside, n=1)
    return f"did you mean `{near[0]}`?" if near else "paths are relative to the campaign file"


def campaign_from_json(data: Mapping[str, Any]) -> Campaign:
    """The campaign a ledger's first line recorded (paths absolute, search space inlined)."""
    config = dict(data)
    file = Path(config.pop("file"))
    order = config.pop("expert_order", sorted(config["experts"]))
    config["experts"] = {name: config["experts"][name] for name in order}
    space = SearchSpaceDeclaration.model_validate(config["search_space"])
    evaluators = tuple(Path(name) for name in config["evaluators"])
    config["search_space"] = "search_space"
    return Campaign(file, CampaignFile.model_validate(config), space, evaluators, file)
