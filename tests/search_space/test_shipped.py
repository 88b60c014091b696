"""Every search space that is shipped, over a real model: it has genes, and its middle point is a merge."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evomerge.checkpoint.folder import CheckpointFolder, open_folder
from evomerge.recipe.catalogue import METHODS
from evomerge.recipe.json_form import recipe_from_json
from evomerge.recipe.recipe import CheckpointSource, MergedSource
from evomerge.recipe.rows import parse_rows
from evomerge.search_space import build_search_space, load_search_space
from tests.tiny_models import write_model

FILES = sorted((Path(__file__).parents[2] / "search_spaces").glob("*.yaml"))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> CheckpointFolder:
    """A tiny model, with as many layers as any space has bands or knots."""
    folder = write_model(tmp_path_factory.mktemp("models") / "base", num_hidden_layers=8)
    return open_folder(folder, "base")


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_the_middle_of_every_shipped_space_is_a_merge(file: Path, base: CheckpointFolder) -> None:
    declaration = load_search_space(file)
    layout = base.layout_by(tensor=declaration.by_tensor, row=declaration.by_row)
    experts = ("math", "code", "poems")[: METHODS[declaration.method].inputs[1]]
    sources = {name: CheckpointSource(name, name) for name in ("base", *experts)}
    space = build_search_space(declaration, layout, sources, experts, "bfloat16", 3, str(file))
    middle = space.snap([(gene.low + gene.high) / 2 for gene in space.genes])
    recipe = space.decode(middle)
    merged = [source for source in recipe.sources.values() if isinstance(source, MergedSource)]
    assert all(source.inputs == experts for source in merged)
    assert recipe.path
    assert all(0 <= step.layer < base.layers for step in recipe.path)
    data = json.loads(json.dumps(recipe.to_json()))
    content = recipe.row_content
    again = recipe_from_json(data, str(file), lambda digest, where: parse_rows(content, digest, where))
    assert again.digest == recipe.digest
    found = space.encode(recipe)
    assert found is not None
    assert space.decode(found).digest == recipe.digest


def test_there_are_shipped_spaces() -> None:
    assert len(FILES) > 30
