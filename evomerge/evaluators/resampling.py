"""The standard error of a metric that is no mean over items: by resampling them with a fixed seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import sacrebleu
from lm_eval.api import metrics

RESAMPLES = 200

_OVER_TEXTS: dict[Callable[..., Any], Callable[[], Any]] = {
    metrics.bleu: sacrebleu.BLEU,
    metrics.chrf: sacrebleu.CHRF,
    metrics.chrfpp: lambda: sacrebleu.CHRF(word_order=2),
    metrics.ter: sacrebleu.TER,
}
"""lm-eval's aggregations that count in each text by itself and score the sums, with what does both."""


def resampled_error(aggregate: Callable[[list[Any]], float], results: Sequence[Any]) -> float:
    """The standard deviation of an aggregation over resamples of the results of all items.

    Resamples in which it is no finite number are left out, as where one lacks all items of a class: they
    must not fail a model whose own value is sound.

    Args:
        aggregate: results of items to a number.
        results: what the metric gave for each item.
    """
    draws = np.random.default_rng(0).integers(len(results), size=(RESAMPLES, len(results)))
    value = _by_text(aggregate, results) or (lambda draw: aggregate([results[i] for i in draw]))
    values = np.array([value(draw) for draw in draws])
    return float(np.std(values[np.isfinite(values)], ddof=1))


def _by_text(
    aggregate: Callable[[list[Any]], float], results: Sequence[Any]
) -> Callable[[Sequence[int]], float] | None:
    """Items to the same number, from counts that are made once; None where there are no such counts."""
    make = _OVER_TEXTS.get(aggregate)
    references = (
        [1 if isinstance(result[0], str) else len(result[0]) for result in results] if make else []
    )
    if make is None or len(set(references)) != 1:
        return None  # texts with fewer references would cut those of others in some resamples
    metric = make()
    told, said = metrics._sacreformat(*zip(*results, strict=True))
    counts = metric._extract_corpus_statistics(said, told)
    return lambda draw: float(metric._aggregate_and_compute([counts[i] for i in draw]).score)
