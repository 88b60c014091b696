"""Licences in the heads of cards, and what a merge of models can state."""

from __future__ import annotations

from pathlib import Path

import pytest

from evomerge.checkpoint.licence import Licence, joined_licence, read_licence


@pytest.mark.parametrize(
    ("text", "licence"),
    [
        ("---\nlicense: apache-2.0\n---\n# x", Licence("apache-2.0")),
        ("---\r\nlicense: 'MIT'\r\n---\r\n", Licence("mit")),
        ("---\nlicense:\n- mit\ntags: [a]\n---\n", Licence("mit")),
        ("---\nlicense: [mit, gpl-3.0]\n---\n", Licence("other", "mit and gpl-3.0")),
        ("---\nlicense: My Own!\n---\n", Licence("other", "My Own!")),
        (
            "---\nlicense: other\nlicense_name: deep\nlicense_link: https://x.org/l\n---\n",
            Licence("other", "deep", "https://x.org/l"),
        ),
        ("---\ntags: [a]\n---\nlicense: mit\n", Licence()),
        ("license: mit\n", Licence()),
        ("---\nmodel:\n  license: mit\n---\n", Licence()),
    ],
)
def test_the_head_of_a_card_states_it(tmp_path: Path, text: str, licence: Licence) -> None:
    (tmp_path / "README.md").write_bytes(text.encode())
    assert read_licence(tmp_path) == licence


def test_a_merge_states_the_one_licence_or_other() -> None:
    mit, nd = Licence("mit"), Licence("cc-by-nc-nd-4.0")
    assert read_licence(Path("nowhere")) == Licence()
    assert joined_licence({"a": Licence(), "b": Licence()}) == (Licence(), ())
    assert joined_licence({"a": mit, "b": mit}) == (mit, ())
    taken, (warning,) = joined_licence({"a": mit, "b": Licence()})
    assert (taken, warning) == (mit, "licence: a mit; b stated none; the card says mit")
    taken, warnings = joined_licence({"a": mit, "b": nd})
    assert taken.id == "other"
    assert "the licence of b, cc-by-nc-nd-4.0, allows no derivatives" in warnings[0]
    assert "licences differ: a mit, b cc-by-nc-nd-4.0" in warnings[1]
