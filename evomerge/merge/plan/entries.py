"""What a merge plan is made of: one entry an output tensor, as data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from evomerge.merge.passes.call import Call
from evomerge.merge.passes.row_rule import RowRule
from evomerge.merge.passes.sparsity import Sparsity


@dataclass(frozen=True)
class PlanInput:
    """One expert's part in an output tensor.

    Attributes:
        source: name of a checkpoint source; `tensor` the tensor's name in it.
        weight: factor in the sum.
        rows: a factor for each row (along the first axis), which `weight` then is not.
        threshold, ceiling, keep, spread, unbiased, rescale, key: see `Sparsity`.
    """

    source: str
    tensor: str
    weight: float = 1.0
    threshold: float = 0.0
    ceiling: float = math.inf
    keep: float = 1.0
    spread: float = 0.0
    unbiased: bool = False
    rescale: float = 1.0
    key: int = 0
    rows: tuple[float, ...] = ()

    @property
    def sparsity(self) -> Sparsity:
        """What survives of the task vector."""
        return Sparsity(
            self.threshold, self.ceiling, self.keep, self.spread, self.unbiased, self.rescale, self.key
        )

    @property
    def is_sparse(self) -> bool:
        """Whether the task vector is changed before it is weighted."""
        return not self.sparsity.keeps_all


@dataclass(frozen=True)
class TensorPlan:
    """One output tensor.

    Attributes:
        name: checkpoint name in the result.
        place: the finest place where it stands in the result.
        shape: extents.
        dtype: storage dtype; for tensors that are not floats, that of their source.
        base: (source, tensor) the task vectors are measured from, or None for a plain weighted sum.
        inputs: the experts, in the order of their names.
        election: whether signs must agree, and whether they are elected before or after the weights.
        divisor: what the sum of agreeing entries is divided by: nothing, their number, or the sum of
            their weights.
        factor: factor of the merged task vector; only with an election, else it is in the weights.
        least_variance: entries whose variance over the inputs is below this are dropped; 0 keeps all.
        scale: factor of the whole result.
        rule: how weights are found row by row; those of the inputs then count for nothing.
        call: a function that makes the whole tensor; weights and divisor then count for nothing.
    """

    name: str
    place: str
    shape: tuple[int, ...]
    dtype: str
    base: tuple[str, str] | None
    inputs: tuple[PlanInput, ...]
    election: Literal["none", "before", "after"] = "none"
    divisor: Literal["none", "count", "weight"] = "none"
    factor: float = 1.0
    least_variance: float = 0.0
    scale: float = 1.0
    rule: RowRule | None = None
    call: Call | None = None

    @property
    def elect(self) -> bool:
        """Whether signs must agree."""
        return self.election != "none"

    @property
    def is_sparse(self) -> bool:
        """Whether the sparsified pass is needed."""
        return self.elect or any(entry.is_sparse for entry in self.inputs)

    @property
    def by_row(self) -> bool:
        """Whether some input has a factor for each row."""
        return any(entry.rows for entry in self.inputs)

    @property
    def columns(self) -> int:
        """Length of the rows that blocks must keep whole: 1 where nothing looks at rows."""
        return row_length(self.shape) if any(entry.spread > 0.0 for entry in self.inputs) else 1


def row_length(shape: tuple[int, ...]) -> int:
    """Extent of the last axis; 1 for a scalar."""
    return shape[-1] if shape else 1


@dataclass(frozen=True)
class MergePlan:
    """A whole merge.

    Attributes:
        tensors: every tensor of the architecture once, in checkpoint order.
        dtype: storage dtype.
        layers: number of output layers.
        path: (source, layer, scale) of each output layer.
        config: keys that replace those of the tokenizer source's `config.json`; nested for configs that
            keep the decoder's part in `text_config`.
    """

    tensors: tuple[TensorPlan, ...]
    dtype: str
    layers: int
    path: tuple[tuple[str, int, float], ...]
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def by_name(self) -> dict[str, TensorPlan]:
        """The entries by checkpoint name."""
        return {entry.name: entry for entry in self.tensors}
