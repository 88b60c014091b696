"""Which mixture a dense architecture becomes: names of tensors and keys of its config."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evomerge.checkpoint.folder import CheckpointFolder
from evomerge.errors import CheckpointError, Problem

_SHARED_KEYS = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "hidden_act", "max_position_embeddings", "initializer_range",
    "rms_norm_eps", "rope_theta", "rope_scaling", "rope_parameters", "bos_token_id", "eos_token_id",
    "pad_token_id", "tie_word_embeddings", "attention_dropout", "use_cache", "sliding_window",
)  # fmt: skip

MLP = re.compile(r"(.*\.(\d+))\.mlp\.(gate_proj|up_proj|down_proj)\.weight")
"""A matrix of a dense model's MLPs: layer, its number, and which matrix."""

READERS = ("gate_proj", "up_proj")
"""Those that read what the router of the layer sees."""

IDLE = 8
"""Width of the shared expert that Qwen's mixtures must have, and that adds nothing here."""


@dataclass(frozen=True)
class MixtureArchitecture:
    """A mixture that transformers knows.

    Attributes:
        name: class in `architectures`; `model_type` in the config.
        block: what stands in place of `mlp` in a layer's names.
        matrices: `gate_proj`, `up_proj` and `down_proj` to the name inside an expert.
        shared: whether every layer must have a shared expert.
    """

    name: str
    model_type: str
    block: str
    matrices: Mapping[str, str]
    shared: bool = False

    def gate(self, layer: str) -> str:
        """The router of a layer (`model.layers.3`), [experts, hidden]."""
        return f"{layer}.{self.block}.gate.weight"

    def matrix(self, layer: str, expert: int, kind: str) -> str:
        """A matrix of an expert of a layer."""
        return f"{layer}.{self.block}.experts.{expert}.{self.matrices[kind]}.weight"

    def config(
        self,
        dense: Mapping[str, Any],
        experts: int,
        per_token: int,
        dtype: str,
        whole: Sequence[int] = (),
    ) -> dict[str, Any]:
        """The mixture's config from that of the dense model, with defaults; `whole` layers stay dense."""
        kept = {key: dense[key] for key in _SHARED_KEYS if key in dense}
        own: dict[str, Any] = {
            "architectures": [self.name],
            "model_type": self.model_type,
            "num_experts_per_tok": per_token,
            "output_router_logits": False,
            "dtype": dtype,
        }
        if not self.shared:
            return kept | own | {"num_local_experts": experts, "router_jitter_noise": 0.0}
        window = ("use_sliding_window", "max_window_layers", "layer_types")
        kept |= {key: dense[key] for key in window if key in dense}
        return (
            kept
            | own
            | {
                "num_experts": experts,
                "moe_intermediate_size": dense["intermediate_size"],
                "shared_expert_intermediate_size": IDLE,
                "decoder_sparse_step": 1,
                "mlp_only_layers": list(whole),
                "norm_topk_prob": True,
                "qkv_bias": dense["model_type"] == "qwen2",
            }
        )


MIXTRAL = MixtureArchitecture(
    "MixtralForCausalLM",
    "mixtral",
    "block_sparse_moe",
    {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"},
)
QWEN2_MOE = MixtureArchitecture(
    "Qwen2MoeForCausalLM",
    "qwen2_moe",
    "mlp",
    {"gate_proj": "gate_proj", "up_proj": "up_proj", "down_proj": "down_proj"},
    shared=True,
)

BECOMES = {"llama": MIXTRAL, "mistral": MIXTRAL, "qwen2": QWEN2_MOE}
"""By `model_type` of the dense models."""


def mixture_of(folder: CheckpointFolder, some_layers: bool = False) -> MixtureArchitecture:
    """What a dense model becomes, if only some of its layers do where Mixtral knows no such layers.

    Raises:
        CheckpointError: E234, no mixture that transformers knows computes the same.
    """
    kind = str(folder.config.get("model_type"))
    biased = [key for key in ("attention_bias", "mlp_bias") if folder.config.get(key)]
    if kind in BECOMES and not biased:
        if some_layers and kind == "mistral" and folder.config.get("sliding_window"):
            wrong = "no mixture that transformers knows has such windows and dense layers"
            todo = "leave `layers` out"
            raise CheckpointError(
                Problem("E234", wrong, "", todo, str(folder.path), field="sliding_window")
            )
        return QWEN2_MOE if some_layers else BECOMES[kind]
    found = f"model_type {kind}" + (f" with {biased[0]}" if biased else "")
    todo = f"known: {', '.join(BECOMES)}, without biases that the mixture has not"
    wrong = "no mixture that transformers knows has such experts"
    raise CheckpointError(Problem("E234", wrong, found, todo, str(folder.path), field="model_type"))
