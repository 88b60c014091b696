"""mergekit's merge methods in our words: their parameters, and the options that give their semantics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from evomerge.recipe.catalogue import METHODS

Scope = Literal["shared", "non_base", "input"]


@dataclass(frozen=True)
class Parameter:
    """A parameter of a mergekit method.

    Attributes:
        name: mergekit's.
        scope: one value for the merge, one for each input but the base, or one for each input.
        default: a flag (bool) or a number; None if it must be given.
        coefficient: our name; empty for flags and for what has no effect.
        effect: whether it changes the result.
    """

    name: str
    scope: Scope
    default: float | bool | None
    coefficient: str = ""
    effect: bool = True

    @property
    def is_flag(self) -> bool:
        """Whether its values are true and false."""
        return isinstance(self.default, bool)


@dataclass(frozen=True)
class SpokenMethod:
    """A method both programs know.

    Attributes:
        name: in mergekit.
        ours: name of the `MergeMethod`.
        base: whether mergekit demands a base model, allows one, or takes it as an input like any other.
        parameters: all it has.
    """

    name: str
    ours: str
    base: Literal["required", "optional", "input"]
    parameters: tuple[Parameter, ...]

    def parameter(self, name: str) -> Parameter | None:
        """The parameter called `name`, or None."""
        return next((p for p in self.parameters if p.name == name), None)

    def options(self, flags: Mapping[str, bool], with_base: bool) -> dict[str, str | float | bool]:
        """Our options that give mergekit's semantics; those at our default are left out."""
        method = METHODS[self.ours]
        chosen: dict[str, str] = {**dict(method.mergekit)}
        available = dict(method.options)
        if "divisor" in available and "normalize" in flags:
            chosen["divisor"] = "weight" if flags["normalize"] else "none"
        if "rescale" in available and "rescale" in flags:
            chosen["rescale"] = "l1" if flags["rescale"] else "none"
        if "normalise" in available:
            shares = flags.get("normalize", flags.get("normalize_weights", True))
            chosen["normalise"] = "yes" if shares else "no"
        if flags.get("filter_wise") or not flags.get("nuslerp_flatten", True):
            # mergekit's `row_wise` runs along the first axis.
            chosen["along"] = "columns" if flags.get("nuslerp_row_wise") else "rows"
        if "around" in available:
            chosen["around"] = "base" if with_base else "zero"
        return {name: value for name, value in chosen.items() if value != available[name][0]}


def _weights(name: str, ours: str, normalize: bool, *more: Parameter, sparse: bool) -> SpokenMethod:
    """A method of the task-vector family, whose members share their parameters."""
    return SpokenMethod(
        name,
        ours,
        "required",
        (
            Parameter("weight", "non_base", None, "weight"),
            Parameter("density", "non_base", 1.0, "density" if sparse else "", sparse),
            Parameter("normalize", "shared", normalize),
            Parameter("rescale", "shared", name.startswith(("dare", "della")), effect=sparse),
            Parameter("lambda", "shared", 1.0, "lambda"),
            Parameter("int8_mask", "shared", False, effect=False),
            *more,
        ),
    )


_GAMMA = Parameter("gamma", "non_base", 0.01, "gamma")
_EPSILON = Parameter("epsilon", "non_base", 0.15, "epsilon")

SPOKEN: dict[str, SpokenMethod] = {
    method.name: method
    for method in (
        SpokenMethod(
            "linear", "linear", "input",
            (Parameter("weight", "input", None, "weight"), Parameter("normalize", "shared", True)),
        ),
        SpokenMethod("slerp", "slerp", "required", (Parameter("t", "shared", None, "t"),)),
        SpokenMethod(
            "nuslerp", "nuslerp", "optional",
            (
                Parameter("weight", "non_base", None, "weight"),
                Parameter("nuslerp_flatten", "shared", True),
                Parameter("nuslerp_row_wise", "shared", False),
            ),
        ),
        SpokenMethod(
            "multislerp", "multislerp", "optional",
            (
                Parameter("weight", "non_base", None, "weight"),
                Parameter("normalize_weights", "shared", True),
                Parameter("eps", "shared", 1e-8, effect=False),
            ),
        ),
        SpokenMethod(
            "karcher", "karcher", "input",
            (
                Parameter("max_iter", "shared", 10.0, effect=False),
                Parameter("tol", "shared", 1e-5, effect=False),
            ),
        ),
        SpokenMethod(
            "model_stock", "model_stock", "required", (Parameter("filter_wise", "shared", False),)
        ),
        SpokenMethod(
            "sce", "sce", "required",
            (
                Parameter("select_topk", "shared", 1.0, "density"),
                Parameter("int8_mask", "shared", False, effect=False),
            ),
        ),
        SpokenMethod("ram", "ram", "required", (Parameter("epsilon", "shared", 1e-5, "epsilon"),)),
        SpokenMethod(
            "ramplus_tl", "ram", "required",
            (
                Parameter("r", "shared", 0.1, "r"),
                Parameter("alpha", "shared", 0.2, "alpha"),
                Parameter("epsilon", "shared", 1e-5, "epsilon"),
            ),
        ),
        _weights("task_arithmetic", "task_arithmetic", False, sparse=False),
        _weights("ties", "ties", True, sparse=True),
        _weights("dare_linear", "dare_linear", False, sparse=True),
        _weights("dare_ties", "dare_ties", False, sparse=True),
        _weights("breadcrumbs", "breadcrumbs", False, _GAMMA, sparse=True),
        _weights("breadcrumbs_ties", "breadcrumbs_ties", False, _GAMMA, sparse=True),
        _weights("della_linear", "della_linear", False, _EPSILON, sparse=True),
        _weights("della", "della", True, _EPSILON, sparse=True),
        SpokenMethod("nearswap", "nearswap", "required", (Parameter("t", "shared", None, "t"),)),
        SpokenMethod("arcee_fusion", "arcee_fusion", "required", ()),
        SpokenMethod(
            "passthrough", "linear", "input", (Parameter("scale", "input", 1.0, "weight"),)
        ),
    )
}  # fmt: skip
