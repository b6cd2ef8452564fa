"""How ``config.json`` says that blocks, heads, FFN channels or hidden channels are gone."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from paretune.spaces.architectures.families import find_family
from paretune.spaces.checking import check_pruned
from paretune.spaces.configuration import PrunedShape
from paretune.spaces.model import ModelSpec


def pruned_config(values: Mapping[str, Any], spec: ModelSpec, pruned: PrunedShape) -> dict[str, Any]:
    """The parsed ``config.json`` of a pruned model, from that of its dense model; the original stays as it is.

    Lists with an entry a block (``layer_types``, ``mlp_only_layers``) keep the entries of the kept blocks.

    Raises:
        ConfigurationError: the model does not have what is kept, or cannot express the cut.
    """
    check_pruned(spec, pruned)
    result: dict[str, Any] = copy.deepcopy(dict(values))
    if pruned.whole:
        return result
    family = find_family(spec.family)
    inner = result.get("text_config", result)
    if pruned.blocks is not None:
        inner[family.key("blocks")] = len(pruned.blocks)
        _cut_lists(inner, spec, pruned.blocks, family.layer_types)
    if pruned.kv_heads is not None:
        inner[family.key("heads")] = spec.heads // spec.kv_heads * pruned.kv_heads
        inner[family.key("kv_heads")] = pruned.kv_heads
        inner["head_dim"] = spec.head_dim
    if pruned.ffn_channels is not None:
        inner[family.key("ffn_channels")] = pruned.ffn_channels
    if pruned.hidden is not None:
        inner[family.key("hidden")] = pruned.hidden
        inner["head_dim"] = spec.head_dim
    return result


def _cut_lists(inner: dict[str, Any], spec: ModelSpec, kept: tuple[int, ...], layer_types: bool) -> None:
    if layer_types and (inner.get("layer_types") or any(layer.window for _, layer in spec.attention)):
        kinds = inner.get("layer_types") or [
            "full_attention" if layer.window is None else "sliding_attention" for _, layer in spec.attention
        ]
        inner["layer_types"] = [kinds[block] for block in kept]
    dense = {linear.block for linear in spec.of_role("gate")}
    if spec.experts and dense:
        inner["mlp_only_layers"] = [index for index, block in enumerate(kept) if block in dense]
        inner["decoder_sparse_step"] = 1
