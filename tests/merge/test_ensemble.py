"""Logit ensembles: the mean of all models' logits, wherever the scorer looks."""

from __future__ import annotations

import pytest
import torch

from evomerge.evaluators.packed import Request, answer, pack_for
from evomerge.merge.ensemble import logit_ensemble
from tests.other_models import tiny
from tests.tiny_models import tiny_base, tiny_expert

LONGEST = 64


def test_an_ensemble_has_the_mean_of_all_logits() -> None:
    models = [tiny_base().eval(), tiny_expert(0).eval(), tiny_expert(1).eval()]
    rng = torch.Generator().manual_seed(1)

    def draw(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, 30, (count,), generator=rng).tolist())

    requests = [
        [Request(context, draw(3)) for _ in range(3)] for context in (draw(6), draw(4), draw(9))
    ]
    expected = []
    with torch.no_grad():
        whole = torch.tensor([list(range(3, 20))])
        mean = torch.stack([model(whole).logits for model in models]).mean(0)
        for request in (each for item in requests for each in item):
            ids = torch.tensor([[*request.context, *request.continuation]])
            logits = torch.stack([model(ids).logits for model in models]).mean(0)[0].log_softmax(-1)
            start = len(request.context)
            scored = [logits[start + n - 1, token] for n, token in enumerate(request.continuation)]
            expected.append(float(sum(scored)))
    found = logit_ensemble(models)
    with torch.no_grad():
        torch.testing.assert_close(found(whole).logits, mean, rtol=1e-5, atol=1e-5)
    for layout in ("tree", "rows"):
        block = pack_for(found, requests, layout, batch_size=4, max_length=LONGEST)
        values = [each.loglikelihood for each in answer(found, block)]
        assert values == pytest.approx(expected, abs=1e-4)


def test_an_ensemble_of_classifiers() -> None:
    models = [tiny("vit", seed, spread=0.3, num_channels=3).eval() for seed in range(3)]
    pixels = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        mean = torch.stack([model(pixel_values=pixels).logits for model in models]).mean(0)
        found = logit_ensemble(models)(pixel_values=pixels).logits
    torch.testing.assert_close(found, mean)
