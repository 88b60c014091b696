"""`refine`: a further budget near a preference."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evomerge.cli.again import same_command
from evomerge.cli.campaigns import AllowBenchmarkTest
from evomerge.cli.output import (
    AllowTaskCode,
    Json,
    plain,
    print_json,
    print_warning,
    say,
    show_log,
    table_console,
)
from evomerge.errors import Problem, UsageError

if TYPE_CHECKING:
    from evomerge.front.folder import OpenedFolder
    from evomerge.front.front import Front, Member
    from evomerge.ledger.candidate import Candidate

HEADS = {"before": "before", "now": "now", "made_for": "made for it"}
"""Heads of the models that are compared."""


def refine(
    context: typer.Context,
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="The campaign folder.", show_default=False)
    ],
    prefer: Annotated[
        str,
        typer.Option(metavar="A=0.7,B=0.3", help="Weights of objectives, or knee.", show_default=False),
    ],
    evaluations: Annotated[int, typer.Option(metavar="N", min=1, help="The further budget.")] = 40,
    allow_task_code: AllowTaskCode = False,
    allow_benchmark_test: AllowBenchmarkTest = False,
    as_json: Json = False,
) -> None:
    """Spend a further budget on a campaign, near a preference.

    With a learned front the model of the preference itself comes first, then its neighbours. What is found is
    scored on held-out items as at the end of a run, and that model with it. Killed and repeated it goes on.
    """
    from evomerge.campaign.campaign import campaign_from_json
    from evomerge.campaign.check import grants_of
    from evomerge.cli.live import open_display
    from evomerge.front.folder import open_campaign_folder
    from evomerge.objectives.preference import preference
    from evomerge.run.search import Refinement
    from evomerge.run.session import run_session

    show_log()
    opened = open_campaign_folder(directory)
    if opened.history.baselines is None or not opened.history.tells:
        found, todo = "nothing was told yet", "run it first"
        raise UsageError(Problem("E507", "there is nothing to refine", found, todo, str(directory)))
    campaign = campaign_from_json(opened.history.config)
    try:
        weights = preference(campaign.objectives, prefer)
    except ValueError as error:
        raise UsageError(Problem("E506", str(error), field="--prefer")) from None
    run_session(
        campaign,
        directory,
        grants_of(allow_task_code, allow_benchmark_test),
        warn=lambda warning: None if as_json else print_warning(warning),
        open_display=open_display,
        again=f"go on with: {same_command(context)}",
        refinement=Refinement(weights, evaluations),
    )
    _print_gain(open_campaign_folder(directory), prefer, weights, as_json)


def _print_gain(opened: OpenedFolder, prefer: str, weights: tuple[float, ...], as_json: bool) -> None:
    """The pick of a preference before the last refinement and now, on the items that decide now.

    Beside them the model that was made for it, on a learned map, whether it is on the front or not.
    """
    import numpy as np

    from evomerge.front.compute import shown_beside
    from evomerge.front.front import pick
    from evomerge.front.tables import NARROW_NAME, shown_value
    from evomerge.front.text_table import Column, filled, in_pieces, table_lines
    from evomerge.objectives.pareto import distances

    now = opened.front()
    history = opened.history
    before = _front_before(opened)
    text = f"prefer:{prefer.removeprefix('prefer:')}"
    rows: dict[str, Member] = {}
    if before is not None and before.members and before.split == now.split:
        rows["before"] = pick(before, text)
    if now.members:
        rows["now"] = pick(now, text)
    made_for = history.made_for.get(len(history.refinements) - 1)
    if made_for is not None and "search" in history.candidates[made_for].evaluations:
        rows["made_for"] = shown_beside(history, made_for, now.split)
    scaled = np.array([member.scaled for member in rows.values()]).reshape(len(rows), len(weights))
    distance = dict(zip(rows, distances(scaled, np.array(weights)).tolist(), strict=True))
    metrics = [objective.metric for objective in now.objectives]
    spent = history.refined[len(history.refinements) - 1]
    if as_json:
        found: dict[str, Any] = {name: member.to_json() for name, member in rows.items()}
        near = dict(zip(metrics, weights, strict=True))
        if made_for is not None and "made_for" not in rows:
            found["made_for"] = {"id": made_for, "failure": _fate(history.candidates[made_for])}
        print_json(
            {"preference": near, "split": now.split, "evaluations": spent, "distance": distance} | found
        )
        return
    weighed = [part.strip() for part in prefer.removeprefix("prefer:").split(",")]
    first = ("model, by", *filled(weighed, NARROW_NAME, ","))
    names = [first, *(in_pieces(name, NARROW_NAME) for name in (*metrics, "distance"))]
    columns = [Column(("",), tuple(names))]
    for head, member in rows.items():
        # One that failed on the deciding items still has search scores.
        of = member.metrics.get(now.split, member.metrics["search"])
        values = [shown_value(o.metric, of[o.metric].value) for o in now.objectives]
        cells = [member.id, *values, f"{distance[head]:.4f}"]
        columns.append(Column((HEADS[head],), tuple((text,) for text in cells), right=True))
    console = table_console()
    for line in table_lines(columns, 3):
        console.print(plain(line), markup=False, soft_wrap=True)
    say(
        f"{spent} evaluations near it; {now.split} items; distance: 0 is ideal in all that is preferred"
    )
    if made_for is not None:
        say(_made_for_words(history.candidates[made_for], rows.get("made_for"), now))
    if "before" in rows and rows["before"].id == rows["now"].id:
        say(f"nothing nearer to this preference was found than {rows['now'].id}")


def _made_for_words(candidate: Candidate, shown: Member | None, front: Front) -> str:
    """What became of the learned map's own model for a preference."""
    from evomerge.front.front import broken_by

    found = f"{candidate.id} is the learned front's own model for this preference"
    if shown is None:
        return f"{found}; it has no scores: {_fate(candidate)}"
    if front.split not in shown.metrics:
        return f"{found}; it could not be scored on {front.split} items, its scores are those of search"
    if bounds := broken_by(front, shown):
        return f"{found}; it breaks {', '.join(map(str, bounds))}"
    on_front = candidate.recipe in {member.recipe for member in front.members}
    return found if on_front else f"{found}; it is not on the front"


def _fate(candidate: Candidate) -> str:
    """Why a candidate has no scores on search items."""
    if candidate.raced is not None:
        return f"it lost a race to {candidate.beaten_by}"
    failed = candidate.failure is not None
    return f"{candidate.failure}: {candidate.message}" if failed else "it was not evaluated"


def _front_before(opened: OpenedFolder) -> Front | None:
    """The front as it stood when the last refinement began."""
    from evomerge.front.folder import OpenedFolder
    from evomerge.ledger.events import RefineEvent
    from evomerge.ledger.history import History

    begins = [i for i, event in enumerate(opened.events) if isinstance(event, RefineEvent)]
    events = opened.events[: begins[-1]]
    history = History.fold(events)
    return OpenedFolder(opened.path, events, history).front() if history.baselines else None
