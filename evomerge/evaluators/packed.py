"""Log-likelihoods of many continuations in few tokens: the requests of an item packed as a tree.

The requests of a multiple-choice item share their context. Each distinct prefix is one node of a tree,
its position is its depth, and it attends to its ancestors only, so that every path through the tree
sees exactly what it would see alone in a row. Items that are short, or begin alike, share a row. Nodes
stand in depth-first order, where the descendants of node i are the nodes up to `last[i]`; the attention
mask follows from that one number per node. (Tree attention as in SpecInfer, Miao et al. 2024,
arXiv:2305.09781, section 4.2.)

Logits are computed only where a token is scored (`forward`), by gathering hidden states before the output
layer, so that whatever a model does to its logits after that layer still happens. Knows nothing of lm-eval.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from evomerge.evaluators.forward import aligned_rows, gathered_head, narrow_last_layer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Layout = Literal["tree", "rows"]

LOGITS = 2**26
"""Most logits of one batch (256 MB in float32); a batch that needs more is split."""


@dataclass(frozen=True)
class Request:
    """Score the tokens `continuation` after the tokens `context`."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]


@dataclass(frozen=True)
class Answer:
    """Summed log-likelihood of a continuation, and whether it is the greedy one token by token."""

    loglikelihood: float
    greedy: bool


@dataclass(frozen=True)
class Tree:
    """The distinct prefixes of some requests, in depth-first order.

    Attributes:
        tokens, depth, last: per node its token, its distance from the root (its position) and its
            last descendant.
        paths: per request, the nodes whose next token it scores.
        targets: per request, those next tokens.
    """

    tokens: tuple[int, ...]
    depth: tuple[int, ...]
    last: tuple[int, ...]
    paths: tuple[tuple[int, ...], ...]
    targets: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Batch:
    """Trees of one forward pass, padded on the right.

    Attributes:
        tokens, depth, last: int64 [rows, width].
        cells: int64 [cells], the flat places (row * width + column) whose logits are needed.
        cell: int64 [scored], for each scored token its place in `cells`.
        target: int64 [scored], the scored tokens.
        request: int64 [scored], the request each belongs to.
    """

    tokens: torch.Tensor
    depth: torch.Tensor
    last: torch.Tensor
    cells: torch.Tensor
    cell: torch.Tensor
    target: torch.Tensor
    request: torch.Tensor


@dataclass(frozen=True)
class PackedBlock:
    """The batches of one block of items; `requests` is how many requests they answer."""

    batches: tuple[Batch, ...]
    requests: int
    layout: Layout


def grow(requests: Sequence[Request], max_length: int) -> Tree:
    """The tree of `requests`; one longer than `max_length` + 1 tokens loses its first tokens.

    The last token of a request is scored and never read, so it is no node.
    """
    whole = [(r.context + r.continuation)[-(max_length + 1) :] for r in requests]
    tokens: list[int] = []
    depth: list[int] = []
    last: list[int] = []
    paths: dict[int, list[int]] = {}
    path: list[int] = []
    # In sorted order a request shares its prefix with the one before, so that appending nodes as
    # they come is the depth-first order.
    for index in sorted(range(len(whole)), key=lambda i: whole[i][:-1]):
        read = whole[index][:-1]
        shared = 0
        while shared < min(len(path), len(read)) and tokens[path[shared]] == read[shared]:
            shared += 1
        path = path[:shared]
        for token in read[shared:]:
            path.append(len(tokens))
            depth.append(len(path) - 1)
            tokens.append(token)
            last.append(0)
        for node in path:
            last[node] = len(tokens) - 1
        paths[index] = list(path)
    return Tree(
        tokens=tuple(tokens),
        depth=tuple(depth),
        last=tuple(last),
        paths=tuple(
            tuple(paths[i][len(paths[i]) - len(r.continuation) :]) for i, r in enumerate(requests)
        ),
        targets=tuple(r.continuation for r in requests),
    )


def pack(
    items: Sequence[Sequence[Request]],
    layout: Layout,
    *,
    batch_size: int,
    max_length: int,
    vocabulary: int,
    hidden: int,
    device: torch.device | str,
) -> PackedBlock:
    """Batches of at most `batch_size` items (`tree`) or requests (`rows`) for one block of items.

    Longest first, so that like lengths share a batch; in a tree batch, short items then share rows.
    `hidden` is the model's width, which says what attention costs beside the rest. What shares a batch
    depends on the arguments only, so that equal calls give equal bits.
    """
    flat = [request for item in items for request in item]
    numbers = iter(range(len(flat)))
    groups = [[next(numbers) for _ in item] for item in items]
    if layout == "rows":
        groups = [[number] for group in groups for number in group]
    trees = [grow([flat[number] for number in group], max_length) for group in groups]
    order = sorted(range(len(trees)), key=lambda i: (-len(trees[i].tokens), i))
    batches = []
    while order:
        cells = np.cumsum([len(set().union(*trees[i].paths)) for i in order[:batch_size]])
        count = max(1, int(np.searchsorted(cells * vocabulary, LOGITS, side="right")))
        chosen, order = order[:count], order[count:]
        rows = [[i] for i in chosen]
        if layout == "tree":
            rows = _shared_rows({i: trees[i] for i in chosen}, hidden, max_length)
        owners = [[number for i in row for number in groups[i]] for row in rows]
        grown = [grow([flat[number] for number in owner], max_length) for owner in owners]
        batches.append(_batch(owners, grown, device))
    return PackedBlock(tuple(batches), len(flat), layout)


def pack_for(
    model: PreTrainedModel,
    items: Sequence[Sequence[Request]],
    layout: Layout,
    *,
    batch_size: int,
    max_length: int,
) -> PackedBlock:
    """`pack` for a model, by the size of its output layer and where it lies."""
    head: Any = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    return pack(
        items,
        layout,
        batch_size=batch_size,
        max_length=max_length,
        vocabulary=head.weight.shape[0],
        hidden=head.weight.shape[1],
        device=model.device,
    )


def _shared_rows(trees: dict[int, Tree], hidden: int, max_length: int) -> list[list[int]]:
    """Which trees share a row; `trees` come longest first.

    Sharing fills the padding of short trees, and reads what all trees begin with (a few-shot prompt)
    once a row instead of once a tree; but each place of a row attends over the whole row, which costs
    about width / (4 * hidden) of everything else. So widths that some number of rows would nearly fill are
    tried and the cheapest is kept; none is beyond `max_length`, where tables of positions and masks end,
    unless a single tree is.
    """
    begin = _common_start([tree.tokens for tree in trees.values()])
    own = {index: len(tree.tokens) - begin for index, tree in trees.items()}
    longest, total = max(own.values()), sum(own.values())
    few = max(1, total // (16 * longest)) if longest else 1
    widths = {
        max(longest, min(math.ceil(slack * total / rows), max_length - begin))
        for rows in range(few, len(own) + 1, -(-len(own) // 64))
        for slack in (1.0, 1.01, 1.02, 1.04, 1.08)
    }
    best: tuple[float, list[list[int]]] = (math.inf, [])
    for capacity in sorted(widths):
        rows, used = _fit(own, capacity)
        width = begin + used
        cost = len(rows) * width * (1 + width / (4 * hidden))
        best = min(best, (cost, rows), key=lambda pair: pair[0])
    return best[1]


def _fit(sizes: dict[int, int], capacity: int) -> tuple[list[list[int]], int]:
    """Best-fit rows for `sizes` (largest first) and the fill of the fullest row."""
    rows: list[list[int]] = []
    free: list[tuple[int, int]] = []  # room and row, ascending
    for index, size in sizes.items():
        place = bisect_left(free, (size, 0))
        room, row = free.pop(place) if place < len(free) else (capacity, len(rows))
        if row == len(rows):
            rows.append([])
        rows[row].append(index)
        insort(free, (room - size, row))
    return rows, capacity - free[0][0]


def _common_start(sequences: Sequence[tuple[int, ...]]) -> int:
    low, high = min(sequences), max(sequences)
    return next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), len(low))


def _batch(owners: Sequence[list[int]], trees: Sequence[Tree], device: torch.device | str) -> Batch:
    width = max(len(tree.tokens) for tree in trees)
    tokens = np.zeros((len(trees), width), dtype=np.int64)
    depth = np.zeros_like(tokens)
    # Padding attends to itself alone, so that no row of the mask is empty.
    last = np.tile(np.arange(width), (len(trees), 1))
    places: list[int] = []
    targets: list[int] = []
    requests: list[int] = []
    for row, (numbers, tree) in enumerate(zip(owners, trees, strict=True)):
        count = len(tree.tokens)
        tokens[row, :count], depth[row, :count], last[row, :count] = tree.tokens, tree.depth, tree.last
        for number, path, target in zip(numbers, tree.paths, tree.targets, strict=True):
            places += [row * width + node for node in path]
            targets += target
            requests += [number] * len(target)
    cells, cell = np.unique(np.array(places, dtype=np.int64), return_inverse=True)
    values = (tokens, depth, last, cells, cell, targets, requests)
    return Batch(*(torch.as_tensor(np.asarray(v, dtype=np.int64)).to(device) for v in values))


@torch.inference_mode()
def answer(model: PreTrainedModel, block: PackedBlock, *, greedy: bool = True) -> list[Answer]:
    """Answers to the requests of a block, in their order; without `greedy` that flag stays False.

    Raises:
        RuntimeError: if the model has no output layer whose inputs can be gathered.
    """
    total = torch.zeros(block.requests, dtype=torch.float64)
    misses = torch.zeros(block.requests, dtype=torch.int64)
    for batch in block.batches:
        with aligned_rows(model):
            logits = _logits(model, batch, block.layout)
        owners = batch.request.cpu()
        total.index_add_(0, owners, _scored(logits, batch))
        if greedy:
            missed = logits.argmax(dim=-1)[batch.cell] != batch.target
            misses.index_add_(0, owners, missed.long().cpu())
    hits = (misses == 0).tolist() if greedy else [False] * block.requests
    return [Answer(value, hit) for value, hit in zip(total.tolist(), hits, strict=True)]


def likelihoods(
    model: PreTrainedModel, block: PackedBlock
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The log-likelihoods that `answer` gives, batch by batch, with their graph where gradients are on.

    Yields:
        The numbers of the requests of a batch, int64 [requests] ascending, and their summed log-likelihoods,
        float64 [requests], both on the CPU. In a `tree` block a batch holds all requests of its items.

    Raises:
        RuntimeError: if the model has no output layer whose inputs can be gathered.
    """
    for batch in block.batches:
        scored = _scored(_logits(model, batch, block.layout), batch)
        numbers, owners = torch.unique(batch.request.cpu(), return_inverse=True)
        yield numbers, scored.new_zeros(len(numbers)).index_add(0, owners, scored)


def _scored(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Log-likelihood of each scored token: float64 [scored] on the CPU, where sums have one order."""
    found = logits[batch.cell, batch.target] - logits.logsumexp(dim=-1)[batch.cell]
    return found.double().cpu()


def _logits(model: PreTrainedModel, batch: Batch, layout: Layout) -> torch.Tensor:
    """Float32 [cells, vocabulary]; float64 of a model in it."""
    shape = (batch.tokens.shape[0], batch.tokens.shape[1])
    with gathered_head(model, batch.cells, shape), narrow_last_layer(model, batch.cells, shape):
        if layout == "rows":
            # Right padding needs no mask: a causal model never looks ahead.
            output = model(input_ids=batch.tokens, use_cache=False)
        else:
            output = model(
                input_ids=batch.tokens,
                position_ids=batch.depth,
                attention_mask=_mask(batch.last, model.dtype),
                use_cache=False,
            )
    logits: torch.Tensor = output.logits
    wide = torch.promote_types(logits.dtype, torch.float32)
    return logits.reshape(len(batch.cells), -1).to(wide)


def _mask(last: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Additive [rows, 1, width, width]: 0 where a node may look (ancestors and itself)."""
    place = torch.arange(last.shape[1], device=last.device)
    seen = (place[:, None] >= place) & (place[:, None] <= last[:, None, :])
    mask = torch.zeros(seen.shape, dtype=dtype, device=last.device)
    return mask.masked_fill_(~seen, torch.finfo(dtype).min)[:, None]
