"""A decoder that no family here reads by name, read from its safetensors headers.

It must look like one: numbered blocks (``*.layers.N.*`` or ``*.h.N.*``) whose 2-D tensors are linears with
recognisable names, around attention with a plain key-value cache. Pruned models of it are refused, because how
its configuration would express them is not known.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from paretune.spaces.architectures.decoder import read_context
from paretune.spaces.architectures.fields import ConfigFields
from paretune.spaces.architectures.headers import StoredTensor
from paretune.spaces.architectures.layout import Geometry, Layout
from paretune.spaces.architectures.weights import is_buffer, refuse_packed
from paretune.spaces.errors import ModelError
from paretune.spaces.model import CacheLayer, Linear, Role

_BLOCK = re.compile(r"^(?P<path>(?:[A-Za-z_]\w*\.)*?(?:layers|h))\.(?P<block>\d+)\.(?P<rest>.+)$")
_INSIDE: dict[str, Role] = {
    "q_proj": "q", "k_proj": "k", "v_proj": "v",
    "qkv_proj": "qkv", "query_key_value": "qkv", "Wqkv": "qkv",
    "o_proj": "o", "out_proj": "o", "dense": "o",
    "gate_proj": "gate", "up_proj": "up", "fc1": "up", "c_fc": "up", "dense_h_to_4h": "up",
    "attn.c_proj": "o", "self_attn.c_proj": "o", "mlp.c_proj": "down",
    "gate_up_proj": "gate_up",
    "down_proj": "down", "fc2": "down", "dense_4h_to_h": "down",
}  # fmt: skip
_OUTSIDE: dict[str, Role] = {
    "embed_tokens": "embedding", "wte": "embedding", "embed_in": "embedding", "word_embeddings": "embedding",
    "lm_head": "head", "embed_out": "head",
}  # fmt: skip
_ORDER = ("q", "k", "v", "qkv", "o", "gate", "up", "gate_up", "down")
_REASON = "the architecture is known from its weights alone, so no smaller configuration can be written"


@dataclass(frozen=True)
class _Layers:
    """The linears of a model: two ends and what lies between."""

    embedding: Linear
    inside: list[Linear]
    head: Linear
    tied: bool


def read_unknown(
    fields: ConfigFields, tensors: Sequence[StoredTensor]
) -> tuple[Geometry, Layout, tuple[CacheLayer, ...]]:
    """Geometry, layout and cache of a model from the headers of its weights.

    Raises:
        ModelError: it does not look like a decoder that can be searched; names the model type and the tensor.
    """
    refuse_packed(tensors)
    kept = [tensor for tensor in tensors if not is_buffer(tensor)]
    paths = {match.group("path") for t in kept if (match := _BLOCK.match(t.name)) is not None}
    if len(paths) != 1:
        found = ", ".join(sorted(paths)) or "no path like *.layers.N or *.h.N"
        raise _refusal(fields, f"its blocks lie at {found}")
    linears = [linear for tensor in kept if (linear := _linear(fields, tensor)) is not None]
    inside = [linear for linear in linears if linear.block is not None]
    inside.sort(key=lambda linear: (linear.block or 0, _ORDER.index(linear.role)))
    embedding, head, tied = _ends(fields, linears)
    geometry, cache = _read_geometry(fields, _Layers(embedding, inside, head, tied))
    layout = Layout(paths.pop(), linears=[embedding, *inside, head])
    parameters = {linear.parameter for linear in layout.linears}
    for tensor in kept:
        if tensor.name not in parameters:
            layout.tensor(tensor.name, tensor.shape, block=_block(tensor))
    for kind in ("blocks", "kv_heads", "ffn_channels", "hidden"):
        layout.cannot_cut(kind, _REASON)
    return geometry, layout, cache


def _linear(fields: ConfigFields, tensor: StoredTensor) -> Linear | None:
    """The layer of a 2-D weight; ``None`` for what stays fixed."""
    inside = _BLOCK.match(tensor.name) is not None
    module, _, last = tensor.name.rpartition(".")
    known = _INSIDE if inside else _OUTSIDE
    role = None
    if last == "weight":
        parts = module.split(".")
        role = known.get(".".join(parts[-2:])) or known.get(parts[-1])
    if len(tensor.shape) < 2 or (not inside and role is None):
        return None
    if role is None or len(tensor.shape) > 2 or "expert" in module:
        raise _refusal(fields, f"{tensor.name} of shape {tensor.shape} is no linear with a known name")
    rows, columns = tensor.shape
    return Linear(
        name=module,
        parameter=tensor.name,
        role=role,
        block=_block(tensor),
        out_features=rows,
        in_features=columns,
    )


def _block(tensor: StoredTensor) -> int | None:
    match = _BLOCK.match(tensor.name)
    return None if match is None else int(match.group("block"))


def _ends(fields: ConfigFields, linears: list[Linear]) -> tuple[Linear, Linear, bool]:
    """Embedding, head, and whether the head is the embedding's weight."""
    outside = {linear.role: linear for linear in linears if linear.block is None}
    if "embedding" not in outside:
        names = ", ".join(name for name, role in _OUTSIDE.items() if role == "embedding")
        raise _refusal(fields, f"no embedding is named one of {names}")
    embedding = outside["embedding"]
    if "head" in outside:
        return embedding, outside["head"], fields.flag("tie_word_embeddings")
    if fields.get("tie_word_embeddings") is False:
        raise _refusal(fields, "config.json says that the head is not tied, and there is none")
    head = embedding.model_copy(update={"name": "lm_head", "parameter": "lm_head.weight", "role": "head"})
    return embedding, head, True


def _read_geometry(fields: ConfigFields, layers: _Layers) -> tuple[Geometry, tuple[CacheLayer, ...]]:
    heads, hidden = (
        fields.integer("num_attention_heads", "n_head", "num_heads"),
        fields.integer("hidden_size", "n_embd"),
    )
    head_dim = fields.optional_integer("head_dim") or hidden // heads
    blocks = fields.integer("num_hidden_layers", "n_layer")
    _check_blocks(fields, layers.inside, blocks, hidden)
    windows = fields.windows(blocks)
    counts = [_kv_heads(fields, layers.inside, block, heads, head_dim) for block in range(blocks)]
    geometry = Geometry(
        blocks=blocks,
        hidden=hidden,
        heads=heads,
        kv_heads=counts[0],
        head_dim=head_dim,
        ffn=next(linear.in_features for linear in layers.inside if linear.role == "down"),
        vocabulary=layers.embedding.out_features,
        context=read_context(fields, "n_positions", "seq_length", "n_ctx", "max_seq_len"),
        tied=layers.tied,
        windows=windows,
    )
    cache = tuple(
        CacheLayer(kv_heads=count, head_dim=head_dim, window=window)
        for count, window in zip(counts, windows, strict=True)
    )
    return geometry, cache


def _check_blocks(fields: ConfigFields, inside: list[Linear], blocks: int, hidden: int) -> None:
    """Every block has attention and a feed-forward part, and linears fit the residual stream."""
    for block in range(blocks):
        roles = {linear.role for linear in inside if linear.block == block}
        if not ({"o", "down"} <= roles and roles & {"up", "gate_up"}):
            raise _refusal(fields, f"block {block} has only linears of roles {sorted(roles)}")
    for linear in inside:
        writes = linear.role in ("o", "down")
        if (linear.block or 0) >= blocks or (linear.out_features if writes else linear.in_features) != hidden:
            shape = (linear.out_features, linear.in_features)
            raise _refusal(fields, f"{linear.name} of shape {shape} does not fit {blocks} blocks of {hidden}")


def _kv_heads(fields: ConfigFields, inside: list[Linear], block: int, heads: int, head_dim: int) -> int:
    """Key-value heads of one block, from the rows of its key or fused projection."""
    rows = {linear.role: linear.out_features for linear in inside if linear.block == block}
    width = rows.get("k", (rows.get("qkv", 0) - heads * head_dim) // 2)
    if width <= 0 or width % head_dim:
        raise _refusal(fields, f"block {block} has no key projection of heads of {head_dim}")
    return width // head_dim


def _refusal(fields: ConfigFields, reason: str) -> ModelError:
    return ModelError(
        f"model_type {fields.values.get('model_type')!r} in {fields.where}",
        f"is not a known architecture, and its weights do not look like a plain decoder: {reason}",
        "Use a model of a known family",
    )
