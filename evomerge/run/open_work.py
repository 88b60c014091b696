"""Open work: the evaluations that are wanted and not settled, each evaluation key once."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from evomerge.objectives.scores import Split
from evomerge.recipe.recipe import Recipe
from evomerge.run.safeguards import BackOff, Clock


@dataclass(frozen=True)
class Wanted:
    """All ids that wait for one evaluation key; the first gives the job its name.

    Attributes:
        key: the evaluation key.
        split: whose items are scored.
        entries: (id, recipe), all with this key.
        references: whom it races against; none without a race.
    """

    key: str
    split: Split
    entries: list[tuple[str, Recipe]]
    references: Sequence[str] = ()

    @property
    def id(self) -> str:
        """Of the job."""
        return self.entries[0][0]

    @property
    def recipe(self) -> Recipe:
        """The recipe to score, which is the same for all entries."""
        return self.entries[0][1]


class OpenWork:
    """What is queued, under way, or held back to be tried again later."""

    def __init__(self, clock: Clock) -> None:
        self._by_id: dict[str, Wanted] = {}
        self._by_key: dict[str, Wanted] = {}
        self._queue: deque[Wanted] = deque()
        self._back_off: BackOff[Wanted] = BackOff(clock)

    def __len__(self) -> int:
        """Evaluation keys that are open."""
        return len(self._by_id)

    @property
    def queued(self) -> int:
        """How many can be handed out now."""
        return len(self._queue)

    def is_open(self, key: str) -> bool:
        """Whether scores with this evaluation key are to come."""
        return key in self._by_key

    def of(self, name: str) -> Wanted:
        """What a job was for."""
        return self._by_id[name]

    def add(self, entry: Wanted) -> None:
        """Queue what is not open yet."""
        self._by_key[entry.key] = self._by_id[entry.id] = entry
        self._queue.append(entry)

    def join(self, key: str, name: str, recipe: Recipe) -> bool:
        """Let one more id wait for a key; False if that key is not open."""
        if key not in self._by_key:
            return False
        self._by_key[key].entries.append((name, recipe))
        return True

    def take(self) -> Wanted:
        """The next to hand out; it stays open until it is closed."""
        return self._queue.popleft()

    def close(self, entry: Wanted) -> None:
        """Nothing more is to come of it."""
        del self._by_id[entry.id], self._by_key[entry.key]

    def try_next(self, entry: Wanted) -> None:
        """Put what was handed out in front of the queue again."""
        self._queue.appendleft(entry)

    def try_later(self, entry: Wanted, attempts_lost: int) -> None:
        """Hold back what was handed out, longer after each attempt that was lost."""
        self._back_off.put(entry, attempts_lost)

    def requeue_due(self) -> None:
        """Put what has been held back long enough in front of the queue."""
        self._queue.extendleft(reversed(self._back_off.take_due()))

    def seconds_to_next_try(self) -> float:
        """Until something held back is due; 0 if something is, infinity if nothing is held."""
        return self._back_off.seconds()

    def drop_queued(self) -> None:
        """Close all that is not under way."""
        for entry in (*self._queue, *self._back_off.take_all()):
            self.close(entry)
        self._queue.clear()
