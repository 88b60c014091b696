"""Generated answers on a live model: lm-eval's prompts and post-processing, rows that end by themselves.

Batches, their order, padding, truncation and what becomes of the text are lm-eval's own (`HFLM`), so
that greedy answers are those of stock lm-eval. What differs is how long a batch runs: a row ends at its
stop sequence, at the end-of-text token, at the token cap or when it repeats itself, and the batch ends
with its last row.

A row *loops* when its last `LOOP_TOKENS` tokens are one n-gram of at most `LOOP_PERIOD` tokens over and
over. A greedy model never leaves such a loop in practice, so that the rest of the cap is filled with
the n-gram instead of being computed: the text is what the model would have gone on to write.
"""

from __future__ import annotations

import json
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import StoppingCriteria, StoppingCriteriaList

if TYPE_CHECKING:
    from evomerge.evaluators.evaluator import Subject

LOOP_TOKENS = 64
"""Length of a repetition that counts as a loop, in tokens: four times the longest n-gram."""

LOOP_PERIOD = 16
LOOK_EVERY = 8
"""Steps between looks for loops; a look costs as much as `LOOP_PERIOD` comparisons of a row."""


@dataclass(frozen=True)
class Generation:
    """One answer: its text, how many tokens were written (the filling of a loop counted), if it loops."""

    text: str
    tokens: int
    looped: bool


class Generator(Protocol):
    """Writes answers to prompts; the seam behind which another engine may stand."""

    def generate(self, requests: Sequence[tuple[str, Mapping[str, Any]]]) -> list[Generation]:
        """One answer for each (prompt, lm-eval generation settings), in order."""


GeneratorFactory = Callable[["Subject"], Generator]


class _Reports:
    """lm-eval tells its cache hook of each answer, in the order of the rows of a batch."""

    def __init__(self) -> None:
        self.rows: deque[tuple[int, bool]] = deque()
        self.found: dict[str, deque[tuple[int, bool]]] = defaultdict(deque)

    def add_partial(self, kind: str, request: tuple[str, Mapping[str, Any]], answer: str) -> None:
        """Note what is known of the row that gave this answer."""
        self.found[_key(*request)].append(self.rows.popleft())


class LiveGenerator(HFLM):  # type: ignore[misc]
    """lm-eval's model class with a generation step whose rows end by themselves."""

    def generate(self, requests: Sequence[tuple[str, Mapping[str, Any]]]) -> list[Generation]:
        """See `Generator.generate`."""
        self.cache_hook = reports = _Reports()
        instances = [
            Instance("generate_until", {}, (prompt, dict(settings)), number)
            for number, (prompt, settings) in enumerate(requests)
        ]
        texts = self.generate_until(instances, disable_tqdm=True)
        found = [reports.found[_key(*request)].popleft() for request in requests]
        return [Generation(text, *row) for text, row in zip(texts, found, strict=True)]

    def _model_generate(
        self, context: torch.Tensor, max_length: int, stop: list[str], **settings: Any
    ) -> torch.Tensor:
        if settings.get("do_sample") is None and not settings.get("temperature"):
            settings["do_sample"] = False
        if not settings.get("do_sample") and not settings.get("temperature"):
            settings.pop("temperature", None)
        final = settings.get("eos_token_id", self.model.generation_config.eos_token_id)
        final = final if isinstance(final, list) else [final]
        begin = context.shape[1]
        filled = torch.full((len(context), max_length), self.tokenizer.pad_token_id)
        rows = self._written(context, max_length, stop, final, **settings)
        for row, (kept, period) in enumerate(rows):
            if period:
                kept = kept + (kept[-period:] * (max_length // period + 1))[: max_length - len(kept)]
            filled[row, : len(kept)] = torch.tensor(kept)
            self.cache_hook.rows.append((len(kept) - begin, period > 0))
        return filled

    def _written(
        self, context: torch.Tensor, max_length: int, stop: list[str], final: list[int], **settings: Any
    ) -> list[tuple[list[int], int]]:
        """Each row's prompt (padded on the left) and answer; the period of a loop it ends in, or 0."""
        ends = _RowEnds(self.tokenizer, stop, final, context.shape[1], context.shape[0])
        written = self.model.generate(
            input_ids=context,
            max_length=max_length,
            stopping_criteria=StoppingCriteriaList([ends]),
            pad_token_id=self.tokenizer.pad_token_id,
            use_cache=True,
            **settings,
        )
        return [
            (tokens[: end or len(tokens)], period)
            for tokens, end, period in zip(written.tolist(), ends.end, ends.period, strict=True)
        ]


class _RowEnds(StoppingCriteria):
    """Ends each row at a stop sequence, a `final` token or in a loop; where, and with which period.

    Stop sequences are looked for in the text of the last tokens, since a sequence may be written in
    other tokens than its own.
    """

    def __init__(
        self, tokenizer: Any, stop: Sequence[str], final: Sequence[int | None], begin: int, rows: int
    ) -> None:
        self.tokenizer, self.stop, self.begin = tokenizer, [text for text in stop if text], begin
        self.final = set(final)
        longest = max(
            (len(tokenizer.encode(text, add_special_tokens=False)) for text in self.stop), default=0
        )
        self.window = longest + 2
        self.end: list[int] = [0] * rows
        self.period: list[int] = [0] * rows

    def __call__(self, tokens: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        """Bool [rows]: which rows have ended."""
        length = tokens.shape[1]
        going = [row for row, end in enumerate(self.end) if not end]
        recent = tokens[going, max(self.begin, length - self.window) :]
        last = tokens[going, -1].tolist()
        for row, text, token in zip(going, self.tokenizer.batch_decode(recent), last, strict=True):
            if token in self.final or any(stop in text for stop in self.stop):
                self.end[row] = length
        if (length - self.begin) % LOOK_EVERY == 0 and length - self.begin > LOOP_TOKENS:
            self._end_loops(tokens, length)
        return torch.tensor([end > 0 for end in self.end], device=tokens.device)

    def _end_loops(self, tokens: torch.Tensor, length: int) -> None:
        tail = tokens[:, length - LOOP_TOKENS :]
        for period in range(1, min(LOOP_PERIOD, length - self.begin - LOOP_TOKENS) + 1):
            before = tokens[:, length - LOOP_TOKENS - period : length - period]
            for row in (tail == before).all(dim=1).nonzero().flatten().tolist():
                if not self.end[row]:
                    self.end[row], self.period[row] = length, period


def _key(prompt: str, settings: Mapping[str, Any]) -> str:
    return json.dumps([prompt, settings], sort_keys=True, default=str)
