"""A small input that any model answers, to see that it does."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch

PROBE_TOKENS = 16


def probe_inputs(model: Any) -> dict[str, Any]:
    """A small input of a model by its own names; empty where its kind of input is not known here."""
    given = inspect.signature(model.forward).parameters
    inputs: dict[str, Any] = {}
    if "input_ids" in given:
        vocabulary = int(model.get_input_embeddings().weight.shape[0])
        inputs["input_ids"] = torch.arange(min(PROBE_TOKENS, vocabulary))[None]
        if model.config.is_encoder_decoder:
            inputs["decoder_input_ids"] = inputs["input_ids"]
        if "use_cache" in given:
            inputs["use_cache"] = False
        if "pixel_values" in given and model.main_input_name == "pixel_values":
            inputs |= _pixels(model)
    elif model.main_input_name == "pixel_values":
        inputs |= _pixels(model)
    return inputs


def _pixels(model: Any) -> dict[str, Any]:
    part = getattr(model.config, "vision_config", model.config)
    size, channels = getattr(part, "image_size", None), getattr(part, "num_channels", 3)
    if size is None:
        return {}
    height, width = (size, size) if isinstance(size, int) else size
    ramp = torch.linspace(-1.0, 1.0, channels * height * width).view(1, channels, height, width)
    return {"pixel_values": ramp.to(model.dtype)}


def answer(model: Any, inputs: Mapping[str, Any]) -> torch.Tensor:
    """Its logits for an input, or the first of what a model without a head gives."""
    outputs = model(**inputs)
    found: torch.Tensor = outputs["logits"] if "logits" in outputs else outputs[0]
    return found
