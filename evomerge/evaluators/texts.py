"""Classification of texts: items are JSON lines with `text` (and `text_pair`) and `label`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from evomerge.evaluators.classification import Classification, ClassificationDeclaration
from evomerge.evaluators.item_files import SplitFiles
from evomerge.evaluators.items import Item, json_lines
from evomerge.evaluators.perplexity import context_length

if TYPE_CHECKING:
    from evomerge.evaluators.evaluator import Subject


class TextClassificationDeclaration(ClassificationDeclaration):
    """Accuracy of a sequence classifier.

    Attributes:
        items: JSON lines with `text`, `label` and perhaps `text_pair`, dealt out by content; or one file for
            each split.
    """

    source: ClassVar[str] = "items"

    kind: Literal["text_classification"]
    items: str | SplitFiles

    def read(self, path: Path) -> list[Item]:
        """The lines of a file."""
        return json_lines(path, ("text", "label"))


class TextClassification(Classification):
    """Scores texts as the model's own tokenizer cuts them, padded by batch, no longer than it reads."""

    def inputs(self, subject: Subject, items: Sequence[Item]) -> Mapping[str, Any]:
        """Token ids and masks, int64 [items, longest]."""
        tokenizer: Any = subject.tokenizer
        pairs = [item.get("text_pair") for item in items]
        most = min(int(tokenizer.model_max_length), context_length(subject))
        encoded = tokenizer(
            [str(item["text"]) for item in items],
            [str(pair or "") for pair in pairs] if any(pairs) else None,
            padding=True,
            truncation=True,
            max_length=most,
            return_tensors="pt",
        )
        return {name: tensor.to(subject.device) for name, tensor in encoded.items()}
