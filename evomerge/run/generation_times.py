"""Which engine writes the answers of generation tasks faster, measured once when a campaign is prepared."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

from evomerge.checkpoint.folder import CheckpointFolder
from evomerge.errors import CandidateError
from evomerge.evaluators.evaluator import Evaluator, GenerationEngine, Subject, Writer
from evomerge.recipe.recipe import CheckpointSource, Recipe, single_source_recipe

ENGINES: tuple[GenerationEngine, ...] = ("padded", "continuous")
RUNS = 2
"""Measurements of each engine, of which the fastest counts: the first also loads and allocates."""

log = logging.getLogger(__name__)


def base_recipe(base: CheckpointFolder, storage: str) -> Recipe:
    """The base as it stands."""
    sources = {"base": CheckpointSource(str(base.path))}
    return single_source_recipe(sources, "base", base.layers, storage)


def writing(evaluators: Sequence[Evaluator]) -> Iterator[Writer]:
    """Those whose search items are answered in writing."""
    for each in evaluators:
        if isinstance(each, Writer) and each.writes("search"):
            yield each


def time_engines(subject: Subject, evaluators: Sequence[Evaluator]) -> dict[str, float]:
    """Wall seconds of each engine for the first block of all search items that are answered in writing.

    An engine that fails is left out, with a warning; padded batches always work.

    Raises:
        CandidateError: the model's logits are not finite.
    """
    found: dict[str, float] = {}
    for engine in ENGINES:
        own, total = replace(subject, generation=engine), 0.0
        try:
            for each in writing(evaluators):
                seconds = []
                for _ in range(RUNS):
                    began = time.perf_counter()
                    each.evaluate(own, "search", [0])
                    seconds.append(time.perf_counter() - began)
                total += min(seconds)
        except CandidateError:
            raise
        except Exception as error:  # whatever a model's attention cannot do in pages
            if engine == "padded":
                raise
            log.warning("no continuous batching here: %s: %s", type(error).__name__, error)
            continue
        found[engine] = total
    log.info("answers of the base: %s", ", ".join(f"{name} {s:.2f} s" for name, s in found.items()))
    return found
