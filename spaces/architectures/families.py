"""What the shapes of a model cannot tell, family by family: which cuts its configuration can express, and how.

A family that has no line here is read like any other and cannot be cut: how a smaller ``config.json`` of it would
be written is not known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from paretune.spaces.model import PrunedKind, Uncuttable

KINDS: tuple[PrunedKind, ...] = ("blocks", "kv_heads", "ffn_channels", "hidden")
_KEYS: Mapping[str, str] = {
    "blocks": "num_hidden_layers",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "ffn_channels": "intermediate_size",
    "hidden": "hidden_size",
}


@dataclass(frozen=True)
class Family:
    """One family's line.

    Attributes:
        keys: where ``config.json`` has a pruned model's counts, if not under Llama's keys.
        uncuttable: cuts that the configuration cannot express, and why.
        layer_types: whether the configuration heeds ``layer_types``, which lists what each block is.
        heads_divide_hidden: whether it refuses a hidden size that is no multiple of the heads.
    """

    keys: Mapping[str, str] = field(default_factory=dict)
    uncuttable: Mapping[PrunedKind, str] = field(default_factory=dict)
    layer_types: bool = False
    heads_divide_hidden: bool = False

    def key(self, kind: str) -> str:
        """The key of ``config.json`` that counts ``kind``."""
        return self.keys.get(kind, _KEYS[kind])

    def refusals(self, config: Any) -> tuple[Uncuttable, ...]:
        """The cuts that a model with this configuration cannot express."""
        found = dict(self.uncuttable)
        if getattr(config, "scale_attn_by_inverse_layer_idx", False):
            found["blocks"] = "its attention is scaled by the index of the block"
        return tuple(Uncuttable(kind=kind, reason=reason) for kind, reason in found.items())


def _narrow_heads(family: str) -> dict[PrunedKind, str]:
    derived = f"{family} derives the width of a head as hidden size / heads, so"
    return {
        "kv_heads": f"{derived} heads cannot be left out",
        "hidden": f"{derived} fewer hidden channels would narrow heads",
    }


_SCALED: dict[PrunedKind, str] = {
    "hidden": "Gemma multiplies embeddings by the root of the hidden size, which fewer channels would change"
}
FAMILIES: Mapping[str, Family] = {
    "llama": Family(heads_divide_hidden=True),
    "mistral": Family(),
    "mixtral": Family(),
    "qwen2": Family(layer_types=True),
    "qwen3": Family(layer_types=True),
    "qwen3_moe": Family(keys={"ffn_channels": "moe_intermediate_size"}),
    "gemma2": Family(uncuttable=_SCALED, layer_types=True, heads_divide_hidden=True),
    "gemma3": Family(uncuttable=_SCALED, layer_types=True, heads_divide_hidden=True),
    "phi3": Family(),
    "gpt_neox": Family(uncuttable=_narrow_heads("GPT-NeoX")),
    "opt": Family(keys={"ffn_channels": "ffn_dim"}, uncuttable=_narrow_heads("OPT")),
    "gpt2": Family(keys={"blocks": "n_layer", "ffn_channels": "n_inner"}, uncuttable=_narrow_heads("GPT-2")),
}


def find_family(name: str) -> Family:
    """The line of a family; of one that has none, that nothing can be cut."""
    unknown = f"how a smaller configuration of {name} would be written is not known"
    return FAMILIES.get(name) or Family(uncuttable=dict.fromkeys(KINDS, unknown))
