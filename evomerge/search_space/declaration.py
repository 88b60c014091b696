"""A search-space file: a method, and how each of its coefficients varies over the model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, PositiveInt, model_validator

from evomerge.errors import ConfigError
from evomerge.files.yaml_file import load_yaml, validate
from evomerge.recipe.calibration import Calibration
from evomerge.recipe.method import Coefficient, MergeMethod, ranked_out_of_range
from evomerge.recipe.registered import changed_method, find_method, own_methods
from evomerge.recipe.rows import MOST_STEPS
from evomerge.search_space.layer_path import LayerPathSection
from evomerge.search_space.mixture_fields import MixtureSection

FieldKind = Literal["model", "band", "layer", "layer_module", "tensor", "row", "depth_curve", "lines"]


class CoefficientField(BaseModel):
    """How one coefficient varies over the model; either searched in [low, high] or fixed at value.

    `tensor` is a value for each weight matrix, with its bias, and one for the norms of a layer; the experts
    of a mixture share that of a matrix. `row` is a value for each output row (first axis) of a matrix, of up
    to 1,000,000 genes in all. A matrix that is stored as [in, out] (GPT-2's), stacked experts, and places
    whose matrices have different numbers of rows have one value, as with `tensor`. `depth_curve` interpolates
    linearly between `knots` values spread evenly over the layers; `lines` (LiNeS, Wang et al. 2025,
    arXiv:2410.17146) is `alpha + beta * l / (L - 1)` at layer l of L, with alpha in [low, high] and beta in
    [slope_low, slope_high].

    Attributes:
        field: one value for the whole `model`, for each of `bands` runs of layers (`band`), each `layer`,
            each `layer_module` (attention, MLP, norms of a layer), each weight matrix (`tensor`) or output
            `row`; or a curve over the depth: `depth_curve`, `lines`.
        bands: number of bands; goes with `field: band`.
        outside_layers: whether embedding, final norm and head have values of their `own`, or those of the
            first and last layers (`shared`); with `row` those of the norms there, and of no single row.
        low: least value; the coefficient's own bound where absent.
        high: largest value; the coefficient's own bound where absent.
        slope_low: least beta of `lines`; 0 where absent.
        slope_high: largest beta of `lines`; 1.5 where absent.
        knots: genes of a `depth_curve`.
        step: values lie on the grid of this step from `low`; finer differences are not tried.
        value: a fixed value, which is not searched; instead of `low` and `high`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    field: FieldKind = "model"
    bands: Annotated[int, Field(ge=1)] | None = None
    outside_layers: Literal["own", "shared"] = "own"
    low: FiniteFloat | None = None
    high: FiniteFloat | None = None
    slope_low: FiniteFloat | None = None
    slope_high: FiniteFloat | None = None
    knots: Annotated[int, Field(ge=2)] | None = None
    step: Annotated[FiniteFloat, Field(gt=0)] = 1e-3
    value: FiniteFloat | None = None

    @model_validator(mode="after")
    def _consistent(self) -> CoefficientField:
        if self.field == "band" and self.bands is None:
            raise ValueError("E119", "a banded field needs `bands`, the number of bands")
        if self.field != "band" and self.bands is not None:
            raise ValueError("E119", f"`bands` only goes with `field: band`, not {self.field}")
        if self.field == "depth_curve" and self.knots is None:
            raise ValueError("E119", "a depth curve needs `knots`, the number of its genes")
        if self.field != "depth_curve" and self.knots is not None:
            raise ValueError("E119", f"`knots` only goes with `field: depth_curve`, not {self.field}")
        sloped = self.slope_low is not None or self.slope_high is not None
        if self.field != "lines" and sloped:
            raise ValueError("E119", f"slopes only go with `field: lines`, not {self.field}")
        if self.slopes[0] >= self.slopes[1]:
            found = list(self.slopes)
            raise ValueError("E110", f"slope_low must be below slope_high; bounds are {found}")
        if self.value is not None and (self.low is not None or self.high is not None):
            raise ValueError("E110", "give either `value` (fixed) or `low` and `high`, not both")
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise ValueError("E110", f"low must be below high; bounds are [{self.low}, {self.high}]")
        return self

    @property
    def slopes(self) -> tuple[float, float]:
        """(low, high) of beta: [0, 1.5] unless stated."""
        low = 0.0 if self.slope_low is None else self.slope_low
        return low, 1.5 if self.slope_high is None else self.slope_high

    def bounds(self, coefficient: Coefficient) -> tuple[float, float]:
        """(low, high): what the file says, else the coefficient's own."""
        low = coefficient.low if self.low is None else self.low
        return low, coefficient.high if self.high is None else self.high

    def extent(self, coefficient: Coefficient) -> tuple[float, float]:
        """(least, largest) value a place can have."""
        if self.value is not None:
            return self.value, self.value
        low, high = self.bounds(coefficient)
        if self.field == "lines":
            return low + min(self.slopes[0], 0.0), high + max(self.slopes[1], 0.0)
        return low, high


class TrajectorySection(BaseModel):
    """The section `trajectory` of a search-space file: experts are checkpoints of one run, in file order.

    Attributes:
        strides: how far apart the checkpoints of a window may be at most; with 1 they follow one another.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    strides: PositiveInt = 1


class SearchSpaceDeclaration(BaseModel):
    """A search space: a merge method, and over what each of its coefficients varies.

    Where a ledger states `function`, the declaration can be read without the method, to look at a folder; to
    build the space it must be registered.

    Attributes:
        schema: version of this form.
        method: a merge method; `evomerge list methods` names them with their coefficients.
        coefficients: name of a coefficient to how it varies; one that is left out has its default.
        options: discrete settings of the method, by name.
        function: SHA-256 of the source of a registered method; filled in when the file is read.
        calibration: the text of methods that need statistics of the experts on inputs, an item a line, or
            an `.npz` of pictures; relative to the file that states it.
        calibration_sha256: SHA-256 of that text; filled in when the file is read.
        layer_path: searches the order of layers too; the method is then that of the source `merged`.
        trajectory: searches averages over windows of the experts, which are checkpoints of one run in the
            order of the campaign file; goes with `method: linear`.
        mixture: searches which MLPs become the experts of a mixture on top of the merge.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    schema_: Annotated[Literal[1], Field(alias="schema")]
    method: str
    coefficients: dict[str, CoefficientField] = {}
    options: dict[str, str | bool | float] = {}
    function: str = ""
    calibration: str = ""
    calibration_sha256: str = ""
    layer_path: LayerPathSection | None = None
    trajectory: TrajectorySection | None = None
    mixture: MixtureSection | None = None

    @property
    def calibrated(self) -> Calibration | None:
        """The calibration text, if there is one."""
        return Calibration(self.calibration, self.calibration_sha256) if self.calibration else None

    def located(self, folder: Path) -> SearchSpaceDeclaration:
        """The same with the calibration text found, its path relative to a folder.

        Raises:
            ConfigError: as `Calibration.content`.
        """
        text = self.calibrated
        if text is None:
            return self
        found = text.located(folder)
        own = {"calibration": found.path, "calibration_sha256": found.digest}
        return self.model_copy(update=own)

    @property
    def by_tensor(self) -> bool:
        """Whether it is laid over single weight matrices: some coefficient has a `tensor` or `row` field."""
        return any(field.field in ("tensor", "row") for field in self.coefficients.values())

    @property
    def by_row(self) -> bool:
        """Whether it is laid over single rows."""
        return any(field.field == "row" for field in self.coefficients.values())

    def with_own_rows(self) -> SearchSpaceDeclaration:
        """The same where rows outside the layers have genes of their own, whatever it says of them."""
        own = {
            name: field.model_copy(update={"outside_layers": "own"}) if field.field == "row" else field
            for name, field in self.coefficients.items()
        }
        return self.model_copy(update={"coefficients": own})

    @model_validator(mode="before")
    @classmethod
    def _own_function(cls, data: Any) -> Any:
        if not isinstance(data, dict) or not isinstance(name := data.get("method"), str):
            return data
        own = own_methods().get(name)
        return data if own is None else {"function": own.method.function, **data}

    @model_validator(mode="after")
    def _known_method(self) -> SearchSpaceDeclaration:
        try:
            method = find_method(self.method)
        except ConfigError as error:
            if self.function:
                return self
            raise ValueError(error.problems[0].code, error.problems[0].words) from None
        if changed_method(method, self.function) is not None:
            return self
        faults = method.faults(self.options)
        if faults:
            raise ValueError("E111", faults[0])
        if (method.on_inputs is None) != (not self.calibration):
            needs = "takes no" if self.calibration else "needs a"
            raise ValueError(
                "E119", f"{self.method} {needs} `calibration` text, a file with an item a line"
            )
        for name, field in self.coefficients.items():
            declared = method.coefficient(name)
            if declared is None:
                names = ", ".join(c.name for c in method.coefficients)
                raise ValueError("E111", f"{self.method} has no coefficient `{name}`; it has {names}")
            for value in field.extent(declared):
                rule = method.out_of_range(name, value) or self._weight_rule(method, name, value)
                if rule:
                    raise ValueError("E111", f"{rule}, found {value}")
            low, high = field.bounds(declared)
            if field.value is None and high - low < field.step:
                wrong = (
                    f"bounds of `{name}`: [{low}, {high}] with step {field.step} hold one value only"
                )
                raise ValueError("E110", wrong)
        if self.by_row:
            self._refuse_rows(method)
        plain = self.method == "linear" and not self.coefficients and not self.options
        if self.trajectory is not None and (not plain or self.layer_path is not None):
            wrong = "a `trajectory` goes with `method: linear` alone, without coefficients and options"
            raise ValueError("E119", wrong)
        if self.mixture is not None:
            others = {"layer_path": self.layer_path, "trajectory": self.trajectory}
            beside = [name for name, section in others.items() if section is not None]
            beside += ["field: row"] if self.by_row else []
            if beside:
                raise ValueError("E119", f"a `mixture` does not go with `{beside[0]}`")
        if method.sparsify == "ranked":
            density, epsilon = self._extent(method, "density"), self._extent(method, "epsilon")
            rule = ranked_out_of_range(*density, epsilon[1])
            if rule:
                raise ValueError(
                    "E111", f"{rule}; density in {list(density)}, epsilon up to {epsilon[1]}"
                )
        return self

    def _refuse_rows(self, method: MergeMethod) -> None:
        """A row's weight is a factor of its task vector, and nothing else."""
        if self.layer_path is not None:
            raise ValueError("E119", "`field: row` does not go with a `layer_path`")
        searched = [name for name, field in self.coefficients.items() if field.value is None]
        plain = method.scalars_with(method.resolve(self.options)) == "weights"
        if method.name != "task_arithmetic" or not plain or searched != ["weight"]:
            wrong = "`field: row` goes with the weight of task_arithmetic, and nothing else searched"
            raise ValueError("E119", wrong)
        field, declared = self.coefficients["weight"], method.coefficient("weight")
        assert declared is not None
        low, high = field.bounds(declared)
        if (high - low) / field.step > MOST_STEPS:
            raise ValueError(
                "E110", f"`field: row` has at most {MOST_STEPS} steps; take a larger `step`"
            )

    def _weight_rule(self, method: MergeMethod, name: str, value: float) -> str:
        """Why a weight may not be negative, where it may not."""
        if name != "weight" or value >= 0.0 or method.scalars in ("parts", "function"):
            return ""
        options = method.resolve(self.options)
        if method.elect and options.divisor == "weight":
            return "with `divisor: weight` a weight is at least 0: a sum near zero would divide"
        if method.scalars_with(options) != "weights":
            return f"a share of {method.name} is at least 0"
        return ""

    def _extent(self, method: MergeMethod, name: str) -> tuple[float, float]:
        declared = method.coefficient(name)
        assert declared is not None
        field = self.coefficients.get(name, CoefficientField(value=declared.default))
        return field.extent(declared)


def load_search_space(path: Path) -> SearchSpaceDeclaration:
    """Read a search-space file.

    Raises:
        ConfigError: with every fault found.
    """
    data, positions = load_yaml(path)
    return validate(SearchSpaceDeclaration, data, positions, str(path))
