"""Qwen2 and Qwen2.5 (transformers ``modeling_qwen2.py``; arXiv:2407.10671): biases on q, k and v alone."""

from __future__ import annotations

from paretune.spaces.architectures.decoder import Biases, add_decoder, read_geometry
from paretune.spaces.architectures.fields import ConfigFields
from paretune.spaces.architectures.layout import Architecture, Geometry, Layout


def qwen_windows(fields: ConfigFields) -> tuple[int | None, ...]:
    """Blocks from ``max_window_layers`` on slide, and only with ``use_sliding_window``."""
    blocks = fields.integer("num_hidden_layers")
    if not fields.flag("use_sliding_window"):
        return (None,) * blocks
    first = fields.integer("max_window_layers", minimum=0)
    return fields.windows(blocks, tuple(block >= first for block in range(blocks)))


def _read(fields: ConfigFields) -> tuple[Geometry, Layout]:
    geometry = read_geometry(fields, qwen_windows(fields))
    return geometry, add_decoder(geometry, Biases(qkv=True))


QWEN2 = Architecture(
    family="qwen2",
    model_types=("qwen2",),
    architectures=("Qwen2ForCausalLM",),
    defaults={
        "vocab_size": 151936,
        "hidden_size": 4096,
        "intermediate_size": 22016,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "max_position_embeddings": 32768,
        "sliding_window": 4096,
        "max_window_layers": 28,
        "tie_word_embeddings": False,
    },
    read=_read,
    layer_types=True,
)
