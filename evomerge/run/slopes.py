"""Slopes of a campaign: from an optimizer's requests to jobs, from results to the ledger and back from there.

A batch of requests is answered while nothing else is under way. Each answer is recorded as it arrives, the
gradient by gene in a side file; a batch that a session left unfinished is finished by the next one, and a
replay needs no model.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from evomerge.campaign.file import BudgetSection
from evomerge.errors import ConfigError, Problem
from evomerge.failpoint import failpoint
from evomerge.ledger.events import PreparedEvaluator, SlopeEvent
from evomerge.ledger.failed_slopes import slope_name
from evomerge.ledger.history import History
from evomerge.ledger.item_store import ItemStore
from evomerge.objectives.objective import Objective
from evomerge.optimizers.slopes import MOST_LEARNING, Slope, SlopeGround, SlopeRequest
from evomerge.recipe.recipe import canonical_json
from evomerge.run.dispatch import Dispatcher
from evomerge.run.failed_lesson import what_to_do
from evomerge.run.job import Job, JobResult, SlopeWork, error_of
from evomerge.run.result_events import MOST_MESSAGE
from evomerge.run.safeguards import (
    INFRASTRUCTURE,
    MOST_REQUEUED,
    POISON,
    back_off_seconds,
    deadline_seconds,
)
from evomerge.search_space import SearchSpace, gene_gradient

logger = logging.getLogger(__name__)

SEGMENT = "slopes"
"""Name of the side file among the per-item results."""

GRADIENT = "gradient"

PASSES = 3.3
"""What a gradient on an item costs, in evaluations of that item: as `benchmarks/slopes.py` measured it.

On a model of 57 M parameters; on the quickstart's, of 1.2 M, it is 3.8 to 4.0 by CPU seconds, on SmolLM2-135M
in bfloat16 4.2 to 5.3. A constant, so that a campaign comes to the same result on a busy machine.
"""


class SlopesDiffer(Exception):
    """The optimizer asks for other slopes than the ledger has, or the ledger lacks what they begin from."""


def slope_ground(
    history: History, objectives: Sequence[Objective], space: SearchSpace, whole_tensors: bool = True
) -> SlopeGround:
    """What an optimizer must know to ask for slopes, once the baselines are scored.

    No slopes can be had of methods that are not linear in their weights, nor of paths of layers and mixtures;
    of the `merging` part of a space they can. Without `whole_tensors` none are had of methods that make
    these either. Of an objective there are none where losses do not stand for its metric, or fall as it gets
    worse.

    Raises:
        SlopesDiffer: a score or an evaluator is missing, as in a ledger that was tampered with.
    """
    try:
        return _slope_ground(history, objectives, space, whole_tensors)
    except KeyError as error:
        raise SlopesDiffer(f"the baselines lack {error}, which a learned front begins from") from None


def _slope_ground(
    history: History, objectives: Sequence[Objective], space: SearchSpace, whole_tensors: bool
) -> SlopeGround:
    plain = all(each is None for each in (space.paths, space.trajectory, space.mixtures))
    wanted = whole_tensors or not space.method.makes_whole
    linear = plain and wanted and space.method.has_slopes(space.options)
    experts = space.experts
    evaluators = [_evaluator(history, each) for each in objectives]
    pairs = [*zip(evaluators, objectives, strict=True)]
    base, *values = [
        np.array(
            [
                each.sign * history.candidates[name].evaluations["search"].metrics[each.metric].value
                for each in objectives
            ]
        )
        for name in ("base", *experts)
    ]
    gains = np.maximum(base - np.array(values), 0.0)
    most = gains.max(axis=0)
    shares = gains / np.where(most > 0.0, most, 1.0)
    return SlopeGround(
        items=tuple(e.items["search"] if linear and e.teaches(o) else 0 for e, o in pairs),
        gains=dict(zip(experts, map(tuple, shares.tolist()), strict=True)),
        choices=tuple(
            e.items["search"] if linear and e.teaches(o, entropy=True) else 0 for e, o in pairs
        ),
        allowance=_allowance(history),
        backward=PASSES,
    )


def _evaluator(history: History, objective: Objective) -> PreparedEvaluator:
    assert history.prepared is not None
    return history.prepared.evaluators[objective.metric.split(".")[0]]


def _allowance(history: History) -> float | None:
    """What slopes may cost of the budget that the campaign began with; it may change, and what is asked not.

    None without evaluations or items in it, and in ledgers from before December 2026, whose lessons did not
    look at it; in those that record no `longer` they did not look at the items.
    """
    stated = history.stated
    if stated.settings is None:
        return None
    budget = BudgetSection.model_validate(stated.config["budget"])
    if "longer" not in stated.settings[0]:
        budget = budget.model_copy(update={"items": None})
    allowed = budget.evaluations_allowed(history.search_items)
    return None if allowed is None else MOST_LEARNING * allowed * history.search_items


def request_digest(request: SlopeRequest) -> str:
    """SHA-256 (hex) of what is asked: point, weights, items, and that entropies are."""
    parts: list[object] = [list(request.genome), list(request.weights)]
    parts.append([list(items) for items in request.items])
    parts += ["entropy"] if request.entropy else []
    return hashlib.sha256(canonical_json(parts).encode()).hexdigest()


def recorded(
    history: History, store: ItemStore, batch: int, requests: Sequence[SlopeRequest]
) -> list[Slope | None] | None:
    """The answers to a batch from the ledger; None as long as some are missing.

    Raises:
        SlopesDiffer: if what was recorded answers other requests.
        LedgerDamaged: if a gradient cannot be read.
    """
    known = history.slopes[batch] if batch < len(history.slopes) else {}
    if any(number >= len(requests) for number in known):
        raise SlopesDiffer(f"batch {batch} of slopes has {len(requests)} requests")
    for number, event in known.items():
        if event.request != request_digest(requests[number]):
            raise SlopesDiffer(f"slope {number} of batch {batch} is asked otherwise")
    if len(known) < len(requests):
        return None
    return [_slope(known[number], store) for number in range(len(requests))]


def _slope(event: SlopeEvent, store: ItemStore) -> Slope | None:
    if event.failure is not None:
        return None
    losses = tuple(math.nan if loss is None else loss for loss in event.losses)
    gradient = np.empty(0) if event.gradient is None else store.read(event.gradient)[GRADIENT]
    return Slope(losses, gradient, event.cost)


class SlopeDesk:
    """Answers batches of requests by the workers of a campaign."""

    def __init__(
        self, dispatcher: Dispatcher, space: SearchSpace, objectives: Sequence[Objective]
    ) -> None:
        self._dispatcher, self._space, self._objectives = dispatcher, space, objectives
        self._history, self._store = dispatcher.history, dispatcher.items
        self._warned_of: set[str] = set()

    def answers(self, batch: int, requests: Sequence[SlopeRequest]) -> list[Slope | None] | None:
        """The answers to a batch, those in the ledger from there; None if the campaign's hours end before.

        Raises:
            SlopesDiffer, LedgerDamaged: as `recorded`.
            EvomergeError: a fault that is no request's.
        """
        found = recorded(self._history, self._store, batch, requests)
        if found is not None:
            return found
        known = self._history.slopes[batch] if batch < len(self._history.slopes) else {}
        missing = {n: request for n, request in enumerate(requests) if n not in known}
        self._run(batch, missing)
        self._dispatcher.phase = "search"
        return recorded(self._history, self._store, batch, requests)

    def _run(self, batch: int, requests: dict[int, SlopeRequest]) -> None:
        dispatcher, under_way = self._dispatcher, self._dispatcher.under_way
        dispatcher.phase = "learning"
        waiting = deque(requests)
        lost: Counter[int] = Counter()
        while waiting or under_way:
            if dispatcher.account.is_out_of_time():
                waiting.clear()
            while waiting and len(under_way) < dispatcher.pool.size:
                number = waiting.popleft()
                under_way.submit(self._job(batch, number, requests[number]))
            if not under_way:
                return
            result = under_way.wait()
            if result is None:
                continue
            number = int(result.id.rpartition(".")[2])
            if result.status == "fault":
                dispatcher.stopped("fault")
                raise error_of(result)
            if result.status == "lost":
                lost[number] += 1
                logger.info("%s lost its worker: %s: %s", result.id, result.failure, result.message)
                infrastructure = result.failure in INFRASTRUCTURE
                if lost[number] <= (MOST_REQUEUED if infrastructure else POISON - 1):
                    if infrastructure:
                        under_way.pause(back_off_seconds(lost[number]))
                    waiting.append(number)
                    continue
            self._record(batch, number, requests[number], result)

    def _job(self, batch: int, number: int, request: SlopeRequest) -> Job:
        self._refuse_untaught(request)
        metrics = [each.metric for each in self._objectives]
        work = SlopeWork(
            weights=dict(zip(metrics, request.weights, strict=True)),
            items={m: items for m, items in zip(metrics, request.items, strict=True) if items},
            entropy=request.entropy,
        )
        recipe = self._space.spelled_out(request.genome)
        return Job(
            slope_name(batch, number),
            "slope",
            recipe.to_json(),
            deadline=self._deadline(request),
            slope=work,
            rows=recipe.row_content,
        )

    def _refuse_untaught(self, request: SlopeRequest) -> None:
        """Losses of an evaluator are there for all its metrics, also those that they say nothing of.

        Raises:
            ConfigError: E148.
        """
        for objective, items in zip(self._objectives, request.items, strict=True):
            evaluator = _evaluator(self._history, objective)
            if items and not evaluator.teaches(objective, entropy=request.entropy):
                what = "entropies" if request.entropy else "losses"
                wrong = f"no {what} stand for an objective to {objective.direction} {objective.metric}"
                raise ConfigError(Problem("E148", wrong, field="objectives"))

    def _deadline(self, request: SlopeRequest) -> float | None:
        """As an evaluation's, and in proportion where a slope costs more than one."""
        seconds = deadline_seconds(self._dispatcher.campaign.config.workers.deadline, self._history)
        return None if seconds is None else seconds * max(1.0, self._cost(request))

    def _record(self, batch: int, number: int, request: SlopeRequest, result: JobResult) -> None:
        event = SlopeEvent(
            batch=batch,
            number=number,
            request=request_digest(request),
            weights=request.weights,
            note=request.note,
            seconds={phase: round(seconds, 4) for phase, seconds in result.seconds.items()},
        )
        failpoint("slopes.before_record")
        if result.slope is None:
            message = result.message[:MOST_MESSAGE]
            self._dispatcher.record(replace(event, failure=result.failure, message=message))
            self._warn(result)
            return
        reference = None
        if result.slope.gradient.size:
            gradient = gene_gradient(self._space, result.slope.gradient)
            reference = self._store.append(SEGMENT, {GRADIENT: gradient})
            failpoint("slopes.appended")
        losses = tuple(result.slope.losses.get(each.metric) for each in self._objectives)
        cost = self._cost(request)
        self._dispatcher.record(replace(event, losses=losses, cost=cost, gradient=reference))

    def _warn(self, result: JobResult) -> None:
        """Say that a slope failed; once for each class of failure what to do."""
        said = f"{result.failure}: {result.message}"
        if result.failure not in self._warned_of:
            self._warned_of.add(result.failure)
            said += f"; {what_to_do(result.failure)}"
        logger.warning("%s failed and is left out: %s", result.id, said)
        if result.traceback:
            logger.info("%s failed:\n%s", result.id, result.traceback)

    def _cost(self, request: SlopeRequest) -> float:
        items = sum(
            len(items) * (PASSES if weight > 0.0 else 1.0)
            for items, weight in zip(request.items, request.weights, strict=True)
        )
        return round(items / self._history.search_items, 9)
