"""How ``config.json`` says that blocks, heads, FFN channels or hidden channels are gone."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from paretune.spaces.architectures.registry import find_architecture
from paretune.spaces.checking import check_pruned
from paretune.spaces.configuration import PrunedShape
from paretune.spaces.model import ModelSpec

_KEYS = {
    "blocks": "num_hidden_layers",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "ffn_channels": "intermediate_size",
    "hidden": "hidden_size",
}


def pruned_config(values: Mapping[str, Any], spec: ModelSpec, pruned: PrunedShape) -> dict[str, Any]:
    """The parsed ``config.json`` of a pruned model, from that of its dense model; the original stays as it is.

    Lists with an entry a block (``layer_types``, ``mlp_only_layers``) keep the entries of the kept blocks.

    Raises:
        ConfigurationError: the model does not have what is kept, or cannot express the cut.
    """
    check_pruned(spec, pruned)
    result: dict[str, Any] = copy.deepcopy(dict(values))
    architecture = find_architecture(spec.model_type)
    if pruned.whole or architecture is None:
        return result
    inner = result[architecture.nested] if architecture.nested else result
    keys = {**_KEYS, **architecture.keys}
    if pruned.blocks is not None:
        inner[keys["blocks"]] = len(pruned.blocks)
        _cut_lists(inner, spec, pruned.blocks, architecture.layer_types)
    if pruned.kv_heads is not None:
        inner[keys["heads"]] = spec.heads // spec.kv_heads * pruned.kv_heads
        inner[keys["kv_heads"]] = pruned.kv_heads
        inner["head_dim"] = spec.head_dim
    if pruned.ffn_channels is not None:
        inner[keys["ffn_channels"]] = pruned.ffn_channels
    if pruned.hidden is not None:
        inner[keys["hidden"]] = pruned.hidden
        inner["head_dim"] = spec.head_dim
    return result


def _cut_lists(inner: dict[str, Any], spec: ModelSpec, kept: tuple[int, ...], layer_types: bool) -> None:
    if layer_types and (inner.get("layer_types") or any(layer.window for layer in spec.cache)):
        kinds = inner.get("layer_types") or [
            "full_attention" if layer.window is None else "sliding_attention" for layer in spec.cache
        ]
        inner["layer_types"] = [kinds[block] for block in kept]
    dense = {linear.block for linear in spec.of_role("gate")}
    if spec.experts and dense:
        inner["mlp_only_layers"] = [index for index, block in enumerate(kept) if block in dense]
        inner["decoder_sparse_step"] = 1
