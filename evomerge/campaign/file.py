"""The campaign file as it is written: its sections, fields, defaults and bounds."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveInt,
    field_validator,
    model_validator,
)

from evomerge.campaign.checkpoint_reference import NAME, CheckpointReference, ExpertName
from evomerge.campaign.devices import is_device
from evomerge.objectives.constraint import ConstraintText
from evomerge.objectives.objective import Direction

HEADS = r"^(untie|each|keep:.+)$"
"""What `heads` of a campaign may say; for its JSON schema too."""

PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ObjectiveSection(_Section):
    """A metric and the direction in which it gets better.

    Attributes:
        metric: `EVALUATOR.METRIC`, such as `math.acc`; the names are those of the evaluator files.
        direction: `maximize` or `minimize`.
    """

    metric: str
    direction: Direction


def _focus(stated: object) -> object:
    numbers = isinstance(stated, dict) and all(
        isinstance(each, int | float) and not isinstance(each, bool) for each in stated.values()
    )
    if stated is None or isinstance(stated, str) or numbers:
        return stated
    like = "weights of objectives (`{math: 0.7, code: 0.3}`), bounds on them (`math.acc>=0.6`)"
    raise ValueError("E108", f"a focus is {like} or `knee`")


class OptimizerSection(_Section):
    """Which optimizer asks, how many candidates make a generation, and when it is told of them.

    Attributes:
        kind: which optimizer; `evomerge list optimizers` names them, docs/optimizers.md compares them.
        population: candidates of a generation.
        schedule: when it is told of results: `generational`, when a generation is whole, in the order in
            which it was asked; `steady_state`, of each as it arrives, so that no worker waits.
        options: settings of the kind, by name.
        focus: where on the front the budget is spent: near a preference, weights of objectives (a mapping, or
            `math=0.7,code=0.3`) or `knee`; or in a region, bounds on objectives (`math.acc>=0.6,code>=0.5`).
        start_from: campaign folders, recipes and mergekit files whose merges are asked first.
    """

    kind: str = "auto"
    population: Annotated[int, Field(ge=4, le=10_000)] = 20
    schedule: Literal["generational", "steady_state"] = "generational"
    options: dict[str, str | float | bool] = {}
    focus: Annotated[str | dict[str, float] | None, BeforeValidator(_focus)] = None
    start_from: list[str] = []


class StageSection(_Section):
    """One stage of a search over merges and paths of layers: what it searches, how, with how many candidates.

    Attributes:
        searches: `merge` the coefficients, `path` the order of layers, or `both`.
        kind: an optimizer, as in `optimizer.kind`; without it a surrogate for merges, NSGA-II for paths.
            Only a first stage of `merge` may learn from gradients (`learned-front`, `auto`).
        options: settings of the kind, by name.
        evaluations: of this stage: candidates, and what its slopes cost. It ends with the generation that
            reaches them; the last stage takes what is left of the budget.
    """

    searches: Literal["merge", "path", "both"]
    kind: str | None = None
    options: dict[str, str | float | bool] = {}
    evaluations: PositiveInt | None = None


class BudgetSection(_Section):
    """When to stop: whichever limit is reached first; one of the first three must be given.

    Attributes:
        evaluations: candidates scored; baselines are not counted, slopes count by their cost.
        hours: wall time of all sessions together, without those of refinements.
        items: search items answered, over all candidates.
        plateau: a share of the hypervolume, with a focus of that near it: the search ends when its next
            population is expected to add less than this share (`auto` and `surrogate`), or when its last two
            added less.
    """

    evaluations: PositiveInt | None = None
    hours: PositiveFloat | None = None
    items: PositiveInt | None = None
    plateau: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)] | None = None

    @field_validator("evaluations", "hours", "items", mode="before")
    @classmethod
    def _something_to_do(cls, value: Any) -> Any:
        if isinstance(value, int | float) and not isinstance(value, bool) and value <= 0:
            raise ValueError("E113", "nothing to do; the budget must be above 0")
        return value

    @model_validator(mode="after")
    def _some_limit(self) -> BudgetSection:
        if self.evaluations is None and self.hours is None and self.items is None:
            raise ValueError("E113", "give `evaluations`, `items` or `hours`")
        return self

    def evaluations_allowed(self, search_items: int) -> float | None:
        """The evaluations that `evaluations` and `items` allow; None if neither is given."""
        limits = [float(self.evaluations)] if self.evaluations is not None else []
        if self.items is not None:
            limits.append(self.items / max(search_items, 1))
        return min(limits, default=None)


class EvaluationSection(_Section):
    """How a candidate is held and scored; every field here changes scores or their last digits.

    Attributes:
        dtype: dtype in which the live model computes.
        batch_size: rows of a batch; a number, since scores depend on it.
        threads: torch's threads on the CPU.
        device: `cpu`, `cuda`, or `cuda:N` of a local machine.
        generation: who writes answers: `padded` batches, `continuous` batching by transformers, or `auto`,
            whichever wrote faster on the base.
    """

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    batch_size: PositiveInt = 32
    threads: PositiveInt = 1
    device: str = "cpu"
    generation: Literal["auto", "padded", "continuous"] = "padded"

    @field_validator("device")
    @classmethod
    def _a_device(cls, value: str) -> str:
        if not is_device(value):
            raise ValueError("E108", "a device is `cpu`, `cuda` or `cuda:N`")
        return value

    @field_validator("batch_size", mode="before")
    @classmethod
    def _a_number(cls, value: Any) -> Any:
        if value == "auto":
            raise ValueError("E129", "scores depend on the batch size; give a number, not `auto`")
        return value


class RacingSection(_Section):
    """Give up a candidate that some reference beats on every task; blocks are those of the evaluators.

    Attributes:
        threshold: paired z that a reference must reach on every objective.
        first: blocks of each task before the first look.
    """

    threshold: PositiveFloat = 0.4
    first: PositiveInt = 1


class WorkersSection(_Section):
    """Where candidates are evaluated: in this process, in local processes or on Ray.

    Attributes:
        pool: `inline` in the driver itself (for debugging), `local` processes of this machine, or `ray`.
        count: workers; each holds one live model.
        address: of a Ray cluster that runs, `auto` for the one of this machine; without it one is started.
            Only with `pool: ray`.
        kernels: merge passes as `plain` torch or `compiled`; `auto` compiles for large models. Same bits.
        experts: where the experts' weights lie for a GPU: `mapped` files, `pinned` host memory, `resident` on
            the device, or `auto` by what fits.
        gpus: what each worker on Ray is given: a share of a device, one, or several over which its model is
            spread.
        deadline: seconds after which a candidate is given up; `auto` is four times the slowest baseline, at
            least a minute, and so many times as long for a split with more items than the search's. A
            gradient that costs more than an evaluation has so many times as long.
    """

    pool: Literal["inline", "local", "ray"] = "local"
    count: PositiveInt = 1
    address: str | None = None
    kernels: Literal["auto", "plain", "compiled"] = "auto"
    experts: Literal["auto", "mapped", "pinned", "resident"] = "auto"
    gpus: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    deadline: PositiveFloat | Literal["auto"] = "auto"


class TokenSection(_Section):
    """Where the row of a token comes from, in models that lack it.

    Attributes:
        source: `base` or an expert's name; a row of zeros where absent.
        token: text or number of the token of that model whose row it is; the same token where absent.
        force: whether every model gets this row, those that have the token too.
    """

    source: str = ""
    token: str | int | None = None
    force: bool = False


class TokenizerSection(_Section):
    """Whose vocabulary merges have, where those of base and experts differ.

    Attributes:
        source: `union`, `base` or an expert's name.
        tokens: token to where its row comes from; tokens that the vocabulary lacks are added to it.
        pad_to_multiple_of: embedding and head have as many rows as there are tokens, rounded up to a multiple
            of this, the further ones the mean of the others; where absent they have as many as the models.
    """

    source: str
    tokens: dict[str, TokenSection] = {}
    pad_to_multiple_of: PositiveInt | None = None


class BaselinesSection(_Section):
    """What a search is compared with.

    Attributes:
        single: coefficients tried for the best single-coefficient merge: one number for all experts and
            weights.
        ensemble: whether all experts answering as one, by the mean of their logits, stand in the tables: what
            merging gives up to be one model. It cannot be exported.
    """

    single: list[PositiveFloat] = [0.2, 0.4, 0.6, 0.8, 1.0, 1.2]
    ensemble: bool = False

    @field_validator("single")
    @classmethod
    def _distinct(cls, value: list[float]) -> list[float]:
        if len({f"{c:g}" for c in value}) != len(value):
            raise ValueError("E130", "a coefficient is listed twice")
        return value


class CampaignFile(_Section):
    """A campaign: all that must be stated before a search may start. Paths are relative to the file.

    Attributes:
        schema: version of this form.
        name: what the campaign is called in tables, cards and trackers.
        seed: from which every random choice of the search follows.
        base: the model that the experts are fine-tunes of.
        experts: name to fine-tune: a full model or a PEFT adapter.
        search_space: a search-space file.
        evaluators: evaluator files.
        objectives: what is searched for; two or more give a front.
        constraints: bounds that a candidate must keep, such as `code.acc >= 0.5` or
            `texts.perplexity <= 1.1 x base`.
        optimizer: who asks for candidates.
        stages: searches one after another, each from the front before it, instead of one search; needs a
            `layer_path` in the search space.
        budget: when to stop.
        evaluation: how candidates are held and scored.
        racing: give up candidates early; without it none is.
        workers: where candidates are evaluated.
        baselines: what the search is compared with.
        dtype: storage dtype of merges and exports; that of the base where absent.
        tokenizer: whose vocabulary merges have; needed where vocabularies differ.
        rope: whose rotary positions merges have, `base` or an expert; those of the base where absent.
        heads: `untie` gives every model a head of its own, where only some have one; `keep:EXPERT` gives all
            the head of that one; `each` leaves experts theirs beside the merged body, for evaluators to name.
        towers: `text` merges experts that are decoders into the text tower of a base that sees or hears too.
        results: a folder of evaluations that campaigns share: what one has measured none measures again.
    """

    schema_: Annotated[Literal[1], Field(alias="schema")]
    name: str
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    base: CheckpointReference
    experts: dict[ExpertName, CheckpointReference]
    search_space: str
    evaluators: list[str]
    objectives: list[ObjectiveSection]
    constraints: list[ConstraintText] = []
    optimizer: OptimizerSection = OptimizerSection()
    stages: list[StageSection] = []
    budget: BudgetSection
    evaluation: EvaluationSection = EvaluationSection()
    racing: RacingSection | None = None
    workers: WorkersSection = WorkersSection()
    baselines: BaselinesSection = BaselinesSection()
    dtype: Literal["bfloat16", "float16", "float32"] | None = None
    tokenizer: TokenizerSection | None = None
    rope: str | None = None
    towers: Literal["text"] | None = None
    heads: Annotated[str, Field(json_schema_extra={"pattern": HEADS})] | None = None
    results: str | None = None

    @field_validator("name")
    @classmethod
    def _plain_name(cls, value: str) -> str:
        if not NAME.fullmatch(value):
            raise ValueError("E136", "a name has letters, digits, `.`, `_` and `-` only")
        return value

    @field_validator("heads", mode="before")
    @classmethod
    def _known_heads(cls, value: Any) -> Any:
        if value is not None and not (isinstance(value, str) and re.search(HEADS, value)):
            raise ValueError("E108", "must be `untie`, `each`, `keep:EXPERT` or `keep:base`")
        return value

    @field_validator("experts")
    @classmethod
    def _expert_names(cls, value: dict[str, CheckpointReference]) -> dict[str, CheckpointReference]:
        if not value:
            raise ValueError("E116", "a merge needs at least one expert besides the base")
        return value

    @field_validator("evaluators")
    @classmethod
    def _some_evaluator(cls, value: list[str]) -> list[str]:
        if not value:
            raise ValueError("E122", "give at least one evaluator file")
        if len(set(value)) != len(value):
            raise ValueError("E122", "an evaluator is listed twice")
        return value

    @field_validator("objectives")
    @classmethod
    def _some_objective(cls, value: list[ObjectiveSection]) -> list[ObjectiveSection]:
        if not value:
            raise ValueError("E130", "give at least one objective")
        names = [objective.metric for objective in value]
        if len(set(names)) != len(names):
            raise ValueError("E130", "a metric is an objective twice")
        return value
