"""``config.json`` as the keys of a GGUF file. Source of the keys: ``gguf-py`` and ``convert_hf_to_gguf.py``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paretune.spaces.errors import EngineError
from paretune.spaces.model import ModelSpec

Config = Mapping[str, Any]


def add_hyperparameters(writer: Any, spec: ModelSpec, config: Config) -> None:
    """Everything but the tokenizer.

    Args:
        writer: a ``gguf.GGUFWriter``.
        spec: of the dense model.
        config: ``config.json`` of the written model, which may be a pruned model.

    Raises:
        EngineError: something that llama.cpp computes otherwise.
    """
    _refuse_other_graphs(spec, config)
    width = int(config.get("head_dim") or spec.head_dim)
    writer.add_context_length(int(config["max_position_embeddings"]))
    writer.add_embedding_length(int(config["hidden_size"]))
    writer.add_block_count(int(config["num_hidden_layers"]))
    writer.add_feed_forward_length(int(config["intermediate_size"]))
    writer.add_head_count(int(config["num_attention_heads"]))
    writer.add_head_count_kv(int(config.get("num_key_value_heads") or config["num_attention_heads"]))
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_rope_dimension_count(width)
    writer.add_layer_norm_rms_eps(float(config["rms_norm_eps"]))
    writer.add_vocab_size(int(config["vocab_size"]))
    rope = _rope(config)
    writer.add_rope_freq_base(float(rope.get("rope_theta", 10000.0)))
    if rope["rope_type"] == "linear":
        import gguf

        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(rope["factor"]))
    if spec.experts:
        _add_experts(writer, config)


def _add_experts(writer: Any, config: Config) -> None:
    writer.add_expert_count(int(config.get("num_experts") or config["num_local_experts"]))
    writer.add_expert_used_count(int(config["num_experts_per_tok"]))
    if config.get("moe_intermediate_size"):
        writer.add_expert_feed_forward_length(int(config["moe_intermediate_size"]))


def rope_factors(spec: ModelSpec, config: Config) -> NDArray[np.float32] | None:
    """Divisors of Llama 3's frequencies, float32 ``(head_dim / 2,)``; ``None`` for plain rotation.

    Source: ``Llama3RotaryEmbedding`` as ``transformers`` computes it (``modeling_rope_utils.py``).
    """
    rope = _rope(config)
    if rope["rope_type"] != "llama3":
        return None
    width = int(config.get("head_dim") or spec.head_dim)
    frequencies = float(rope["rope_theta"]) ** (-np.arange(0, width, 2, dtype=np.float64) / width)
    low, high = float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
    waves = float(rope["original_max_position_embeddings"]) * frequencies / (2 * math.pi)
    smooth = np.clip((waves - low) / (high - low), 0.0, 1.0)
    return (1.0 / ((1.0 - smooth) / float(rope["factor"]) + smooth)).astype(np.float32)


def _rope(config: Config) -> dict[str, Any]:
    """Parameters of rotation in the spelling of transformers 5."""
    found = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    found.setdefault("rope_theta", config.get("rope_theta", 10000.0))
    found["rope_type"] = found.get("rope_type") or found.get("type") or "default"
    return found


def _refuse_other_graphs(spec: ModelSpec, config: Config) -> None:
    kind = _rope(config)["rope_type"]
    reasons = {
        f"rotary embedding of type {kind!r}": kind not in ("default", "linear", "llama3"),
        "a sliding window": bool(config.get("sliding_window")) and config.get("use_sliding_window", True),
        f"activation {config.get('hidden_act')!r}": config.get("hidden_act", "silu") != "silu",
        "routing weights that are not normalised": bool(spec.experts)
        and spec.family == "qwen3_moe"
        and not config.get("norm_topk_prob", False),
        "dense blocks between those of experts": bool(config.get("mlp_only_layers"))
        or config.get("decoder_sparse_step", 1) != 1,
    }
    for what, wrong in reasons.items():
        if wrong:
            raise EngineError(
                f"model with {what}", "is computed otherwise by llama.cpp", "Use another engine for it"
            )
