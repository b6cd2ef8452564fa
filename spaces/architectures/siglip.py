"""The SigLIP vision tower inside multimodal Gemma 3 (transformers ``modeling_siglip.py``; arXiv:2303.15343).

None of it is searched: every tensor is fixed.
"""

from __future__ import annotations

from paretune.spaces.architectures.fields import ConfigFields
from paretune.spaces.architectures.layout import Layout

DEFAULTS = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 16,
    "vision_use_head": True,
}


def siglip_width(fields: ConfigFields) -> int:
    """Features of an image patch."""
    return fields.integer("hidden_size")


def add_siglip(layout: Layout, fields: ConfigFields, path: str) -> None:
    """Every tensor of the tower below ``path``."""
    width, patch = siglip_width(fields), fields.integer("patch_size")
    positions = (fields.integer("image_size") // patch) ** 2
    layout.tensor(
        f"{path}.embeddings.patch_embedding.weight", (width, fields.integer("num_channels"), patch, patch)
    )
    layout.tensor(f"{path}.embeddings.patch_embedding.bias", (width,))
    layout.tensor(f"{path}.embeddings.position_embedding.weight", (positions, width))
    for index in range(fields.integer("num_hidden_layers")):
        layer = f"{path}.encoder.layers.{index}"
        for name in ("k_proj", "v_proj", "q_proj", "out_proj"):
            _add_affine(layout, f"{layer}.self_attn.{name}", width, width)
        layout.norm(f"{layer}.layer_norm1", width, bias=True, axis="none")
        layout.norm(f"{layer}.layer_norm2", width, bias=True, axis="none")
        _add_mlp(layout, fields, f"{layer}.mlp")
    layout.norm(f"{path}.post_layernorm", width, bias=True, axis="none")
    if fields.flag("vision_use_head"):
        _add_pooling(layout, fields, f"{path}.head")


def _add_pooling(layout: Layout, fields: ConfigFields, path: str) -> None:
    width = siglip_width(fields)
    layout.tensor(f"{path}.probe", (1, 1, width))
    layout.tensor(f"{path}.attention.in_proj_weight", (3 * width, width))
    layout.tensor(f"{path}.attention.in_proj_bias", (3 * width,))
    _add_affine(layout, f"{path}.attention.out_proj", width, width)
    layout.norm(f"{path}.layernorm", width, bias=True, axis="none")
    _add_mlp(layout, fields, f"{path}.mlp")


def _add_mlp(layout: Layout, fields: ConfigFields, path: str) -> None:
    width, inner = siglip_width(fields), fields.integer("intermediate_size")
    _add_affine(layout, f"{path}.fc1", inner, width)
    _add_affine(layout, f"{path}.fc2", width, inner)


def _add_affine(layout: Layout, name: str, rows: int, columns: int) -> None:
    layout.tensor(f"{name}.weight", (rows, columns))
    layout.tensor(f"{name}.bias", (rows,))
