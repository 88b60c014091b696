"""Row weights: one file for equal tables, read back whole, and one clear error where they cannot be had."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from evomerge.errors import ConfigError
from evomerge.recipe.json_form import recipe_from_json
from evomerge.recipe.recipe import (
    MERGED,
    CheckpointSource,
    MergedSource,
    Recipe,
    single_source_recipe,
)
from evomerge.recipe.rows import RowTable, parse_rows, read_rows, rows_file

STEPS = {
    "math": {"embed": np.array([0, 1500, 7], np.int16), "layers.0.mlp.up": np.array([3, 2], np.int16)},
    "code": {"layers.0.mlp.up": np.array([1, 1000], np.int16)},
}
TABLE = RowTable(-0.1, 1e-3, STEPS)


def recipe(rows: RowTable | None) -> Recipe:
    merged = MergedSource(
        "task_arithmetic", ("math",), "base", {"weight": {"math": {"": 0.5}}}, rows=rows
    )
    sources = {name: CheckpointSource(name) for name in ("base", "math")}
    return single_source_recipe({**sources, MERGED: merged}, MERGED, 2, "bfloat16")


def test_equal_tables_are_one_file_and_come_back(tmp_path: Path) -> None:
    other = {name: dict(reversed(STEPS[name].items())) for name in reversed(STEPS)}
    assert RowTable(-0.1, 1e-3, other) == TABLE
    assert RowTable(-0.1, 1e-2, STEPS) != TABLE
    (tmp_path / rows_file(TABLE.digest)).write_bytes(TABLE.content)
    found = read_rows(tmp_path, TABLE.digest)
    assert (found.digest, hash(found)) == (TABLE.digest, hash(TABLE))
    assert found.weights("math", "embed.model.embed_tokens.weight") == (-0.1, 1.4, -0.093)
    assert found.weights("code", "layers.0.mlp.up.weight") == (-0.099, 0.9)
    assert found.weights("code", "embed") == found.weights("base", "embed") == ()
    # One line of JSON and two bytes a row.
    head, _, body = TABLE.content.partition(b"\n")
    assert json.loads(head)["rows"]["math"] == {"embed": 3, "layers.0.mlp.up": 2}
    assert len(body) == 2 * 7


def test_experts_of_a_mixture_have_the_rows_of_the_place_that_they_share() -> None:
    steps = {"math": {"layers.0.mlp.experts.w1": np.array([3, 2], np.int16)}}
    found = RowTable(-0.1, 1e-3, steps, of_mixtures=True)
    for expert in (0, 11):
        own = f"layers.0.mlp.experts.{expert}.w1.weight"
        assert found.weights("math", own) == (-0.097, -0.098)
        assert found.weights("math", own.replace("w1", "w2")) == ()
    again = parse_rows(found.content, found.digest, "here")
    assert (again, again.of_mixtures) == (found, True)


def test_rows_of_mixtures_from_before_are_merged_as_they_were() -> None:
    # By the means that the coefficients beside them hold.
    steps = {"math": {"layers.0.mlp.experts.w1": np.array([3, 2], np.int16)}}
    before = RowTable(-0.1, 1e-3, steps)
    assert before.weights("math", "layers.0.mlp.experts.0.w1.weight") == ()
    assert not parse_rows(before.content, before.digest, "here").of_mixtures


def test_a_recipe_is_another_with_other_rows_and_is_read_with_its_own() -> None:
    assert recipe(TABLE).digest != recipe(None).digest
    assert recipe(TABLE).digest != recipe(RowTable(-0.1, 1e-2, STEPS)).digest
    data = recipe(TABLE).to_json()
    assert data["sources"][MERGED]["rows"] == TABLE.digest
    assert "rows" not in recipe(None).to_json()["sources"][MERGED]
    asked = []
    found = recipe_from_json(data, rows=lambda digest, where: asked.append((digest, where)) or TABLE)
    assert (found.digest, found.row_tables) == (recipe(TABLE).digest, (TABLE,))
    assert asked == [(TABLE.digest, "sources.merged.rows")]


def test_rows_that_cannot_be_had_are_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / rows_file(TABLE.digest)
    with pytest.raises(
        ConfigError, match=r"E150.*rows-\w{16}\.bin.*not beside it; No such file.*put rows-"
    ):
        read_rows(tmp_path, TABLE.digest)
    path.write_bytes(TABLE.content[:-1] + b"?")
    with pytest.raises(ConfigError, match=r"E150.*are not those that the recipe names.*restore it"):
        read_rows(tmp_path, TABLE.digest)
    data = recipe(TABLE).to_json()
    with pytest.raises(
        ConfigError, match=r"E150.*sources.merged.rows: row weights lie in a file beside"
    ):
        recipe_from_json(data)
    data["sources"][MERGED]["rows"] = "short"
    with pytest.raises(
        ConfigError, match=r"E108.*must be the SHA-256 of the row weights; found 'short'"
    ):
        recipe_from_json(data)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}\n",
        b"[1]\n",
        b'{"schema":2}\n',
        b'{"schema":1,"low":0,"step":1,"rows":{"math":{"embed":2}}}\n\x00\x00',
        b'{"schema":1,"low":1e999,"step":1,"rows":{}}\n',
        b'{"schema":1,"low":0,"step":1,"rows":{"math":3}}\n',
    ],
)
def test_what_is_no_table_is_refused(content: bytes) -> None:
    digest = hashlib.sha256(content).hexdigest()
    with pytest.raises(ConfigError, match=r"E150.*in a form that this evomerge does not read"):
        parse_rows(content, digest, "r.bin")
