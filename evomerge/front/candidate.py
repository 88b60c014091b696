"""Which candidate a person means: an id, or a pick of the front."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable

from evomerge.errors import Problem, UsageError
from evomerge.front.front import PICKS, Front, pick
from evomerge.ledger.candidate import Candidate
from evomerge.ledger.history import History

_PICK = re.compile(r"knee$|(best|prefer):|.*[<>]")
_NUMBER = re.compile(r"c?0*(\d+)")


def find_candidate(history: History, front: Callable[[], Front], choice: str) -> Candidate:
    """The candidate or baseline that a person asks for.

    Args:
        history: of the campaign.
        front: makes its front; called for a pick only, so that an id is found before there is a front.
        choice: an id, also of a candidate that is no member, or what `front.pick` takes.

    Raises:
        UsageError: E506 for an unknown id or form, which names what is allowed; for a pick, E506 and E507
            as `front.pick`.
    """
    known = history.candidates
    if choice in known:
        return known[choice]
    if _PICK.match(choice):
        return known[pick(front(), choice).id]
    asked = [name for name, candidate in known.items() if not candidate.is_baseline]
    count = f"there are {len(asked)}, the last is {asked[-1]}" if asked else "there is none yet"
    baselines = ", ".join(name for name, candidate in known.items() if candidate.is_baseline)
    found = f"{count}; baselines: {baselines}" if baselines else count
    number = _NUMBER.fullmatch(choice)
    padded = f"c{int(number[1]):05d}" if number else ""
    near = [padded] if padded in known else difflib.get_close_matches(choice, [*known, "knee"], n=1)
    todo = f"give an id, {PICKS}"
    todo = f"did you mean {near[0]}? {todo}" if near else todo
    raise UsageError(Problem("E506", f"no candidate `{choice}`", found, todo))
