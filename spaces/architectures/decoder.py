"""The gated decoder that most families share: q, k, v, o around attention; gate, up, down behind it.

Names and shapes as in transformers' ``modeling_llama.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from paretune.spaces.architectures.fields import ConfigFields
from paretune.spaces.architectures.layout import Geometry, Layout

_LARGEST_FACTOR = 1e6


def read_geometry(fields: ConfigFields, windows: tuple[int | None, ...], **changes: Any) -> Geometry:
    """Geometry under the keys that Llama made common; ``changes`` name what a family reads elsewhere.

    ``num_key_value_heads`` falls back to the heads, ``head_dim`` to hidden size / heads.
    """
    heads = changes.get("heads") or fields.integer("num_attention_heads")
    hidden = changes.get("hidden") or fields.integer("hidden_size")
    readers: dict[str, Callable[[], Any]] = {
        "blocks": lambda: fields.integer("num_hidden_layers"),
        "kv_heads": lambda: fields.optional_integer("num_key_value_heads") or heads,
        "head_dim": lambda: fields.optional_integer("head_dim") or hidden // heads,
        "ffn": lambda: fields.integer("intermediate_size"),
        "vocabulary": lambda: fields.integer("vocab_size"),
        "context": lambda: read_context(fields),
        "tied": lambda: fields.flag("tie_word_embeddings"),
    }
    values = {name: read() for name, read in readers.items() if name not in changes}
    return Geometry(**{**values, "heads": heads, "hidden": hidden, "windows": windows, **changes})


def read_context(fields: ConfigFields, *names: str) -> int:
    """Tokens that positions are made for: ``max_position_embeddings``, stretched where rotary embeddings are.

    As vLLM derives it: ``yarn`` multiplies the original length, ``linear`` and ``dynamic`` the stated one; ``llama3``
    and ``longrope`` state the stretched one, and so does Gemma 3 whatever its kind.
    """
    context = fields.integer("max_position_embeddings", *names)
    rope = fields.get("rope_scaling", "rope_parameters")
    if not isinstance(rope, dict) or str(fields.get("model_type")).startswith("gemma3"):
        return context
    kind, factor = rope.get("rope_type", rope.get("type")), rope.get("factor")
    if (
        kind not in ("yarn", "linear", "dynamic")
        or isinstance(factor, bool)
        or not isinstance(factor, int | float)
    ):
        return context
    original = rope.get("original_max_position_embeddings")
    if kind == "yarn" and isinstance(original, int) and original > 0:
        context = original
    return max(context, int(context * factor)) if 1 <= factor < _LARGEST_FACTOR else context


@dataclass(frozen=True)
class Biases:
    """Which linears of a block have a bias."""

    qkv: bool = False
    output: bool = False
    mlp: bool = False


def add_embedding(layout: Layout, geometry: Geometry, name: str) -> None:
    """The token embedding; for a tied model also the head's weight."""
    layout.linear(name, "embedding", (geometry.vocabulary, geometry.hidden))


def add_head(layout: Layout, geometry: Geometry, name: str = "lm_head", bias: bool = False) -> None:
    """The output head; listed also when tied."""
    layout.linear(name, "head", (geometry.vocabulary, geometry.hidden), bias=bias)


def add_attention(
    layout: Layout, geometry: Geometry, block: int, biases: Biases, qk_norms: bool = False
) -> None:
    """Attention with separate projections below ``self_attn``."""
    path = f"{layout.block_path}.{block}.self_attn"
    query, cache, hidden = geometry.query_width, geometry.kv_width, geometry.hidden
    layout.linear(
        f"{path}.q_proj", "q", (query, hidden), block=block, axes=("heads", "none"), bias=biases.qkv
    )
    layout.linear(
        f"{path}.k_proj", "k", (cache, hidden), block=block, axes=("kv_heads", "none"), bias=biases.qkv
    )
    layout.linear(
        f"{path}.v_proj", "v", (cache, hidden), block=block, axes=("kv_heads", "none"), bias=biases.qkv
    )
    layout.linear(
        f"{path}.o_proj", "o", (hidden, query), block=block, axes=("none", "heads"), bias=biases.output
    )
    if qk_norms:
        layout.norm(f"{path}.q_norm", geometry.head_dim, block=block, axis="none")
        layout.norm(f"{path}.k_norm", geometry.head_dim, block=block, axis="none")


def add_gated_mlp(layout: Layout, geometry: Geometry, block: int, biases: Biases) -> None:
    """Gate, up and down below ``mlp``."""
    path = f"{layout.block_path}.{block}.mlp"
    up, down = (geometry.ffn, geometry.hidden), (geometry.hidden, geometry.ffn)
    layout.linear(f"{path}.gate_proj", "gate", up, block=block, axes=("ffn", "none"), bias=biases.mlp)
    layout.linear(f"{path}.up_proj", "up", up, block=block, axes=("ffn", "none"), bias=biases.mlp)
    layout.linear(f"{path}.down_proj", "down", down, block=block, axes=("none", "ffn"), bias=biases.mlp)


def add_decoder(geometry: Geometry, biases: Biases, qk_norms: bool = False) -> Layout:
    """A whole Llama-like model."""
    layout = Layout("model.layers")
    add_embedding(layout, geometry, "model.embed_tokens")
    for block in range(geometry.blocks):
        add_attention(layout, geometry, block, biases, qk_norms)
        add_gated_mlp(layout, geometry, block, biases)
        layout.norm(f"model.layers.{block}.input_layernorm", geometry.hidden, block=block)
        layout.norm(f"model.layers.{block}.post_attention_layernorm", geometry.hidden, block=block)
    layout.norm("model.norm", geometry.hidden)
    add_head(layout, geometry)
    return layout
