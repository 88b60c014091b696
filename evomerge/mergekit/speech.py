"""How merged sources are said in mergekit's words: method, flags, numbers, and what is lost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from evomerge.merge.passes.scalars import normalised
from evomerge.mergekit.methods import SPOKEN
from evomerge.recipe.catalogue import METHODS
from evomerge.recipe.method import MethodOptions
from evomerge.recipe.recipe import MergedSource

Numbers = dict[str, dict[str, float]]
"""Coefficient to input (or `*`) to its value for one tensor."""

STILL = (
    "NuSLERP of a tensor that one expert leaves as it is: mergekit takes the two for perpendicular and adds "
    "sin(s pi/2) of what the other changed, s its share; here it is s of it"
)
"""A difference on whole tensors; along rows and columns ours is mergekit's."""


@dataclass(frozen=True)
class Said:
    """A method in mergekit's words.

    Attributes:
        name: of the method.
        base: name of the source that is `base_model`, or None.
        flags: for the whole file.
        speak: our numbers for one tensor of a source to mergekit's.
        differences: what mergekit does otherwise.
    """

    name: str
    base: str | None
    flags: Mapping[str, bool]
    speak: Callable[[Numbers, MergedSource], Numbers]
    differences: tuple[str, ...]


def say(sources: Sequence[MergedSource]) -> Said:
    """Put merged sources of one method, with the same options, into mergekit's words."""
    source = sources[0]
    method = METHODS[source.method]
    options = method.resolve(source.options)
    spoken = SPOKEN[source.method]
    if source.method == "ram" and any(map(_is_ram_plus, sources)):
        spoken = SPOKEN["ramplus_tl"]
    lost: list[str] = []
    flags: dict[str, bool] = {}
    inverse = False
    if spoken.parameter("normalize") is not None:
        flags["normalize"] = options.divisor in ("weight", "count")
    if spoken.parameter("normalize_weights") is not None:
        flags["normalize_weights"] = options.normalise == "yes"
    if spoken.parameter("filter_wise") is not None:
        flags["filter_wise"] = options.along == "rows"
    if spoken.parameter("nuslerp_flatten") is not None:
        flags["nuslerp_flatten"] = options.along == "tensor"
        flags["nuslerp_row_wise"] = options.along == "columns"
    if options.rescale is not None:
        # 1/density can be said in the weights, where nothing divides by their sum.
        inverse = options.rescale == "inverse" and method.sparsify == "bernoulli"
        inverse = inverse and not flags.get("normalize", False)
        flags["rescale"] = options.rescale != "none" and not inverse
        if options.rescale == "inverse" and not inverse:
            lost.append("rescaled by 1/p; mergekit matches the sum of magnitudes")
    if method.elect and options.election == "before":
        lost.append("signs were elected before the weights; mergekit elects after them")
    if method.elect and options.divisor == "count":
        lost.append("divided by the number of agreeing experts; mergekit divides by their weights")
    if options.trim == "model":
        lost.append("trimmed over the whole model; mergekit trims tensor by tensor")
    if options.rounding == "decimal":
        lost.append("mergekit rounds the number of kept entries in binary, which can be one less")
    if source.method in ("model_stock", "ram") and any(s.coefficients.get("lambda") for s in sources):
        lost.append(f"mergekit's {spoken.name} has no lambda")
    if source.method == "arcee_fusion":
        lost.append(
            "mergekit finds the quartiles of large tensors from a random million of their entries"
        )
        if any(s.coefficients.get("iqr") for s in sources):
            lost.append(
                "mergekit's arcee_fusion keeps what is 1.5 interquartile ranges above the median"
            )
    if source.method == "nuslerp" and (options.around, options.along) == ("base", "tensor"):
        lost.append(STILL)
    if source.method == "karcher":
        lost += _karcher_losses(sources, options)

    def speak(numbers: Numbers, owner: MergedSource) -> Numbers:
        if spoken.ours == "ram":
            return {name: numbers[name] for name in numbers if spoken.parameter(name) is not None}
        return _SPEAKERS.get(source.method, _plainly)(numbers, owner, options, inverse)

    base = source.inputs[0] if source.method == "slerp" else source.base
    if spoken.base == "input" or options.around == "zero":
        base = None
    return Said(spoken.name, base, flags, speak, tuple(lost))


def _karcher_losses(sources: Sequence[MergedSource], options: MethodOptions) -> list[str]:
    lost = ["mergekit stops the Karcher iteration at 10 steps or 1e-5"]
    stated = [list(source.coefficients.get("weight", {}).values()) for source in sources]
    if any(table != tables[0] for tables in stated for table in tables):
        lost.append("mergekit's karcher has no weights")
    if options.around == "base":
        lost.append("mergekit's karcher takes the models, not their task vectors")
    return lost


def _plainly(numbers: Numbers, source: MergedSource, options: MethodOptions, inverse: bool) -> Numbers:
    if inverse and "density" in numbers:
        weights = {
            name: weight / numbers["density"][name] for name, weight in numbers["weight"].items()
        }
        return {**numbers, "weight": weights}
    return numbers


def _shares(numbers: Numbers, source: MergedSource, options: MethodOptions, inverse: bool) -> Numbers:
    """Linear merges: the shares themselves, so that nothing is left to divide."""
    weights = numbers["weight"]
    if options.normalise == "no":
        return {"weight": weights}
    return {"weight": dict(zip(weights, normalised(list(weights.values())), strict=True))}


def _position(numbers: Numbers, source: MergedSource, options: MethodOptions, inverse: bool) -> Numbers:
    """NuSLERP: the position as two weights."""
    t = numbers["t"]["*"]
    return {"weight": dict(zip(source.inputs, (1.0 - t, t), strict=True))}


def _nothing(numbers: Numbers, source: MergedSource, options: MethodOptions, inverse: bool) -> Numbers:
    return {}


def _topk(numbers: Numbers, source: MergedSource, options: MethodOptions, inverse: bool) -> Numbers:
    return {"select_topk": numbers["density"]}


def _is_ram_plus(source: MergedSource) -> bool:
    return any(any(table.values()) for table in source.coefficients.get("r", {}).values())


_SPEAKERS = {
    "linear": _shares,
    "nuslerp": _position,
    "karcher": _nothing,
    "model_stock": _nothing,
    "arcee_fusion": _nothing,
    "sce": _topk,
}
