"""GPT-2 (transformers ``modeling_gpt2.py``; Radford et al. 2019).

Its linears are ``Conv1D``: stored ``(in, out)``. The columns of ``c_attn`` are queries, keys and values,
stacked. The width of a head is hidden size / heads, so the configuration cannot express fewer heads.
"""

from __future__ import annotations

from paretune.spaces.architectures.decoder import add_embedding, add_head, read_geometry
from paretune.spaces.architectures.fields import ConfigFields
from paretune.spaces.architectures.layout import Architecture, Geometry, Layout
from paretune.spaces.errors import ModelError
from paretune.spaces.model import Axis, Role


def _add_block(layout: Layout, geometry: Geometry, block: int) -> None:
    path = f"transformer.h.{block}"
    hidden, ffn = geometry.hidden, geometry.ffn

    def conv(name: str, role: Role, shape: tuple[int, int], axes: tuple[Axis, Axis]) -> None:
        layout.linear(f"{path}.{name}", role, shape, block=block, axes=axes, bias=True, transposed=True)

    layout.norm(f"{path}.ln_1", hidden, block=block, bias=True)
    conv("attn.c_attn", "qkv", (3 * hidden, hidden), ("none", "none"))
    conv("attn.c_proj", "o", (hidden, hidden), ("none", "none"))
    layout.norm(f"{path}.ln_2", hidden, block=block, bias=True)
    conv("mlp.c_fc", "up", (ffn, hidden), ("ffn", "none"))
    conv("mlp.c_proj", "down", (hidden, ffn), ("none", "ffn"))


def _geometry(fields: ConfigFields) -> Geometry:
    blocks = fields.integer("n_layer", "num_hidden_layers")
    heads = fields.integer("n_head", "num_attention_heads")
    hidden = fields.integer("n_embd", "hidden_size")
    return read_geometry(
        fields,
        (None,) * blocks,
        blocks=blocks,
        heads=heads,
        hidden=hidden,
        kv_heads=heads,
        head_dim=hidden // heads,
        ffn=fields.optional_integer("n_inner") or 4 * hidden,
        context=fields.integer("n_positions", "max_position_embeddings"),
    )


def _read(fields: ConfigFields) -> tuple[Geometry, Layout]:
    if fields.flag("add_cross_attention"):
        raise ModelError(
            f"add_cross_attention in {fields.where}", "only decoders alone are supported", "Use a decoder"
        )
    geometry = _geometry(fields)
    layout = Layout("transformer.h")
    add_embedding(layout, geometry, "transformer.wte")
    layout.tensor("transformer.wpe.weight", (geometry.context, geometry.hidden), inner_axis="hidden")
    for block in range(geometry.blocks):
        _add_block(layout, geometry, block)
    layout.norm("transformer.ln_f", geometry.hidden, bias=True)
    add_head(layout, geometry)
    layout.cannot_cut_heads("GPT-2")
    if fields.flag("scale_attn_by_inverse_layer_idx"):
        layout.cannot_cut("blocks", "its attention is scaled by the index of the block")
    return geometry, layout


GPT2 = Architecture(
    family="gpt2",
    model_types=("gpt2",),
    architectures=("GPT2LMHeadModel",),
    defaults={
        "vocab_size": 50257,
        "n_positions": 1024,
        "n_embd": 768,
        "n_layer": 12,
        "n_head": 12,
        "tie_word_embeddings": True,
    },
    read=_read,
    keys={"blocks": "n_layer", "ffn_channels": "n_inner"},
)
