"""Generated answers by transformers' continuous batching: a row that has ended makes room for the next.

Prompts, truncation and what becomes of the text are lm-eval's (`LiveGenerator`); only who shares a forward
pass differs, and that depends on prompts and answers alone, never on a clock. Keys and values lie in pages
(PagedAttention, Kwon et al. 2023, arXiv:2309.06180) that are made for one call and go with it, since weights
of the live model are others at the next.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig
from transformers.generation.continuous_batching.continuous_api import OutputRouter

from evomerge.evaluators.generation import (
    LOOK_EVERY,
    LOOP_PERIOD,
    LOOP_TOKENS,
    Generation,
    LiveGenerator,
)

if TYPE_CHECKING:
    from evomerge.evaluators.evaluator import Subject

PAGE = 32
"""Tokens whose keys and values lie together: answers are short, and a page is taken whole."""

BATCH_TOKENS = 1024
"""Most tokens of a forward pass; prompts beyond it are read in several."""

LOOK_SECONDS = 1.0
"""How often it is seen whether the thread that writes is still alive."""

_PLAIN = {"until", "max_gen_toks", "do_sample", "temperature"}
"""Settings of greedy generation; with any other, answers are written in padded batches."""


class ContinuousGenerator(LiveGenerator):
    """`LiveGenerator` with at most `batch_size` rows under way, each for itself."""

    batch_size_per_gpu: int
    _rows = 0

    def generate(self, requests: Sequence[tuple[str, Mapping[str, Any]]]) -> list[Generation]:
        """See `Generator.generate`."""
        if not all(_is_plain(settings) for _, settings in requests):
            return super().generate(requests)
        self._rows = self.batch_size_per_gpu
        try:
            # lm-eval then makes one batch of all that have the same settings.
            self.batch_size_per_gpu = max(1, len(requests))
            return super().generate(requests)
        finally:
            self.batch_size_per_gpu, self._rows = self._rows, 0

    def _written(
        self, context: torch.Tensor, max_length: int, stop: list[str], final: list[int], **settings: Any
    ) -> list[tuple[list[int], int]]:
        if not self._rows:
            return super()._written(context, max_length, stop, final, **settings)
        prompts = [
            row[kept > 0].tolist()
            for row, kept in zip(context, settings["attention_mask"], strict=True)
        ]
        cap = max_length - context.shape[1]
        model: Any = self.model
        config: Any = GenerationConfig
        manager = model.init_continuous_batching(
            config(
                max_new_tokens=cap,
                do_sample=False,
                eos_token_id=[token for token in final if token is not None] or -1,
                pad_token_id=self.tokenizer.pad_token_id,
            ),
            self._pages(prompts, cap),
        )
        answers = _Answers(_Ends(self.tokenizer, stop, final), cap, manager.cancel_queue.put)
        manager.output_router = answers
        # Before it starts: what shares a pass may not depend on who is quicker.
        answers.expect(manager.add_requests(prompts, cap, streaming=True))
        manager.start()
        try:
            while not answers.complete.wait(LOOK_SECONDS) and manager.is_running():
                pass
        finally:
            manager.stop()
            manager.destroy()
        if answers.error or answers.open:
            raise RuntimeError(f"continuous batching failed: {answers.error or 'it ended too early'}")
        return [
            (before + own, period)
            for before, (own, period) in zip(context.tolist(), answers.found.values(), strict=True)
        ]

    def _pages(self, prompts: Sequence[Sequence[int]], cap: int) -> ContinuousBatchingConfig:
        """Pages for the rows that may be under way at once, and no more: the card is not ours alone."""
        rows = min(self._rows, len(prompts))
        pages = math.ceil((max(map(len, prompts)) + cap) / PAGE) + 1
        wanted: dict[str, Any] = {
            "page_size": PAGE,
            "block_size": PAGE,  # as it was called before
            "num_blocks": rows * pages + 1,
            "max_batch_tokens": BATCH_TOKENS,
            "max_requests_per_batch": rows,
            # Graphs would be captured anew for each call; the others change who shares a pass, or its bits.
            "use_cuda_graph": False,
            "use_async_batching": False,
            "allow_block_sharing": False,
            "auto_switch_to_flash": False,
        }
        named = {each.name for each in fields(ContinuousBatchingConfig)}
        if "page_size" in named:
            del wanted["block_size"]
        return ContinuousBatchingConfig(**{k: v for k, v in wanted.items() if k in named})


def live_generator(subject: Subject) -> LiveGenerator:
    """The generator on the live model of a subject that it asks for."""
    kind = ContinuousGenerator if subject.generation == "continuous" else LiveGenerator
    return kind(pretrained=subject.model, tokenizer=subject.tokenizer, batch_size=subject.batch_size)


class _Answers(OutputRouter):
    """Takes each token in the thread that writes it, and ends rows before the next pass is put together.

    Attributes:
        found: by request, its tokens and the period of the loop they end in (0: none).
        open: requests whose answers are not complete.
        complete: set when there are none, or an error.
        error: what went wrong.
    """

    def __init__(self, ends: _Ends, cap: int, cancel: Callable[[str], None]) -> None:
        super().__init__()
        self.found: dict[str, tuple[list[int], int]] = {}
        self.open: set[str] = set()
        self.complete = threading.Event()
        self.error = ""
        self._ends, self._cap, self._cancel = ends, cap, cancel

    def expect(self, requests: Sequence[str]) -> None:
        """Name the requests, in the order of their prompts."""
        self.found = {name: ([], 0) for name in requests}
        self.open = set(requests)

    def deliver(self, output: Any) -> None:
        """Take what a request has written so far."""
        name = output.request_id
        if name not in self.open:
            return  # written after its end
        if output.error is not None:
            self.error = str(output.error)
            self.complete.set()
            return
        own, _ = self.found[name]
        for token in output.generated_tokens[len(own) :]:
            own.append(token)
            ended, period = self._ends.look(own)
            if ended or len(own) == self._cap:
                self.found[name] = (own, period)
                self.open.discard(name)
                if not output.is_finished():
                    self._cancel(name)
                break
        if not self.open:
            self.complete.set()

    def deliver_batch(self, outputs: Sequence[Any]) -> None:
        """The same of several."""
        for output in outputs:
            self.deliver(output)


class _Ends:
    """Where an answer ends: the rules of padded batches, for one row."""

    def __init__(self, tokenizer: Any, stop: Sequence[str], final: Sequence[int | None]) -> None:
        self.tokenizer, self.stop = tokenizer, [text for text in stop if text]
        self.final = set(final)
        longest = max(
            (len(tokenizer.encode(text, add_special_tokens=False)) for text in self.stop), default=0
        )
        self.window = longest + 2

    def look(self, tokens: Sequence[int]) -> tuple[bool, int]:
        """Whether an answer ends with its last token, and the period of the loop it ends in (0: none)."""
        if tokens[-1] in self.final:
            return True, 0
        text = self.tokenizer.decode(tokens[-self.window :])
        if any(stop in text for stop in self.stop):
            return True, 0
        count = len(tokens)
        if count % LOOK_EVERY == 0 and count > LOOP_TOKENS:
            tail = tokens[-LOOP_TOKENS:]
            for period in range(1, min(LOOP_PERIOD, count - LOOP_TOKENS) + 1):
                if tail == tokens[-LOOP_TOKENS - period : -period]:
                    return True, period
        return False, 0


def _is_plain(settings: Mapping[str, Any]) -> bool:
    greedy = not settings.get("do_sample") and not settings.get("temperature")
    return greedy and set(settings) <= _PLAIN
