"""Llama 1 to 3 (transformers ``modeling_llama.py``; Touvron et al. 2023, arXiv:2302.13971)."""

from __future__ import annotations

from paretune.spaces.architectures.decoder import Biases, add_decoder, read_geometry
from paretune.spaces.architectures.fields import ConfigFields
from paretune.spaces.architectures.layout import Architecture, Geometry, Layout


def _read(fields: ConfigFields) -> tuple[Geometry, Layout]:
    geometry = read_geometry(fields, (None,) * fields.integer("num_hidden_layers"))
    bias = fields.flag("attention_bias")
    return geometry, add_decoder(geometry, Biases(qkv=bias, output=bias, mlp=fields.flag("mlp_bias")))


LLAMA = Architecture(
    family="llama",
    model_types=("llama",),
    architectures=("LlamaForCausalLM",),
    defaults={
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": False,
    },
    read=_read,
    heads_divide_hidden=True,
)
