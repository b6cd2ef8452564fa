"""Mistral (transformers ``modeling_mistral.py``; Jiang et al. 2023, arXiv:2310.06825): every block slides."""

from __future__ import annotations

from paretune.spaces.architectures.decoder import Biases, add_decoder, read_geometry
from paretune.spaces.architectures.fields import ConfigFields
from paretune.spaces.architectures.layout import Architecture, Geometry, Layout


def _read(fields: ConfigFields) -> tuple[Geometry, Layout]:
    geometry = read_geometry(fields, fields.windows(fields.integer("num_hidden_layers")))
    return geometry, add_decoder(geometry, Biases())


MISTRAL = Architecture(
    family="mistral",
    model_types=("mistral",),
    architectures=("MistralForCausalLM",),
    defaults={
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "sliding_window": 4096,
        "max_position_embeddings": 131072,
        "tie_word_embeddings": False,
    },
    read=_read,
)
