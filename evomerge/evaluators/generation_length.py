"""Length: how many tokens a model writes, greedily, until it ends by itself or at a cap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import PositiveInt

from evomerge.evaluators.item_evaluator import ItemEvaluator
from evomerge.evaluators.item_files import ItemsDeclaration, SplitFiles
from evomerge.evaluators.items import Item, json_lines
from evomerge.objectives.scores import Scores, Split

if TYPE_CHECKING:
    from evomerge.evaluators.evaluator import Subject


class LengthDeclaration(ItemsDeclaration):
    """Tokens written in answer to prompts.

    Attributes:
        prompts: a JSON-lines file, dealt out by content; or one file for each split.
        field: the field of a line that holds the prompt.
        max_tokens: cap; an answer that reaches it counts as so many tokens.
        apply_chat_template: wrap prompts in the tokenizer's chat template.
    """

    source: ClassVar[str] = "prompts"

    kind: Literal["length"]
    prompts: str | SplitFiles
    field: str = "prompt"
    max_tokens: PositiveInt = 128
    apply_chat_template: bool = False

    def read(self, path: Path) -> list[Item]:
        """The lines of a file."""
        return json_lines(path, [self.field])

    def directions(self) -> dict[str, bool | None]:
        """`tokens` is the mean length, `capped` the share of answers that reached the cap."""
        return {f"{self.name}.tokens": None, f"{self.name}.capped": False}


class Length(ItemEvaluator):
    """Writes answers in batches, padded on the left."""

    declaration: LengthDeclaration

    def evaluate(self, subject: Subject, split: Split, blocks: Sequence[int] | None = None) -> Scores:
        """See `Evaluator.evaluate`. A model with logits that are not finite would write all the same."""
        from evomerge.evaluators.canary import check_logits, must_chat

        if self.declaration.apply_chat_template:
            must_chat(subject, self.declaration)
        check_logits(subject.model, subject.tokenizer, [])
        return super().evaluate(subject, split, blocks)

    def measure(self, subject: Subject, items: Sequence[Item]) -> Mapping[str, Sequence[float]]:
        """Length of each answer and whether it reached the cap (0 or 1)."""
        rows = [self._prompt(subject, str(item[self.declaration.field])) for item in items]
        # Longest first, so that like lengths share a batch.
        order = sorted(range(len(rows)), key=lambda i: (-len(rows[i]), i))
        lengths = [0.0] * len(rows)
        for start in range(0, len(rows), subject.batch_size):
            chosen = order[start : start + subject.batch_size]
            for index, length in zip(
                chosen, self._write(subject, [rows[i] for i in chosen]), strict=True
            ):
                lengths[index] = float(length)
        most = self.declaration.max_tokens
        return {"tokens": lengths, "capped": [float(length >= most) for length in lengths]}

    def _prompt(self, subject: Subject, text: str) -> list[int]:
        tokenizer: Any = subject.tokenizer
        if self.declaration.apply_chat_template:
            turns = [{"role": "user", "content": text}]
            text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        special = not self.declaration.apply_chat_template
        tokens = list(tokenizer(text, add_special_tokens=special)["input_ids"])
        return tokens or [_filler(subject)]

    def _write(self, subject: Subject, rows: Sequence[list[int]]) -> list[int]:
        """Tokens written after each row, without the one that ends it."""
        import torch

        model: Any = subject.model
        width = max(map(len, rows))
        filler = _filler(subject)
        tokens = torch.tensor(
            [[filler] * (width - len(row)) + row for row in rows], device=model.device
        )
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
        ends = _ends(subject)
        with torch.inference_mode():
            written = model.generate(
                input_ids=tokens,
                attention_mask=mask.to(model.device),
                do_sample=False,
                temperature=None,
                top_p=None,
                top_k=None,
                max_new_tokens=self.declaration.max_tokens,
                eos_token_id=ends or None,
                pad_token_id=filler,
            )
        answers = written[:, width:].tolist()
        return [next((i for i, t in enumerate(row) if t in ends), len(row)) for row in answers]


def _ends(subject: Subject) -> list[int]:
    """Ids of the tokens at which an answer ends."""
    known = getattr(subject.model.generation_config, "eos_token_id", None)
    listed = known if isinstance(known, list) else [known]
    return sorted({token for token in (*listed, subject.tokenizer.eos_token_id) if token is not None})


def _filler(subject: Subject) -> int:
    for token in (subject.tokenizer.pad_token_id, subject.tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    return 0
