"""How a candidate came about, in words: what its ledger recorded when it was asked for."""

from __future__ import annotations

from collections.abc import Sequence

from evomerge.ledger.candidate import Candidate
from evomerge.ledger.history import History
from evomerge.objectives import origin as ways
from evomerge.objectives.objective import Objective
from evomerge.objectives.origin import Origin

PARENTS = "{parents}"
"""Stands for the ids of the parents: a page makes links of them."""

_WAYS = {
    ways.START: "drawn at the start, without parents",
    ways.RANDOM: "drawn at random",
    ways.PROPOSED: "proposed by the optimizer, which says no more",
    ways.CROSSED: f"a child of {PARENTS}",
    ways.MUTATED: f"a mutation of {PARENTS}",
    ways.MEAN: f"the mean of {PARENTS}",
    ways.STEP: f"chosen by a model of the objectives, then crossed with a step between {PARENTS}",
    ways.MAP: "the learned front's model for the preference",
    ways.BESIDE: "beside the learned front's model for the preference",
    ways.CHART: "chosen by a model of the objectives on the learned front, at the preference",
    ways.MODEL: "chosen by a model of the objectives",
    ways.POLICY: "the path that the policy walked for the preference",
    ways.EDITED: "an edit of the path that the policy walked for the preference",
    ways.STRATEGY: "drawn by the evolution strategy for the weighted sum",
}


def descent_words(history: History, candidate: Candidate) -> str:
    """A phrase with `PARENTS` in the place of ids; empty where nothing is recorded."""
    origin = candidate.origin
    if origin is None:
        return ""
    if origin.how == ways.GIVEN:
        found = f"given to the search to begin with{_source(history, candidate, origin)}"
    else:
        # A newer evomerge may know ways that this one does not.
        found = _WAYS.get(origin.how, origin.how)
    if not origin.parents:
        found = found.replace(PARENTS, "earlier candidates")
    if origin.preference:
        found += f" {_weights(history.stated.objectives, origin.preference)}"
    if origin.scale is not None and origin.tilt is not None:
        found += f", weights times {origin.scale:g}, tilted by {origin.tilt:g} over depth"
    if candidate.asker is not None:
        wanted = history.refinements[candidate.asker].preference
        found += f"; asked by the refinement near {_weights(history.stated.objectives, wanted)}"
    return found


def descent_text(history: History, candidate: Candidate) -> str:
    """The phrase with ids."""
    origin = candidate.origin
    ids = " and ".join(origin.parents or ()) if origin is not None else ""
    return descent_words(history, candidate).replace(PARENTS, ids)


def _source(history: History, candidate: Candidate, origin: Origin) -> str:
    if origin.source is None:
        return ""
    if origin.source == "metagpt":
        return ": weights by the norms of the task vectors (MetaGPT)"
    known = history.candidates.get(origin.source)
    if known is None or not known.is_baseline:
        return f": from {origin.source} (`start_from`)"
    same = known.recipe == candidate.recipe
    return f": {'the' if same else 'the point nearest to the'} baseline {origin.source}"


def _weights(objectives: Sequence[Objective], preference: Sequence[float]) -> str:
    pairs = zip(objectives, preference, strict=True)
    return ", ".join(f"{100 * weight:.3g} % {objective.metric}" for objective, weight in pairs)
