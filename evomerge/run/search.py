"""Search: one campaign as a schedule sees it, replayed from its ledger and gone on with.

Everything an optimizer sees has been fsynced before; see `replay` for what a resume repeats. What was asked
and not told is evaluated again as far as it lacks results.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from evomerge.campaign.campaign import Campaign
from evomerge.evaluators.racing import References
from evomerge.failpoint import failpoint
from evomerge.ledger.bounds import bounds_of, told_bounds
from evomerge.ledger.events import (
    AskedCandidate,
    AskedEvent,
    RefineEvent,
    ToldEvent,
)
from evomerge.ledger.history import History
from evomerge.ledger.ledger import keep_genome
from evomerge.optimizers.optimizer import (
    AdoptingOptimizer,
    Note,
    Optimizer,
    Preferring,
    Staged,
)
from evomerge.optimizers.proposals import focusing
from evomerge.optimizers.recorded_settings import to_record
from evomerge.optimizers.schedule import follow
from evomerge.optimizers.settings import REFINING
from evomerge.optimizers.slopes import MOST_LEARNING, Slope, SlopeOptimizer, SlopeRequest
from evomerge.recipe.recipe import Recipe
from evomerge.run.dispatch import Dispatcher
from evomerge.run.failed_lesson import GOES_ON, gave_up, nothing_learned
from evomerge.run.limits import at_plateau
from evomerge.run.origins import Origins
from evomerge.run.racing_references import add_references, first_references, racing_record
from evomerge.run.replay import (
    ReplayDiffers,
    campaign_optimizer,
    outcomes,
    refiners,
    replay,
    store_for,
)
from evomerge.run.slopes import SlopeDesk, SlopesDiffer
from evomerge.search_space import Genome, SearchSpace

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Refinement:
    """A further budget near a preference: weights of the objectives, summing to 1."""

    preference: tuple[float, ...]
    evaluations: int


def number_of(refinement: Refinement, history: History) -> int:
    """The number of the last refinement, if it is this one and has not ended; else that of a new one."""
    begun = history.refinements
    wanted = (refinement.preference, refinement.evaluations)
    under_way = len(begun) > history.sessions.refinements_ended
    if under_way and (begun[-1].preference, begun[-1].evaluations) == wanted:
        return len(begun) - 1
    return len(begun)


def candidate_id(number: int) -> str:
    """Id of the candidate with a number, counted from 0 over all asks."""
    return f"c{number:05d}"


def candidate_number(name: str) -> int:
    """Number of a candidate."""
    return int(name[1:])


class Search:
    """The `Desk` of a campaign: candidates go to the dispatcher, asks and tells to the ledger."""

    def __init__(
        self,
        campaign: Campaign,
        space: SearchSpace,
        dispatcher: Dispatcher,
        initial: Mapping[Genome, str],
    ) -> None:
        self.campaign, self.space, self.dispatcher = campaign, space, dispatcher
        self.history = dispatcher.history
        first = list(initial)
        self.optimizer = campaign_optimizer(campaign, space, first, self.history)
        self._refine = refiners(campaign, space, first, self.history, self.optimizer)
        starts = self.history.starts
        self._free = frozenset() if starts is None else starts.free
        self._origins = Origins(self.history, ({} if starts is None else starts.known) | dict(initial))
        self._slopes = SlopeDesk(dispatcher, space, campaign.objectives)
        self._slope_batches = 0
        self._recipes: dict[int, Recipe] = {}
        self._arrived: list[int] = []
        self._asked: list[AskedEvent] = []
        self._references: References | None = None
        self._plateau = (-1, False)
        self._heeds_lesson = True

    def run(self, refinement: Refinement | None = None) -> str:
        """Replay, then go on until a limit is reached, near a preference if one is given.

        Returns:
            Which limit.

        Raises:
            ReplayDiffers: the ledger cannot be replayed.
        """
        history, askers = self.history, dict[int | None, Optimizer]()
        turns = replay(
            self.optimizer,
            self._refine,
            history,
            self.campaign.objectives,
            self.dispatcher.items,
            askers,
        )
        self._slope_batches = sum(turn == "slopes" for turn in turns)
        if refinement is not None:
            number = self._begin(refinement)
            self.dispatcher.account.asker = number
            self.optimizer = askers.get(number) or self._refine(number)
            return follow("steady_state", self.optimizer, self)
        if self.campaign.config.racing is not None:
            self._references = first_references(history, self.campaign.objectives)
            for turn in history.turns:
                if turn.state is not None and turn.asker is None:
                    self._add_references(turn.ids)
        return follow(self.campaign.config.optimizer.schedule, self.optimizer, self)

    def made_for_preference(self) -> str | None:
        """The candidate that is a learned map's own model for the preference of a refinement, if any."""
        if not isinstance(self.optimizer, Preferring):
            return None
        own = self.optimizer.made_for_preference()
        if own is None:
            return None
        same = [each for each in self.history.candidates.values() if each.genome == own]
        # The campaign may have asked for it with nothing left to pay for it; a refinement asks again.
        scored = [each.id for each in same if "search" in each.evaluations]
        return next(iter([*scored, *(each.id for each in reversed(same))]), None)

    def _begin(self, refinement: Refinement) -> int:
        number = number_of(refinement, self.history)
        if number == len(self.history.refinements):
            wanted = RefineEvent(preference=refinement.preference, evaluations=refinement.evaluations)
            if focusing(self.optimizer) is None:
                self.dispatcher.record(replace(wanted, settings=to_record(REFINING)))
            else:
                self.dispatcher.record(replace(wanted, by="policy"))
        return number

    def untold(self) -> list[int]:
        """Candidates asked and not told, in ask order."""
        told = {name for turn in self.history.turns if turn.state is not None for name in turn.ids}
        asked = (name for batch in self.history.generations for name in batch)
        asker, known = self.dispatcher.account.asker, self.history.candidates
        open_ = [name for name in asked if name not in told and known[name].asker == asker]
        return [candidate_number(name) for name in open_]

    def spent(self) -> str | None:
        """The limit that is reached, if any. With a model a plateau shows only in the next batch: `start`."""
        behind = not self.history.stated.has_forecasts and self._is_at_plateau()
        return self.dispatcher.account.spent() or ("plateau" if behind else None)

    def _is_at_plateau(self) -> bool:
        turns = len(self.history.turns)
        if self.dispatcher.account.asker is None and self._plateau[0] != turns:
            self._plateau = (turns, at_plateau(self.history, self.campaign.config.budget))
        return self.dispatcher.account.asker is None and self._plateau[1]

    def idle(self) -> int:
        """Workers without work, as far as the budget goes, once all arrivals are taken."""
        if self._arrived:
            return 0
        left = self.dispatcher.account.left
        most = math.inf if left is None else max(1, math.ceil(left))  # with nothing left one finds out
        return int(min(self.dispatcher.idle, most))

    def busy(self) -> bool:
        """Whether anything is under way or waits to be told."""
        return bool(self._arrived) or self.dispatcher.open > 0

    def has_learned_enough(self) -> bool:
        """Whether slopes have cost their share of the evaluations, or that share of the hours is over.

        A batch that was begun is finished.
        """
        account, history = self.dispatcher.account, self.history
        if self._slope_batches < len(history.slopes):
            return False
        allowed = account.allowed
        cost_is_spent = allowed is not None and history.slope_cost >= MOST_LEARNING * allowed
        return cost_is_spent or account.is_out_of_time(MOST_LEARNING)

    def slopes(self, requests: Sequence[SlopeRequest]) -> list[Slope | None] | None:
        """Answers from the ledger, those missing there from the workers; None if a limit comes first."""
        try:
            answers = self._slopes.answers(self._slope_batches, requests)
        except SlopesDiffer as error:
            raise ReplayDiffers(str(error)) from error
        if answers is not None:
            self._slope_batches += 1
        return answers

    def asked(self, genomes: Sequence[Genome]) -> list[int]:
        """Give genomes new ids; `start` records them.

        Raises:
            TooManyFailures: E508, if all that the optimizer learns from are gradients, and none could be had.
        """
        self._heed_lesson()
        first = self.history.asked + sum(len(event.candidates) for event in self._asked)
        entries = []
        notes: Sequence[Note | None] = [None] * len(genomes)
        forecast = None
        if isinstance(self.optimizer, AdoptingOptimizer):
            notes, forecast = self.optimizer.notes(genomes), self.optimizer.forecast()
        origins = self._origins.asked_by(self.optimizer, genomes)
        parts = zip(genomes, notes, origins, strict=True)
        for number, (genome, note, origin) in enumerate(parts, first):
            recipe = self._recipes[number] = self.space.decode(genome)
            asked = AskedCandidate(
                id=candidate_id(number),
                genome=tuple(genome),
                recipe=recipe.digest,
                note=note,
                origin=origin,
            )
            if self.space.layout.rows:
                asked = keep_genome(asked, self.dispatcher.items)
            entries.append(asked)
        failpoint("driver.before_asked")
        generation = len(self.history.generations) + len(self._asked)
        racing = None
        if self._references is not None:
            racing = racing_record(self.history, self._references.chosen())
        self._asked.append(
            AskedEvent(
                generation=generation,
                candidates=tuple(entries),
                racing=racing,
                refinement=self.dispatcher.account.asker,
                forecast=forecast,
                stage=self.optimizer.stage if isinstance(self.optimizer, Staged) else None,
            )
        )
        self._origins.note([each.id for each in entries], genomes)
        return list(range(first, first + len(entries)))

    def _heed_lesson(self) -> None:
        """Say, once in a session, that a lesson gave up; without anything learned it may be the end."""
        if not self._heeds_lesson or not isinstance(self.optimizer, SlopeOptimizer):
            return
        self._heeds_lesson = False
        given_up = self.optimizer.given_up
        if given_up == "nothing":
            self.dispatcher.stopped("breaker")
            raise nothing_learned(self.history)
        if given_up is not None:
            logger.warning(
                "the lesson has ended early: %s; %s", gave_up(self.history), GOES_ON[given_up]
            )

    def start(self, numbers: Sequence[int]) -> str | None:
        """Hand candidates to the dispatcher, in order, as far as the budget pays for them.

        None of a batch of which too little is expected.
        """
        asked, self._asked = self._asked, []
        self.dispatcher.record_all(asked)
        if self.history.stated.has_forecasts and self._is_at_plateau():
            return self.dispatcher.account.spent() or "plateau"
        settled = [n for n in numbers if self.history.candidates[candidate_id(n)].is_settled]
        if settled:
            self._arrived += self._by_arrival(settled)
        for number in [n for n in numbers if n not in set(settled)]:
            recipe = self._recipe(number)
            if self.dispatcher.account.is_paid_up() and not self.dispatcher.is_known(recipe, "search"):
                return self.dispatcher.account.word
            name = candidate_id(number)
            candidate = self.history.candidates[name]
            references = self.history.references[candidate.generation]
            if self._free and candidate.genome in self._free:
                references = ()  # a race is not needed where the scores are there
            if self.dispatcher.start(name, recipe, "search", references=references):
                self._arrived.append(number)
        return None

    def arrived(self) -> list[int] | None:
        """What is settled, or what the dispatcher settles next."""
        if not self._arrived:
            names = self.dispatcher.settle(limited=True)
            if names is None:
                return None
            self._arrived = [candidate_number(name) for name in names]
        arrived, self._arrived = self._arrived, []
        return arrived

    def tell(self, numbers: Sequence[int]) -> None:
        """Tell outcomes from the history, record the states: in a steady state one for each."""
        steady = self.campaign.config.optimizer.schedule == "steady_state"
        single = self.dispatcher.account.asker is not None or steady
        parts = [[number] for number in numbers] if single else [numbers]
        self.dispatcher.record_all([self._told(part, single) for part in parts])
        self._add_references(candidate_id(number) for number in numbers)
        for number in numbers:
            self._recipes.pop(number, None)

    def _told(self, numbers: Sequence[int], single: bool) -> ToldEvent:
        failpoint("driver.before_tell")
        candidates = [self.history.candidates[candidate_id(number)] for number in numbers]
        store = store_for(self.optimizer, self.dispatcher.items)
        bounds = told_bounds(self.history, self.dispatcher.account.asker)
        told = outcomes(candidates, self.campaign.objectives, bounds, store)
        self.optimizer.tell(told, [candidate.number for candidate in candidates])
        failpoint("driver.after_tell")
        state = self.optimizer.state_digest()
        if single:
            return ToldEvent(state=state, id=candidates[0].id)
        return ToldEvent(state=state, generation=candidates[0].generation)

    def _add_references(self, names: Iterable[str]) -> None:
        if self._references is not None:
            told = (self.history.candidates[name] for name in names)
            add_references(self._references, told, self.campaign.objectives, bounds_of(self.history))

    def _recipe(self, number: int) -> Recipe:
        if number not in self._recipes:
            genome = self.history.candidates[candidate_id(number)].genome
            assert genome is not None
            self._recipes[number] = self.space.decode(genome)
        return self._recipes[number]

    def _by_arrival(self, numbers: Sequence[int]) -> list[int]:
        """Candidates that an earlier session settled, in the order of their results in the ledger."""
        wanted = {candidate_id(number) for number in numbers}
        names = [name for name in self.history.arrivals if name in wanted]
        return [candidate_number(name) for name in dict.fromkeys(names)]
