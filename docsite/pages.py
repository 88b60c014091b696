"""The pages that are made from the code, by file name."""

from __future__ import annotations

from pathlib import Path

from docsite.api import api_page
from docsite.commands import commands_page
from docsite.errors import errors_page
from docsite.fields import campaign_page, evaluator_page, search_space_page

FOLDER = Path(__file__).parents[1] / "docs" / "reference"

MADE = "<!-- Made by `python -m docsite`; tests/docs compares it with the code. -->\n\n"


def pages() -> dict[str, str]:
    """File name to text."""
    made = {
        "campaign.md": campaign_page(),
        "search_space.md": search_space_page(),
        "evaluator.md": evaluator_page(),
        "commands.md": commands_page(),
        "errors.md": errors_page(),
        "api.md": api_page(),
    }
    return {name: MADE + text.rstrip() + "\n" for name, text in made.items()}
