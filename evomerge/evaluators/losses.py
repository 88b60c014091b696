"""Losses that a gradient can be taken of: how likely the right answers of items are, batch by batch.

Of a multiple-choice item the cross-entropy over its choices' summed log-likelihoods, or, without labels, the
entropy over them; of other texts the negative log-likelihood per token.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch

from evomerge.evaluators.evaluator import Evaluator
from evomerge.evaluators.packed import Layout, Request, likelihoods, pack_for
from evomerge.objectives.scores import Split

if TYPE_CHECKING:
    from evomerge.evaluators.evaluator import Subject


@runtime_checkable
class Differentiable(Evaluator, Protocol):
    """An evaluator with a differentiable loss for each item."""

    def loss_directions(self, split: Split) -> Mapping[str, bool]:
        """The metrics whose quality the losses of a split's items stand for, by full name; looks at no model.

        A loss stands for a metric that tells how likely right answers are, and for none that, say, counts
        tokens. Each with whether it rises as losses fall (an accuracy) or falls too (a perplexity); empty
        where items have no losses.
        """

    def has_choices(self, split: Split) -> bool:
        """Whether the items of a split are choices, whose entropy can be asked for; looks at no model."""

    def losses(
        self, subject: Subject, split: Split, items: Sequence[int], *, entropy: bool = False
    ) -> Iterator[tuple[tuple[int, ...], torch.Tensor]]:
        """The losses of some items (numbers in the fixed order, each once), batch by batch.

        With `entropy` an item's loss is the entropy over its choices, as AdaMerging minimises it on items
        without labels (Yang et al. 2024, arXiv:2310.02575, eq. 4).

        A batch's graph is its own, so that it can be run backwards, and freed, before the next is asked for.

        Yields:
            The numbers of a batch's items, and their losses, float64 [items] on the CPU.

        Raises:
            ConfigError: E148, if the items have no such loss.
            ValueError: if an item does not exist.
        """


@dataclass(frozen=True)
class Question:
    """What an item asks: its requests and, if it is a choice, which of them are right."""

    requests: tuple[Request, ...]
    right: tuple[int, ...] = ()


def question_losses(
    subject: Subject,
    questions: Sequence[Question],
    layout: Layout,
    max_length: int,
    *,
    entropy: bool = False,
) -> Iterator[tuple[tuple[int, ...], torch.Tensor]]:
    """Places in `questions` and losses, batch by batch; see `Differentiable.losses`.

    A text without a token that another stands before has no loss and is left out.
    """
    for chosen in _chunks(questions, layout, subject.batch_size):
        requests = [questions[place].requests for place in chosen]
        block = pack_for(
            subject.model, requests, layout, batch_size=subject.batch_size, max_length=max_length
        )
        owners = [place for place in chosen for _ in questions[place].requests]
        found = likelihoods(subject.model, block)
        if layout == "rows":
            # An item's requests may lie in several batches, whose graph is then one.
            found = iter([_joined(list(found))])
        for numbers, values in found:
            own = [owners[number] for number in numbers.tolist()]
            places = tuple(dict.fromkeys(own))
            own_losses = _entropies if entropy else _losses
            yield places, own_losses([questions[place] for place in places], values)


def _chunks(questions: Sequence[Question], layout: Layout, batch_size: int) -> Iterator[list[int]]:
    """Which questions are packed together: all as trees; as rows, longest first, so many as make a batch."""
    if layout == "tree":
        yield list(range(len(questions)))
        return

    def length(place: int) -> int:
        return max(len(r.context) + len(r.continuation) for r in questions[place].requests)

    chunk: list[int] = []
    rows = 0
    asked = [place for place, question in enumerate(questions) if question.requests]
    for place in sorted(asked, key=lambda place: (-length(place), place)):
        count = len(questions[place].requests)
        if chunk and rows + count > batch_size:
            yield chunk
            chunk, rows = [], 0
        chunk.append(place)
        rows += count
    if chunk:
        yield chunk


def _joined(
    batches: Sequence[tuple[torch.Tensor, torch.Tensor]],
) -> tuple[torch.Tensor, torch.Tensor]:
    numbers, order = torch.cat([numbers for numbers, _ in batches]).sort()
    return numbers, torch.cat([values for _, values in batches])[order]


def _losses(questions: Sequence[Question], values: torch.Tensor) -> torch.Tensor:
    """Float64 [questions] from the log-likelihoods of their requests, float64 [requests] in their order."""
    rows, columns = _places(questions)
    counts = [len(question.requests) for question in questions]
    if not questions[0].right:
        tokens = [sum(len(r.continuation) for r in question.requests) for question in questions]
        sums = values.new_zeros(len(counts)).index_add(0, rows, values)
        return -sums / torch.tensor(tokens, dtype=torch.float64).clamp_min(1.0)
    right = torch.tensor(
        [n in question.right for question in questions for n in range(len(question.requests))]
    )
    none = values.new_full((len(counts), max(counts)), -torch.inf)
    all_of_them = none.index_put((rows, columns), values).logsumexp(dim=1)
    return all_of_them - none.index_put((rows[right], columns[right]), values[right]).logsumexp(dim=1)


def _entropies(questions: Sequence[Question], values: torch.Tensor) -> torch.Tensor:
    """Entropy over each question's choices, nats, float64 [questions]; `values` as in `_losses`."""
    rows, columns = _places(questions)
    none = values.new_full((len(questions), int(columns.max()) + 1), -torch.inf)
    chances = none.index_put((rows, columns), values).log_softmax(dim=1)[rows, columns]
    return -values.new_zeros(len(questions)).index_add(0, rows, chances.exp() * chances)


def _places(questions: Sequence[Question]) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each request its question's row and its place among that question's, int64 [requests] twice."""
    counts = [len(question.requests) for question in questions]
    rows = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return rows, torch.cat([torch.arange(count) for count in counts])
