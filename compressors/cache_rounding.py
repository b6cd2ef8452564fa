"""An 8-bit key-value cache while scoring: keys after rotary embedding and values, rounded by token and head.

Done through the registry of attention functions of ``transformers``, so it holds for every family: a
registered function rounds keys and values and hands them to the model's own attention. At 16 bits the
model's own function is registered again, so nothing differs.
"""

from __future__ import annotations

import sys
from typing import Any

import torch

from compressors.rounding import fake_int8
from spaces.cache_format import KVFormat


class CacheRounding:
    """Switches a loaded model between the formats of the cache.

    Args:
        model: with attention of ``sdpa`` or ``eager``.
        scale_dtype: that scales are rounded to.
    """

    def __init__(self, model: Any, scale_dtype: torch.dtype) -> None:
        self._config = model.config
        self._own = str(model.config._attn_implementation)
        self._rounded = _register(self._own, scale_dtype)
        self._format = KVFormat()

    def apply(self, kv: KVFormat) -> None:
        """Score as if the cache had this format."""
        if kv != self._format:
            self._config._attn_implementation = self._own if kv.num_bits == 16 else self._rounded
            self._format = kv


def _register(own: str, scale_dtype: torch.dtype) -> str:
    """Register the rounding variant of an attention function; returns its name."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    name = f"paretune_kv8_{own}_{str(scale_dtype).removeprefix('torch.')}"

    def attend(
        module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *args: Any, **options: Any
    ) -> Any:
        # The plain implementation is not in the registry: each family's file has its own.
        eager = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(own, eager)
        return attention(
            module, query, fake_int8(key, scale_dtype), fake_int8(value, scale_dtype), *args, **options
        )

    AttentionInterface.register(name, attend)
    AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[own])
    return name
