"""Which packing a kind of model allows, found by trying it on a small random model of the same kind.

What a class can do with a block mask and restarted positions (windows, position biases, recurrent
layers, attention kernels) is not written in its name. The trial uses the model's class and its
configuration but neither its weights nor its dtype, so that every worker comes to the same choice,
whatever candidate it sees first, and no difference is lost in the rounding of half precision.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from evomerge.evaluators.packed import Layout, Request, answer, pack

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LAYOUTS: tuple[Layout, ...] = ("tree", "rows")
VOCABULARY = 997
"""Token ids of the trial are taken modulo this, so that large embeddings cost nothing."""
TRIED_ITEMS = 3
TOLERANCE = 1e-4


def choose_layout(
    model: PreTrainedModel, items: Sequence[Sequence[Request]], max_length: int
) -> Layout | None:
    """The first layout that gives every request of the longest `items` what it gets alone in a row.

    None if there is none, or if no small model of the kind can be made: then each request must go
    through the model by itself.
    """
    longest = sorted(items, key=lambda item: -max(len(r.context + r.continuation) for r in item))
    tried = [
        [Request(_small(r.context), _small(r.continuation)) for r in item]
        for item in longest[:TRIED_ITEMS]
    ]
    try:
        trial = _random_relative(model)
        expected = [alone(trial, request, max_length) for item in tried for request in item]
    except Exception:
        # Third-party classes fail in any way they like when they are built from a changed config.
        return None
    return next((each for each in LAYOUTS if _agrees(trial, tried, each, max_length, expected)), None)


@torch.inference_mode()
def alone(model: PreTrainedModel, request: Request, max_length: int) -> float:
    """Log-likelihood of one request by itself in one row, the plainest way there is."""
    whole = (request.context + request.continuation)[-(max_length + 1) :]
    row = torch.tensor([whole[:-1]], device=model.device)
    chances = model(input_ids=row, use_cache=False).logits[0].float().log_softmax(dim=-1)
    scored = torch.tensor(request.continuation, device=model.device)[:, None]
    return float(chances[-len(request.continuation) :].gather(1, scored).double().sum())


def _agrees(
    trial: PreTrainedModel,
    items: Sequence[Sequence[Request]],
    layout: Layout,
    max_length: int,
    expected: Sequence[float],
) -> bool:
    try:
        block = pack(
            items,
            layout,
            batch_size=len(items),
            max_length=max_length,
            vocabulary=VOCABULARY,
            hidden=trial.config.get_text_config().hidden_size,
            device=trial.device,
        )
        found = answer(trial, block, greedy=False)
    except Exception:
        # Models refuse a mask or positions in many ways; each means that the layout is not for them.
        return False
    return all(
        abs(each.loglikelihood - wanted) <= TOLERANCE
        for each, wanted in zip(found, expected, strict=True)
    )


def _small(tokens: Sequence[int]) -> tuple[int, ...]:
    return tuple(token % VOCABULARY for token in tokens)


def _random_relative(model: PreTrainedModel) -> PreTrainedModel:
    """A float32 model of the same class with few layers, few tokens and random weights.

    It keeps one layer of each kind at least, and the widths, which decide on kernels.
    """
    config = copy.deepcopy(model.config)
    text = config.get_text_config()
    kinds = list(getattr(text, "layer_types", None) or ())
    layers = min(2, text.num_hidden_layers)
    while set(kinds[:layers]) != set(kinds):
        layers += 1
    text.num_hidden_layers = layers
    if "layer_types" in vars(text) and kinds:
        text.layer_types = kinds[:layers]
    text.vocab_size = VOCABULARY
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        if getattr(text, name, None) is not None:
            setattr(text, name, 0)
    config.dtype = text.dtype = torch.float32
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        trial = type(model)(config)
        # Through `Module`, because transformers' own `to` has no types.
        torch.nn.Module.to(trial, device=model.device, dtype=torch.float32)
        trial.train(False)
        for parameter in trial.parameters():
            # Some classes start with output projections of zero, which would hide what attention does.
            if parameter.ndim > 1:
                parameter.normal_(0.0, parameter.shape[-1] ** -0.5)
    return trial
