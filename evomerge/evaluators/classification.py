"""Classification: how often the largest logit of an item is that of its class.

What an item is, a text or a picture, is the part of `texts` and `pictures`. Its smooth value is that of a
choice among the classes: `tanh(m / 2)`, m the logit of the right class minus the largest other one. Its loss
is the cross-entropy over the classes, or their entropy.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from evomerge.errors import CandidateError, ConfigError
from evomerge.evaluators.evaluator import Head
from evomerge.evaluators.item_evaluator import ItemEvaluator, chosen_items
from evomerge.evaluators.item_files import ItemsDeclaration
from evomerge.evaluators.items import Item
from evomerge.objectives.scores import Scores, Split

if TYPE_CHECKING:
    import torch

    from evomerge.evaluators.evaluator import Subject

_PLAIN = "LABEL_"
"""Begins the names that transformers gives to classes without names."""


class ClassificationDeclaration(ItemsDeclaration):
    """Items of which each has a `label`: the name of a class in the model's config, or its number.

    Attributes:
        head: whose head scores them, where heads stay beside the merge (`heads: each`).
    """

    by_block: ClassVar[bool] = True
    has_losses: ClassVar[bool] = True

    head: str | None = None

    def directions(self) -> dict[str, bool | None]:
        """`acc`, the share of items whose class has the largest logit."""
        return {f"{self.name}.acc": True}


class Classification(ItemEvaluator):
    """Scores items by the logits of a classifier."""

    declaration: ClassificationDeclaration

    @property
    def block_size(self) -> int:
        """Items of a block."""
        return self.declaration.block_size

    @abstractmethod
    def inputs(self, subject: Subject, items: Sequence[Item]) -> Mapping[str, Any]:
        """What the model is called with for some items, tensors on its device."""

    def measure(self, subject: Subject, items: Sequence[Item]) -> Mapping[str, Sequence[float]]:
        """Whether each item's class has the largest logit, and its margin (logits).

        Raises:
            CandidateError: `nonfinite_logits`.
            ConfigError: E128, items of a class that the model does not have.
        """
        import torch

        head = self._head(subject)
        classes = [self._class_of(item, head.labels) for item in items]
        found = []
        for start in range(0, len(items), subject.batch_size):
            with torch.inference_mode():
                part = self._logits(subject, head, items[start : start + subject.batch_size])
            found.append(part.float().cpu().numpy())
        logits = np.concatenate(found)
        if not np.isfinite(logits).all():
            raise CandidateError("nonfinite_logits", "the model's logits are not finite numbers")
        rows = np.arange(len(items))
        right = logits[rows, classes]
        others = logits.copy()
        others[rows, classes] = -np.inf
        acc = (logits.argmax(1) == classes).astype(np.float64)
        return {"acc": acc.tolist(), "margin": (right - others.max(1)).tolist()}

    def _logits(self, subject: Subject, head: Head, items: Sequence[Item]) -> torch.Tensor:
        import torch

        inputs = dict(self.inputs(subject, items))
        outputs = torch.func.functional_call(subject.model, dict(head.parameters), kwargs=inputs)
        found: torch.Tensor = outputs.logits
        return found

    def loss_directions(self, split: Split) -> dict[str, bool]:
        """See `Differentiable.loss_directions`: items of a class of the model's have losses."""
        return {f"{self.name}.acc": True}

    def has_choices(self, split: Split) -> bool:
        """See `Differentiable.has_choices`: the classes are."""
        return True

    def losses(
        self, subject: Subject, split: Split, items: Sequence[int], *, entropy: bool = False
    ) -> Iterator[tuple[tuple[int, ...], torch.Tensor]]:
        """Cross-entropy or entropy over the classes; see `Differentiable.losses`.

        Raises:
            ConfigError: E128, items of a class that the model does not have, where labels are looked at.
        """
        import torch

        known, head = self._splits[split].items, self._head(subject)
        chosen_items(items, len(known))
        for start in range(0, len(items), subject.batch_size):
            numbers = tuple(items[start : start + subject.batch_size])
            own = [known[number] for number in numbers]
            chances = self._logits(subject, head, own).double().cpu().log_softmax(dim=1)
            if entropy:
                yield numbers, -(chances.exp() * chances).sum(dim=1)
            else:
                right = torch.tensor([self._class_of(item, head.labels) for item in own])
                yield numbers, -chances.gather(1, right[:, None])[:, 0]

    def scores(self, values: Mapping[str, np.ndarray]) -> Scores:
        """Accuracy, its smooth value from the margins."""
        found = super().scores({"acc": values["acc"]})
        return found.with_smooth({f"{self.name}.acc": np.tanh(values["margin"] / 2.0)})

    def by_block(
        self, subject: Subject, split: Split
    ) -> Generator[Mapping[str, np.ndarray], None, Scores]:
        """See `BlockEvaluator.by_block`."""
        items, size = self._splits[split].items, self.block_size
        parts: list[Mapping[str, Sequence[float]]] = []
        for start in range(0, len(items), size):
            parts.append(self.measure(subject, items[start : start + size]))
            found = self.scores(
                {name: np.concatenate([np.asarray(p[name]) for p in parts]) for name in parts[0]}
            )
            if start + size < len(items):
                yield found.arrays()
        return found

    def _head(self, subject: Subject) -> Head:
        """The head that is named, where heads lie beside the model; else the model's own.

        Raises:
            ConfigError: E133, another name than those of the heads.
        """
        config: Any = subject.model.config
        own = {str(name): int(number) for name, number in config.label2id.items()}
        name = self.declaration.head
        if name is None or not subject.heads:
            return Head({}, own)
        if name not in subject.heads:
            todo = f"known: {', '.join(subject.heads)}"
            wrong = "no head of this name is beside the model"
            raise ConfigError(self.declaration.fault("head", "E133", wrong, f"found {name!r}", todo))
        return subject.heads[name]

    def _class_of(self, item: Item, labels: Mapping[str, int]) -> int:
        label = str(item["label"])
        plain = all(name.startswith(_PLAIN) for name in labels)
        number = labels.get(label, int(label) if plain and label.isdecimal() else -1)
        if not 0 <= number < len(labels):
            names = ", ".join(list(labels)[:10])
            raise ConfigError(
                self.declaration.fault(
                    self.declaration.source, "E128", "an item has a class that the model does not have",
                    f"label {label!r}; the model has {names}",
                )
            )  # fmt: skip
        return number
