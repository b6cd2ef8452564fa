"""Mixtral (transformers ``modeling_mixtral.py``; Jiang et al. 2024, arXiv:2401.04088): all mixtures."""

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


def _read(fields: ConfigFields) -> tuple[Geometry, Layout]:
    geometry = read_geometry(
        fields,
        fields.windows(fields.integer("num_hidden_layers")),
        experts=fields.integer("num_local_experts", "num_experts"),
        active_experts=fields.integer("num_experts_per_tok"),
    )
    layout = Layout("model.layers")
    add_embedding(layout, geometry, "model.embed_tokens")
    for block in range(geometry.blocks):
        add_attention(layout, geometry, block, Biases())
        add_mixture(layout, geometry, block)
        layout.norm(f"model.layers.{block}.input_layernorm", geometry.hidden, block=block)
        layout.norm(f"model.layers.{block}.post_attention_layernorm", geometry.hidden, block=block)
    layout.norm("model.norm", geometry.hidden)
    add_head(layout, geometry)
    return geometry, layout


MIXTRAL = Architecture(
    family="mixtral",
    model_types=("mixtral",),
    architectures=("MixtralForCausalLM",),
    defaults={
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "tie_word_embeddings": False,
    },
    read=_read,
)
