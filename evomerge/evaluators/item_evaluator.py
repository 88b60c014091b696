"""Evaluators whose items lie in files of our own kinds: order, blocks and scores, whatever is measured."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from evomerge.evaluators.declaration import Declaration
from evomerge.evaluators.item_files import ItemsDeclaration
from evomerge.evaluators.items import Item
from evomerge.objectives.scores import Scores, Split, mean_metric

if TYPE_CHECKING:
    from evomerge.evaluators.evaluator import Subject


class DeclaredEvaluator:
    """What evaluators of our own kinds have in common: name and metrics are those declared."""

    declaration: Declaration

    @property
    def name(self) -> str:
        """Prefix of the metrics."""
        return self.declaration.name

    @property
    def metrics(self) -> tuple[str, ...]:
        """Full metric names."""
        return tuple(self.declaration.directions())


class ItemEvaluator(DeclaredEvaluator, ABC):
    """The evaluator of an `ItemsDeclaration`; see `Evaluator`.

    `ratios` names metrics that are no mean of what single items gave, and whose per-item results are
    linearised around the whole.
    """

    declaration: ItemsDeclaration
    ratios: ClassVar[tuple[str, ...]] = ()

    def __init__(self, declaration: ItemsDeclaration) -> None:
        self.declaration = declaration
        self._splits = declaration.splits()

    def item_count(self, split: Split) -> int:
        """Number of items of a split."""
        return len(self._splits[split].ids)

    def item_ids(self, split: Split) -> tuple[str, ...]:
        """Content hash of each item, in the fixed order."""
        return self._splits[split].ids

    def evaluate(self, subject: Subject, split: Split, blocks: Sequence[int] | None = None) -> Scores:
        """Score a model on a split, or on some of its blocks; see `Evaluator.evaluate`."""
        items, size = self._splits[split].items, self.declaration.block_size
        chosen = chosen_blocks(blocks, -(-len(items) // size))
        parts = [self.measure(subject, items[block * size : (block + 1) * size]) for block in chosen]
        values = {
            name: np.concatenate([np.asarray(part[name], dtype=np.float64) for part in parts])
            for name in parts[0]
        }
        return self.scores(values)

    @abstractmethod
    def measure(self, subject: Subject, items: Sequence[Item]) -> Mapping[str, Sequence[float]]:
        """What one block's items gave: name (without prefix) to a value for each item."""

    def scores(self, values: Mapping[str, np.ndarray]) -> Scores:
        """Metrics of the measured values, float64 [items] each; their means, if not overridden."""
        named = {f"{self.name}.{name}": array for name, array in values.items()}
        return Scores({name: mean_metric(array) for name, array in named.items()}, named)


def chosen_items(items: Sequence[int], count: int) -> None:
    """Whether these are numbers of `count` items, ascending, each once.

    Raises:
        ValueError: if not.
    """
    if list(items) != sorted(set(items) & set(range(count))):
        raise ValueError(f"items must be ascending, each once, in 0..{count - 1}: {list(items)[:10]}")


def chosen_blocks(blocks: Sequence[int] | None, count: int) -> list[int]:
    """The blocks to evaluate, all of `count` if none are named.

    Raises:
        ValueError: if one does not exist, or they are not ascending, each once.
    """
    known = range(count)
    chosen = list(known if blocks is None else blocks)
    if not chosen or chosen != sorted(set(chosen) & set(known)):
        raise ValueError(f"blocks must be ascending, each once, in 0..{count - 1}: {chosen}")
    return chosen
