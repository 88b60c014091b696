"""What is said of slopes that failed, and of a lesson that gave up because of them."""

from __future__ import annotations

from evomerge.errors import Problem, TooManyFailures
from evomerge.ledger.failed_slopes import commonest, slope_failure
from evomerge.ledger.history import History

WITHOUT = "an optimizer without gradients (`kind: surrogate`)"

WHAT_TO_DO = {
    "out_of_memory": "a gradient takes more memory than an evaluation; begin another campaign with a smaller "
    f"`evaluation.batch_size`, or with {WITHOUT}",
    "deadline": "a gradient takes several times as long as an evaluation of the same items; raise "
    f"`workers.deadline`, or begin another campaign with {WITHOUT}",
}
OTHERWISE = f"if others fail too, mend the cause, or begin another campaign with {WITHOUT}"

GOES_ON = {
    "map": "the search goes on with the map as learned so far",
    "genes": "the search goes on without gradients, by the surrogate on the genes",
}


def what_to_do(failure: str) -> str:
    """What helps against a class of failure of a slope."""
    return WHAT_TO_DO.get(failure, OTHERWISE)


def gave_up(history: History) -> str:
    """That no gradient of the last steps could be had, how many failed in all, and why most did."""
    wanted = [each for batch in history.slopes for each in batch.values() if any(each.weights)]
    failed = sum(each.failure is not None for each in wanted)
    reason = slope_failure(history)
    return f"{failed} of {len(wanted)} gradients failed, all of the last steps: {reason}"


def nothing_learned(history: History) -> TooManyFailures:
    """The error that ends a campaign that learns from gradients alone and had none."""
    wrong = "no gradient could be had, and the optimizer learns from nothing else"
    last = commonest(history)
    failure = "" if last is None else str(last.failure)
    todo = WHAT_TO_DO.get(failure, f"mend the cause and begin another campaign, or one with {WITHOUT}")
    return TooManyFailures(Problem("E508", wrong, gave_up(history), todo))
