"""Tiny models that are no decoders, random, as transformers saves them; and their experts.

One of each family: encoders and decoders, classifiers of text and of pictures, language models that see.
"""

from __future__ import annotations

from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

TEXT: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
DECODER = {**TEXT, "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2}
SIGHT: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 4,
}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "t5": (
        "T5ForConditionalGeneration",
        {
            "vocab_size": 96, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2,
            "num_decoder_layers": 3, "num_heads": 4, "decoder_start_token_id": 0,
        },
    ),
    "bert": ("BertForSequenceClassification", {**TEXT, "num_labels": 3}),
    "roberta": ("RobertaForSequenceClassification", {**TEXT, "pad_token_id": 1}),
    "modernbert": (
        "ModernBertForSequenceClassification",
        {**TEXT, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2},
    ),
    "vit": ("ViTForImageClassification", {**SIGHT, "num_channels": 1, "num_labels": 10}),
    "llava": (
        "LlavaForConditionalGeneration",
        {
            "text_config": {"model_type": "llama", **DECODER},
            "vision_config": {"model_type": "clip_vision_model", **SIGHT, "projection_dim": 8},
            "image_token_index": 95,
        },
    ),
    "gemma3": (
        "Gemma3ForConditionalGeneration",
        {
            "text_config": {**DECODER, "head_dim": 8},
            "vision_config": {**SIGHT, "model_type": "siglip_vision_model", "vision_use_head": False},
            "mm_tokens_per_image": 4,
            "boi_token_index": 93, "eoi_token_index": 94, "image_token_index": 95,
        },
    ),
    "qwen2_vl": (
        "Qwen2VLForConditionalGeneration",
        {
            "text_config": {
                **DECODER,
                "rope_parameters": {
                    "rope_type": "default", "rope_theta": 20000.0, "mrope_section": [1, 1, 2],
                },
            },
            "vision_config": {
                "depth": 2, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2,
                "patch_size": 4,
            },
            "image_token_id": 95, "video_token_id": 94,
            "vision_start_token_id": 92, "vision_end_token_id": 93,
        },
    ),
}  # fmt: skip


def tiny(family: str, number: int = 0, spread: float = 0.05, **fields: Any) -> PreTrainedModel:
    """A live model of a family in float32: the same start for all, and noise of its number's own.

    All have noise: what is zero when it is made would hide what was left out.
    """
    name, own = FAMILIES[family]
    kind: Any = getattr(transformers, name)
    torch.manual_seed(0)
    model: PreTrainedModel = kind(kind.config_class(**{**own, **fields})).eval()
    generator = torch.Generator().manual_seed(number)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(spread * torch.randn(parameter.shape, generator=generator))
    return model


def inputs(family: str) -> dict[str, torch.Tensor]:
    """What a model of the family is given: tokens, a picture, or a picture among tokens."""
    generator = torch.Generator().manual_seed(5)
    pixels = torch.rand(1, 1 if family == "vit" else 3, 8, 8, generator=generator)
    if family == "vit":
        return {"pixel_values": pixels}
    tokens = torch.tensor([[5, 6, 7, 8, 9, 10, 11, 12, 13, 14]])
    if family == "t5":
        return {"input_ids": tokens, "decoder_input_ids": tokens[:, :4]}
    if family not in ("llava", "gemma3", "qwen2_vl"):
        return {"input_ids": tokens}
    tokens[0, 3:7] = 95
    if family != "qwen2_vl":
        return {"input_ids": tokens, "pixel_values": pixels}
    tokens[0, 2] = 92
    patches = torch.rand(16, 3 * 2 * 4 * 4, generator=generator)
    return {
        "input_ids": tokens, "pixel_values": patches, "image_grid_thw": torch.tensor([[1, 4, 4]]),
        "mm_token_type_ids": (tokens == 95).long(),
    }  # fmt: skip
