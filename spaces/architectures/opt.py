"""OPT (transformers ``modeling_opt.py``; Zhang et al. 2022, arXiv:2205.01068).

Learned positions (two more rows than the context) and, where words are narrower than the blocks (OPT-350m),
``project_in`` and ``project_out`` are fixed tensors. The width of a head is hidden size / heads, so the
configuration cannot express fewer heads.
"""

from __future__ import annotations

from paretune.spaces.architectures.decoder import read_geometry
from paretune.spaces.architectures.fields import ConfigFields
from paretune.spaces.architectures.layout import Architecture, Geometry, Layout

_POSITION_OFFSET = 2


def _add_block(layout: Layout, geometry: Geometry, block: int, bias: bool, affine: bool) -> None:
    path = f"model.decoder.layers.{block}"
    hidden, ffn = geometry.hidden, geometry.ffn
    square = (hidden, hidden)
    layout.linear(f"{path}.self_attn.q_proj", "q", square, block=block, bias=bias)
    layout.linear(f"{path}.self_attn.k_proj", "k", square, block=block, bias=bias)
    layout.linear(f"{path}.self_attn.v_proj", "v", square, block=block, bias=bias)
    layout.linear(f"{path}.self_attn.out_proj", "o", square, block=block, bias=bias)
    layout.linear(f"{path}.fc1", "up", (ffn, hidden), block=block, axes=("ffn", "none"), bias=bias)
    layout.linear(f"{path}.fc2", "down", (hidden, ffn), block=block, axes=("none", "ffn"), bias=bias)
    if affine:
        layout.norm(f"{path}.self_attn_layer_norm", hidden, block=block, bias=True)
        layout.norm(f"{path}.final_layer_norm", hidden, block=block, bias=True)


def _read(fields: ConfigFields) -> tuple[Geometry, Layout]:
    heads, hidden = fields.integer("num_attention_heads"), fields.integer("hidden_size")
    geometry = read_geometry(
        fields,
        (None,) * fields.integer("num_hidden_layers"),
        kv_heads=heads,
        head_dim=hidden // heads,
        ffn=fields.integer("ffn_dim"),
    )
    words = fields.optional_integer("word_embed_proj_dim") or hidden
    affine = fields.flag("layer_norm_elementwise_affine")
    layout = Layout("model.decoder.layers")
    layout.linear("model.decoder.embed_tokens", "embedding", (geometry.vocabulary, words))
    layout.tensor("model.decoder.embed_positions.weight", (geometry.context + _POSITION_OFFSET, hidden))
    if words != hidden:
        layout.tensor("model.decoder.project_in.weight", (hidden, words))
        layout.tensor("model.decoder.project_out.weight", (words, hidden))
    for block in range(geometry.blocks):
        _add_block(layout, geometry, block, fields.flag("enable_bias"), affine)
    if affine and fields.flag("do_layer_norm_before") and not fields.flag("_remove_final_layer_norm"):
        layout.norm("model.decoder.final_layer_norm", hidden, bias=True)
    layout.linear("lm_head", "head", (geometry.vocabulary, words))
    layout.cannot_cut_heads("OPT")
    return geometry, layout


OPT = Architecture(
    family="opt",
    model_types=("opt",),
    architectures=("OPTForCausalLM",),
    defaults={
        "vocab_size": 50272,
        "hidden_size": 768,
        "ffn_dim": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "max_position_embeddings": 2048,
        "do_layer_norm_before": True,
        "enable_bias": True,
        "layer_norm_elementwise_affine": True,
        "tie_word_embeddings": True,
    },
    read=_read,
    keys={"ffn_channels": "ffn_dim"},
)
