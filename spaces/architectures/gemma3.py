"""Gemma 3 (transformers ``modeling_gemma3.py``; arXiv:2503.19786), alone or inside its multimodal model.

The multimodal checkpoint nests the language model's numbers below ``text_config``; its vision tower and
projector are fixed tensors: they are stored, counted and never searched.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paretune.spaces.architectures.decoder import read_geometry
from paretune.spaces.architectures.fields import ConfigFields
from paretune.spaces.architectures.gemma2 import add_gemma
from paretune.spaces.architectures.layout import Architecture, Geometry, Layout
from paretune.spaces.architectures.siglip import DEFAULTS as SIGLIP_DEFAULTS
from paretune.spaces.architectures.siglip import add_siglip, siglip_width

_DEFAULTS: Mapping[str, Any] = {
    "vocab_size": 262208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 131072,
    "sliding_window": 4096,
    "sliding_window_pattern": 6,
    "tie_word_embeddings": True,
}


def _geometry(fields: ConfigFields) -> Geometry:
    blocks = fields.integer("num_hidden_layers")
    pattern = fields.integer("sliding_window_pattern", "_sliding_window_pattern")
    slides = tuple((block + 1) % pattern != 0 for block in range(blocks))
    return read_geometry(fields, fields.windows(blocks, slides))


def _read_text(fields: ConfigFields) -> tuple[Geometry, Layout]:
    geometry = _geometry(fields)
    return geometry, add_gemma(geometry, fields.flag("attention_bias"), qk_norms=True)


def _read_nested(fields: ConfigFields) -> tuple[Geometry, Layout]:
    text = fields.nested("text_config", _DEFAULTS)
    geometry = _geometry(text)
    layout = add_gemma(geometry, text.flag("attention_bias"), qk_norms=True, path="model.language_model")
    vision = fields.nested("vision_config", SIGLIP_DEFAULTS)
    add_siglip(layout, vision, "model.vision_tower")
    width = siglip_width(vision)
    layout.tensor("model.multi_modal_projector.mm_input_projection_weight", (width, geometry.hidden))
    layout.norm("model.multi_modal_projector.mm_soft_emb_norm", width, axis="none")
    return geometry, layout


GEMMA3_TEXT = Architecture(
    family="gemma3",
    model_types=("gemma3_text",),
    architectures=("Gemma3ForCausalLM",),
    defaults=_DEFAULTS,
    read=_read_text,
    heads_divide_hidden=True,
    layer_types=True,
)

GEMMA3 = Architecture(
    family="gemma3",
    model_types=("gemma3",),
    architectures=("Gemma3ForConditionalGeneration",),
    defaults={"tie_word_embeddings": True},
    read=_read_nested,
    heads_divide_hidden=True,
    layer_types=True,
    nested="text_config",
)
