"""Families of decoders as tiny models: config class and fields of each, as transformers 4 spells them.

transformers 5 reads that spelling too. Rotary positions are seldom the defaults, so that a reader who misses
them is seen.
"""

from __future__ import annotations

from typing import Any

SIZES: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
HEADS = {**SIZES, "head_dim": 8, "rope_theta": 20_000.0}
ROPE = {**SIZES, "rope_theta": 20_000.0}
NO_GROUPS = {key: value for key, value in SIZES.items() if key != "num_key_value_heads"}
GPT2 = {"vocab_size": 96, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", ROPE),
    "llama_tied": ("LlamaConfig", {**ROPE, "tie_word_embeddings": True}),
    "llama_linear": ("LlamaConfig", {**ROPE, "rope_scaling": {"type": "linear", "factor": 2.0}}),
    "llama_dynamic": ("LlamaConfig", {**ROPE, "rope_scaling": {"type": "dynamic", "factor": 2.0}}),
    "llama_llama3": (
        "LlamaConfig",
        {
            **ROPE,
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
            },
        },
    ),
    "qwen2": ("Qwen2Config", ROPE),
    "qwen2_yarn": (
        "Qwen2Config",
        {
            **ROPE,
            "rope_scaling": {"type": "yarn", "factor": 2.0, "original_max_position_embeddings": 32},
        },
    ),
    "qwen2_window": (
        "Qwen2Config",
        {**ROPE, "use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1},
    ),
    "qwen3": ("Qwen3Config", HEADS),
    "mistral": ("MistralConfig", ROPE),
    "ministral": ("MinistralConfig", HEADS),
    "gemma": ("GemmaConfig", HEADS),
    "gemma2": ("Gemma2Config", HEADS),
    "gemma3": (
        "Gemma3TextConfig",
        {**HEADS, "rope_local_base_freq": 5_000.0, "sliding_window": 8, "sliding_window_pattern": 2},
    ),
    "gemma3_scaled": (
        "Gemma3TextConfig",
        {
            **HEADS,
            "rope_scaling": {"rope_type": "linear", "factor": 4.0},
            "sliding_window": 8,
            "sliding_window_pattern": 2,
        },
    ),
    "phi": ("PhiConfig", ROPE),
    "phi3": ("Phi3Config", ROPE),
    "phi3_long": (
        "Phi3Config",
        {
            **ROPE,
            "original_max_position_embeddings": 32,
            "rope_scaling": {
                "type": "longrope",
                "short_factor": [1.0, 1.1, 1.2, 1.3],
                "long_factor": [2.0, 2.1, 2.2, 2.3],
            },
        },
    ),
    "gpt_neox": ("GPTNeoXConfig", {**NO_GROUPS, "rotary_pct": 0.5, "rotary_emb_base": 20_000}),
    "glm": ("GlmConfig", HEADS),
    "glm4": ("Glm4Config", HEADS),
    "nemotron": ("NemotronConfig", ROPE),
    "stablelm": ("StableLmConfig", {**ROPE, "partial_rotary_factor": 0.5}),
    "olmo": ("OlmoConfig", ROPE),
    "olmo2": ("Olmo2Config", ROPE),
    "olmo3": (
        "Olmo3Config",
        {
            **SIZES,
            "rope_theta": 500_000.0,
            "sliding_window": 8,
            "rope_scaling": {
                "rope_type": "yarn",
                "factor": 2.0,
                "original_max_position_embeddings": 32,
            },
        },
    ),
    "granite": ("GraniteConfig", ROPE),
    "starcoder2": ("Starcoder2Config", ROPE),
    "cohere": ("CohereConfig", ROPE),
    "cohere2": ("Cohere2Config", {**ROPE, "sliding_window": 8, "sliding_window_pattern": 2}),
    "smollm3": ("SmolLM3Config", ROPE),
    "exaone4": ("Exaone4Config", {**ROPE, "sliding_window": 8, "sliding_window_pattern": 2}),
    "ernie4_5": ("Ernie4_5Config", HEADS),
    "helium": ("HeliumConfig", HEADS),
    "mixtral": ("MixtralConfig", {**ROPE, "num_local_experts": 4}),
    "qwen2_moe": (
        "Qwen2MoeConfig",
        {
            **ROPE,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 16,
            "shared_expert_intermediate_size": 16,
        },
    ),
    "qwen3_moe": (
        "Qwen3MoeConfig",
        {**HEADS, "num_experts": 4, "moe_intermediate_size": 16, "num_experts_per_tok": 2},
    ),
    "olmoe": ("OlmoeConfig", {**ROPE, "num_experts": 4, "num_experts_per_tok": 2}),
    "granite_moe": ("GraniteMoeConfig", {**ROPE, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "phimoe": ("PhimoeConfig", {**ROPE, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "gpt_oss": (
        "GptOssConfig",
        {
            **HEADS,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "sliding_window": 8,
            "rope_scaling": {
                "rope_type": "yarn",
                "factor": 4.0,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "truncate": False,
                "original_max_position_embeddings": 32,
            },
        },
    ),
    "deepseek_v3": (
        "DeepseekV3Config",
        {
            **SIZES,
            "rope_theta": 20_000.0,
            "num_key_value_heads": 4,
            "q_lora_rank": 16,
            "kv_lora_rank": 16,
            "qk_rope_head_dim": 4,
            "qk_nope_head_dim": 4,
            "v_head_dim": 8,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "n_group": 1,
            "topk_group": 1,
            "moe_intermediate_size": 16,
            "first_k_dense_replace": 1,
        },
    ),
    "gpt2": ("GPT2Config", GPT2),
    "gptj": ("GPTJConfig", {**GPT2, "rotary_dim": 4}),
    "opt": (
        "OPTConfig",
        {
            "vocab_size": 96,
            "hidden_size": 32,
            "ffn_dim": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 64,
            "word_embed_proj_dim": 32,
        },
    ),
    "falcon": (
        "FalconConfig",
        {
            "vocab_size": 96,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "rope_theta": 20_000.0,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
    ),
    "bloom": ("BloomConfig", {"vocab_size": 96, "hidden_size": 32, "n_layer": 2, "n_head": 4}),
}
