"""Log-likelihoods of many continuations in few tokens: the requests of an item packed as a tree.

The requests of a multiple-choice item share their context. Each distinct prefix is one node of a tree,
its position is its depth, and it attends to its ancestors only, so that every path through the tree
sees exactly what it would see alone in a row. Nodes stand in depth-first order, where the descendants
of node i are the nodes up to `last[i]`; the attention mask follows from that one number per node.
(Tree attention as in SpecInfer, Miao et al. 2024, arXiv:2305.09781, section 4.2.)

Logits are computed only where a token is scored, by gathering hidden states before the output layer, so
that whatever a model does to its logits after that layer still happens. Knows nothing of lm-eval.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

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
    device: torch.device | str,
) -> PackedBlock:
    """Batches of at most `batch_size` rows, longest rows first, for one block of items.

    A row is an item (`tree`) or a single request (`rows`). Which rows share a batch depends on the
    arguments only, so that equal calls give equal bits.
    """
    flat = [request for item in items for request in item]
    groups: list[list[int]] = []
    start = 0
    for item in items:
        numbers = list(range(start, start + len(item)))
        groups += [numbers] if layout == "tree" else [[number] for number in numbers]
        start += len(item)
    trees = [grow([flat[number] for number in group], max_length) for group in groups]
    order = sorted(range(len(trees)), key=lambda i: (-len(trees[i].tokens), i))
    batches = []
    chosen: list[int] = []
    cells = 0
    for i in order:
        more = len({node for path in trees[i].paths for node in path})
        if chosen and (len(chosen) == batch_size or (cells + more) * vocabulary > LOGITS):
            batches.append(_batch([(groups[j], trees[j]) for j in chosen], device))
            chosen, cells = [], 0
        chosen.append(i)
        cells += more
    if chosen:
        batches.append(_batch([(groups[j], trees[j]) for j in chosen], device))
    return PackedBlock(tuple(batches), len(flat), layout)


def _batch(rows: Sequence[tuple[list[int], Tree]], device: torch.device | str) -> Batch:
    width = len(rows[0][1].tokens)
    tokens = np.zeros((len(rows), width), dtype=np.int64)
    depth = np.zeros_like(tokens)
    # Padding attends to itself alone, so that no row of the mask is empty.
    last = np.tile(np.arange(width), (len(rows), 1))
    places: list[int] = []
    targets: list[int] = []
    owners: list[int] = []
    for row, (numbers, tree) in enumerate(rows):
        count = len(tree.tokens)
        tokens[row, :count], depth[row, :count], last[row, :count] = tree.tokens, tree.depth, tree.last
        for number, path, target in zip(numbers, tree.paths, tree.targets, strict=True):
            places += [row * width + node for node in path]
            targets += target
            owners += [number] * len(target)
    cells, cell = np.unique(np.array(places, dtype=np.int64), return_inverse=True)

    def tensor(values: np.ndarray | list[int]) -> torch.Tensor:
        return torch.as_tensor(np.asarray(values, dtype=np.int64)).to(device)

    return Batch(
        tensor(tokens),
        tensor(depth),
        tensor(last),
        tensor(cells),
        tensor(cell),
        tensor(targets),
        tensor(owners),
    )


@torch.inference_mode()
def answer(model: PreTrainedModel, block: PackedBlock, *, greedy: bool = True) -> list[Answer]:
    """Answers to the requests of a block, in their order; without `greedy` that flag stays False.

    Raises:
        RuntimeError: if the model has no output layer whose inputs can be gathered.
    """
    total = torch.zeros(block.requests, dtype=torch.float64)
    misses = torch.zeros(block.requests, dtype=torch.int64)
    for batch in block.batches:
        logits = _logits(model, batch, block.layout)
        scored = logits[batch.cell, batch.target] - logits.logsumexp(dim=-1)[batch.cell]
        owners = batch.request.cpu()
        total.index_add_(0, owners, scored.double().cpu())
        if greedy:
            missed = logits.argmax(dim=-1)[batch.cell] != batch.target
            misses.index_add_(0, owners, missed.long().cpu())
    hits = (misses == 0).tolist() if greedy else [False] * block.requests
    return [Answer(value, hit) for value, hit in zip(total.tolist(), hits, strict=True)]


def _logits(model: PreTrainedModel, batch: Batch, layout: Layout) -> torch.Tensor:
    """Float32 [cells, vocabulary]."""
    with _gathered_head(model, batch):
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
    return logits.reshape(len(batch.cells), -1).float()


def _mask(last: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Additive [rows, 1, width, width]: 0 where a node may look (ancestors and itself)."""
    place = torch.arange(last.shape[1], device=last.device)
    seen = (place[:, None] >= place) & (place[:, None] <= last[:, None, :])
    mask = torch.zeros(seen.shape, dtype=dtype, device=last.device)
    return mask.masked_fill_(~seen, torch.finfo(dtype).min)[:, None]


@contextmanager
def _gathered_head(model: PreTrainedModel, batch: Batch) -> Iterator[None]:
    """Let the output layer see only the hidden states of `batch.cells`, as [1, cells, hidden]."""
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    if head is None:
        raise RuntimeError("the model names no output layer")

    def gather(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
        (hidden,) = inputs
        if hidden.shape[:-1] != batch.tokens.shape:
            raise RuntimeError(f"the output layer reads hidden states of shape {hidden.shape}")
        return (hidden.reshape(-1, hidden.shape[-1])[batch.cells][None],)

    handle = head.register_forward_pre_hook(gather)
    try:
        yield
    finally:
        handle.remove()
