"""Events before the search: the campaign, what a session was allowed, what `prepare` found, the baselines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from evomerge.errors import Problem
from evomerge.ledger.events.event import Event
from evomerge.ledger.item_store import ItemReference
from evomerge.objectives.constraint import Bound, Constraint, parse_constraint
from evomerge.objectives.objective import Objective
from evomerge.objectives.preference import preference
from evomerge.objectives.region import is_region, region
from evomerge.objectives.scores import Split
from evomerge.objectives.steering import SHARE

Grant = Literal["task_code", "benchmark_test"]
"""What is refused unless a person allows it by name for a session."""


FORESEEING = ("auto", "surrogate")
"""Kinds of optimizers that say what they expect of a batch, except on paths of layers."""


STEERED = ("auto", "cma-es", "hm3", "kinship", "mmmo", "qlognehvi", "surrogate")
"""Kinds of optimizers that steer by smooth values; the others go by reported ones, or by none.

`auto` searches paths of layers by another kind that does.
"""

ASKED_AGAIN = ("cma-es", "hm3")
"""Those of them whose asks a replay works out anew, as all asks of stages."""


@dataclass(frozen=True, kw_only=True)
class CampaignEvent(Event):
    """The campaign as it began; always the first event.

    Attributes:
        config: all of it, as `Campaign.to_json` gives it.
        identity: digest of that part of it which may not change.
        versions: of evomerge and of the libraries that results depend on.
        format: of the file.
        settings: of its optimizer by name, or one for each of its stages, those that the campaign leaves open
            included; None in ledgers from before December 2026.
    """

    kind = "campaign"

    config: Mapping[str, Any]
    identity: str
    versions: Mapping[str, str]
    format: int | None = None
    settings: tuple[Mapping[str, Any], ...] | None = None

    @property
    def name(self) -> str:
        """Name of the campaign."""
        return str(self.config["name"])

    @property
    def seed(self) -> int:
        """The seed behind every random number of the search."""
        return int(self.config["seed"])

    @property
    def experts(self) -> tuple[str, ...]:
        """Names of the experts, without `base`."""
        return tuple(self.config["experts"])

    @property
    def single(self) -> tuple[float, ...]:
        """The coefficients of the baselines that give all experts the same one."""
        return tuple(self.config["baselines"]["single"])

    @property
    def has_ensemble(self) -> bool:
        """Whether the experts answering as one are a baseline."""
        return bool(self.config["baselines"].get("ensemble"))

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """What is optimised, in the order of the campaign file."""
        return tuple(Objective(o["metric"], o["direction"]) for o in self.config["objectives"])

    @property
    def constraints(self) -> tuple[Constraint, ...]:
        """What must be kept, in the order of the campaign file."""
        return tuple(map(parse_constraint, self.config["constraints"]))

    @property
    def region(self) -> tuple[Bound, ...]:
        """Where on the front the search is to look; empty where its focus is no region."""
        stated = self.config["optimizer"].get("focus")
        return region(self.objectives, stated) if is_region(stated) else ()

    @property
    def preference(self) -> tuple[float, ...] | None:
        """What its focus weighs objectives by, summing to 1; None without one, or where it is a region."""
        stated = self.config["optimizer"].get("focus")
        if stated is None or is_region(stated):
            return None
        return preference(self.objectives, stated, last_counts=True)

    @property
    def evaluations(self) -> int | None:
        """The budget in evaluations; None without one."""
        found: int | None = self.config["budget"]["evaluations"]
        return found

    @property
    def population(self) -> int:
        """Candidates in a generation, or in the population of a steady state."""
        return int(self.config["optimizer"]["population"])

    @property
    def has_forecasts(self) -> bool:
        """Whether the optimizer has a model that says what each batch is expected to add."""
        config = self.config
        by_model = config["optimizer"]["kind"] in FORESEEING and not config.get("stages")
        return by_model and "layer_path" not in config["search_space"]

    @property
    def smooth_share(self) -> float | None:
        """The share of candidates with smooth values from which the search steers by them; None if never."""
        config = self.config
        if stages := config.get("stages"):
            # What a stage is that leaves its kind open, as `optimizers.stage` says.
            of_open = {"merge": "surrogate", "path": "nsga2", "both": "nsga2"}
            kinds = {
                of_open[stage["searches"]] if stage["kind"] in (None, "auto") else stage["kind"]
                for stage in stages
            }
            return 1.0 if kinds.intersection(STEERED) else None
        kind = config["optimizer"]["kind"]
        if kind not in STEERED or (kind == "auto" and "layer_path" in config["search_space"]):
            return None
        return 1.0 if kind in ASKED_AGAIN else SHARE

    @property
    def is_steady(self) -> bool:
        """Whether results are told as they come, without generations."""
        return bool(self.config["optimizer"]["schedule"] == "steady_state")


@dataclass(frozen=True, kw_only=True)
class GrantedEvent(Event):
    """What a session was allowed by name; a grant holds for its session only."""

    kind = "granted"

    grants: tuple[Grant, ...]


@dataclass(frozen=True, kw_only=True)
class PreparedEvaluator:
    """What `prepare` found of one evaluator.

    Attributes:
        digest: of its declaration and items.
        metrics: `EVALUATOR.METRIC` names it gives.
        items: split to number of items.
        deterministic: whether it says the same of the same model each time.
        block_size: items it scores at a time, None where it cannot stop between blocks.
        losses: whether it has losses with gradients, so that slopes can be asked of it; None before 2026-12.
        choices: whether its items are choices, whose entropy has gradients; None in earlier ledgers.
        loss_directions: the metrics that losses stand for, each with whether it rises as they fall; None in
            earlier ledgers, which took them to stand for every metric.
    """

    digest: str
    metrics: tuple[str, ...]
    items: Mapping[Split, int]
    deterministic: bool
    block_size: int | None = None
    losses: bool | None = None
    choices: bool | None = None
    loss_directions: Mapping[str, bool] | None = None

    def teaches(self, objective: Objective, *, entropy: bool = False) -> bool:
        """Whether an objective gets better as losses (or entropies over choices) get less."""
        has = bool(self.choices if entropy else self.losses)
        if not has or self.loss_directions is None:
            return has
        wanted = objective.direction == "maximize"
        # Entropies look at no label, so that they may be there where it is not known what is right.
        return self.loss_directions.get(objective.metric, wanted if entropy else None) == wanted


@dataclass(frozen=True, kw_only=True)
class PreparedLayout:
    """What a search space must know of the base: see `ModelLayout`, whose record this is."""

    layers: int
    places: tuple[str, ...]
    parameters: int
    active: Mapping[str, tuple[str, ...]] | None = None
    rows: Mapping[str, int] | None = None


@dataclass(frozen=True, kw_only=True)
class TaskVectors:
    """Inner products of the experts' task vectors.

    Attributes:
        experts: T names, in the order of rows and columns.
        gram: place (empty for the whole model) to a [T][T] matrix.
    """

    experts: tuple[str, ...]
    gram: Mapping[str, tuple[tuple[float, ...], ...]]


@dataclass(frozen=True, kw_only=True)
class PreparedEvent(Event):
    """What the `prepare` job found in weights and evaluators.

    Attributes:
        checkpoints: `base` and experts to the digests of their weights.
        storage: dtype merges are rounded to.
        layout: of the base.
        evaluators: by name.
        task_vectors: seed the search; None in ledgers from before they were recorded.
        warnings: faults that stop nothing.
        generation: engine to the seconds it took for some answers of the base; None where nobody asked.
        one_with_baselines: whether genomes that are the uniform average or a single coefficient have the
            baseline's recipe; not in ledgers from before 2026-12, which must decode as they did.
        shares_rows: whether fields of rows heed `outside_layers: shared`; not in ledgers from before 2026-12,
            where they have a gene for each row of embedding and head all the same.
        mixture_rows: whether the rows of a mixture's experts have the weights that genes say; not in ledgers
            from before 2026-12, whose merges had the means there.
    """

    kind = "prepared"

    checkpoints: Mapping[str, str]
    storage: str
    layout: PreparedLayout
    evaluators: Mapping[str, PreparedEvaluator]
    task_vectors: TaskVectors | None = None
    warnings: tuple[Problem, ...] = ()
    one_with_baselines: bool = False
    shares_rows: bool = False
    mixture_rows: bool = False
    generation: Mapping[str, float] | None = None

    @property
    def deterministic(self) -> bool:
        """Whether every evaluator says the same of the same model each time."""
        return all(each.deterministic for each in self.evaluators.values())

    def digest_of(self, evaluator: str) -> str | None:
        """The digest of an evaluator and its items; None of one it did not have."""
        found = self.evaluators.get(evaluator)
        return None if found is None else found.digest


@dataclass(frozen=True, kw_only=True)
class BaselinesEvent(Event):
    """What the search is measured by, from the baselines' scores on search items.

    Attributes:
        ideal: best value of each objective, minimised.
        nadir: worst value.
        shown: ids of the baselines that tables show.
        single: id of the best merge with one coefficient, if any has scores.
        bounds: of the constraints, in their order.
    """

    kind = "baselines"

    ideal: tuple[float, ...]
    nadir: tuple[float, ...]
    shown: tuple[str, ...]
    single: str | None = None
    bounds: tuple[Bound, ...] = ()


@dataclass(frozen=True, kw_only=True)
class StartsEvent(Event):
    """Points that the search begins with besides the baselines, and the file or folder each came from.

    Attributes:
        genomes: those of single rows are empty in the ledger's JSON, as in `AskedCandidate`. Starts come
            first, then what earlier campaigns know besides.
        origins: of each, the path of the file or folder.
        values: where such genomes lie among the per-item results; None for others.
        measured: of each, whether an earlier campaign measured it as this one would, so that it costs
            nothing. Empty in ledgers before 2026-12, where all of them cost.
        besides: how many of the last are no starts: no structure and no scale of a search is made of them.
    """

    kind = "starts"

    genomes: tuple[tuple[float, ...], ...]
    origins: tuple[str, ...]
    values: tuple[ItemReference, ...] | None = None
    measured: tuple[bool, ...] = ()
    besides: int = 0

    @property
    def sources(self) -> dict[tuple[float, ...], str]:
        """Starts, to the names of the files or folders that they came from."""
        return dict(self._named()[: len(self.genomes) - self.besides])

    @property
    def known(self) -> dict[tuple[float, ...], str]:
        """What is known besides, to the names of the folders."""
        return dict(self._named()[len(self.genomes) - self.besides :])

    @property
    def free(self) -> frozenset[tuple[float, ...]]:
        """What costs nothing as long as its scores are taken from where it came from."""
        pairs = zip(self.genomes, self.measured, strict=bool(self.measured))
        return frozenset(genome for genome, measured in pairs if measured)

    def _named(self) -> list[tuple[tuple[float, ...], str]]:
        names = [Path(origin).name for origin in self.origins]
        return list(zip(self.genomes, names, strict=True))
