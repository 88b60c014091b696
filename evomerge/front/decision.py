"""What a person decides by: who beats which baseline, and three cards that say why one might be shipped.

Everything is a pure function of a front and of `Draws`, its scores under resampling of items; without draws
(a metric that is no mean over items) what is measured is still there, and probabilities are None.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from evomerge.front.draws import Draws
from evomerge.front.front import Front, Member, pick
from evomerge.front.spanning import Group, Spanning, groups, spanning
from evomerge.front.statistics import LEVEL, Interval
from evomerge.objectives.measures import MEAN, WORST, alike, baseline_kind, mean_score, worst_score
from evomerge.objectives.scores import Split

CardKind = Literal["knee", "best mean", "best worst case"]
CARDS: dict[CardKind, str] = {
    "knee": "knee",
    "best mean": "best:mean",
    "best worst case": "best:worst",
}
"""The three cards, each with the pick that names its member."""

DIGITS = 4
"""Digits of a probability that are kept; 1,000 resamples have no more."""


@dataclass(frozen=True)
class Dominated:
    """A baseline that a member is nowhere worse than and somewhere better, as measured.

    `probability`: share of resamples of the items in which that holds; None without per-item results.
    """

    baseline: str
    probability: float | None


@dataclass(frozen=True)
class Claim:
    """One comparison of a member with a baseline on the deciding split.

    Attributes:
        measure: a metric, `mean` or `worst` (the lowest of all scores).
        against: the baseline's id.
        value: of the member.
        other: of the baseline.
        difference: member minus baseline, with its 95 % interval; None without per-item results.
        probability: that the member is better, whichever way the metric points; None likewise.
    """

    measure: str
    against: str
    value: float
    other: float
    difference: Interval | None
    probability: float | None


@dataclass(frozen=True)
class Card:
    """One member to decide for.

    Attributes:
        kind: what it is the best at.
        pick: names it on the command line.
        member: its id.
        split: whose items the scores are of.
        probability: that it is what `kind` says among the members, or one that cannot be told from it; None
            without per-item results.
        against_experts: on each objective, the mean and the worst score, the expert that is best at it.
        against_single: on the same measures, the best single coefficient; empty where there is none.
        dominates: baselines.
    """

    kind: CardKind
    pick: str
    member: str
    split: Split
    probability: float | None
    against_experts: tuple[Claim, ...]
    against_single: tuple[Claim, ...]
    dominates: tuple[Dominated, ...]


@dataclass(frozen=True)
class Decision:
    """A front made ready to decide by.

    Attributes:
        groups: members that the items cannot tell apart; see `groups`.
        spanning: a few members that span the front; see `spanning`.
        dominates: member to the baselines it dominates.
        cards: three, none for an empty front.
        baselines: member to the baselines that are the same merge, where there are any.
    """

    groups: tuple[Group, ...]
    spanning: tuple[Spanning, ...]
    dominates: Mapping[str, tuple[Dominated, ...]]
    cards: tuple[Card, ...]
    baselines: Mapping[str, tuple[str, ...]]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON data."""
        return {
            "groups": [list(group.ids) for group in self.groups],
            "spanning": [{"id": s.id, "why": list(s.why), "like": list(s.like)} for s in self.spanning],
            "dominates": {
                name: [{"baseline": d.baseline, "probability": d.probability} for d in beaten]
                for name, beaten in self.dominates.items()
            },
            "cards": [_card_json(card) for card in self.cards],
        }


def decide(front: Front, draws: Draws | None) -> Decision:
    """Everything of this module and of `spanning` for one front."""
    joined = groups(front)
    return Decision(
        groups=joined,
        spanning=spanning(front, joined),
        dominates={member.id: dominated(front, member, draws) for member in front.members},
        cards=cards(front, joined, draws),
        baselines={member.id: member.equals for member in front.members if member.equals},
    )


def dominated(front: Front, member: Member, draws: Draws | None) -> tuple[Dominated, ...]:
    """The baselines that a member dominates on the deciding split, in the front's order."""
    own = _minimised(front, member)
    found = []
    for baseline in front.references:
        other = _minimised(front, baseline)
        if own is None or other is None or not ((own <= other).all() and (own < other).any()):
            continue
        mine, theirs = (None, None) if draws is None else (draws.of(member.id), draws.of(baseline.id))
        probability = None
        if mine is not None and theirs is not None:
            holds = np.all(mine <= theirs, axis=1) & np.any(mine < theirs, axis=1)
            probability = _share(np.asarray(holds))
        found.append(Dominated(baseline.id, probability))
    return tuple(found)


def cards(front: Front, joined: Sequence[Group], draws: Draws | None) -> tuple[Card, ...]:
    """The three cards of a front; none if it is empty.

    Args:
        front: with its baselines.
        joined: its `groups`.
        draws: its scores under resampling.
    """
    if not front.members:
        return ()
    experts = [r for r in front.references if baseline_kind(r.id) == "expert"]
    single = [r for r in front.references if baseline_kind(r.id) == "single"]
    found = []
    for kind, text in CARDS.items():
        member = pick(front, text)
        found.append(
            Card(
                kind=kind,
                pick=text,
                member=member.id,
                split=front.split,
                probability=_probability_chosen(front, joined, draws, kind, member.id),
                against_experts=claims(front, member, experts, draws),
                against_single=claims(front, member, single, draws),
                dominates=dominated(front, member, draws),
            )
        )
    return tuple(found)


def claims(
    front: Front, member: Member, others: Sequence[Member], draws: Draws | None
) -> tuple[Claim, ...]:
    """A member against the best of `others` at each objective, the mean and the worst score.

    Mean and worst score only where the objectives are `alike`; a model without scores on the deciding split
    is left out.
    """
    measures = [objective.metric for objective in front.objectives]
    if alike(front.objectives) and len(measures) > 1:
        measures += [MEAN, WORST]
    known = [other for other in others if front.split in other.metrics]
    if not known or front.split not in member.metrics:
        return ()
    return tuple(_claim(front, member, known, measure, draws) for measure in measures)


def _claim(
    front: Front, member: Member, others: Sequence[Member], measure: str, draws: Draws | None
) -> Claim:
    sign = next((o.sign for o in front.objectives if o.metric == measure), -1.0)
    best = min(others, key=lambda other: sign * _measured(front, other, measure))
    difference = probability = None
    mine = _drawn(front, draws, member.id, measure)
    theirs = _drawn(front, draws, best.id, measure)
    value, other = _measured(front, member, measure), _measured(front, best, measure)
    if mine is not None and theirs is not None:
        gaps = mine - theirs
        low, high = np.quantile(gaps, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        difference = Interval(value - other, float(low), float(high))
        probability = _share(sign * gaps < 0)
    return Claim(measure, best.id, value, other, difference, probability)


def _measured(front: Front, model: Member, measure: str) -> float:
    metrics = model.metrics[front.split]
    if measure in metrics:
        return metrics[measure].value
    found = (mean_score if measure == MEAN else worst_score)(front.objectives, metrics)
    assert found is not None  # asked of objectives that are alike only
    return found


def _drawn(front: Front, draws: Draws | None, name: str, measure: str) -> np.ndarray | None:
    """A measure of one model in every resample, float64 [resamples], in metric units."""
    means = None if draws is None else draws.of(name)
    if means is None:
        return None
    values: np.ndarray = means * np.array([objective.sign for objective in front.objectives])
    if measure == MEAN:
        return np.asarray(values.mean(axis=1))
    if measure == WORST:
        return np.asarray(values.min(axis=1))
    return values[:, [objective.metric for objective in front.objectives].index(measure)]


def _probability_chosen(
    front: Front, joined: Sequence[Group], draws: Draws | None, kind: CardKind, name: str
) -> float | None:
    if draws is None:
        return None
    columns = [draws.places[member.id] for member in front.members]
    means = draws.means[:, columns]
    if kind == "knee" or not alike(front.objectives):
        means = front.scaling.scale(means.reshape(-1, means.shape[2])).reshape(means.shape)
    amounts = means.mean(axis=2) if kind == "best mean" else means.max(axis=2)
    mates = next(set(group.ids) for group in joined if name in group.ids)
    like = np.array([member.id in mates for member in front.members])
    # Several may share the best amount; one of them is enough.
    best = amounts <= amounts.min(axis=1, keepdims=True) + 1e-12
    return _share((best & like).any(axis=1))


def _minimised(front: Front, model: Member) -> np.ndarray | None:
    """Scores on the deciding split, float64 [objectives], minimised form; None where there are none."""
    metrics = model.metrics.get(front.split)
    if metrics is None:
        return None
    return np.array([o.sign * metrics[o.metric].value for o in front.objectives])


def _share(holds: np.ndarray) -> float:
    return round(float(np.mean(holds)), DIGITS)


def _card_json(card: Card) -> dict[str, Any]:
    return {
        "kind": card.kind,
        "pick": card.pick,
        "id": card.member,
        "split": card.split,
        "probability": card.probability,
        "against_experts": [_claim_json(claim) for claim in card.against_experts],
        "against_single": [_claim_json(claim) for claim in card.against_single],
    }


def _claim_json(claim: Claim) -> dict[str, Any]:
    found = claim.difference
    data: dict[str, Any] = {
        "measure": claim.measure,
        "against": claim.against,
        "value": claim.value,
        "other": claim.other,
        "probability": claim.probability,
        "difference": claim.value - claim.other,
    }
    return data if found is None else data | {"low": round(found.low, 6), "high": round(found.high, 6)}
