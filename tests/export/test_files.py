"""Config and recipe of an export, as they may be published."""

from __future__ import annotations

from pathlib import Path

from evomerge.export.files import output_config, published_recipe
from tests.export.finished import (
    Finished,
    hand_made,
)


def test_a_hub_model_keeps_its_name(finished: Finished, tmp_path: Path) -> None:
    hub = f"org/name@{'a' * 40}"
    recipe = published_recipe(hand_made(finished), {"base": hub}, finished.root / "out")
    assert recipe.checkpoints["base"].path == hub
    assert recipe.checkpoints["math"].path == "../models/math"
    assert published_recipe(recipe, {}, Path("/srv/out")).checkpoints["math"].path == "math"


def test_config_follows_the_recipe() -> None:
    config = {
        "_name_or_path": "/home/me/secret",
        "auto_map": {"AutoModel": "x.py"},
        "torch_dtype": "float32",
        "num_hidden_layers": 2,
        "text_config": {"torch_dtype": "float32", "hidden_size": 4},
    }
    result, warnings = output_config(config, "bfloat16", {"num_hidden_layers": 3})
    assert result == {
        "torch_dtype": "bfloat16",
        "dtype": "bfloat16",
        "num_hidden_layers": 3,
        "text_config": {"torch_dtype": "bfloat16", "hidden_size": 4},
    }
    assert warnings == ("config.json named remote code (auto_map); it is left out of the export",)
    assert config["auto_map"]
