"""One tensor of a merged source: from coefficients and statistics to numbers for a pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Literal

from evomerge.checkpoint.adapter import AdapterFolder
from evomerge.checkpoint.folder import CheckpointFolder
from evomerge.errors import CheckpointError, ConfigError, Problem
from evomerge.merge.passes.call import Call
from evomerge.merge.passes.keys import mask_key
from evomerge.merge.passes.row_rule import RowRule
from evomerge.merge.passes.scalars import (
    LEAST_DIVISOR,
    LERP_ABOVE,
    NEARLY_ONE,
    karcher,
    model_stock,
    multislerp,
    normalised,
    slerp,
)
from evomerge.merge.plan.checked import checked_method
from evomerge.merge.plan.entries import PlanInput, row_length
from evomerge.merge.statistics.order import band_ranks
from evomerge.recipe.method import ranked_out_of_range
from evomerge.recipe.places import lookup
from evomerge.recipe.recipe import MergedSource

if TYPE_CHECKING:
    from evomerge.merge.statistics.weights import WeightStatistics

Folder = CheckpointFolder | AdapterFolder


@dataclass(frozen=True)
class Merged:
    """What a `TensorPlan` says of the method; see there."""

    base: tuple[str, str] | None
    inputs: tuple[PlanInput, ...]
    election: Literal["none", "before", "after"] = "none"
    divisor: Literal["none", "count", "weight"] = "none"
    factor: float = 1.0
    least_variance: float = 0.0
    rule: RowRule | None = None
    call: Call | None = None


class Merger:
    """Plans the tensors of one merged source.

    With `directions` each input's weight is the derivative of the merge by the number that its own weight
    becomes: no expert is left out for a weight of zero, and nothing is planned as a copy.

    Raises:
        ConfigError: E111, E114, E115, E118, E514, as `make_plan` says; all that hold together.
    """

    def __init__(
        self,
        source: MergedSource,
        where: str,
        folders: Mapping[str, Folder],
        statistics: WeightStatistics,
        directions: bool = False,
    ) -> None:
        self._source = source
        self._directions = directions
        self._where = where
        self._folders = folders
        self._method = checked_method(source, where)
        self._options = self._method.resolve(source.options)
        self._scalars = self._method.scalars_with(self._options)
        self._base = source.base if self._method.uses_base(self._options) else None
        self._names = sorted(source.inputs)
        self._ones = dict.fromkeys(self._names, 1.0)
        self._statistics = statistics
        self._calibrated = statistics.calibrated
        if source.shifts:
            taking_part = list(dict.fromkeys((source.reference, *source.inputs)))
            self._statistics = statistics.renumbered(taking_part, source.shifts)

    def tensor(self, tensor: str, place: str, shape: tuple[int, ...]) -> Merged:
        """The entry of a tensor whose coefficients stand at `place`."""
        for name in self._source.inputs:
            own = self._own(name, tensor)
            header = self._folders[name].tensors.get(own)
            if header is None or (own != tensor and header.shape != shape):
                code, wrong = "E220", f"{name} has no such tensor"
                if header is not None:
                    code, wrong = "E223", f"{name}: the layers merged here differ in shape"
                path = str(self._folders[name].path)
                raise CheckpointError(Problem(code, wrong, file=path, field=own))
        merged = self._tensor(tensor, place, shape)
        if not self._source.shifts:
            return merged
        inputs = [replace(one, tensor=self._own(one.source, one.tensor)) for one in merged.inputs]
        return replace(merged, inputs=tuple(inputs))

    def _own(self, name: str, tensor: str) -> str:
        """What a tensor of the virtual model is called in a source."""
        shift = self._source.shifts.get(name, 0)
        if not shift:
            return tensor
        folder = self._folders[name]
        full = folder.base if isinstance(folder, AdapterFolder) else folder
        return full.names.shifted(tensor, shift)

    def _tensor(self, tensor: str, place: str, shape: tuple[int, ...]) -> Merged:
        if self._method.makes_whole:
            return self._called(tensor, place)
        if self._method.sparsify == "variance":
            return self._varying(tensor, place)
        rule = self._row_rule(place)
        if rule is not None:
            names = self._source.inputs if rule.kind == "slerp" else self._names
            inputs = tuple(PlanInput(name, tensor) for name in names)
            return Merged(None if self._base is None else (self._base, tensor), inputs, rule=rule)
        weights = self._ones if self._directions else self._weights(tensor, place)
        if self._base is None:
            # Where all weights are zero, one input stays, that there be something to multiply by zero.
            stated = [(name, weights[name]) for name in self._names]  # a name may stand twice
            used = [(name, weight) for name, weight in stated if weight != 0.0] or stated[:1]
            return Merged(None, tuple(PlanInput(name, tensor, weight) for name, weight in used))
        strength = self._coefficient("lambda", None, place)
        touching = [name for name in self._names if self._touches(name, tensor)]
        election, divisor = self._vote(len(touching))
        folded = election == "none" or (election == "before" and divisor != "weight")
        inputs = tuple(
            self._input(name, tensor, place, shape, weights[name] * (strength if folded else 1.0))
            for name in touching
        )
        if len(inputs) == 1 and self._divides_by_weight:
            # The only one that takes part is divided by its own weight.
            whole = strength if abs(weights[touching[0]]) >= LEAST_DIVISOR else inputs[0].weight
            inputs = (replace(inputs[0], weight=whole),)
        if election != "before":
            # Without an election an expert of weight 0 has no part; in one before the weights it votes.
            inputs = tuple(entry for entry in inputs if entry.weight != 0.0)
        factor = 1.0 if folded else strength
        merged = Merged((self._base, tensor), inputs, election, divisor, factor)
        return merged if self._directions else self._simplest(tensor, merged)

    def _called(self, tensor: str, place: str) -> Merged:
        """A function of the whole tensor, with every expert.

        Nobody else knows what the numbers of a person's own do. A built-in one gives the base where no
        expert touches the tensor, and where all weights are zero; the latter is no matter to `directions`.
        """
        assert self._base is not None
        built_in = not self._method.function
        untouched = Merged(None, () if self._directions else (PlanInput(self._base, tensor),))
        if built_in and not any(self._touches(name, tensor) for name in self._names):
            return untouched
        numbers = tuple(
            (
                each.name,
                tuple(self._coefficient(each.name, name, place) for name in self._names)
                if each.per_input
                else self._coefficient(each.name, None, place),
            )
            for each in self._method.coefficients
        )
        idle = any(n == "weight" and not any(v) for n, v in numbers if isinstance(v, tuple))
        if built_in and idle and not self._directions:
            return untouched
        call = Call(self._method.name, self._method.function, numbers)
        kind, text = self._method.on_inputs, self._source.calibration
        if kind is not None and text is not None:
            wanted = [(name, self._own(name, tensor)) for name in self._names]
            given = partial(self._calibrated.tensors, kind, text, wanted)
            call = replace(call, calibration=text.digest, given=given)
        inputs = tuple(PlanInput(name, tensor) for name in self._names)
        return Merged((self._base, tensor), inputs, call=call)

    def _row_rule(self, place: str) -> RowRule | None:
        """How weights are found row by row; None where one number holds for the whole tensor."""
        axis = self._options.along
        if axis is None or axis == "tensor":
            return None
        if self._scalars == "model_stock":
            return RowRule("model_stock", axis, factor=self._coefficient("lambda", None, place))
        t = self._coefficient("t", None, place)
        # At its ends an arc is one of the two, whatever the rows.
        return RowRule("slerp", axis, t) if t not in (0.0, 1.0) else None

    def _simplest(self, tensor: str, merged: Merged) -> Merged:
        """The same, planned as a copy where it is one."""
        assert self._base is not None
        inputs = merged.inputs
        if not inputs:
            return Merged(None, (PlanInput(self._base, tensor),))
        if len(inputs) == 1 and merged.election == "none":
            only = inputs[0]
            if only.weight == 1.0 and not only.is_sparse and not only.rows:
                return Merged(None, inputs)
        return merged

    def _vote(
        self, voters: int
    ) -> tuple[Literal["none", "before", "after"], Literal["none", "count", "weight"]]:
        if not self._method.elect or voters < 2:
            return "none", "none"
        election = self._options.election or "before"
        return election, self._options.divisor or "none"

    @property
    def _divides_by_weight(self) -> bool:
        return self._method.elect and self._options.divisor == "weight"

    def _varying(self, tensor: str, place: str) -> Merged:
        """SCE: the entries that vary most, weighted by the energy they have in each expert."""
        assert self._base is not None
        density = self._coefficient("density", None, place)
        least = 0.0
        if density < 1.0 and len(self._names) > 1:
            least = self._statistics.least_variance(self._base, self._names, tensor, density)
        energies = self._statistics.energies(self._base, self._names, tensor, least)
        total = sum(energies)
        if total == 0.0:
            return Merged(None, (PlanInput(self._base, tensor),))
        shares = [energy / total for energy in energies]
        # An expert that does not touch the tensor counts in the variance.
        inputs = tuple(
            PlanInput(name, tensor, share) for name, share in zip(self._names, shares, strict=True)
        )
        if len(inputs) == 1:
            return Merged(None, inputs)
        return Merged((self._base, tensor), inputs, "before", "weight", 1.0, least)

    def _touches(self, name: str, tensor: str) -> bool:
        folder = self._folders[name]
        return not isinstance(folder, AdapterFolder) or tensor in folder.factors

    def _weights(self, tensor: str, place: str) -> dict[str, float]:
        """One number an input."""
        if self._scalars == "slerp":
            t = self._coefficient("t", None, place)
            first, second = self._source.inputs
            if first == second:
                return {first: 0.5}
            gram = self._statistics.gram(tensor, (first, second), self._base)
            above = LERP_ABOVE if self._method.name == "slerp" else NEARLY_ONE
            aa, ab, bb = float(gram[0, 0]), float(gram[0, 1]), float(gram[1, 1])
            return dict(zip((first, second), slerp(t, aa, ab, bb, above), strict=True))
        if self._scalars == "model_stock":
            ratio = model_stock(self._statistics.gram(tensor, self._names, self._base))
            return dict.fromkeys(self._names, ratio / len(self._names))
        found = [self._coefficient("weight", name, place) for name in self._names]
        used = [name for name, weight in zip(self._names, found, strict=True) if weight != 0.0]
        shares = self._options.normalise != "no"
        if self._scalars != "weights" and shares and len(used) == 1:
            # No rounding may stand between one expert alone and that expert.
            return {name: float(name == used[0]) for name in self._names}
        return dict(zip(self._names, self._reduced(found, tensor), strict=True))

    def _reduced(self, weights: Sequence[float], tensor: str) -> Sequence[float]:
        if self._scalars == "weights":
            return weights
        if self._scalars == "normalised":
            if self._base is not None and abs(sum(weights)) < LEAST_DIVISOR:
                return weights
            return normalised(weights)
        gram = self._statistics.gram(tensor, self._names, self._base)
        if self._scalars == "karcher":
            return karcher(weights, gram)
        return multislerp(weights, gram, self._options.normalise == "yes")

    def _input(
        self, name: str, tensor: str, place: str, shape: tuple[int, ...], weight: float
    ) -> PlanInput:
        plain = PlanInput(name, tensor, weight)
        rows = self._row_weights(name, place, shape)
        if rows:
            strength = self._coefficient("lambda", None, place)
            scaled = rows if strength == 1.0 else tuple(each * strength for each in rows)
            return replace(plain, weight=1.0, rows=scaled)
        kind = self._method.sparsify
        density = 1.0 if kind == "none" else self._coefficient("density", name, place)
        if density == 1.0 or self._base is None:
            return plain
        binary = self._options.rounding == "binary"
        rescale = self._options.rescale or "none"
        if kind == "magnitude" and self._options.trim == "model":
            threshold = self._statistics.model_threshold(self._base, name, density, binary)
            found = replace(plain, threshold=threshold)
        elif kind == "magnitude":
            threshold = self._statistics.threshold(self._base, name, tensor, density, binary)
            found = replace(plain, threshold=threshold)
        elif kind == "band":
            gamma = self._coefficient("gamma", name, place)
            found = self._banded(plain, density, gamma, binary)
        else:
            key = mask_key(self._source.seed, name, self._own(name, tensor))
            spread = self._spread(name, place, density) if kind == "ranked" else 0.0
            found = replace(plain, keep=density, spread=spread, key=key)
            if rescale == "inverse" and spread > 0.0:
                return replace(found, unbiased=True)
            if rescale == "inverse":
                return replace(found, rescale=1.0 / density)
        if rescale == "l1":
            columns = row_length(shape) if found.spread > 0.0 else 1
            factor = self._statistics.l1_factor(self._base, name, tensor, found.sparsity, columns)
            return replace(found, rescale=factor)
        return found

    def _row_weights(self, name: str, place: str, shape: tuple[int, ...]) -> tuple[float, ...]:
        """A weight for each row; none where rows share one, and where a bias has another length."""
        rows = self._source.rows
        if rows is None or self._directions:
            return ()
        found = rows.weights(name, place)
        return found if shape and shape[0] == len(found) else ()

    def _banded(self, plain: PlanInput, density: float, gamma: float, binary: bool) -> PlanInput:
        assert self._base is not None
        size = self._statistics.elements(self._base, plain.tensor)
        first, last = band_ranks(density, gamma, size, binary)

        def magnitude(place: int) -> float:
            assert self._base is not None
            return self._statistics.magnitude(self._base, plain.source, plain.tensor, place)

        if first > 1:
            plain = replace(plain, ceiling=magnitude(first))
        return replace(plain, threshold=magnitude(last))

    def _spread(self, name: str, place: str, density: float) -> float:
        epsilon = self._coefficient("epsilon", name, place)
        rule = ranked_out_of_range(density, density, epsilon)
        if rule:
            found = f"found density {density}, epsilon {epsilon}"
            raise self._fault(rule, found, f"coefficients.epsilon.{name}")
        return epsilon

    def _coefficient(self, name: str, expert: str | None, place: str) -> float:
        declared = self._method.coefficient(name)
        if declared is None:
            return 1.0  # lambda, which not every method has
        by_input = self._source.coefficients.get(name)
        if by_input is None and declared.may_be_left_out:
            return declared.default
        by_input = by_input or {}
        key = expert if expert is not None and expert in by_input else "*"
        where = f"coefficients.{name}.{expert or '*'}"
        try:
            value = lookup(by_input.get(key, {}), place)
        except KeyError:
            wrong = f"{self._method.name} needs a value of {name}"
            raise self._fault(wrong, f"none at {place}", where) from None
        rule = self._method.out_of_range(name, value)
        if rule:
            raise self._fault(rule, f"found {value}", where)
        return value

    def _fault(self, wrong: str, found: str, where: str) -> ConfigError:
        return ConfigError(Problem("E111", wrong, found, field=f"{self._where}.{where}"))
