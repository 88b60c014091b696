"""Perplexity on a plain text, window by window.

The text is cut at white space into windows of so many characters, whatever the tokenizer, so that every
model is asked the same items. A window is scored as lm-eval scores a document (`loglikelihood_rolling`):
every token once, after the tokenizer's first token or, in a window longer than the model's context, after
as many of the tokens before as fit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from evomerge.errors import CandidateError, ConfigError
from evomerge.evaluators.item_evaluator import ItemEvaluator, chosen_items
from evomerge.evaluators.item_files import ItemsDeclaration, SplitFiles
from evomerge.evaluators.items import Item, not_utf8
from evomerge.objectives.scores import Metric, Scores, Split, mean_metric

if TYPE_CHECKING:
    import torch

    from evomerge.evaluators.evaluator import Subject
    from evomerge.evaluators.packed import Request

DEFAULT_CONTEXT = 2048
"""Tokens of context where a model's config does not tell, as in lm-eval."""


class PerplexityDeclaration(ItemsDeclaration):
    """Perplexity per token on a text.

    Attributes:
        text: a UTF-8 text file, dealt out by content; or one file for each split.
        window: most characters of a window.
    """

    source: ClassVar[str] = "text"
    has_losses: ClassVar[bool] = True

    kind: Literal["perplexity"]
    text: str | SplitFiles
    window: Annotated[int, Field(ge=16, le=1_000_000)] = 1000

    def read(self, path: Path) -> list[Item]:
        """The windows of a text file."""
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise not_utf8(path) from None
        return [{"text": window} for window in windows(text, self.window)]

    def directions(self) -> dict[str, bool | None]:
        """`perplexity` per token; `loglikelihood` (nats) and `tokens` are means per window."""
        return {
            f"{self.name}.perplexity": False,
            f"{self.name}.loglikelihood": True,
            f"{self.name}.tokens": None,
        }

    def learnable(self) -> frozenset[str]:
        """All but `tokens`."""
        return super().learnable() - {f"{self.name}.tokens"}


def windows(text: str, most: int) -> list[str]:
    """A text cut at white space into pieces of at most `most` characters; blank ones are left out."""
    pieces = []
    start = 0
    while start < len(text):
        end = min(start + most, len(text))
        if end < len(text):
            # A word longer than half a window is cut; all others stay whole.
            space = next((i for i in range(end, start + most // 2, -1) if text[i].isspace()), None)
            end = space if space is not None else end
        pieces.append(text[start:end])
        start = end
    return [piece for piece in pieces if piece.strip()]


class Perplexity(ItemEvaluator):
    """Scores windows by summed log-likelihood; keeps those and the token counts for each window."""

    ratios = ("perplexity",)

    def measure(self, subject: Subject, items: Sequence[Item]) -> Mapping[str, Sequence[float]]:
        """Log-likelihood (nats) and number of tokens of each window."""
        from evomerge.evaluators.canary import must_write
        from evomerge.evaluators.packed import answer, pack

        must_write(subject, self.declaration)
        most = context_length(subject)
        rolled = [rolling_requests(subject, str(item["text"]), most) for item in items]
        flat = [request for requests in rolled for request in requests]
        head: Any = subject.model.get_output_embeddings()  # type: ignore[no-untyped-call]
        block = pack(
            [[request] for request in flat],
            "rows",
            batch_size=subject.batch_size,
            max_length=most,
            vocabulary=head.weight.shape[0],
            hidden=head.weight.shape[1],
            device=subject.model.device,
        )
        found = iter(answer(subject.model, block, greedy=False))
        sums = [math.fsum(next(found).loglikelihood for _ in requests) for requests in rolled]
        if not all(map(math.isfinite, sums)):
            raise CandidateError("nonfinite_logits", "a log-likelihood is not a finite number")
        tokens = [float(sum(len(r.continuation) for r in requests)) for requests in rolled]
        return {"loglikelihood": sums, "tokens": tokens}

    def loss_directions(self, split: Split) -> dict[str, bool]:
        """See `Differentiable.loss_directions`: all texts have losses; `tokens` is no quality."""
        return {f"{self.name}.perplexity": False, f"{self.name}.loglikelihood": True}

    def has_choices(self, split: Split) -> bool:
        """See `Differentiable.has_choices`: texts are none."""
        return False

    def losses(
        self, subject: Subject, split: Split, items: Sequence[int], *, entropy: bool = False
    ) -> Iterator[tuple[tuple[int, ...], torch.Tensor]]:
        """Negative log-likelihood per token of some windows; see `Differentiable.losses`."""
        from evomerge.evaluators.losses import Question, question_losses

        if entropy:
            wrong = "texts have no choices, and no entropy over them"
            raise ConfigError(self.declaration.fault("kind", "E148", wrong))
        texts = self._splits[split].items
        chosen_items(items, len(texts))
        most = context_length(subject)
        rolled = [rolling_requests(subject, str(texts[item]["text"]), most) for item in items]
        asked = [Question(tuple(requests)) for requests in rolled]
        for places, found in question_losses(subject, asked, "rows", most):
            yield tuple(items[place] for place in places), found

    def scores(self, values: Mapping[str, np.ndarray]) -> Scores:
        """Perplexity exp(-L / T) of all windows together, L and T their summed log-likelihood and tokens.

        Its per-window values are linearised (delta method): `p (1 + (-l_i - r t_i) / mean(t))` with
        r = -L / T. Their mean is p, and their standard error that of p to first order, so that
        windows can be resampled like the items of any task.

        Its smooth values run in its direction, less being better: negative log-likelihoods of the windows.
        """
        found = super().scores(values)
        likelihoods, tokens = values["loglikelihood"], values["tokens"]
        rate = -float(likelihoods.sum()) / max(float(tokens.sum()), 1.0)
        value = float(np.exp(rate))
        linear = value * (1.0 + (-likelihoods - rate * tokens) / max(float(tokens.mean()), 1.0))
        name = f"{self.name}.perplexity"
        metric = Metric(value, mean_metric(linear).stderr, len(linear))
        scores = Scores({name: metric, **found.metrics}, {name: linear, **found.items})
        return scores.with_smooth({name: -likelihoods})


def context_length(subject: Subject) -> int:
    """Tokens a model reads at once."""
    config = subject.model.config.get_text_config()
    for field in ("n_positions", "max_position_embeddings", "n_ctx"):
        if isinstance(value := getattr(config, field, None), int):
            return value
    return DEFAULT_CONTEXT


def rolling_requests(subject: Subject, text: str, most: int) -> list[Request]:
    """Requests that score every token of a text once; each reads at most `most` tokens."""
    from evomerge.evaluators.packed import Request

    tokenizer = subject.tokenizer
    tokens = tuple(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
    first = tokenizer.bos_token_id
    first = tokenizer.eos_token_id if first is None else first
    if first is None:
        # No token stands for a beginning: the first token of the text does, and is not scored.
        first, tokens = (tokens[0] if tokens else 0), tokens[1:]
    requests = []
    for start in range(0, len(tokens), most):
        end = min(start + most, len(tokens))
        before = tokens[max(0, end - most - 1) : start] if start else (first,)
        requests.append(Request(tuple(before), tokens[start:end]))
    return requests
