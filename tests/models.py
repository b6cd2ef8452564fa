"""Tiny random models of every family, built offline: config, safetensors and a tokenizer in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

VOCABULARY = 256
"""Tokens of every tiny model: one for each byte and nothing else."""

_COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
_GROUPED: dict[str, Any] = {**_COMMON, "intermediate_size": 256, "num_key_value_heads": 2, "head_dim": 32}
_SLIDING: dict[str, Any] = {**_GROUPED, "sliding_window": 16}
_MIXTURE: dict[str, Any] = {**_GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2}
_DERIVED: dict[str, Any] = {key: value for key, value in _GROUPED.items() if key != "head_dim"}
_SHARED: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 128}
_DELTA: dict[str, Any] = {
    **_GROUPED, "num_hidden_layers": 4, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
    "linear_key_head_dim": 32, "linear_value_head_dim": 32,
}  # fmt: skip
_LATENT: dict[str, Any] = {
    **_COMMON, "num_key_value_heads": 4, "intermediate_size": 256, "q_lora_rank": 64, "kv_lora_rank": 32,
    "qk_rope_head_dim": 16, "qk_nope_head_dim": 32, "v_head_dim": 32, "n_routed_experts": 4, "n_shared_experts": 1,
    "num_experts_per_tok": 2, "moe_intermediate_size": 128, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1,
}  # fmt: skip

FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    # family: (configuration class, model class, arguments of the configuration)
    "llama": ("LlamaConfig", "LlamaForCausalLM", _GROUPED),
    "mistral": ("MistralConfig", "MistralForCausalLM", _SLIDING),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", {k: v for k, v in _GROUPED.items() if k != "head_dim"}),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", _GROUPED),
    "gemma2": ("Gemma2Config", "Gemma2ForCausalLM", _SLIDING),
    "gemma3": ("Gemma3TextConfig", "Gemma3ForCausalLM", _SLIDING),
    "phi3": ("Phi3Config", "Phi3ForCausalLM", {k: v for k, v in _GROUPED.items() if k != "head_dim"}),
    "gpt_neox": ("GPTNeoXConfig", "GPTNeoXForCausalLM", {**_COMMON, "intermediate_size": 256}),
    "opt": ("OPTConfig", "OPTForCausalLM", {**_COMMON, "ffn_dim": 256, "word_embed_proj_dim": 128}),
    "gpt2": ("GPT2Config", "GPT2LMHeadModel", {**_COMMON, "n_inner": 256}),
    "mixtral": ("MixtralConfig", "MixtralForCausalLM", _MIXTURE),
    "qwen3_moe": ("Qwen3MoeConfig", "Qwen3MoeForCausalLM", {**_MIXTURE, "moe_intermediate_size": 128}),
}

MORE_FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    # read, searched and exported, not cut; too many for every contract test
    "qwen2_moe": (
        "Qwen2MoeConfig", "Qwen2MoeForCausalLM", {**_DERIVED, **_SHARED, "shared_expert_intermediate_size": 128}
    ),
    "qwen3_5": ("Qwen3_5TextConfig", "Qwen3_5ForCausalLM", _DELTA),
    "qwen3_5_moe": (
        "Qwen3_5MoeTextConfig",
        "Qwen3_5MoeForCausalLM",
        {**_DELTA, **_SHARED, "shared_expert_intermediate_size": 128},
    ),
    "gemma4": (
        "Gemma4TextConfig",
        "Gemma4ForCausalLM",
        {
            **_SLIDING, "num_hidden_layers": 6, "global_head_dim": 64, "num_kv_shared_layers": 0,
            "hidden_size_per_layer_input": 0,
        },
    ),
    "olmo2": ("Olmo2Config", "Olmo2ForCausalLM", _DERIVED),
    "olmo3": ("Olmo3Config", "Olmo3ForCausalLM", {**_DERIVED, "sliding_window": 16}),
    "granite": ("GraniteConfig", "GraniteForCausalLM", _DERIVED),
    "smollm3": ("SmolLM3Config", "SmolLM3ForCausalLM", _DERIVED),
    "glm4": ("Glm4Config", "Glm4ForCausalLM", _GROUPED),
    "deepseek_v3": ("DeepseekV3Config", "DeepseekV3ForCausalLM", _LATENT),
    "glm_moe_dsa": (
        "GlmMoeDsaConfig",
        "GlmMoeDsaForCausalLM",
        {**_LATENT, "index_n_heads": 2, "index_head_dim": 32, "index_topk": 64},
    ),
    "gpt_oss": ("GptOssConfig", "GptOssForCausalLM", {**_SLIDING, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "minimax_m2": ("MiniMaxM2Config", "MiniMaxM2ForCausalLM", _MIXTURE),
    "nemotron_h": (
        "NemotronHConfig",
        "NemotronHForCausalLM",
        {
            **{key: value for key, value in _GROUPED.items() if key != "num_hidden_layers"}, **_SHARED,
            "layers_block_type": ["linear_attention", "full_attention", "moe", "linear_attention"],
            "mamba_num_heads": 8, "mamba_head_dim": 32, "ssm_state_size": 16, "n_groups": 2, "n_routed_experts": 4,
            "moe_shared_expert_intermediate_size": 128, "n_group": 1, "topk_group": 1,
        },
    ),
    "falcon_h1": (
        "FalconH1Config",
        "FalconH1ForCausalLM",
        {
            **_GROUPED, "mamba_d_ssm": 256, "mamba_n_heads": 8, "mamba_d_head": 32, "mamba_d_state": 16,
            "mamba_n_groups": 1,
        },
    ),
    "jamba": (
        "JambaConfig",
        "JambaForCausalLM",
        {
            **_DERIVED, "num_hidden_layers": 4, "num_experts": 4, "num_experts_per_tok": 2, "mamba_d_state": 16,
            "attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1,
            "use_mamba_kernels": False,
        },
    ),
    "qwen3_vl": (
        "Qwen3VLConfig",
        "Qwen3VLForConditionalGeneration",
        {
            "text_config": {
                **_GROUPED, "initializer_range": 0.08,
                "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]},
            },
            "vision_config": {
                "depth": 2, "hidden_size": 64, "intermediate_size": 128, "num_heads": 2, "out_hidden_size": 128,
                "patch_size": 8, "deepstack_visual_indexes": [0], "num_position_embeddings": 16,
            },
        },
    ),
    "llama4": (
        "Llama4TextConfig",
        "Llama4ForCausalLM",
        {
            **_GROUPED, "num_hidden_layers": 4, "intermediate_size": 128, "intermediate_size_mlp": 256,
            "num_local_experts": 4, "num_experts_per_tok": 1, "interleave_moe_layer_step": 2,
            "attention_chunk_size": 32,
        },
    ),
}  # fmt: skip


def tiny_model(family: str, seed: int = 0, **changes: Any) -> Any:
    """A random float32 model in evaluation mode; ``changes`` override configuration arguments."""
    import torch
    import transformers

    configuration, model, arguments = {**FAMILIES, **MORE_FAMILIES}[family]
    config = getattr(transformers, configuration)(**{**arguments, **changes})
    config.initializer_range = 0.08
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        built = getattr(transformers, model)(config)
        _stir(built, torch.Generator().manual_seed(seed))
    return built.eval()


def _stir(model: Any, generator: Any) -> None:
    """Make norms and biases differ from one and zero, so that losing one shows."""
    import torch

    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1 or not parameter.any():
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
        for name, buffer in model.named_buffers():
            if name.endswith(("e_score_correction_bias", "layer_scalar")):
                buffer.add_(0.05 * torch.randn(buffer.shape, generator=generator))


def build_tiny(family: str, folder: Path, seed: int = 0, dtype: str = "float32", **changes: Any) -> Path:
    """Save a tiny model of ``family`` with its tokenizer into ``folder``, which is returned.

    Args:
        family: a key of :data:`FAMILIES` or :data:`MORE_FAMILIES`.
        folder: made if absent.
        seed: of the weights.
        dtype: that the weights are saved in: ``float32`` or ``bfloat16``.
        changes: arguments of the configuration, e.g. ``tie_word_embeddings=True``.
    """
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    model = tiny_model(family, seed, **changes)
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def tiny_tokenizer() -> Any:
    """Bytes as tokens, in GPT-2's byte-level alphabet; any text comes back unchanged."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)
