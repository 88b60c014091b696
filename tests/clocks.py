"""A clock that passes when somebody sleeps, and not otherwise."""

from __future__ import annotations

from evomerge.run.safeguards import Clock


class PlayedClock:
    """Begins at a time that is not 0; `slept` lists what was slept."""

    def __init__(self) -> None:
        self.time = 1000.0
        self.slept: list[float] = []
        self.clock = Clock(self.now, self.sleep)

    def now(self) -> float:
        """Seconds on this clock."""
        return self.time

    def sleep(self, seconds: float) -> None:
        """Let them pass."""
        assert seconds >= 0
        self.slept.append(seconds)
        self.time += seconds
