"""What experts are shown to gather their statistics: lines of a text, or the pictures of a NumPy file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoImageProcessor, AutoTokenizer

from evomerge.checkpoint.folder import CheckpointFolder, text_config
from evomerge.errors import ConfigError, Problem
from evomerge.evaluators.pictures import ARRAYS, picture_arrays
from evomerge.recipe.calibration import Calibration

Inputs = Mapping[str, torch.Tensor]
"""What a model is called with for one item, by the names of its arguments; a batch of one."""

MOST_TOKENS = 512
"""Longer items are cut."""


def has_pictures(calibration: Calibration) -> bool:
    """Whether it is a NumPy file of pictures, as `image_classification` reads it."""
    return calibration.path.endswith(ARRAYS)


def read_items(
    calibration: Calibration, folders: Sequence[Path], model: CheckpointFolder
) -> list[torch.Tensor]:
    """Token ids of each item, int64 [1, tokens], two at least; by the tokenizer of the first folder with one.

    Raises:
        ConfigError: E109, there is none; E108, an id that the model's embedding has no row for; as
            `Calibration.content`.
    """
    rows = text_config(model.config).get("vocab_size")
    tokenizer: Any = None
    items = []
    for number, line in enumerate(calibration.content().decode("utf-8").splitlines(), 1):
        if not line.strip():
            continue
        ids = _stated_ids(line)
        if ids is None:
            if tokenizer is None:
                own = next((f for f in folders if (f / "tokenizer_config.json").is_file()), folders[-1])
                tokenizer = AutoTokenizer.from_pretrained(own, trust_remote_code=False)
            ids = tokenizer(line)["input_ids"]
        strange = [i for i in ids if i < 0 or (isinstance(rows, int) and i >= rows)]
        if strange:
            wrong = f"token id {strange[0]} is none of {model.name}, whose ids are below {rows}"
            todo = "give ids of the models' own tokenizer, or the text itself"
            raise ConfigError(Problem("E108", wrong, "", todo, calibration.path, number))
        if len(ids) > 1:
            items.append(torch.tensor([ids[:MOST_TOKENS]]))
    if not items:
        wrong, todo = "the calibration text has no item", "give lines of two tokens or more"
        raise ConfigError(Problem("E109", wrong, "", todo, calibration.path))
    return items


def _stated_ids(line: str) -> list[int] | None:
    if not line.lstrip().startswith("["):
        return None
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, list) and all(type(each) is int for each in found) else None


def read_pictures(
    calibration: Calibration, folder: Path, classes: Mapping[str, int] | None
) -> list[Inputs]:
    """`pixel_values` of each picture as the folder's image processor gives it, float32 [1, channels, h, w].

    With `classes` (name to row of the head) also `labels`, int64 [1].

    Raises:
        ConfigError: E109, the file has no pictures; E128, the folder has no image processor, or a picture is
            of a class that is not among `classes`; as `Calibration.content`.
    """
    from PIL import Image

    calibration.content()
    try:
        images, labels = picture_arrays(Path(calibration.path))
    except ValueError as error:
        raise ConfigError(
            Problem("E109", "no calibration pictures", str(error), "", calibration.path)
        ) from None
    automatic: Any = AutoImageProcessor
    try:
        processor = automatic.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        wrong, found = "the model has no image processor", str(error).splitlines()[0]
        todo = "put its preprocessor_config.json there"
        raise ConfigError(Problem("E128", wrong, found, todo, str(folder))) from error
    shown = [Image.fromarray(image).convert("RGB") for image in images]
    pixels = processor(shown, return_tensors="pt")["pixel_values"]
    items: list[Inputs] = []
    for picture, label in zip(pixels, labels, strict=True):
        item = {"pixel_values": picture[None]}
        if classes is not None:
            if str(label) not in classes:
                wrong = "a calibration picture is of a class that the model does not have"
                found = f"label {str(label)!r}; the model has {', '.join(list(classes)[:10])}"
                raise ConfigError(Problem("E128", wrong, found, "", calibration.path))
            item["labels"] = torch.tensor([classes[str(label)]])
        items.append(item)
    return items
