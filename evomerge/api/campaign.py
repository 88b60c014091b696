"""A campaign as a person holds it: loaded from a file or built from keyword arguments, checked, run."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge.api.display import ProgressLine
from evomerge.api.run import Run
from evomerge.campaign.campaign import Campaign as LoadedCampaign
from evomerge.campaign.campaign import load_campaign, read_campaign
from evomerge.campaign.check import CheckReport, check_campaign, grants_of
from evomerge.campaign.references import reference_fields
from evomerge.errors import Problem
from evomerge.front.tables import html_table
from evomerge.run.check_starts import check_starts
from evomerge.run.deep_check import check_weights
from evomerge.run.plan import plan_rows
from evomerge.run.session import run_session

logger = logging.getLogger(__name__)

PathLike = str | Path


def _paths(data: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The path of every field and list item of what stands for a campaign file."""
    yield path
    inner = data.items() if isinstance(data, Mapping) else ()
    for key, value in enumerate(data) if isinstance(data, list | tuple) else inner:
        yield from _paths(value, (*path, key))


class Campaign:
    """All that must be stated before a search may start.

    Built from keyword arguments with the words of a campaign file; `Campaign.load` reads one.

    Args:
        base: a model folder, or `org/name@COMMIT` from the local hub cache.
        experts: name to fine-tune or LoRA adapter of the base.
        search_space: a search-space file, or its fields.
        evaluators: evaluator files.
        objectives: metric (`EVALUATOR.METRIC`) to `maximize` or `minimize`.
        budget: evaluations, or the fields of `budget`.
        name: of the campaign.
        seed: decides every random number.
        folder: what relative paths are relative to; where this process is if None.
        sections: any other section of a campaign file: `optimizer`, `evaluation`, `workers`, ...

    Raises:
        ConfigError: with every fault.
        CheckpointError: E201, a model is neither a folder nor a hub name.
    """

    def __init__(
        self,
        *,
        base: PathLike,
        experts: Mapping[str, PathLike],
        search_space: PathLike | Mapping[str, Any],
        evaluators: Sequence[PathLike],
        objectives: Mapping[str, str],
        budget: int | Mapping[str, Any],
        name: str = "campaign",
        seed: int = 0,
        folder: PathLike | None = None,
        **sections: Any,
    ) -> None:
        root = Path() if folder is None else Path(folder)

        # What has another form is left as it is, for the reader of campaign files to refuse.
        def model(place: PathLike, field: str) -> dict[str, str]:
            inside = root / place
            return reference_fields(str(inside if inside.is_dir() else place), field)

        data: dict[str, Any] = {
            "schema": 1,
            "name": name,
            "seed": seed,
            "base": model(base, "base"),
            "experts": {key: model(place, f"experts.{key}") for key, place in experts.items()}
            if isinstance(experts, Mapping)
            else experts,
            "search_space": dict(search_space)
            if isinstance(search_space, Mapping)
            else str(search_space),
            "evaluators": evaluators
            if isinstance(evaluators, str)
            else [str(file) for file in evaluators],
            "objectives": [{"metric": m, "direction": d} for m, d in objectives.items()]
            if isinstance(objectives, Mapping)
            else objectives,
            "budget": dict(budget) if isinstance(budget, Mapping) else {"evaluations": budget},
            **sections,
        }
        places = dict.fromkeys(_paths(data), (0, 0))
        self._loaded = read_campaign(data, root.resolve() / "<keywords>", places)

    @classmethod
    def load(cls, path: PathLike) -> Campaign:
        """Read a campaign file.

        Raises:
            ConfigError: with every fault of it and of the search space it names.
        """
        campaign = cls.__new__(cls)
        campaign._loaded = load_campaign(Path(path))
        return campaign

    @property
    def loaded(self) -> LoadedCampaign:
        """The campaign as the rooms below know it, with all defaults filled in."""
        return self._loaded

    def check(
        self,
        *,
        deep: bool = False,
        directory: PathLike | None = None,
        allow_task_code: bool = False,
        allow_benchmark_test: bool = False,
    ) -> Report:
        """Look at everything the campaign names; faults are collected, nothing is fetched.

        Args:
            deep: read all weights once: NaN, experts that equal the base, digests.
            directory: with `deep`, the folder of a run that shall find them read.
            allow_task_code: let task files run the Python they name.
            allow_benchmark_test: let a search use the items a public benchmark is scored on.
        """
        grants = grants_of(allow_task_code, allow_benchmark_test)
        found = check_campaign(self._loaded, grants, data=True)
        if deep:
            found = check_weights(self._loaded, found, None if directory is None else Path(directory))
        return Report(self._loaded, check_starts(self._loaded, found))

    def run(
        self,
        directory: PathLike,
        *,
        allow_task_code: bool = False,
        allow_benchmark_test: bool = False,
        progress: bool = True,
    ) -> Run:
        """Run in a folder to the end of the budget, or go on with what is there.

        Ctrl-C stops cleanly; the same call goes on later. A script needs no `if __name__ == "__main__":`
        for it: workers do not run the script again.

        Args:
            directory: the campaign folder; made if missing.
            allow_task_code: let task files run the Python they name, in this session.
            allow_benchmark_test: let a search use the items a public benchmark is scored on.
            progress: whether to show how far it is.

        Raises:
            EvomergeError: with every fault of the campaign; Interrupted or Stopped after a clean stop.
        """
        run_session(
            self._loaded,
            Path(directory),
            grants_of(allow_task_code, allow_benchmark_test),
            warn=lambda problem: logger.warning("%s", problem.as_warning),
            open_display=lambda _: ProgressLine(progress),
            again=f"go on with the same call; the folder is {directory}",
        )
        return Run(directory)

    def __repr__(self) -> str:
        config = self._loaded.config
        objectives = ", ".join(objective.metric for objective in config.objectives)
        return (
            f"<Campaign {config.name}: {len(config.experts)} experts, {self._loaded.space.method}, "
            f"objectives {objectives}>"
        )

    def _repr_html_(self) -> str:
        config = self._loaded.config
        rows = [
            ("experts", ", ".join(config.experts)),
            ("method", self._loaded.space.method),
            ("objectives", ", ".join(f"{o.direction} {o.metric}" for o in config.objectives)),
            ("optimizer", f"{config.optimizer.kind}, population {config.optimizer.population}"),
            (
                "budget",
                ", ".join(f"{value:g} {unit}" for unit, value in config.budget if value is not None),
            ),
            ("workers", f"{config.workers.count} ({config.workers.pool})"),
        ]
        return html_table(["field", "value"], rows, f"Campaign {config.name}")


@dataclass(frozen=True, repr=False)
class Report:
    """What `Campaign.check` found."""

    campaign: LoadedCampaign
    found: CheckReport

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Faults that stop a run."""
        return tuple(self.found.problems)

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """What a person should know, and what stops nothing."""
        return tuple(self.found.warnings)

    @property
    def plan(self) -> dict[str, str]:
        """What a run will do and take, in words; empty where faults hide it."""
        if self.problems or not self.found.estimates:
            return {}
        return dict(plan_rows(self.campaign, self.found))

    def raise_problems(self) -> None:
        """Raise what stops a run; nothing if there is nothing.

        Raises:
            CheckpointError: if only checkpoints have faults.
            ConfigError: otherwise.
        """
        self.found.raise_problems()

    def __repr__(self) -> str:
        lines = [str(problem) for problem in self.problems[:20]]
        lines += [problem.as_warning for problem in self.warnings[:20]]
        lines += [f"{name:<13} {text}" for name, text in self.plan.items()]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = [("error", str(problem)) for problem in self.problems]
        rows += [("warning", problem.as_warning) for problem in self.warnings]
        return html_table(["", ""], [*rows, *self.plan.items()])
