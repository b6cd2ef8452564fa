"""GPT-NeoX and Pythia (transformers ``modeling_gpt_neox.py``; Black et al. 2022, arXiv:2204.06745).

The rows of ``query_key_value`` are interleaved by head: (q, k, v) of head 0, then of head 1. Its width of a
head is hidden size / heads, so the configuration cannot express fewer heads.
"""

from __future__ import annotations

from paretune.spaces.architectures.decoder import add_embedding, add_head, read_geometry
from paretune.spaces.architectures.fields import ConfigFields
from paretune.spaces.architectures.layout import Architecture, Geometry, Layout


def _add_block(layout: Layout, geometry: Geometry, block: int, bias: bool) -> None:
    path = f"gpt_neox.layers.{block}"
    hidden, ffn = geometry.hidden, geometry.ffn
    layout.linear(f"{path}.attention.query_key_value", "qkv", (3 * hidden, hidden), block=block, bias=bias)
    layout.linear(f"{path}.attention.dense", "o", (hidden, hidden), block=block, bias=bias)
    layout.linear(
        f"{path}.mlp.dense_h_to_4h", "up", (ffn, hidden), block=block, axes=("ffn", "none"), bias=True
    )
    layout.linear(
        f"{path}.mlp.dense_4h_to_h", "down", (hidden, ffn), block=block, axes=("none", "ffn"), bias=True
    )
    layout.norm(f"{path}.input_layernorm", hidden, block=block, bias=True)
    layout.norm(f"{path}.post_attention_layernorm", hidden, block=block, bias=True)


def _read(fields: ConfigFields) -> tuple[Geometry, Layout]:
    heads = fields.integer("num_attention_heads")
    geometry = read_geometry(
        fields,
        (None,) * fields.integer("num_hidden_layers"),
        kv_heads=heads,
        head_dim=fields.integer("hidden_size") // heads,
    )
    layout = Layout("gpt_neox.layers")
    add_embedding(layout, geometry, "gpt_neox.embed_in")
    for block in range(geometry.blocks):
        _add_block(layout, geometry, block, fields.flag("attention_bias"))
    layout.norm("gpt_neox.final_layer_norm", geometry.hidden, bias=True)
    add_head(layout, geometry)
    layout.cannot_cut_heads("GPT-NeoX")
    return geometry, layout


GPT_NEOX = Architecture(
    family="gpt_neox",
    model_types=("gpt_neox",),
    architectures=("GPTNeoXForCausalLM",),
    defaults={
        "vocab_size": 50432,
        "hidden_size": 6144,
        "intermediate_size": 24576,
        "num_hidden_layers": 44,
        "num_attention_heads": 64,
        "max_position_embeddings": 2048,
        "attention_bias": True,
        "tie_word_embeddings": False,
    },
    read=_read,
)
