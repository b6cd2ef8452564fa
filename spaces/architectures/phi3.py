"""Phi-3 and Phi-4-mini (transformers ``modeling_phi3.py``; arXiv:2404.14219): fused qkv and gate_up."""

from __future__ import annotations

from paretune.spaces.architectures.decoder import add_embedding, add_head, read_geometry
from paretune.spaces.architectures.fields import ConfigFields
from paretune.spaces.architectures.layout import Architecture, Geometry, Layout


def _add_block(layout: Layout, geometry: Geometry, block: int) -> None:
    path = f"model.layers.{block}"
    hidden, ffn = geometry.hidden, geometry.ffn
    fused = geometry.query_width + 2 * geometry.kv_width
    layout.linear(f"{path}.self_attn.qkv_proj", "qkv", (fused, hidden), block=block, axes=("qkv", "none"))
    layout.linear(
        f"{path}.self_attn.o_proj", "o", (hidden, geometry.query_width), block=block, axes=("none", "heads")
    )
    layout.linear(
        f"{path}.mlp.gate_up_proj", "gate_up", (2 * ffn, hidden), block=block, axes=("ffn_pair", "none")
    )
    layout.linear(f"{path}.mlp.down_proj", "down", (hidden, ffn), block=block, axes=("none", "ffn"))
    layout.norm(f"{path}.input_layernorm", hidden, block=block)
    layout.norm(f"{path}.post_attention_layernorm", hidden, block=block)


def _read(fields: ConfigFields) -> tuple[Geometry, Layout]:
    geometry = read_geometry(fields, fields.windows(fields.integer("num_hidden_layers")))
    layout = Layout("model.layers")
    add_embedding(layout, geometry, "model.embed_tokens")
    for block in range(geometry.blocks):
        _add_block(layout, geometry, block)
    layout.norm("model.norm", geometry.hidden)
    add_head(layout, geometry)
    return geometry, layout


PHI3 = Architecture(
    family="phi3",
    model_types=("phi3",),
    architectures=("Phi3ForCausalLM",),
    defaults={
        "vocab_size": 32064,
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
    },
    read=_read,
)
