"""What is judged, and what every evaluator offers: a `Subject` to `Scores`, item by item, in fixed blocks."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

import numpy as np

from evomerge.evaluators.declaration import Declaration
from evomerge.objectives.scores import Scores, Split
from evomerge.recipe.recipe import Recipe

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


GenerationEngine = Literal["padded", "continuous"]


@dataclass(frozen=True)
class Head:
    """A head that may take the place of a model's own.

    Attributes:
        parameters: name of a parameter of the model to what it is then; shapes may be others.
        labels: class name to its number.
    """

    parameters: Mapping[str, torch.Tensor]
    labels: Mapping[str, int]


@dataclass(frozen=True)
class Subject:
    """What is judged.

    Attributes:
        model: the live model, on `device`, in the dtype of the evaluation.
        tokenizer: its tokenizer; None of a model that reads no tokens.
        recipe: the merge it holds; None for a checkpoint scored as it stands.
        statistics: numbers known of the merge (norms, layer counts) by name.
        device: torch device the model is on.
        batch_size: rows of a batch (items, where an item is one row).
        generation: which engine writes the answers of generation tasks.
        folder: where the files of its processor lie, if they are known.
        heads: the heads that stay beside the model, by the name of whose they are.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    recipe: Recipe | None = None
    statistics: Mapping[str, float] = field(default_factory=dict)
    device: str = "cpu"
    batch_size: int = 32
    generation: GenerationEngine = "padded"
    folder: Path | None = None
    heads: Mapping[str, Head] = field(default_factory=dict)


@runtime_checkable
class Writer(Protocol):
    """An evaluator that may have answers written by an engine of the subject's choice."""

    def writes(self, split: Split) -> bool:
        """Whether the items of a split are answered in writing."""

    def evaluate(self, subject: Subject, split: Split, blocks: Sequence[int] | None = None) -> Scores:
        """See `Evaluator.evaluate`."""


class Evaluator(Protocol):
    """Scores subjects on the items of one benchmark.

    Items stand in the order of their content hashes, so that any prefix is a random sample, and are
    cut into blocks of a fixed size (the last may be shorter); no batch crosses a block, so the
    result of a block does not depend on which other blocks are evaluated.
    """

    @property
    def declaration(self) -> Declaration:
        """As it was declared."""

    @property
    def name(self) -> str:
        """Prefix of the metrics."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """Full metric names, for example `math.acc`."""

    def item_count(self, split: Split) -> int:
        """Number of items of a split."""

    def item_ids(self, split: Split) -> tuple[str, ...]:
        """Content hash of each item, in the fixed order."""

    def evaluate(self, subject: Subject, split: Split, blocks: Sequence[int] | None = None) -> Scores:
        """Score `subject` on all items of `split`, or on those of some blocks (ascending, each once).

        Raises:
            CandidateError: `nonfinite_logits`, if the model's outputs are not finite.
            ValueError: if a block does not exist.
        """


@runtime_checkable
class BlockEvaluator(Evaluator, Protocol):
    """An evaluator that can stop between blocks, as racing needs it."""

    @property
    def block_size(self) -> int:
        """Items of a block."""

    def by_block(
        self, subject: Subject, split: Split
    ) -> Generator[Mapping[str, np.ndarray], None, Scores]:
        """Score `subject` block by block; returns exactly what `evaluate` does.

        Yields the per-item results so far (float64 [items] by name, as `Scores.arrays`) between two blocks;
        nothing is yielded after the last one.
        """
