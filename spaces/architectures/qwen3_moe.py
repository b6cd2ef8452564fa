"""Qwen3-MoE (transformers ``modeling_qwen3_moe.py``; arXiv:2505.09388): mixtures and dense blocks.

The FFN of a dense block has another width than an expert; a pruned model's FFN channels are those of the experts,
and dense blocks keep all of theirs (the configuration has a key for each).
"""

from __future__ import annotations

from paretune.spaces.architectures.decoder import (
    Biases,
    add_attention,
    add_embedding,
    add_head,
    read_geometry,
)
from paretune.spaces.architectures.fields import ConfigFields
from paretune.spaces.architectures.layout import Architecture, Geometry, Layout
from paretune.spaces.architectures.mixture import add_mixture
from paretune.spaces.errors import ModelError


def _mixtures(fields: ConfigFields) -> tuple[bool, ...]:
    """Which blocks are mixtures."""
    dense = fields.get("mlp_only_layers") or []
    step = fields.integer("decoder_sparse_step")
    blocks = range(fields.integer("num_hidden_layers"))
    found = tuple(block not in dense and (block + 1) % step == 0 for block in blocks)
    if not any(found):
        raise ModelError(
            f"mlp_only_layers and decoder_sparse_step of {fields.where}",
            "leave no block that is a mixture of experts",
            "Save the model as qwen3",
        )
    return found


def _add_dense_mlp(layout: Layout, hidden: int, width: int, block: int) -> None:
    path = f"{layout.block_path}.{block}.mlp"
    layout.linear(f"{path}.gate_proj", "gate", (width, hidden), block=block)
    layout.linear(f"{path}.up_proj", "up", (width, hidden), block=block)
    layout.linear(f"{path}.down_proj", "down", (hidden, width), block=block)


def _read(fields: ConfigFields) -> tuple[Geometry, Layout]:
    mixtures = _mixtures(fields)
    sliding = fields.flag("use_sliding_window")
    geometry = read_geometry(
        fields,
        fields.windows(len(mixtures), (sliding,) * len(mixtures)),
        ffn=fields.integer("moe_intermediate_size"),
        experts=fields.integer("num_experts", "num_local_experts"),
        active_experts=fields.integer("num_experts_per_tok"),
    )
    bias = fields.flag("attention_bias")
    layout = Layout("model.layers")
    add_embedding(layout, geometry, "model.embed_tokens")
    for block, mixture in enumerate(mixtures):
        add_attention(layout, geometry, block, Biases(qkv=bias, output=bias), qk_norms=True)
        if mixture:
            add_mixture(layout, geometry, block)
        else:
            _add_dense_mlp(layout, geometry.hidden, fields.integer("intermediate_size"), block)
        layout.norm(f"model.layers.{block}.input_layernorm", geometry.hidden, block=block)
        layout.norm(f"model.layers.{block}.post_attention_layernorm", geometry.hidden, block=block)
    layout.norm("model.norm", geometry.hidden)
    add_head(layout, geometry)
    return geometry, layout


QWEN3_MOE = Architecture(
    family="qwen3_moe",
    model_types=("qwen3_moe",),
    architectures=("Qwen3MoeForCausalLM",),
    defaults={
        "vocab_size": 151936,
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_hidden_layers": 24,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "max_position_embeddings": 32768,
        "sliding_window": 4096,
        "decoder_sparse_step": 1,
        "moe_intermediate_size": 768,
        "num_experts_per_tok": 8,
        "num_experts": 128,
        "tie_word_embeddings": False,
    },
    read=_read,
    keys={"ffn_channels": "moe_intermediate_size"},
)
