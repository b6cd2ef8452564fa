"""Gemma 2 (transformers ``modeling_gemma2.py``; arXiv:2408.00118): four norms a block.

Every other block attends within a sliding window.
"""

from __future__ import annotations

from paretune.spaces.architectures.decoder import (
    Biases,
    add_attention,
    add_embedding,
    add_gated_mlp,
    add_head,
    read_geometry,
)
from paretune.spaces.architectures.fields import ConfigFields
from paretune.spaces.architectures.layout import Architecture, Geometry, Layout

NORMS = (
    "input_layernorm",
    "post_attention_layernorm",
    "pre_feedforward_layernorm",
    "post_feedforward_layernorm",
)


def add_gemma(geometry: Geometry, bias: bool, qk_norms: bool = False, path: str = "model") -> Layout:
    """A Gemma 2 or 3 decoder below the module ``path``."""
    layout = Layout(f"{path}.layers")
    add_embedding(layout, geometry, f"{path}.embed_tokens")
    for block in range(geometry.blocks):
        add_attention(layout, geometry, block, Biases(qkv=bias, output=bias), qk_norms)
        add_gated_mlp(layout, geometry, block, Biases())
        for norm in NORMS:
            layout.norm(f"{path}.layers.{block}.{norm}", geometry.hidden, block=block)
    layout.norm(f"{path}.norm", geometry.hidden)
    add_head(layout, geometry)
    layout.cannot_cut(
        "hidden",
        "Gemma multiplies embeddings by the root of the hidden size, which fewer channels would change",
    )
    return layout


def _read(fields: ConfigFields) -> tuple[Geometry, Layout]:
    blocks = fields.integer("num_hidden_layers")
    slides = tuple(block % 2 == 0 for block in range(blocks))
    geometry = read_geometry(fields, fields.windows(blocks, slides))
    return geometry, add_gemma(geometry, fields.flag("attention_bias"))


GEMMA2 = Architecture(
    family="gemma2",
    model_types=("gemma2",),
    architectures=("Gemma2ForCausalLM",),
    defaults={
        "vocab_size": 256000,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "max_position_embeddings": 8192,
        "sliding_window": 4096,
        "tie_word_embeddings": True,
    },
    read=_read,
    heads_divide_hidden=True,
    layer_types=True,
)
