"""Qwen3 (transformers ``modeling_qwen3.py``; arXiv:2505.09388): norms on queries and keys of each head."""

from __future__ import annotations

from paretune.spaces.architectures.decoder import Biases, add_decoder, read_geometry
from paretune.spaces.architectures.fields import ConfigFields
from paretune.spaces.architectures.layout import Architecture, Geometry, Layout
from paretune.spaces.architectures.qwen2 import qwen_windows


def _read(fields: ConfigFields) -> tuple[Geometry, Layout]:
    geometry = read_geometry(fields, qwen_windows(fields))
    bias = fields.flag("attention_bias")
    return geometry, add_decoder(geometry, Biases(qkv=bias, output=bias), qk_norms=True)


QWEN3 = Architecture(
    family="qwen3",
    model_types=("qwen3",),
    architectures=("Qwen3ForCausalLM",),
    defaults={
        "vocab_size": 151936,
        "hidden_size": 4096,
        "intermediate_size": 22016,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "head_dim": 128,
        "max_position_embeddings": 32768,
        "sliding_window": 4096,
        "max_window_layers": 28,
        "tie_word_embeddings": False,
    },
    read=_read,
    layer_types=True,
)
