"""The picture of a front that lies beside a model card."""

from __future__ import annotations

from pathlib import Path

from evomerge.errors import EnvironmentFault
from evomerge.front.front import Front
from evomerge.front.pictures import front_figure, save

PICTURE_FILE = "front.png"


def draw_front(front: Front, chosen: str, folder: Path) -> tuple[str, ...]:
    """Draw a front with one of its models marked into a folder; a warning where matplotlib is not installed.

    Raises:
        EnvironmentFault: E408, it cannot be written.
    """
    try:
        figure = front_figure(front, chosen)
    except EnvironmentFault as error:
        return tuple(f"no picture of the front: {problem.todo}" for problem in error.problems)
    save(figure, folder / PICTURE_FILE)
    return ()
